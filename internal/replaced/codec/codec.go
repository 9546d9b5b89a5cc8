// Package codec takes the place of ugorji's MessagePack: gin names what is here, and weft calls none of it.
package codec

import (
	"errors"
	"io"
)

// MsgpackHandle has no settings.
type MsgpackHandle struct{}

// Decoder decodes nothing.
type Decoder struct{}

// Encoder encodes nothing.
type Encoder struct{}

// NewDecoder returns a decoder that never reads.
func NewDecoder(io.Reader, *MsgpackHandle) *Decoder { return &Decoder{} }

// NewEncoder returns an encoder that never writes.
func NewEncoder(io.Writer, *MsgpackHandle) *Encoder { return &Encoder{} }

// Decode returns errors.ErrUnsupported.
func (*Decoder) Decode(any) error { return errors.ErrUnsupported }

// Encode returns errors.ErrUnsupported.
func (*Encoder) Encode(any) error { return errors.ErrUnsupported }
