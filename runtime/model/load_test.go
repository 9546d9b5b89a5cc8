package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// memory is a weights.Source of float32 tensors.
type memory map[string]memoryTensor

type memoryTensor struct {
	shape  []int
	values []float32
}

func (m memory) Names() []string { return slices.Sorted(maps.Keys(m)) }

func (m memory) Info(name string) (weights.Info, bool) {
	t, ok := m[name]
	return weights.Info{Shape: t.shape, Format: "F32", Bytes: int64(4 * len(t.values))}, ok
}

func (m memory) Matrix(name string) (*quant.Matrix, error) {
	t := m[name]
	return &quant.Matrix{Layout: quant.F32, Rows: t.shape[0], Cols: t.shape[1], Data: floatBytes(t.values)}, nil
}

func (m memory) Vector(name string) ([]float32, error) { return m[name].values, nil }

func (m memory) Release(string) {}

func (m memory) Close() error { return nil }

// random adds a tensor of small random values, norms near 1.
func (m memory) random(rng *rand.Rand, name string, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64() / 4)
		if strings.Contains(name, "norm") {
			v[i]++
		}
	}
	m[name] = memoryTensor{shape, v}
}

// tiny returns a random model of the configuration base.
func tiny(t testing.TB) (memory, *Config) {
	t.Helper()
	cfg, err := ParseConfig(base(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	src := memory{}
	src.random(rng, "model.embed_tokens.weight", 128, 64)
	src.random(rng, "lm_head.weight", 128, 64)
	src.random(rng, "model.norm.weight", 64)
	for l := range cfg.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		src.random(rng, p+"input_layernorm.weight", 64)
		src.random(rng, p+"post_attention_layernorm.weight", 64)
		src.random(rng, p+"self_attn.q_proj.weight", 64, 64)
		src.random(rng, p+"self_attn.k_proj.weight", 32, 64)
		src.random(rng, p+"self_attn.v_proj.weight", 32, 64)
		src.random(rng, p+"self_attn.o_proj.weight", 64, 64)
		src.random(rng, p+"mlp.gate_proj.weight", 96, 64)
		src.random(rng, p+"mlp.up_proj.weight", 96, 64)
		src.random(rng, p+"mlp.down_proj.weight", 64, 96)
	}
	return src, cfg
}

func TestLoadRefuses(t *testing.T) {
	opt := Options{MaxBatchTokens: 8, MaxLogitRows: 2}
	for _, c := range []struct {
		name string
		edit func(src memory, cfg *Config, opt *Options)
		say  []string // nil: it loads
	}{
		{"sound", func(memory, *Config, *Options) {}, nil},
		{"missing", func(s memory, _ *Config, _ *Options) {
			delete(s, "model.norm.weight")
			delete(s, "model.layers.1.mlp.up_proj.weight")
		}, []string{"model.norm.weight is missing", "model.layers.1.mlp.up_proj.weight is missing"}},
		{"extra", func(s memory, _ *Config, _ *Options) {
			s["model.layers.2.mlp.up_proj.weight"] = s["model.layers.1.mlp.up_proj.weight"]
		}, []string{"model.layers.2.mlp.up_proj.weight"}},
		{"unexpected bias", func(s memory, _ *Config, _ *Options) {
			s["model.layers.0.self_attn.q_proj.bias"] = s["model.norm.weight"]
		}, []string{"q_proj.bias"}},
		{"missing bias", func(_ memory, c *Config, _ *Options) { c.QKVBias = true },
			[]string{"q_proj.bias is missing"}},
		{"shape", func(_ memory, c *Config, _ *Options) { c.FFN = 100 },
			[]string{"gate_proj.weight has shape [96 64], the configuration needs [100 64]"}},
		{"rank", func(s memory, _ *Config, _ *Options) { s["model.norm.weight"] = s["lm_head.weight"] },
			[]string{"model.norm.weight has shape [128 64]"}},
		{"many", func(s memory, _ *Config, _ *Options) { clear(s) }, []string{"and 1 more"}},
		{"inverse frequencies", func(s memory, _ *Config, _ *Options) {
			s["model.layers.0.self_attn.rotary_emb.inv_freq"] = memoryTensor{[]int{8}, make([]float32, 8)}
		}, nil},
		{"tensors that nothing reads", func(s memory, _ *Config, _ *Options) {
			s["rope_factors_long.weight"] = memoryTensor{[]int{8}, make([]float32, 8)}
		}, []string{"rope_factors_long.weight"}},
		{"tied head stored twice", func(s memory, c *Config, _ *Options) {
			c.Tied = true
			s["lm_head.weight"] = s["model.embed_tokens.weight"]
		}, nil},
		{"tied head that differs", func(_ memory, c *Config, _ *Options) { c.Tied = true },
			[]string{"lm_head.weight differs"}},
		{"no batch", func(_ memory, _ *Config, o *Options) { o.MaxBatchTokens = 0 }, []string{"0 batch tokens"}},
		{"no logits", func(_ memory, _ *Config, o *Options) { o.MaxLogitRows = -1 }, []string{"-1 logit rows"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := closing(t, ref.New(ref.Options{}))
			src, cfg := tiny(t)
			opt := opt
			c.edit(src, cfg, &opt)
			m, err := Load(src, cfg, dev, opt)
			if c.say == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if m != nil || !errors.Is(err, ErrConfig) {
				t.Fatalf("%v, %v", m, err)
			}
			for _, say := range c.say {
				if !strings.Contains(err.Error(), say) {
					t.Errorf("error %q does not say %q", err, say)
				}
			}
		})
	}
}

// A device that runs out of memory at any point of loading is left without a byte in use.
// Tensors that cannot change what the model computes are passed over; all others are refused by name.
func TestLoadExtraTensors(t *testing.T) {
	for name, taken := range map[string]bool{
		"v_head.summary.weight": true, "v_head.summary.bias": true, "score.weight": true,
		"model.layers.0.self_attn.k_scale": true, "model.layers.0.self_attn.attn.v_scale": true,
		"model.layers.0.self_attn.k_proj.k_scale": true, "model.layers.1.self_attn.v_proj.output_scale": true,
		"model.layers.0.self_attn.masked_bias": true, "model.layers.0.self_attn.rotary_emb.inv_freq": true,
		"model.layers.0.self_attn.rotary_emb.cos_cached": true, "model.rotary_emb.inv_freq": true,
		"model.layers.0.self_attn.q_proj._extra_state": true, "model.embed_tokens.position_ids": true,
		"model.layers.0.self_attn.q_proj.bias": false, "model.layers.0.self_attn.bias": false,
		"model.layers.0.self_attn.q_proj.weight_scale": false, "model.layers.0.self_attn.q_proj.input_scale": false,
		"model.layers.2.input_layernorm.weight": false, "lm_head.bias": false,
		"model.layers.0.self_attn.q_norm.weight":        false,
		"model.layers.0.self_attn.q_proj.lora_A.weight": false, "scores.weight": false,
	} {
		src, cfg := tiny(t)
		src.random(rand.New(rand.NewPCG(1, 2)), name, 64)
		m, err := Load(src, cfg, ref.New(ref.Options{}), Options{MaxBatchTokens: 8, MaxLogitRows: 1})
		if taken != (err == nil) || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if m != nil {
			m.Close()
		}
	}
	src, cfg := tiny(t)
	src.random(rand.New(rand.NewPCG(1, 2)), "model.layers.0.self_attn.bias", 1, 1, 8, 8) // a causal mask
	if _, err := Load(src, cfg, ref.New(ref.Options{}), Options{MaxBatchTokens: 8, MaxLogitRows: 1}); err != nil {
		t.Error(err)
	}
}

func TestLoadOutOfMemory(t *testing.T) {
	src, cfg := tiny(t)
	for limit := int64(1 << 10); ; limit += 40_000 {
		dev := closing(t, ref.New(ref.Options{MemoryLimit: limit}))
		m, err := Load(src, cfg, dev, Options{MaxBatchTokens: 8, MaxLogitRows: 2})
		if err == nil {
			if limit < 100_000 {
				t.Errorf("loaded into %d bytes", limit)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		if m != nil || !errors.Is(err, device.ErrOutOfMemory) {
			t.Fatalf("limit %d: %v", limit, err)
		}
	}
}

func loadTiny(t testing.TB, dev device.Device) *decoder {
	t.Helper()
	src, cfg := tiny(t)
	m, err := Load(src, cfg, dev, Options{MaxBatchTokens: 8, MaxLogitRows: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.(*decoder)
}

func TestForwardRefuses(t *testing.T) {
	dev := closing(t, ref.New(ref.Options{}))
	m := loadTiny(t, dev)
	k := m.KVConfig()
	k.PageLen, k.NumPages, k.DType = 16, 4, tensor.F32
	cache, err := dev.NewKVCache(k)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Free()
	k.Layers++
	other, err := dev.NewKVCache(k)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Free()
	adapter := &lora.Weights{Layers: make([][lora.NumTargets]device.LoRAMatrices, 2)}
	withGain := &lora.Adapter{Layers: make([][lora.NumTargets]lora.Module, 2)}
	withGain.Layers[1][lora.OProj].Gain = make([]float32, m.Config().Hidden)
	dora := loadAdapter(t, dev, withGain)
	for _, c := range []struct {
		name string
		edit func(b *Batch)
		say  string // empty: it runs
	}{
		{"sound", func(*Batch) {}, ""},
		{"nothing", func(b *Batch) { *b = Batch{Indptr: []int32{0}} }, ""},
		{"adapter", func(b *Batch) {
			b.LoRA = []lora.Segment{{Begin: 0, End: 2, Scale: 1, Weights: adapter},
				{Begin: 2, End: 4, Scale: 1, Weights: adapter}}
		}, ""},
		{"page that is not written", func(b *Batch) {
			b.Positions, b.Lens, b.PageTables[1] = []int32{0, 1, 16, 17}, []int32{2, 20}, []int32{1, 2}
		}, ""},
		{"too many tokens", func(b *Batch) { b.IDs = make([]int32, 9) }, "9 tokens"},
		{"positions", func(b *Batch) { b.Positions = b.Positions[:3] }, "3 positions"},
		{"no bounds", func(b *Batch) { b.Indptr = nil }, "bounds []"},
		{"bounds do not reach the end", func(b *Batch) { b.Indptr[2] = 3 }, "bounds [0 2 3]"},
		{"bounds beyond the end", func(b *Batch) { b.Indptr[1] = 100 }, "tokens [0, 100)"},
		{"bounds go back", func(b *Batch) { b.Indptr[1] = -2 }, "tokens [0, -2)"},
		{"id", func(b *Batch) { b.IDs[3] = 128 }, "id 128 of token 3"},
		{"negative id", func(b *Batch) { b.IDs[0] = -1 }, "id -1"},
		{"gap", func(b *Batch) { b.Positions[1] = 2 }, "positions are consecutive"},
		{"negative position", func(b *Batch) { b.Positions[0], b.Positions[1] = -1, 0 }, "positions -1 to 0"},
		{"beyond the context", func(b *Batch) { b.Positions[0], b.Positions[1], b.Lens[0] = 255, 256, 300 },
			"context of 256"},
		{"known tokens", func(b *Batch) { b.Lens[0] = 1 }, "1 known tokens"},
		{"short page table", func(b *Batch) { b.PageTables[1] = nil }, "needs 1 pages of 16"},
		{"no such page", func(b *Batch) { b.PageTables[1][0] = 4 }, "page 0 of sequence 1 is 4"},
		{"negative page", func(b *Batch) { b.PageTables[0][0] = -1 }, "page 0 of sequence 0 is -1"},
		{"adapters overlap", func(b *Batch) {
			b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 1, Weights: adapter},
				{Begin: 2, End: 4, Scale: 1, Weights: adapter}}
		}, "adapter segment 1"},
		{"no adapter", func(b *Batch) { b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 1}} }, "adapter segment 0"},
		{"adapter of another model",
			func(b *Batch) { b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 1, Weights: &lora.Weights{}}} },
			"adapter segment 0"},
		{"adapters of nested runs", func(b *Batch) {
			b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 1, Weights: adapter},
				{Begin: 0, End: 2, Scale: 1, Weights: adapter}}
		}, "adapter segment 1"},
		{"scaled DoRA", func(b *Batch) { b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 0.5, Weights: dora}} },
			"adapter segment 0: adapter cannot be combined"},
		{"combined DoRA", func(b *Batch) {
			b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 1, Weights: dora},
				{Begin: 0, End: 3, Scale: 1, Weights: adapter}}
		}, "adapter segment 0: adapter cannot be combined"},
		{"DoRA alone", func(b *Batch) { b.LoRA = []lora.Segment{{Begin: 0, End: 3, Scale: 1, Weights: dora}} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &Batch{IDs: []int32{1, 2, 3, 4}, Positions: []int32{0, 1, 0, 1}, Indptr: []int32{0, 2, 4},
				Lens: []int32{2, 2}, PageTables: [][]int32{{0}, {3}}}
			c.edit(b)
			err := m.Forward(b, cache)
			if c.say == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, device.ErrShape) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("error %v, want %q", err, c.say)
			}
			if _, err := m.Logits([]int32{0}); !errors.Is(err, device.ErrShape) {
				t.Errorf("logits of a refused batch: %v", err)
			}
		})
	}
	b := &Batch{IDs: []int32{1}, Positions: []int32{0}, Indptr: []int32{0, 1}, Lens: []int32{1},
		PageTables: [][]int32{{0}}}
	for _, cache := range []device.KVCache{nil, other} {
		if err := m.Forward(b, cache); !errors.Is(err, device.ErrShape) {
			t.Errorf("cache %v: %v", cache, err)
		}
	}
	if err := m.Forward(b, cache); err != nil {
		t.Fatal(err)
	}
	for _, rows := range [][]int32{{1}, {-1}, {0, 0, 0}} {
		if _, err := m.Logits(rows); !errors.Is(err, device.ErrShape) {
			t.Errorf("logits of %v: %v", rows, err)
		}
	}
	if logits, err := m.Logits(nil); err != nil || len(logits) != 0 {
		t.Errorf("no rows: %v, %v", logits, err)
	}
}

// The table of cos and sin grows as positions appear and does not depend on the order in which they do.
func TestRopeTableGrows(t *testing.T) {
	dev := closing(t, ref.New(ref.Options{}))
	const rot, context = 4, 3000
	rope := Rope{Kind: "default", Rot: rot, Theta: 100}
	table := func() *ropeTable {
		buf, err := dev.Alloc(device.Scratch, 4*rot*context)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(buf.Free)
		return &ropeTable{buf: buf, freq: [2][]float64{rope.frequencies(false)}, scale: 1.5}
	}
	row := func(r *ropeTable, p int) []float32 {
		raw := make([]byte, 4*rot)
		if err := r.buf.Read(int64(p*4*rot), raw); err != nil {
			t.Fatal(err)
		}
		out := make([]float32, rot)
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		return out
	}
	a, b := table(), table()
	for _, p := range []int{0, 5, 1023, 1024, 2999} {
		if err := a.grow(0, p, context); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.grow(0, 2999, context); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{0, 1, 1023, 1024, 2047, 2048, 2999} {
		angle := float64(p)
		want := []float32{float32(1.5 * math.Cos(angle)), float32(1.5 * math.Cos(angle*0.1)),
			float32(1.5 * math.Sin(angle)), float32(1.5 * math.Sin(angle*0.1))}
		numtest.MaxAbs(t, fmt.Sprint("row ", p), row(a, p), want, 1e-6)
		numtest.Equal(t, fmt.Sprint("row ", p), row(a, p), row(b, p))
	}
	if a.filled[0] != context {
		t.Errorf("%d rows filled, want %d", a.filled[0], context)
	}
}

// TestLeastBytes: what the headers tell is no more than what the weights take, and not much less.
func TestLeastBytes(t *testing.T) {
	for _, name := range []string{"stories260K", "llama-2-tiny-random"} {
		path := goldens.Shared(t, "data", "weights", name, name+".gguf")
		for _, bits := range []weights.Load4Bit{{}, {On: true}, {On: true, Double: true}} {
			dev := closing(t, ref.New(ref.Options{}))
			m, err := Open(path, dev, Options{MaxBatchTokens: 1, MaxLogitRows: 1, MaxContext: 1, Wrap: bits.Wrap})
			if err != nil {
				t.Fatal(err)
			}
			takes := dev.InUse(device.Weights)
			m.Close()
			if least, err := LeastBytes(path, bits.Wrap); err != nil || least > takes || least < takes/2 {
				t.Errorf("%s, %q: at least %d bytes, takes %d, %v", name, bits.Name(), least, takes, err)
			}
		}
	}
	if _, err := LeastBytes(t.TempDir(), nil); err == nil {
		t.Error("a folder without a model has a size")
	}
}
