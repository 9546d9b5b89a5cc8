package peft

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// PEFT saved these adapters and computed their logits: scripts/python/saved_cases.py --write.
const savedFolder = "testdata/saved"

// eachSaved calls f with each adapter of the fixture.
func eachSaved(t *testing.T, f func(t *testing.T, base *ModelFile, dir string, ids []int32, want []float32)) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(savedFolder, "*", "*", ConfigFile))
	if err != nil || len(dirs) == 0 {
		t.Fatal(err, "no adapter")
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(strings.TrimPrefix(dir, savedFolder+"/"), func(t *testing.T) {
			base, err := OpenModel(filepath.Join(filepath.Dir(dir), "base"), "base")
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			s, err := weights.OpenSafetensors(filepath.Join(dir, "logits.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ids, _, err := s.Ints("ids")
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := s.Floats("logits")
			if err != nil {
				t.Fatal(err)
			}
			f(t, base, dir, ids, want)
		})
	}
}

func loadBoth(t *testing.T, base *ModelFile, dir string, dev device.Device) (model.Model, *lora.Weights) {
	t.Helper()
	a, err := Load(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(base.Source, base.Config(), dev, model.Options{MaxBatchTokens: 64, MaxLogitRows: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	w, err := lora.Load(dev, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Free)
	if err := model.CheckAdapter(base.Config(), w); err != nil {
		t.Fatal(err)
	}
	if n := lora.DeviceBytes(a); w.Bytes() > n {
		t.Errorf("%d bytes on the device, at most %d were foreseen", w.Bytes(), n)
	}
	return m, w
}

// Rows of tokens, tied heads, norms and names of wrapped models give PEFT's logits.
func TestSavedModules(t *testing.T) {
	devices := goldenDevices(t)
	eachSaved(t, func(t *testing.T, base *ModelFile, dir string, ids []int32, want []float32) {
		for name, dev := range devices {
			m, w := loadBoth(t, base, dir, dev)
			got := forward(t, m, dev, w, ids)
			numtest.MaxAbs(t, name, got, want, 5e-5)
			plain := forward(t, m, dev, nil, ids)
			most := 0.0
			for i := range plain {
				most = max(most, math.Abs(float64(plain[i]-want[i])))
			}
			if most < 0.1 {
				t.Errorf("the base's logits differ by %g only", most)
			}
		}
	})
}

// In one batch every sequence has its own adapter's norms and rows, and the base's without one; an adapter with norms
// cannot be combined with others.
func TestSavedModulesInABatch(t *testing.T) {
	devices := goldenDevices(t)
	eachSaved(t, func(t *testing.T, base *ModelFile, dir string, ids []int32, want []float32) {
		for name, dev := range devices {
			m, w := loadBoth(t, base, dir, dev)
			if strings.Contains(dir, "norm") != (errors.Is(w.Combinable(), lora.ErrNotCombinable) &&
				strings.Contains(w.Combinable().Error(), "norms")) && !strings.Contains(dir, "head") {
				t.Errorf("combinable: %v", w.Combinable())
			}
			alone := [2][]float32{forward(t, m, dev, nil, ids), forward(t, m, dev, w, ids)}
			kv := m.KVConfig()
			kv.PageLen, kv.NumPages, kv.DType = 16, 4, tensor.F32
			cache, err := dev.NewKVCache(kv)
			if err != nil {
				t.Fatal(err)
			}
			n := len(ids)
			b := &model.Batch{Indptr: []int32{0}}
			var rows []int32
			use := []int{0, 1, 1, 0}
			for s, adapted := range use {
				b.IDs = append(b.IDs, ids...)
				b.Indptr, b.Lens = append(b.Indptr, int32((s+1)*n)), append(b.Lens, int32(n))
				b.PageTables = append(b.PageTables, []int32{int32(s)})
				for i := range ids {
					b.Positions, rows = append(b.Positions, int32(i)), append(rows, int32(s*n+i))
				}
				if adapted == 1 {
					b.LoRA = append(b.LoRA, lora.Segment{Begin: s * n, End: (s + 1) * n, Scale: 1, Weights: w})
				}
			}
			if err := m.Forward(b, cache); err != nil {
				t.Fatal(err)
			}
			logits, err := m.Logits(rows)
			if err != nil {
				t.Fatal(err)
			}
			for s, adapted := range use {
				size := n * base.Config().Vocab
				if !slices.Equal(logits[s*size:(s+1)*size], alone[adapted]) {
					t.Errorf("%s: sequence %d is not as alone", name, s)
				}
			}
			cache.Free()
		}
	})
}

// What does not agree with the configuration or the base is refused by name.
func TestSavedModulesRefused(t *testing.T) {
	for _, c := range []struct{ dir, from, to, say string }{
		{"untied/tokens-by-module", `"trainable_token_indices": {`, `"trainable_token_indices": [1, 2], "x": {`,
			"but trainable_token_indices has 0 ids"},
		{"untied/tokens-by-module", "7\n", "24\n", "24 occurs twice or is not an id of the base"},
		{"untied/tokens-by-module", `"lm_head": [`, `"q_proj": [`, "only embed_tokens and lm_head have rows"},
		{"untied/last-norm-head", `"model.norm"`, `"input_layernorm"`, "but the file does not contain it"},
		{"untied/last-norm-head", `"model.norm"`, `"lm_head"`, "but modules_to_save does not name it"},
		{"untied/last-norm-head", `"model.norm"`, `"down_proj"`, `modules_to_save names "down_proj"`},
		{"untied/multimodal", `"future_option": {`, `"future_option": {"level": 1, `, `"future_option" is set`},
	} {
		t.Run(c.say, func(t *testing.T) {
			base, err := OpenModel(filepath.Join(savedFolder, filepath.Dir(c.dir), "base"), "base")
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			dir := t.TempDir()
			for _, file := range []string{ConfigFile, WeightsFile} {
				text, err := os.ReadFile(filepath.Join(savedFolder, c.dir, file))
				if err != nil {
					t.Fatal(err)
				}
				if file == ConfigFile {
					if !strings.Contains(string(text), c.from) {
						t.Fatalf("%s is not in %s", c.from, text)
					}
					text = []byte(strings.Replace(string(text), c.from, c.to, 1))
				}
				if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Load(dir, base); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v, want %q", err, c.say)
			}
		})
	}
}

// A folder of a Hugging Face cache has links to its blobs; other links are refused.
func TestHuggingFaceCache(t *testing.T) {
	root := t.TempDir()
	snapshot, blobs := filepath.Join(root, "snapshots", "abc"), filepath.Join(root, "blobs")
	for _, dir := range []string{snapshot, blobs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	hashes := map[string]string{ConfigFile: strings.Repeat("a1", 20), WeightsFile: strings.Repeat("0f", 32)}
	for file, hash := range hashes {
		text, err := os.ReadFile(filepath.Join(savedFolder, "untied", "plain", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(filepath.Join(blobs, hash), text, 0o600),
			os.Symlink("../../blobs/"+hash, filepath.Join(snapshot, file))); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "link") // a link to the snapshot, from another depth
	if err := os.Symlink(snapshot, elsewhere); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{snapshot, elsewhere} {
		a, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	file := filepath.Join(snapshot, WeightsFile)
	for _, to := range []string{filepath.Join(blobs, hashes[WeightsFile]), "../../blobs/../blobs/" +
		hashes[WeightsFile],
		"../../snapshots/x", "../../blobs/secret"} {
		if err := errors.Join(os.Remove(file), os.Symlink(to, file)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(snapshot); !errors.Is(err, ErrRefused) ||
			!strings.Contains(err.Error(), "is a symbolic link") {
			t.Errorf("a link to %s: %v", to, err)
		}
	}
	blob := filepath.Join(blobs, hashes[WeightsFile]) // a blob that is a link itself
	if err := errors.Join(os.Remove(file), os.Symlink("../../blobs/"+hashes[WeightsFile], file), os.Rename(blob,
		blob+"x"),
		os.Symlink(blob+"x", blob)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(snapshot); !errors.Is(err, ErrRefused) {
		t.Errorf("a blob that is a link: %v", err)
	}
}

// Tensors with which a language model does not compute, which trainers save beside an adapter, change nothing and are
// named in a warning; similar ones that could have a meaning are refused.
func TestHarmlessTensors(t *testing.T) {
	dir := filepath.Join(savedFolder, "untied", "plain")
	base, err := OpenModel(filepath.Join(savedFolder, "untied", "base"), "base")
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	want, err := Load(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Inspect(dir, base)
	if err != nil || plain.Verdict != Fits {
		t.Fatal(plain, err)
	}
	config, err := os.ReadFile(filepath.Join(dir, ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, extra weights.Tensor) string {
		s, err := weights.OpenSafetensors(filepath.Join(dir, WeightsFile))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		tensors := map[string]weights.Tensor{name: extra}
		for _, n := range s.Names() {
			info, _ := s.Info(n)
			err := s.Bytes(n, func(data []byte) error {
				tensors[n] = weights.Tensor{DType: info.Format, Shape: info.Shape, Data: slices.Clone(data)}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		to := t.TempDir()
		if err := os.WriteFile(filepath.Join(to, ConfigFile), config, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := weights.WriteSafetensors(filepath.Join(to, WeightsFile), tensors, nil); err != nil {
			t.Fatal(err)
		}
		return to
	}
	attention := prefix + "model.layers.0.self_attn."
	infinity := weights.Tensor{DType: "F32", Shape: []int{}, Data: []byte{0, 0, 0x80, 0xff}}
	for name, extra := range map[string]weights.Tensor{
		"v_head.summary.weight": f32(1, 32), "v_head.summary.bias": f32(1), prefix + "v_head.summary.bias": f32(1),
		"module." + attention + "k_scale": f32(), attention + "v_scale": f32(1), attention + "attn.k_scale": f32(),
		attention + "masked_bias": infinity, attention + "rotary_emb.inv_freq": f32(4),
		prefix + "model.rotary_emb.inv_freq": f32(4), "layers.0.self_attn.rotary_emb.inv_freq": f32(4),
		attention + "bias": {DType: "BOOL", Shape: []int{1, 1, 4, 4}, Data: make([]byte, 16)},
	} {
		to := with(name, extra)
		got, err := Load(to, base)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: another adapter than without it, %v", name, err)
		}
		r, err := Inspect(to, base)
		if err != nil || r.Digest != plain.Digest || r.Verdict != Fits || r.Tensors != plain.Tensors ||
			!slices.Equal(r.Warnings, append(slices.Clone(plain.Warnings),
				"tensors that a language model does not compute with are not used: "+name)) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	for name, extra := range map[string]weights.Tensor{
		prefix + "scores.weight": f32(1, 32), attention + "q_proj.weight_scale": f32(), attention + "bias": f32(4),
		attention + "masked_biases": f32(), attention + "inv_freq": f32(4), attention + "q_norm.lora_C": f32(4),
	} {
		if _, err := Load(with(name, extra), base); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}
