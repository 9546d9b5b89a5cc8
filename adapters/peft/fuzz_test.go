package peft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"weft/internal/goldens"
	"weft/quant"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// smallBase is a base of hidden size 4, with equal layers; with zero, all of its linear layers are 0.
type smallBase struct {
	cfg  model.Config
	zero bool
}

func newSmallBase() *smallBase {
	return &smallBase{cfg: model.Config{Architecture: "llama", Hidden: 4, Layers: 2, Heads: 2, KVHeads: 1, HeadDim: 2,
		FFN: 6, Vocab: 8, QKVBias: true}}
}

func (b *smallBase) Name() string          { return "small" }
func (b *smallBase) Config() *model.Config { return &b.cfg }
func (b *smallBase) Release(string)        {}

func (b *smallBase) Matrix(name string) (*quant.Matrix, error) {
	if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
		return &quant.Matrix{Layout: quant.F32, Rows: b.cfg.Vocab, Cols: b.cfg.Hidden,
			Data: f32(b.cfg.Vocab, b.cfg.Hidden).Data}, nil
	}
	for _, s := range sites(&b.cfg) {
		if s.path+".weight" == name {
			data := f32(s.out, s.in).Data
			if b.zero {
				clear(data)
			}
			return &quant.Matrix{Layout: quant.F32, Rows: s.out, Cols: s.in, Data: data}, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", weights.ErrNoTensor, name)
}

func (b *smallBase) Vector(name string) ([]float32, error) {
	for _, s := range sites(&b.cfg) {
		if s.path+".bias" == name {
			return make([]float32, s.out), nil
		}
	}
	return nil, fmt.Errorf("%w: %s", weights.ErrNoTensor, name)
}

// smallFolders are adapters of the small base, one of every sort.
func smallFolders() []*folder {
	lora := func(f *folder, path string, out, in int) {
		f.config["target_modules"] = append(f.config["target_modules"].([]string), path)
		f.pair(path, out, in)
	}
	fresh := func() *folder {
		return &folder{map[string]any{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": []string{}},
			map[string]weights.Tensor{}}
	}
	plain, dora, embed, saved := fresh(), fresh(), fresh(), fresh()
	lora(plain, "model.layers.0.self_attn.q_proj", 4, 4)
	lora(plain, "model.layers.1.mlp.down_proj", 4, 6)
	plain.config["rank_pattern"], plain.config["alpha_pattern"] = map[string]any{"q_proj": 2},
		map[string]any{"down_proj": 1.5}
	lora(dora, "model.layers.0.self_attn.k_proj", 2, 4)
	dora.config["use_dora"], dora.config["bias"] = true, "lora_only"
	dora.tensors[prefix+"model.layers.0.self_attn.k_proj.lora_magnitude_vector"] = f32(2)
	dora.tensors[prefix+"model.layers.0.self_attn.k_proj.base_layer.bias"] = f32(2)
	embed.config["target_modules"] = []string{"embed_tokens"}
	embed.tensors[prefix+"model.embed_tokens.lora_embedding_A"] = f32(2, 8)
	embed.tensors[prefix+"model.embed_tokens.lora_embedding_B"] = f32(4, 2)
	embed.tensors[prefix+"model.embed_tokens.base_layer.weight"] = f32(8, 4)
	lora(saved, "model.layers.0.mlp.up_proj", 6, 4)
	saved.config["modules_to_save"], saved.config["lora_bias"] = []string{"lm_head"}, true
	saved.tensors[prefix+"lm_head.weight"], saved.tensors[prefix+"model.layers.0.mlp.up_proj.lora_B.bias"] = f32(8, 4),
		f32(6)
	return []*folder{plain, dora, embed, saved}
}

// The seeds of the fuzz target fit, so that it starts from where everything is reached.
func TestSmallFoldersFit(t *testing.T) {
	for i, f := range smallFolders() {
		if _, err := Load(f.write(t), newSmallBase()); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// checkAny opens whatever lies at path: it is refused, or the runtime takes it.
func checkAny(t *testing.T, path string) {
	t.Helper()
	a, err := Load(path, newSmallBase())
	report, inspectErr := Inspect(path, newSmallBase())
	if (inspectErr == nil) != (err == nil || errors.Is(err, ErrRefused)) || inspectErr == nil &&
		(report.Verdict == Fits) != (err == nil) {
		t.Fatalf("Load says %v, Inspect %v and %+v", err, inspectErr, report)
	}
	if err != nil {
		if !errors.Is(err, ErrRefused) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("error %v, want a refusal", err)
		}
		return
	}
	dev := ref.New(ref.Options{MemoryLimit: 64 << 20})
	w, err := lora.Load(dev, a)
	if err != nil {
		t.Fatalf("not refused, but the runtime does not take it: %v", err)
	}
	w.Free()
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzFolder(f *testing.F) {
	for _, s := range smallFolders() {
		dir := s.write(f)
		config, err := os.ReadFile(filepath.Join(dir, ConfigFile))
		if err != nil {
			f.Fatal(err)
		}
		tensors, err := os.ReadFile(filepath.Join(dir, WeightsFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config, tensors)
	}
	f.Fuzz(func(t *testing.T, config, tensors []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{ConfigFile: config, WeightsFile: tensors} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		checkAny(t, dir)
	})
}

func FuzzAdapterGGUF(f *testing.F) {
	g := newGGUFAdapter()
	g.tensors["blk.0.attn_q.weight.lora_a"], g.tensors["blk.0.attn_q.weight.lora_b"] = []int{2, 4}, []int{4, 2}
	g.tensors["blk.1.ffn_down.weight.lora_a"], g.tensors["blk.1.ffn_down.weight.lora_b"] = []int{1, 6}, []int{4, 1}
	g.tensors["token_embd.weight.lora_a"], g.tensors["token_embd.weight.lora_b"] = []int{8, 3}, []int{4, 3}
	f.Add(g.bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "adapter.gguf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		checkAny(t, path)
	})
}

// A configuration that is read is written so that it is read again as the same.
func FuzzAdapterConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type": "LORA", "r": 4, "lora_alpha": 8.5, "target_modules": ["q_proj"], "rank_pattern": {"b": 1, "a": 2}, "layers_to_transform": [0, 2], "layers_pattern": "h"}`))
	f.Add([]byte(`{"peft_type": "LORA", "target_modules": ".*\\.(q|v)_proj", "exclude_modules": "x", "modules_to_save": ["lm_head"], "bias": "all", "use_rslora": true, "use_dora": true}`))
	f.Add([]byte(`{"peft_type": "LORA", "target_modules": "all-linear", "layer_replication": [[0, 1]], "unknown": {"a": [1]}, "r": 1e400, "alpha_pattern": {"": -0}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := configOf(text)
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("error %v, want a refusal", err)
			}
			return
		}
		again, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := configOf(again)
		if err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		if normal(c).differs(normal(d)) {
			t.Fatalf("%+v became %+v", c, d)
		}
	})
}

type normalConfig Config

// normal makes absent and empty lists the same.
func normal(c Config) normalConfig {
	c.Layers, c.LayersPattern, c.Save = append([]int{}, c.Layers...), append([]string{}, c.LayersPattern...),
		append([]string{}, c.Save...)
	c.RankPattern, c.AlphaPattern = append([]Pattern{}, c.RankPattern...), append([]Pattern{}, c.AlphaPattern...)
	c.Tokens.Embed, c.Tokens.Head = append([]int{}, c.Tokens.Embed...), append([]int{}, c.Tokens.Head...)
	c.Targets.Names, c.Exclude.Names = append([]string{}, c.Targets.Names...), append([]string{}, c.Exclude.Names...)
	return normalConfig(c)
}

func (c normalConfig) differs(d normalConfig) bool { return !reflect.DeepEqual(c, d) }

// Every golden folder is judged the same by Load and Inspect.
func TestInspectAgrees(t *testing.T) {
	goldenAdapters(t, func(t *testing.T, dir string, g *golden) {
		report, err := Inspect(dir, openBase(t, g))
		if err != nil || (report.Verdict == Refused) != g.refused() {
			t.Errorf("%v, %+v: want %s", err, report, g.Expect)
		}
	})
	if _, err := Inspect(filepath.Join(goldens.Root(), "nowhere"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
