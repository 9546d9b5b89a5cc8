// Package yaml takes the place of goccy/go-yaml: gin names what is here, and weft calls none of it.
package yaml

import (
	"errors"
	"io"
)

// Decoder decodes nothing.
type Decoder struct{}

// NewDecoder returns a decoder that never reads.
func NewDecoder(io.Reader) *Decoder { return &Decoder{} }

// Decode returns errors.ErrUnsupported.
func (*Decoder) Decode(any) error { return errors.ErrUnsupported }

// Marshal returns errors.ErrUnsupported.
func Marshal(any) ([]byte, error) { return nil, errors.ErrUnsupported }
