package main

import (
	"weft/adapters/peft"
	"weft/runtime/engine"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// oneAdapter is the adapter of all requests of a command that runs a model for itself; the nil one is the base.
type oneAdapter struct {
	weights *lora.Weights
	digest  string
}

// loadAdapter puts the PEFT folder or GGUF adapter at path on the stack's device; "" is none.
func (s *stack) loadAdapter(path string) (*oneAdapter, error) {
	if path == "" {
		return nil, nil
	}
	base, err := peft.OpenModel(s.Path, s.Name)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	digest, err := peft.Digest(path)
	if err != nil {
		return nil, err
	}
	a, err := peft.Load(path, base)
	if err != nil {
		return nil, err
	}
	w, err := lora.Load(s.Device, a)
	if err != nil {
		return nil, err
	}
	if err := model.CheckAdapter(s.Model.Config(), w); err != nil {
		w.Free()
		return nil, err
	}
	return &oneAdapter{w, digest}, nil
}

// on makes requests those of the adapter.
func (a *oneAdapter) on(reqs ...engine.Request) []engine.Request {
	for i := range reqs {
		if a != nil {
			reqs[i].LoRA, reqs[i].AdapterKey = []lora.Use{{Weights: a.weights, Scale: 1}}, a.digest
		}
	}
	return reqs
}

func (a *oneAdapter) free() {
	if a != nil {
		a.weights.Free()
	}
}
