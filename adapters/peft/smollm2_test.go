package peft

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/device/cpu"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// smollm2 is what smollm2.json holds about adapters.
type smollm2 struct {
	SHA256  string `json:"gguf_sha256"`
	Prompts []struct {
		IDs []int32 `json:"prompt_ids"`
	} `json:"prompts"`
	Adapters map[string]struct {
		Records []struct {
			Prompt    int       `json:"prompt"`
			GreedyIDs []int32   `json:"greedy_ids"`
			Gaps      []float64 `json:"gaps"`
			Error     float64   `json:"f32_vs_f64_max_abs"`
		} `json:"records"`
	} `json:"adapters"`
}

// cachedModel returns the file with the given hash in the user's cache of models; the test is skipped where there is
// none.
func cachedModel(t testing.TB, sum string) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "weft", "*.gguf"))
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err == nil && hex.EncodeToString(h.Sum(nil)) == sum {
			return path
		}
	}
	t.Skipf("no model with the hash %s in %s/weft: scripts/fetch-model gets the default one", sum, dir)
	return ""
}

func readSmolLM2(t testing.TB) *smollm2 {
	t.Helper()
	text, err := os.ReadFile(goldens.Path(t, "serve", "smollm2", "smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g smollm2
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	return &g
}

// The adapters of a real chat model on a 4-bit GGUF: top logits before each greedy step equal PEFT's in float64, DoRA's
// norms over dequantized rows included.
func TestGoldenSmolLM2(t *testing.T) {
	g := readSmolLM2(t)
	isas := cpu.ISAs()
	if len(isas) == 0 {
		t.Skip("built without cgo, and ref takes minutes here")
	}
	base, err := OpenModel(cachedModel(t, g.SHA256), "SmolLM2-135M-Instruct")
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	dev, err := cpu.New(cpu.Options{ISA: isas[len(isas)-1], Activations: cpu.Float})
	if err != nil {
		t.Skip(err)
	}
	defer dev.Close()
	m, err := model.Load(base.Source, base.Config(), dev,
		model.Options{MaxBatchTokens: 128, MaxLogitRows: 32, MaxContext: 128})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want, err := weights.OpenSafetensors(goldens.Path(t, "serve", "smollm2", "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for name, golden := range g.Adapters {
		t.Run(name, func(t *testing.T) {
			a, err := Load(goldens.Path(t, "serve", "smollm2", "adapters", name), base)
			if err != nil {
				t.Fatal(err)
			}
			w, err := lora.Load(dev, a)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Free()
			for _, r := range golden.Records {
				prompt := g.Prompts[r.Prompt].IDs
				ids := slices.Concat(prompt, r.GreedyIDs[:len(r.GreedyIDs)-1])
				logits := forward(t, m, dev, w, ids)[(len(prompt)-1)*base.Config().Vocab:]
				key := fmt.Sprintf("adapter.%s.prompt%d.top_", name, r.Prompt)
				topIDs, shape, err := want.Ints(key + "ids")
				if err != nil {
					t.Fatal(err)
				}
				top, _, err := want.Floats(key + "logits")
				if err != nil {
					t.Fatal(err)
				}
				got := make([]float32, len(top))
				for i, id := range topIDs {
					got[i] = logits[i/shape[1]*base.Config().Vocab+int(id)]
				}
				numtest.MaxAbs(t, key+"logits", got, top, 5*r.Error)
				for k, gap := range r.Gaps {
					row := logits[k*base.Config().Vocab:][:base.Config().Vocab]
					if best := slices.Index(row, slices.Max(row)); gap > 10*r.Error && best != int(r.GreedyIDs[k]) {
						t.Errorf("prompt %d, step %d: best id %d, want %d", r.Prompt, k, best, r.GreedyIDs[k])
					}
				}
			}
		})
	}
}
