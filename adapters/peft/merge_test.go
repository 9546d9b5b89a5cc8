package peft

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"weft/quant"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// mergedSource is a base with an adapter merged into its weights, in float64 rounded to float32: what the adapter means, without a line of the runtime's.
type mergedSource struct {
	weights.Source
	cfg      model.Config
	matrices map[string]*quant.Matrix
	vectors  map[string][]float32
}

// merged returns base with a merged into it. Every layer of the result has biases, and its head is its own.
func merged(base *ModelFile, a *lora.Adapter) (*mergedSource, error) {
	m := &mergedSource{Source: base.Source, cfg: *base.Config(), matrices: map[string]*quant.Matrix{}, vectors: map[string][]float32{}}
	c := &m.cfg
	embed, head, err := tables(base)
	if err != nil {
		return nil, err
	}
	if a.EmbedTable != nil {
		embed = widened(a.EmbedTable)
	}
	if a.HeadTable != nil {
		head = widened(a.HeadTable)
	}
	if r := a.Embed.Rank(); r > 0 {
		fa, fb := widened(matrix(a.Embed.A)), widened(matrix(a.Embed.B))
		for id := range c.Vocab {
			for h := range c.Hidden {
				for k := range r {
					embed[id][h] += float64(a.Embed.Scale) * fb[h][k] * fa[k][id]
				}
			}
		}
	}
	m.matrices["model.embed_tokens.weight"] = rounded(embed)
	w, _ := apply(head, nil, &a.Head)
	m.matrices["lm_head.weight"] = rounded(w)
	c.Tied = false
	for l := range c.Layers {
		if err := m.layer(base, l, &a.Layers[l]); err != nil {
			return nil, err
		}
	}
	c.QKVBias, c.OBias, c.MLPBias, c.Fused = true, true, true, false
	return m, nil
}

func tables(base *ModelFile) (embed, head [][]float64, err error) {
	e, err := base.Matrix("model.embed_tokens.weight")
	if err != nil {
		return nil, nil, err
	}
	if base.Config().Tied {
		return widened(e), widened(e), nil
	}
	h, err := base.Matrix("lm_head.weight")
	if err != nil {
		return nil, nil, err
	}
	return widened(e), widened(h), nil
}

func (m *mergedSource) layer(base *ModelFile, l int, modules *[lora.NumTargets]lora.Module) error {
	names := [...]string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
	for _, s := range sites(base.Config()) {
		if s.layer != l {
			continue
		}
		stored, err := base.Matrix(s.path + ".weight")
		if err != nil {
			return err
		}
		w, bias := widened(stored), make([]float32, s.out)
		if s.bias {
			if bias, err = base.Vector(s.path + ".bias"); err != nil {
				return err
			}
		}
		for _, p := range s.parts {
			w, b := apply(w[p.begin:p.end], bias[p.begin:p.end], &modules[p.target])
			name := fmt.Sprintf("model.layers.%d.%s.", l, names[p.target])
			m.matrices[name+"weight"], m.vectors[name+"bias"] = rounded(w), b
		}
	}
	return nil
}

// apply returns the weight and the bias of a layer with its module merged: Gain ⊙ (W + Scale·BA) and Gain ⊙ b + Bias.
func apply(w [][]float64, b []float32, m *lora.Module) ([][]float64, []float32) {
	out, bias := make([][]float64, len(w)), slices.Clone(b)
	var fa, fb [][]float64
	if m.Rank() > 0 {
		fa, fb = widened(matrix(m.A)), widened(matrix(m.B))
	}
	for i := range w {
		out[i] = slices.Clone(w[i])
		for k := range fa {
			for j := range out[i] {
				out[i][j] += float64(m.Scale) * fb[i][k] * fa[k][j]
			}
		}
		if m.Gain != nil {
			for j := range out[i] {
				out[i][j] *= float64(m.Gain[i])
			}
			if bias != nil {
				bias[i] *= m.Gain[i]
			}
		}
		if m.Bias != nil {
			bias[i] += m.Bias[i]
		}
	}
	return out, bias
}

func widened(m *quant.Matrix) [][]float64 {
	row := make([]float32, m.Cols)
	out := make([][]float64, m.Rows)
	for i := range out {
		m.Row(i, row)
		out[i] = make([]float64, m.Cols)
		for j, v := range row {
			out[i][j] = float64(v)
		}
	}
	return out
}

func rounded(w [][]float64) *quant.Matrix {
	m := &quant.Matrix{Layout: quant.F32, Rows: len(w), Cols: len(w[0])}
	for _, row := range w {
		for _, v := range row {
			m.Data = binary.LittleEndian.AppendUint32(m.Data, math.Float32bits(float32(v)))
		}
	}
	return m
}

func (m *mergedSource) Names() []string {
	var out []string
	for _, n := range m.Source.Names() {
		if _, ok := m.Info(n); ok {
			out = append(out, n)
		}
	}
	for n := range m.matrices {
		out = append(out, n)
	}
	for n := range m.vectors {
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (m *mergedSource) Info(name string) (weights.Info, bool) {
	if w := m.matrices[name]; w != nil {
		return weights.Info{Shape: []int{w.Rows, w.Cols}}, true
	}
	if v := m.vectors[name]; v != nil {
		return weights.Info{Shape: []int{len(v)}}, true
	}
	info, ok := m.Source.Info(name)
	return info, ok && len(info.Shape) == 1 // fused matrices are replaced by their parts
}

func (m *mergedSource) Matrix(name string) (*quant.Matrix, error) {
	if w := m.matrices[name]; w != nil {
		return w, nil
	}
	return m.Source.Matrix(name)
}

func (m *mergedSource) Vector(name string) ([]float32, error) {
	if v := m.vectors[name]; v != nil {
		return v, nil
	}
	return m.Source.Vector(name)
}

func (m *mergedSource) Release(string) {}
