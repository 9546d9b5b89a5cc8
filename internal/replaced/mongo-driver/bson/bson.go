// Package bson takes the place of MongoDB's: gin names two functions of it, which weft never calls.
package bson

import "errors"

// Marshal returns errors.ErrUnsupported.
func Marshal(any) ([]byte, error) { return nil, errors.ErrUnsupported }

// Unmarshal returns errors.ErrUnsupported.
func Unmarshal([]byte, any) error { return errors.ErrUnsupported }
