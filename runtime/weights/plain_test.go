package weights

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/quant"
)

func TestPlainName(t *testing.T) {
	for name, want := range map[string]string{
		"model.layers.0.self_attn.q_proj.weight":                      "model.layers.0.self_attn.q_proj.weight",
		"layers.0.mlp.up_proj.weight":                                 "model.layers.0.mlp.up_proj.weight",
		"embed_tokens.weight":                                         "model.embed_tokens.weight",
		"norm.weight":                                                 "model.norm.weight",
		"lm_head.weight":                                              "lm_head.weight",
		"language_model.model.layers.1.input_layernorm.weight":        "model.layers.1.input_layernorm.weight",
		"language_model.lm_head.weight":                               "lm_head.weight",
		"model.language_model.norm.weight":                            "model.norm.weight",
		"model.language_model.model.embed_tokens.weight":              "model.embed_tokens.weight",
		"model.language_model.lm_head.weight":                         "lm_head.weight",
		"_orig_mod.model.norm.weight":                                 "model.norm.weight",
		"model.layers.0._orig_mod.mlp.up_proj.weight":                 "model.layers.0.mlp.up_proj.weight",
		"module.model.norm.weight":                                    "model.norm.weight",
		"module._orig_mod.model.norm.weight":                          "model.norm.weight",
		"_fsdp_wrapped_module.model._fsdp_wrapped_module.norm.weight": "model.norm.weight",

		"model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight",
		"_forward_module.model.norm.weight":                            "model.norm.weight",
		"base_model.model.model.norm.weight":                           "model.norm.weight",
		"base_model.model.layers.2.self_attn.q_proj":                   "model.layers.2.self_attn.q_proj",
		"module.base_model.model.model.norm.weight":                    "model.norm.weight",
		"_fsdp_wrapped_module.base_model.model.lm_head.lora_A.weight":  "lm_head.lora_A.weight",
		"pretrained_model.model.norm.weight":                           "model.norm.weight",
		"v_head.summary.weight":                                        "v_head.summary.weight",
		"vision_tower.layers.0.weight":                                 "vision_tower.layers.0.weight",
		"model.norm":                                                   "model.norm",
		"norm":                                                         "norm",
		"":                                                             "",
	} {
		if got := PlainName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if again := PlainName(want); again != want {
			t.Errorf("%s: again %s", want, again)
		}
	}
}

// A bias of attention is a mask only where it has a mask's shape; no part of a name counts but its whole components.
func TestHarmless(t *testing.T) {
	for _, c := range []struct {
		name  string
		shape []int
		want  bool
	}{
		{"v_head.summary.bias", []int{1}, true}, {"v_heads.summary.bias", []int{1}, false},
		{"model.v_head.summary.bias", []int{1}, false},
		{"model.layers.0.self_attn.k_scale", nil, true}, {"model.layers.0.self_attn.o_scale", nil, false},
		{"model.layers.0.self_attn.masked_bias", nil, true}, {"masked_bias", nil, false},
		{"model.rotary_emb.inv_freq", []int{4}, true}, {"model.rotary_emb.inv_freq.weight", []int{4}, false},
		{"model.layers.0.self_attn.bias", []int{1, 1, 8, 8}, true},
		{"model.layers.0.self_attn.bias", []int{1, 1, 8, 4}, false},
		{"model.layers.0.self_attn.bias", []int{1, 2, 8, 8}, false},
		{"model.layers.0.self_attn.bias", []int{8, 8}, false}, {"model.layers.0.self_attn.bias", nil, false},
		{"model.layers.0.self_attn.q_proj.bias", []int{1, 1, 8, 8}, false},
	} {
		if got := Harmless(c.name, c.shape); got != c.want {
			t.Errorf("%s %v: %t, want %t", c.name, c.shape, got, c.want)
		}
	}
}

// A file's tensors are found by their plain names only, and by each name once.
func TestOpenPlainNames(t *testing.T) {
	dir := t.TempDir()
	writeFile(
		t,
		dir,
		"model.safetensors",
		st(`{"_orig_mod.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`,
			4),
	)
	s := open(t, dir)
	if names := s.Names(); len(names) != 1 || names[0] != "model.norm.weight" {
		t.Errorf("names %v", names)
	}
	if _, ok := s.Info("_orig_mod.norm.weight"); ok {
		t.Error("found by its own name")
	}
	if _, err := s.Vector("_orig_mod.norm.weight"); !errors.Is(err, ErrNoTensor) {
		t.Errorf("by its own name: %v", err)
	}
	if v, err := s.Vector("model.norm.weight"); err != nil || len(v) != 1 {
		t.Errorf("%v, %v", v, err)
	}
	d, err := Describe(dir)
	if err != nil || d.Kind != "safetensors folder" || d.Tensors[0].Name != "model.norm.weight" {
		t.Errorf("%+v, %v", d, err)
	}
	dir = t.TempDir()
	writeFile(t, dir, "model.safetensors", st(`{"module.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},`+
		`"norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8))
	if _, err := Open(dir); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `"model.norm.weight"`) {
		t.Errorf("two names of one tensor: %v", err)
	}
}

// splitFile is file number (from 0) of count, with one tensor of two values.
func splitFile(number, count uint16, tensors int32, name string) []byte {
	return newGGUF(3, 1, 4).
		meta("general.architecture", ggufString, "llama").
		meta("split.no", ggufUint16, number).
		meta("split.count", ggufUint16, count).
		meta("split.tensors.count", ggufInt32, tensors).
		tensor(name, quant.GGMLF32, 0, 2).
		data(32, 8)
}

func TestSplitGGUF(t *testing.T) {
	good := map[string][]byte{
		"m-00001-of-00003.gguf": splitFile(0, 3, 3, "output_norm.weight"),
		"m-00002-of-00003.gguf": splitFile(1, 3, 3, "blk.0.attn_norm.weight"),
		"m-00003-of-00003.gguf": splitFile(2, 3, 3, "blk.1.attn_norm.weight"),
	}
	for _, c := range []struct {
		name, open string
		edit       map[string][]byte // nil removes a file
		say        string            // "": it opens
	}{
		{"whole", "m-00001-of-00003.gguf", nil, ""},
		{"not the first", "m-00002-of-00003.gguf", nil, "it is file 2 of 3 of a split model: open "},
		{"missing", "m-00001-of-00003.gguf", map[string][]byte{"m-00003-of-00003.gguf": nil},
			"the file m-00003-of-00003.gguf of the split model is missing"},
		{"another model's", "m-00001-of-00003.gguf",
			map[string][]byte{"m-00003-of-00003.gguf": splitFile(2, 4, 3, "blk.1.attn_norm.weight")},
			"file 3 of 4 of a split model, but by its name it is file 3 of 3"},
		{"no split", "m-00001-of-00003.gguf", map[string][]byte{"m-00003-of-00003.gguf": layerFile()},
			"it says that it is file 0 of 1"},
		{"twice the same", "m-00001-of-00003.gguf",
			map[string][]byte{"m-00003-of-00003.gguf": splitFile(2, 3, 3, "output_norm.weight")},
			`tensor "output_norm.weight" is in m-00001-of-00003.gguf, too`},
		{"too few tensors", "m-00001-of-00003.gguf",
			map[string][]byte{"m-00001-of-00003.gguf": splitFile(0, 3, 4, "output_norm.weight")},
			"have 3 tensors, expected 4"},
		{"damaged", "m-00001-of-00003.gguf", map[string][]byte{"m-00002-of-00003.gguf": []byte("GGUF")},
			"m-00002-of-00003.gguf: malformed"},
		{"renamed", "x.gguf", map[string][]byte{"x.gguf": good["m-00001-of-00003.gguf"]},
			"the first of 3 files of a split model, which must be named NAME-00001-of-00003.gguf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range good {
				writeFile(t, dir, name, data)
			}
			for name, data := range c.edit {
				if data == nil {
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
					continue
				}
				writeFile(t, dir, name, data)
			}
			g, err := OpenGGUF(filepath.Join(dir, c.open))
			if c.say != "" {
				if g != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.say) {
					t.Errorf("%v, want %q", err, c.say)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if n := len(g.Names()); n != 3 {
				t.Errorf("%d tensors", n)
			}
			info, _ := g.Info("model.layers.1.input_layernorm.weight")
			if v, err := g.Vector("model.layers.1.input_layernorm.weight"); err != nil || len(v) != 2 ||
				filepath.Base(info.File) != "m-00003-of-00003.gguf" {
				t.Errorf("%v, %v of %s", v, err, info.File)
			}
			all, err := Digest(filepath.Join(dir, c.open))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, dir, "m-00003-of-00003.gguf", append(good["m-00003-of-00003.gguf"], 1))
			if other, err := Digest(filepath.Join(dir, c.open)); err != nil || other == all {
				t.Errorf("the digest does not depend on the last file: %v", err)
			}
			f, err := os.Open(filepath.Join(dir, c.open))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := NewGGUF(f); !errors.Is(err, ErrUnsupported) {
				t.Errorf("a split adapter: %v", err)
			}
		})
	}
}
