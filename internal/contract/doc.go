// Package contract holds a recorded session: the answers, commands, flags, metrics and files of weft, reduced to what
// clients and scripts depend on. Its test plays the session against the program as a black box and compares. Texts of
// messages and measured values are not part of it.
//
// After a change that is meant: go test ./internal/contract -args -update, and read the difference. With
// -weft FILE the session is played against another binary.
package contract
