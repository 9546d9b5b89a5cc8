package train

import (
	"math"
	"strings"
	"testing"

	"weft/finetune/data"
)

// gaussian draws A with deviation 1/r, true uniform within 1/√in, as PEFT's reset_lora_parameters; B is zero with both.
func TestInitialLoRA(t *testing.T) {
	for value, want := range map[string]func(rank, in int) float64{
		"true":     func(_, in int) float64 { return 1 / math.Sqrt(3*float64(in)) },
		"gaussian": func(rank, _ int) float64 { return 1 / float64(rank) },
	} {
		dev := newDevice(t)
		j := &Job{Dir: t.TempDir(), Config: settings(t), Log: discard, Device: dev,
			Model: openModel(t, dev, "testdata/gemma3/model").Frozen(),
			Train: []data.Sample{{IDs: []int32{1, 2, 3}, Labels: []int32{1, 2, 3}}}}
		j.Config.Rank, j.Config.InitWeights = 8, value
		r := newRun(j)
		t.Cleanup(r.close)
		if err := r.attach(); err != nil {
			t.Fatal(err)
		}
		var squares, expected float64
		n := 0
		for _, a := range r.adapted {
			for _, v := range a.lora.A.Values() {
				squares += float64(v) * float64(v)
			}
			n += a.lora.A.Len()
			expected += float64(a.lora.A.Len()) * math.Pow(want(a.rank, a.In), 2)
			for _, v := range a.lora.B.Values() {
				if v != 0 {
					t.Fatalf("%s: B has %v", value, v)
				}
			}
		}
		if ratio := math.Sqrt(squares / expected); n < 1000 || math.Abs(ratio-1) > 0.1 {
			t.Errorf("%s: deviation %v of the expected one over %d values", value, ratio, n)
		}
	}
}

// What would need another base is refused by name.
func TestInitialLoRARefused(t *testing.T) {
	for value, want := range map[string]string{
		"pissa": "init_lora_weights pissa changes the base's weights", "olora": "init_lora_weights olora changes",
		"eva": "init_lora_weights eva is not offered", "pissa_niter_4": `"pissa_niter_4": one of true, gaussian`,
		"": `"": one of true, gaussian`,
	} {
		c := Default()
		c.InitWeights = value
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", value, err)
		}
	}
}
