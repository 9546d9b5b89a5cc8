package grad

import (
	"fmt"

	"weft/runtime/device"
	"weft/runtime/lora"
)

// Projections are the names of a block's linear layers in Hugging Face files, in the order of lora.Target.
var Projections = [lora.NumTargets]string{
	"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
	"mlp.down_proj",
}

// Fused are the projections that some files store as one matrix (Phi-3), in the order of its rows.
var Fused = map[string][]lora.Target{
	"self_attn.qkv_proj": {lora.QProj, lora.KProj, lora.VProj}, "mlp.gate_up_proj": {lora.GateProj, lora.UpProj},
}

// AttachAll trains every weight of the model: each becomes a Param in F32, named as in Hugging Face files, that starts
// from the served values, even if the base has them in a quantized layout.
func (m *Model) AttachAll() error {
	f, c := m.frozen, m.cfg
	var err error
	matrix := func(name string, w ...device.Weight) *Param {
		if err != nil {
			return nil
		}
		var p *Param
		if p, err = m.fromWeight(name, w...); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			return nil
		}
		return p
	}
	vector := func(name string, b device.Buffer) *Param {
		if err != nil || b == nil {
			return nil
		}
		var p *Param
		if p, err = m.fromBuffer(name, b); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			return nil
		}
		return p
	}
	m.embed = matrix("model.embed_tokens.weight", f.Embed)
	for i := range m.blocks {
		b, prefix := &m.blocks[i], fmt.Sprintf("model.layers.%d.", i)
		if c.Fused {
			for _, name := range []string{"self_attn.qkv_proj", "mlp.gate_up_proj"} {
				var parts []device.Weight
				for _, t := range Fused[name] {
					parts = append(parts, b.Linear[t])
				}
				whole, begin := matrix(prefix+name+".weight", parts...), 0
				if err != nil {
					return err
				}
				for _, t := range Fused[name] {
					b.linear[t].full = whole.rows(begin, b.linear[t].out)
					begin += b.linear[t].out
				}
			}
		}
		for t, l := range b.linear {
			if l.full == nil {
				l.full = matrix(prefix+Projections[t]+".weight", l.w)
			}
			if l.dbias = vector(prefix+Projections[t]+".bias", l.bias); l.dbias != nil {
				l.dbias.Bias = true
			}
		}
		b.attnNorm = vector(prefix+"input_layernorm.weight", b.AttnNorm)
		b.qNorm = vector(prefix+"self_attn.q_norm.weight", b.QNorm)
		b.kNorm = vector(prefix+"self_attn.k_norm.weight", b.KNorm)
		if c.SandwichNorm {
			b.postAttn = vector(prefix+"post_attention_layernorm.weight", b.PostAttn)
			b.mlpNorm = vector(prefix+"pre_feedforward_layernorm.weight", b.MLPNorm)
			b.postMLP = vector(prefix+"post_feedforward_layernorm.weight", b.PostMLP)
		} else {
			b.mlpNorm = vector(prefix+"post_attention_layernorm.weight", b.MLPNorm)
		}
	}
	m.norm = vector("model.norm.weight", f.Norm)
	m.head.full = m.embed
	if !c.Tied {
		m.head.full = matrix("lm_head.weight", f.Head)
	}
	return err
}

// fromWeight returns a parameter with the values of a served matrix, or of several, one after the other by rows.
func (m *Model) fromWeight(name string, ws ...device.Weight) (*Param, error) {
	n := 0
	for _, w := range ws {
		n += w.Rows()
	}
	p, err := NewParam(m.dev, name, n, ws[0].Cols())
	if err != nil {
		return nil, err
	}
	m.params = append(m.params, p)
	begin := 0
	for _, w := range ws {
		ids := make([]int32, w.Rows())
		for i := range ids {
			ids[i] = int32(i)
		}
		if err := m.dev.Embed(device.EmbedArgs{IDs: ids, Table: w, Scale: 1,
			Out: p.rows(begin, len(ids)).view()}); err != nil {
			return nil, err
		}
		begin += len(ids)
	}
	return p, m.dev.Sync()
}

func (m *Model) fromBuffer(name string, b device.Buffer) (*Param, error) {
	if err := m.dev.Sync(); err != nil {
		return nil, err
	}
	v := floats(b)
	p, err := NewVector(m.dev, name, len(v))
	if err != nil {
		return nil, err
	}
	m.params = append(m.params, p)
	copy(p.Values(), v)
	return p, nil
}
