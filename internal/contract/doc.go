// Package contract contains a recorded session: the answers, commands, flags, metrics and files of weft, reduced to
// what clients and scripts depend on. Its test repeats the session with the built program and compares. Texts of
// messages and measured values are not part of it. After an intended change run go test ./internal/contract -args
// -update and read the difference. With -weft FILE the session uses another binary.
package contract
