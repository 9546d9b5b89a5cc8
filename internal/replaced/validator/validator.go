// Package validator takes the place of go-playground's: gin's Bind methods name it, and weft, which checks requests
// in server/openai, calls none of them.
package validator

import "errors"

// Validate refuses every struct, so that an unchecked struct is never treated as checked.
type Validate struct{}

// New returns a validator.
func New() *Validate { return &Validate{} }

// SetTagName does nothing.
func (*Validate) SetTagName(string) {}

// Struct returns errors.ErrUnsupported.
func (*Validate) Struct(any) error { return errors.ErrUnsupported }
