package node

import (
	"weft/adapters/peft"
	"weft/runtime/engine"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// singleAdapter is the adapter of all requests of a model without a server; nil is the base model.
type singleAdapter struct {
	weights *lora.Weights
	digest  string
}

// loadSingle loads the PEFT folder or GGUF adapter at path onto the model's device; "" is none.
func (m *Model) loadSingle(path string) (*singleAdapter, error) {
	if path == "" {
		return nil, nil
	}
	base, err := peft.OpenModel(m.Path, m.Name)
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
	w, err := lora.Load(m.Device, a)
	if err != nil {
		return nil, err
	}
	if err := model.CheckAdapter(m.Model.Config(), w); err != nil {
		w.Free()
		return nil, err
	}
	return &singleAdapter{w, digest}, nil
}

// WithAdapter sets the model's single adapter, where it has one, in requests and returns them.
func (m *Model) WithAdapter(reqs ...engine.Request) []engine.Request { return m.adapter.in(reqs) }

// With sets an adapter of ModelConfig.Adapters in requests and returns them.
func (m *Model) With(adapter int, reqs ...engine.Request) []engine.Request {
	return m.adapters[adapter].in(reqs)
}

func (a *singleAdapter) in(reqs []engine.Request) []engine.Request {
	if a == nil {
		return reqs
	}
	for i := range reqs {
		reqs[i].LoRA, reqs[i].AdapterKey = []lora.Use{{Weights: a.weights, Scale: 1}}, a.digest
	}
	return reqs
}

func (a *singleAdapter) free() {
	if a != nil {
		a.weights.Free()
	}
}
