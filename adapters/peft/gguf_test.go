package peft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/lora"
)

// storiesBase opens stories260K, whose layers are small and of the Llama architecture.
func storiesBase(t testing.TB) *ModelFile {
	t.Helper()
	base, err := OpenModel(goldens.Shared(t, "data", "weights", "stories260K", "hf"), "stories260K")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	return base
}

// One adapter, written by llama.cpp's own gguf library and as a PEFT folder (shared/peer/make_lora.py), is the same: q
// and k rows are back in order.
func TestGGUFEqualsPEFT(t *testing.T) {
	base := storiesBase(t)
	fromPEFT, err := Load("testdata/llamacpp", base)
	if err != nil {
		t.Fatal(err)
	}
	fromGGUF, err := Load("testdata/llamacpp/adapter.gguf", base)
	if err != nil {
		t.Fatal(err)
	}
	for l := range fromPEFT.Layers {
		for target := range lora.NumTargets {
			p, g := &fromPEFT.Layers[l][target], &fromGGUF.Layers[l][target]
			if p.Scale != 2 || g.Scale != 2 || p.Rank() != 2 {
				t.Fatalf("layer %d, target %d: rank %d, scales %v and %v, want 2", l, target, p.Rank(), p.Scale,
					g.Scale)
			}
			numtest.Equal(t, "A", values(g.A), values(p.A))
			numtest.Equal(t, "B", values(g.B), values(p.B))
		}
	}
}

func values(f lora.Matrix) []float32 {
	m := matrix(f)
	out := make([]float32, m.Rows*m.Cols)
	for i := range m.Rows {
		m.Row(i, out[i*m.Cols:])
	}
	return out
}

// ggufAdapter builds GGUF files of F32 tensors; dims are outermost first.
type ggufAdapter struct {
	texts   map[string]string
	floats  map[string]float32
	tensors map[string][]int
}

func newGGUFAdapter() *ggufAdapter {
	return &ggufAdapter{
		texts:   map[string]string{"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"},
		floats:  map[string]float32{"adapter.lora.alpha": 6},
		tensors: map[string][]int{},
	}
}

func (g *ggufAdapter) bytes() []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if s, ok := v.(string); ok {
				binary.Write(&b, binary.LittleEndian, uint64(len(s)))
				b.WriteString(s)
			} else {
				binary.Write(&b, binary.LittleEndian, v)
			}
		}
	}
	b.WriteString("GGUF")
	put(uint32(3), uint64(len(g.tensors)), uint64(len(g.texts)+len(g.floats)))
	for _, k := range slices.Sorted(maps.Keys(g.texts)) {
		put(k, uint32(8), g.texts[k])
	}
	for _, k := range slices.Sorted(maps.Keys(g.floats)) {
		put(k, uint32(6), g.floats[k])
	}
	var data []byte
	for _, name := range slices.Sorted(maps.Keys(g.tensors)) {
		dims := g.tensors[name]
		put(name, uint32(len(dims)))
		n := 1
		for _, d := range slices.Backward(dims) {
			put(uint64(d))
			n *= d
		}
		put(uint32(0), uint64(len(data)))
		for i := range n {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(i)+float32(len(name))/16))
		}
		data = append(data, make([]byte, -len(data)&31)...)
	}
	b.Write(make([]byte, -b.Len()&31))
	b.Write(data)
	return b.Bytes()
}

func (g *ggufAdapter) write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := os.WriteFile(path, g.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// llama.cpp keeps A of the embedding turned round, and takes an absent alpha for a scale of 1.
func TestGGUFEmbeddingAndHead(t *testing.T) {
	base := storiesBase(t)
	c := base.Config()
	g := newGGUFAdapter()
	delete(g.floats, "adapter.lora.alpha")
	g.tensors["token_embd.weight.lora_a"] = []int{c.Vocab, 3}
	g.tensors["token_embd.weight.lora_b"] = []int{c.Hidden, 3}
	g.tensors["output.weight.lora_a"] = []int{2, c.Hidden}
	g.tensors["output.weight.lora_b"] = []int{c.Vocab, 2}
	a, err := Load(g.write(t), base)
	if err != nil {
		t.Fatal(err)
	}
	e, h := a.Embed, a.Head
	if e.Rank() != 3 || e.A.Cols != c.Vocab || e.B.Rows != c.Hidden || e.Scale != 1 || h.Rank() != 2 ||
		h.B.Rows != c.Vocab || h.Scale != 1 {
		t.Fatalf("embedding %dx%d, %d rows, scale %v; head rank %d, %d rows, scale %v", e.Rank(), e.A.Cols, e.B.Rows,
			e.Scale, h.Rank(), h.B.Rows, h.Scale)
	}
	got, first := values(e.A), float32(len("token_embd.weight.lora_a"))/16
	if want := []float32{first, first + 3, first + 6}; !slices.Equal(got[:3], want) || got[c.Vocab] != first+1 {
		t.Errorf("A begins %v and %v in its second row, want %v and %v", got[:3], got[c.Vocab], want, first+1)
	}
}

func TestGGUFRefusals(t *testing.T) {
	base := storiesBase(t)
	q := func(g *ggufAdapter) {
		g.tensors["blk.0.attn_q.weight.lora_a"], g.tensors["blk.0.attn_q.weight.lora_b"] = []int{2, 64}, []int{64, 2}
	}
	for name, c := range map[string]struct {
		change func(*ggufAdapter)
		want   []string
	}{
		"sound": {q, nil},
		"a model": {func(g *ggufAdapter) { q(g); delete(g.texts, "general.type") },
			[]string{"general.type is absent"}},
		"not lora":     {func(g *ggufAdapter) { q(g); g.texts["adapter.type"] = "control" }, []string{`adapter.type is "control"`}},
		"architecture": {func(g *ggufAdapter) { q(g); g.texts["general.architecture"] = "qwen2" }, []string{`architecture "qwen2"`}},
		"aLoRA": {func(g *ggufAdapter) { q(g); g.floats["adapter.alora.invocation_tokens"] = 1 },
			[]string{"adapter.alora.invocation_tokens is set"}},
		"alpha": {func(g *ggufAdapter) { q(g); g.floats["adapter.lora.alpha"] = float32(math.NaN()) },
			[]string{"alpha is NaN"}},
		"no B": {func(g *ggufAdapter) { q(g); delete(g.tensors, "blk.0.attn_q.weight.lora_b") },
			[]string{"lora_B is missing"}},
		"norm": {func(g *ggufAdapter) { q(g); g.tensors["blk.0.attn_norm.weight"] = []int{64} },
			[]string{"changes a norm"}},
		"unknown": {func(g *ggufAdapter) { q(g); g.tensors["blk.0.attn_q.weight.lora_c"] = []int{2, 2} },
			[]string{"is unknown"}},
		"bias": {func(g *ggufAdapter) { q(g); g.tensors["blk.0.attn_q.bias.lora_a"] = []int{2, 2} },
			[]string{"is unknown"}},
		"nothing": {func(*ggufAdapter) {}, []string{"no tensor"}},
		"ranks": {func(g *ggufAdapter) { q(g); g.tensors["blk.0.attn_q.weight.lora_b"] = []int{64, 3} },
			[]string{"[out r]"}},
		"shape": {func(g *ggufAdapter) { q(g); g.tensors["blk.0.attn_q.weight.lora_b"] = []int{62, 2} },
			[]string{"the base's layer is [64 64]"}},
		"several, all named": {func(g *ggufAdapter) {
			q(g)
			g.texts["adapter.type"] = "x"
			g.tensors["blk.9.ffn_up.weight.lora_a"] = []int{2, 64}
		}, []string{"adapter.type", "lora_B is missing", "model.layers.9.mlp.up_proj (it has 5 layers)"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGGUFAdapter()
			c.change(g)
			_, err := Load(g.write(t), base)
			checkRefusal(t, err, c.want)
		})
	}
}

// checkRefusal wants a refusal that names everything in want, or none where want is empty.
func checkRefusal(t *testing.T, err error, want []string) {
	t.Helper()
	if len(want) == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var refused *RefusedError
	if !errors.As(err, &refused) || !errors.Is(err, ErrRefused) {
		t.Fatalf("error %v, want a refusal with %q", err, want)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in: %v", w, err)
		}
	}
}
