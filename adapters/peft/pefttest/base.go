package pefttest

import (
	"errors"

	"weft/quant"
	"weft/runtime/model"
)

// Shape is a peft.Base of which only the configuration is asked.
type Shape struct{ Cfg *model.Config }

// Name implements peft.Base.
func (s Shape) Name() string { return "" }

// Config implements peft.Base.
func (s Shape) Config() *model.Config { return s.Cfg }

// Matrix implements peft.Base: there are no weights.
func (s Shape) Matrix(string) (*quant.Matrix, error) { return nil, errNoWeights }

// Vector implements peft.Base: there are no weights.
func (s Shape) Vector(string) ([]float32, error) { return nil, errNoWeights }

// Release implements peft.Base.
func (s Shape) Release(string) {}

var errNoWeights = errors.New("a shape has no weights")
