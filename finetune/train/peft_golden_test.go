package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/internal/goldens"
	"weft/runtime/weights"
)

// peftFolder is what a golden adapter's files say of it.
type peftFolder struct {
	Base, Expect string
	BasePath     string  `json:"base_path"`
	Error        float64 `json:"f32_vs_f64_max_abs"`

	config struct {
		R       int
		Alpha   float64            `json:"lora_alpha"`
		Ranks   map[string]int     `json:"rank_pattern"`
		Alphas  map[string]float64 `json:"alpha_pattern"`
		Targets json.RawMessage    `json:"target_modules"`
		Exclude json.RawMessage    `json:"exclude_modules"`
		Layers  json.RawMessage    `json:"layers_to_transform"`
		Save    []string           `json:"modules_to_save"`
		Bias    string
		RSLoRA  bool `json:"use_rslora"`
		DoRA    bool `json:"use_dora"`
		OnB     bool `json:"lora_bias"`
	}
}

// trainable reports whether the trainer can train such an adapter: it offers no bias of B.
func (f *peftFolder) trainable() bool {
	return f.Expect != "refuse" && !f.config.OnB
}

func (f *peftFolder) settings(t *testing.T, c *Config) {
	t.Helper()
	from := &f.config
	c.Rank, c.Alpha, c.Bias, c.RsLoRA, c.DoRA, c.ModulesToSave = from.R, from.Alpha, from.Bias, from.RSLoRA, from.DoRA,
		from.Save
	c.TargetModules, c.ExcludeModules = oneOrMore[string](t, from.Targets), oneOrMore[string](t, from.Exclude)
	c.LayersToTransform = oneOrMore[int](t, from.Layers)
	c.RankPattern, c.AlphaPattern = map[string]string{}, map[string]string{}
	for k, v := range from.Ranks {
		c.RankPattern[k] = strconv.Itoa(v)
	}
	for k, v := range from.Alphas {
		c.AlphaPattern[k] = strconv.FormatFloat(v, 'g', -1, 64)
	}
}

// oneOrMore reads null, a value or a list.
func oneOrMore[T any](t *testing.T, text json.RawMessage) (list []T) {
	t.Helper()
	if len(text) == 0 || json.Unmarshal(text, &list) == nil {
		return list
	}
	list = make([]T, 1)
	if err := json.Unmarshal(text, &list[0]); err != nil {
		t.Fatal(err)
	}
	return list
}

// The trainer computes PEFT's logits with PEFT's adapters: with LoRA on all layers, also on the embedding, the head and
// fused layers, and with whole modules and biases.
func TestForwardOfPEFTsAdapters(t *testing.T) { goldens.Each(t, testForwardOfPEFTsAdapters) }

func testForwardOfPEFTsAdapters(t *testing.T) {
	root := goldens.Path(t, "serve", "adapters")
	files, _ := filepath.Glob(filepath.Join(root, "*", "golden.json"))
	compared := 0
	for _, file := range files {
		dir := filepath.Dir(file)
		var f peftFolder
		readJSON(t, file, &f)
		text, err := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
		if err != nil || json.Unmarshal(text, &f.config) != nil || !f.trainable() {
			continue // of what is to be refused some are no configurations at all
		}
		compared++
		t.Run(filepath.Base(dir), func(t *testing.T) {
			path := serveBase(t, &f)
			dev := newDevice(t)
			j := &Job{Dir: t.TempDir(), Config: settings(t), Device: dev, Model: openModel(t, dev, path).Frozen(),
				Log: discard, Train: []data.Sample{{IDs: make([]int32, 256), Labels: make([]int32, 256)}}}
			f.settings(t, &j.Config)
			r := newRun(j)
			t.Cleanup(r.close)
			if err := r.attach(); err != nil {
				t.Fatal(err)
			}
			if err := r.prepare(); err != nil {
				t.Fatal(err)
			}
			stored := values(t, filepath.Join(dir, "adapter_model.safetensors"))
			for _, p := range r.grad.Params() {
				if v, ok := stored[p.Name]; !ok || copy(p.Values(), v) != p.Len() {
					t.Fatalf("%s: PEFT's file has %d values of it, %d are trained", p.Name, len(v), p.Len())
				}
				delete(stored, p.Name)
			}
			for name := range stored {
				if !strings.HasSuffix(name, ".base_layer.weight") {
					t.Errorf("%s is in PEFT's file and not trained", name)
				}
			}
			if err := r.grad.Renew(); err != nil {
				t.Fatal(err)
			}
			r.compareLogits(t, filepath.Join(dir, "golden.safetensors"), 5*f.Error)
		})
	}
	if compared == 0 {
		t.Fatalf("no adapter to compare with in %s", root)
	}
}

func serveBase(t *testing.T, f *peftFolder) string {
	if rest, ok := strings.CutPrefix(f.BasePath, "data/"); ok {
		return goldens.Shared(t, "data", rest)
	}
	return serveModel(t, f.Base)
}

// compareLogits compares the last logits of each golden sequence and some before.
func (r *run) compareLogits(t *testing.T, golden string, tolerance float64) {
	t.Helper()
	src, err := weights.OpenSafetensors(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	v, sequences := r.Model.Config.Vocab, 0
	for _, name := range src.Names() {
		seq, ok := strings.CutSuffix(name, ".ids")
		if !ok {
			continue
		}
		sequences++
		ids := ints(t, src, name)
		want, _, err := src.Floats(seq + ".logits")
		if err != nil {
			t.Fatal(err)
		}
		for n := len(ids); n > 0; n -= 1 + len(ids)/3 {
			got, err := r.grad.Next(ids[:n])
			if err != nil {
				t.Fatal(err)
			}
			worst := 0.0
			for k, w := range want[(n-1)*v : n*v] {
				worst = math.Max(worst, math.Abs(float64(got[k]-w)))
			}
			if !(worst <= tolerance) {
				t.Errorf("%s, token %d: a logit differs by %.2e, at most %.2e", seq, n, worst, tolerance)
			}
		}
	}
	if sequences == 0 {
		t.Errorf("%s has no sequence", golden)
	}
}
