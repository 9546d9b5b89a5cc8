// Package jsoniter takes the place of json-iterator/go, which gin imports under a build tag that weft does not set.
package jsoniter
