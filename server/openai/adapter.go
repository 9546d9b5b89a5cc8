package openai

import (
	"encoding/json"
	"fmt"
)

// Limits of the member "lora".
const (
	MaxCombined         = 8  // adapters of one request
	MaxCombinationScale = 16 // largest absolute value of a scale
)

// LoRA is one entry of the member "lora": the name of an adapter in a LoRA combination, and a multiplier of the
// adapter's own scale.
type LoRA struct {
	ID    string
	Scale float64
}

// adapters reads the other members that choose adapters: adapter_id, and llama.cpp's lora with names as ids.
func (b *body) adapters(p *Params) {
	p.AdapterID = b.text("adapter_id", MaxNameLength)
	raw, ok := b.get("lora")
	if !ok {
		return
	}
	items := b.objects("lora", raw, MaxCombined)
	for i, item := range items {
		l, err := loraOf(fmt.Sprintf("lora[%d]", i), item)
		if err != nil {
			b.fail(err)
			return
		}
		p.LoRA = append(p.LoRA, l)
	}
	if len(p.LoRA) > 0 && p.AdapterID != "" {
		b.fail(badValue("adapter_id", "and lora exclude each other."))
	}
}

func loraOf(at string, raw json.RawMessage) (LoRA, *Error) {
	m, err := object(at, raw)
	if err != nil {
		return LoRA{}, err
	}
	l := LoRA{Scale: 1}
	id, ok := m["id"]
	switch {
	case !ok || isNull(id):
		return LoRA{}, Invalid(at+".id", "missing", "%s.id is missing; the name of an adapter is expected.", at)
	case id[0] == '-' || id[0] >= '0' && id[0] <= '9':
		return LoRA{},
			Invalid(at+".id", "invalid_type",
				"%s.id must be the name of an adapter, not a number: every tenant has its own adapters.", at)
	}
	if l.ID, err = textOf(at+".id", id); err == nil && (l.ID == "" || longer(l.ID, MaxNameLength)) {
		err = badValue(at+".id", "must have 1 to %d characters.", MaxNameLength)
	}
	if err != nil {
		return LoRA{}, err
	}
	if scale, ok := m["scale"]; ok && !isNull(scale) {
		v, err := checkNumber(at+".scale", scale, false, -MaxCombinationScale, MaxCombinationScale, false)
		if err != nil {
			return LoRA{}, err
		}
		l.Scale = v.Float
	}
	return l, nil
}
