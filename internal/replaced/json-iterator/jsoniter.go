// Package jsoniter takes the place of json-iterator/go, which gin imports under a build tag that weft is not built with.
package jsoniter
