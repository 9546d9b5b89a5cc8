package peft

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
)

// Tokens are the trainable_token_indices of the embedding and of the head: ids whose rows the adapter replaces by those
// of its file.
type Tokens struct {
	Embed, Head []int
}

// tokens reads trainable_token_indices: a list for the embedding, or lists by module.
func tokens(v json.RawMessage) (t Tokens, err error) {
	if json.Unmarshal(v, &t.Embed) == nil {
		return t, nil
	}
	m, err := members(v)
	if err != nil {
		return t, errors.New("a list of token ids, or an object of such lists by module, is expected")
	}
	for _, f := range m {
		to := &t.Embed
		switch saved(f.name) {
		case headPath:
			to = &t.Head
		case embedPath:
		default:
			return t, fmt.Errorf("%.200q: only embed_tokens and lm_head have rows of tokens", f.name)
		}
		if err := json.Unmarshal(f.value, to); err != nil {
			return t, fmt.Errorf("%.200q: %w", f.name, err)
		}
	}
	return t, nil
}

// MarshalJSON writes null, the list of the embedding, or both lists by module.
func (t Tokens) MarshalJSON() ([]byte, error) {
	if len(t.Head) == 0 {
		return json.Marshal(listOrNull(t.Embed))
	}
	lists := map[string][]int{"lm_head": t.Head}
	if len(t.Embed) > 0 {
		lists["embed_tokens"] = t.Embed
	}
	return json.Marshal(lists)
}

// of returns the ids for a module's path.
func (t *Tokens) of(path string) []int {
	if path == headPath {
		return t.Head
	}
	return t.Embed
}

// checkTokens compares the rows of tokens in the file with the configuration and the base.
func (a *Adapter) checkTokens(c *model.Config, r *reasons) {
	for _, path := range []string{embedPath, headPath} {
		ids := a.Config.Tokens.of(path)
		t, ok := a.modules[path][kindTokens]
		switch {
		case ok && !slices.Equal(t.shape, []int{len(ids), c.Hidden}):
			r.add(
				"the adapter_config.json of another training?",
				"tensor %q has shape %v, but trainable_token_indices "+
					"has %d ids and the base's rows have %d values",
				t.name,
				t.shape,
				len(ids),
				c.Hidden,
			)
			continue
		case !ok && len(ids) > 0 && !(path == headPath && c.Tied && slices.Equal(ids, a.Config.Tokens.Embed)):
			r.add("save the adapter again", "trainable_token_indices has ids of %s, but the file has no rows for them",
				path)
		}
		seen := map[int]bool{}
		for _, id := range ids {
			if id < 0 || id >= c.Vocab || seen[id] {
				r.add(
					a.otherBase(),
					"trainable_token_indices: %d occurs twice or is not an id of the base, which has %d",
					id,
					c.Vocab,
				)
			}
			seen[id] = true
		}
		for _, k := range []kind{kindA, kindEmbedA, kindWeight} {
			if other, both := a.modules[path][k]; both && len(ids) > 0 {
				r.add(
					"train with one of them",
					"trainable_token_indices and tensor %q both change %s",
					other.name,
					path,
				)
			}
		}
		if len(ids) > c.FFN {
			r.add("train the whole embedding (modules_to_save)", "trainable_token_indices has %d ids; at most %d are "+
				"served", len(ids), c.FFN)
		}
	}
	if c.Tied && len(a.Config.Tokens.Embed) > 0 && adapted(a.modules[headPath]) {
		r.add("train with one of them", "trainable_token_indices changes the base's head, which is its embedding, and "+
			"so does lora_A of %s", headPath)
	}
}

// tokenRows turns replaced rows into LoRA on the embedding and the head: the change of a row times the token's unit
// vector. A head that is the embedding has the embedding's rows, unless it has its own.
func (b *builder) tokenRows() error {
	c := b.base.Config()
	embed, head := b.a.modules[embedPath], b.a.modules[headPath]
	if t, ok := embed[kindTokens]; ok {
		change, err := b.rowChanges(embedPath, t, b.a.Config.Tokens.Embed)
		if err != nil {
			return err
		}
		ids := b.a.Config.Tokens.Embed
		b.out.Embed = lora.Module{Scale: 1, A: units(ids, c.Vocab), B: transposedMatrix(change)}
		if _, own := head[kindTokens]; c.Tied && !own {
			b.out.Head = lora.Module{Scale: 1, A: change, B: transposedMatrix(units(ids, c.Vocab))}
		}
	}
	if t, ok := head[kindTokens]; ok {
		change, err := b.rowChanges(headPath, t, b.a.Config.Tokens.Head)
		if err != nil {
			return err
		}
		b.out.Head = lora.Module{Scale: 1, A: change, B: transposedMatrix(units(b.a.Config.Tokens.Head, c.Vocab))}
	}
	return nil
}

// rowChanges returns the file's rows less the base's [n, H].
func (b *builder) rowChanges(path string, t stored, ids []int) (lora.Matrix, error) {
	f, err := b.a.loraMatrix(t)
	if err != nil {
		return f, err
	}
	name := b.tableName(path)
	w, err := b.base.Matrix(name)
	if err != nil {
		return f, err
	}
	defer b.base.Release(name)
	rows, own, trained := matrix(f), make([]float32, w.Cols), make([]float32, w.Cols)
	out := lora.Matrix{DType: tensor.F32, Rows: f.Rows, Cols: f.Cols, Data: make([]byte, 0, 4*f.Rows*f.Cols)}
	for i, id := range ids {
		w.Row(id, own)
		rows.Row(i, trained)
		for j := range own {
			out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(trained[j]-own[j]))
		}
	}
	return out, nil
}

// tableName returns the base's tensor for the embedding or the head.
func (b *builder) tableName(path string) string {
	if path == headPath && b.base.Config().Tied {
		path = embedPath
	}
	return path + ".weight"
}

// units returns a matrix [n, V] whose row i is 1 at ids[i].
func units(ids []int, vocab int) lora.Matrix {
	m := lora.Matrix{DType: tensor.BF16, Rows: len(ids), Cols: vocab, Data: make([]byte, 2*len(ids)*vocab)}
	for i, id := range ids {
		binary.LittleEndian.PutUint16(m.Data[2*(i*vocab+id):], 0x3f80)
	}
	return m
}

func transposedMatrix(m lora.Matrix) lora.Matrix {
	return lora.Matrix{DType: m.DType, Rows: m.Cols, Cols: m.Rows, Data: transposed(m.Data, m.Cols, m.DType.Size())}
}

// tieHead makes the head of a base whose head is its embedding change with the embedding, as ensure_weight_tying asks
// for: whole tables are one, and LoRA is transposed. A file that also has the head's tensors must agree.
func (b *builder) tieHead() error {
	if !b.a.Config.TieWeights || !b.base.Config().Tied {
		return nil
	}
	out := b.out
	if out.EmbedTable != nil {
		if out.HeadTable != nil && !slices.Equal(out.HeadTable.Data, out.EmbedTable.Data) {
			b.wrong.add("save the adapter again", "ensure_weight_tying is set, but the file's head differs from its "+
				"embedding")
		}
		out.HeadTable = out.EmbedTable
	}
	if out.Embed.Rank() > 0 && len(b.a.Config.Tokens.Embed) == 0 {
		tied := lora.Module{Scale: out.Embed.Scale, A: transposedMatrix(out.Embed.B), B: transposedMatrix(out.Embed.A)}
		if out.Head.Rank() > 0 && !(slices.Equal(out.Head.A.Data, tied.A.Data) &&
			slices.Equal(out.Head.B.Data, tied.B.Data)) {
			b.wrong.add("save the adapter again", "ensure_weight_tying is set, but the LoRA on the file's head is not "+
				"that on its embedding")
		}
		out.Head = tied
	}
	return nil
}

// norms lists the last elements of the paths of norms, by lora.Norm.
var norms = [lora.NumNorms]string{
	lora.InputNorm: "input_layernorm", lora.PostAttentionNorm: "post_attention_layernorm",
	lora.PreMLPNorm: "pre_feedforward_layernorm", lora.PostMLPNorm: "post_feedforward_layernorm",
	lora.QNorm: "self_attn.q_norm", lora.KNorm: "self_attn.k_norm",
}

const finalNormPath = "model.norm"

// isNorm reports whether a path is that of a norm in any architecture.
func isNorm(path string) bool {
	rest, ok := strings.CutPrefix(path, "model.layers.")
	if !ok {
		return path == finalNormPath
	}
	_, module, _ := strings.Cut(rest, ".")
	return slices.Contains(norms[:], module)
}

// normPaths returns the norms of a base, by path, and their widths.
func normPaths(c *model.Config) map[string]int {
	out := map[string]int{finalNormPath: c.Hidden}
	for l := range c.Layers {
		for n, width := range lora.NormWidths(c.Hidden, c.HeadDim, c.SandwichNorm, c.QKNorm) {
			if width > 0 {
				out[fmt.Sprintf("model.layers.%d.%s", l, norms[n])] = width
			}
		}
	}
	return out
}

// checkNorms compares the norms in the file with modules_to_save and the base.
func (a *Adapter) checkNorms(c *model.Config, r *reasons) (known map[string]bool) {
	known = map[string]bool{}
	for path, width := range normPaths(c) {
		known[path] = true
		w, ok := a.modules[path][kindWeight]
		switch {
		case ok && !a.Config.Saves(path):
			r.add("correct modules_to_save", "tensor %q replaces a norm, but modules_to_save does not name it", w.name)
		case !ok && a.Config.Saves(path):
			r.add("save the adapter again", "modules_to_save names %s, but the file does not contain it", path)
		case ok && !slices.Equal(w.shape, []int{width}):
			r.add(a.otherBase(), "tensor %q has shape %v, but the base's norm has %d weights", w.name, w.shape, width)
		}
	}
	return known
}

// norms fills the norms that the adapter replaces; Gemma's are stored less 1.
func (b *builder) norms() error {
	c := b.base.Config()
	read := func(path string) ([]float32, error) {
		w, ok := b.a.modules[path][kindWeight]
		if !ok {
			return nil, nil
		}
		sum := make([]float64, w.shape[0])
		if c.SandwichNorm {
			for i := range sum {
				sum[i] = 1
			}
		}
		if err := b.a.addFloats(sum, w, 1); err != nil {
			return nil, err
		}
		out := make([]float32, len(sum))
		for i, v := range sum {
			out[i] = float32(v)
		}
		return out, nil
	}
	for l := range c.Layers {
		for n, name := range norms {
			v, err := read(fmt.Sprintf("model.layers.%d.%s", l, name))
			if err != nil {
				return err
			}
			if v != nil && b.out.Norms == nil {
				b.out.Norms = make([][lora.NumNorms][]float32, c.Layers)
			}
			if v != nil {
				b.out.Norms[l][n] = v
			}
		}
	}
	var err error
	b.out.FinalNorm, err = read(finalNormPath)
	return err
}
