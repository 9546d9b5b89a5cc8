package grad

import (
	"fmt"

	"weft/runtime/lora"
)

// AttachLoRA trains LoRA on a linear layer of a block: on one projection, or on several that files store fused (Phi-3),
// in their order: then they have the same A, and B and the magnitudes are those of all outputs, one projection after
// the other.
func (m *Model) AttachLoRA(layer int, targets []lora.Target, a *LoRA) {
	m.params = append(m.params, a.A, a.B)
	if a.Magnitude != nil {
		m.params = append(m.params, a.Magnitude)
	}
	first, begin := m.blocks[layer].linear[targets[0]], 0
	for _, t := range targets {
		l := m.blocks[layer].linear[t]
		l.index = first.index // for dropout: the parts have the same input
		l.lora = a
		if len(targets) > 1 {
			part := *a
			part.B = a.B.rows(begin, l.out)
			if a.Magnitude != nil {
				part.Magnitude = a.Magnitude.rows(begin, l.out)
			}
			l.lora = &part
		}
		begin += l.out
	}
}

// AttachHeadLoRA trains LoRA on the output head: A [R, H], B [V, R]. If the head is tied, the LoRA does not change the
// embedding, as in PEFT.
func (m *Model) AttachHeadLoRA(a *LoRA) {
	m.head.lora = a
	m.params = append(m.params, a.A, a.B)
	if a.Magnitude != nil {
		m.params = append(m.params, a.Magnitude)
	}
}

// AttachEmbedLoRA trains LoRA on the embedding: A [R, V], B [H, R], without magnitude and dropout.
func (m *Model) AttachEmbedLoRA(a *LoRA) {
	m.table = &lowRank{LoRA: a}
	m.params = append(m.params, a.A, a.B)
}

// AttachBias trains a projection's bias, which the base must have, from its served values.
func (m *Model) AttachBias(layer int, target lora.Target, name string) (*Param, error) {
	l := m.blocks[layer].linear[target]
	p, err := m.fromBuffer(name, l.bias)
	if err == nil {
		p.Bias, l.dbias = true, p
	}
	return p, err
}

// AttachEmbed trains the embedding [V, H] itself from its served values. Where the head is tied it keeps the base's:
// PEFT's modules_to_save makes copies.
func (m *Model) AttachEmbed(name string) error {
	var err error
	if m.embed, err = m.fromWeight(name, m.frozen.Embed); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// AttachHead trains the output head [V, H] itself from its served values. Where it is tied the embedding keeps the
// base's.
func (m *Model) AttachHead(name string) error {
	var err error
	if m.head.full, err = m.fromWeight(name, m.frozen.Head); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// rows returns a part of a parameter: n rows from begin on, in the same memory.
func (p *Param) rows(begin, n int) *Param {
	part := *p
	part.Rows, part.at = n, p.at+begin*p.Cols
	return &part
}
