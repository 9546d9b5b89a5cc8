// Package json takes the place of goccy/go-json, which gin imports under a build tag that weft is not built with.
package json
