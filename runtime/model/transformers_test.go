package model

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"testing"

	"weft/runtime/device"
)

var configsFile = flag.String("configs", "testdata/configs.json", "files of scripts/python/config_cases.py")

// ropeOfTransformers is the RoPE of one layer: its first, middle and last frequency.
type ropeOfTransformers struct {
	Frequencies [3]float64
	Pairs       int
	Scale       float64
	Long        float64 // longrope: the last frequency beyond Original
	Original    int
}

// configOfTransformers is what transformers makes of a config.json; Windows and Ropes have one value where all layers
// have the same.
type configOfTransformers struct {
	Hidden, Layers, Heads, KVHeads, HeadDim, FFN, Vocab int
	RMSEps                                              float64
	Tied, QKVBias, OBias, MLPBias                       bool
	ActOfOne, AttnScale, AttnSoftcap, FinalSoftcap      float64
	Windows                                             []int
	Ropes                                               []ropeOfTransformers
	Pad                                                 *int
}

// A config.json means what transformers makes of it. testdata/configs.json is written by
// scripts/python/config_cases.py, which draws other files in make test-python.
func TestConfigsOfTransformers(t *testing.T) {
	text, err := os.ReadFile(*configsFile)
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Config json.RawMessage
		Want   configOfTransformers
	}
	if err := json.Unmarshal(text, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for _, c := range cases {
		got, err := ParseConfig(c.Config)
		if err != nil {
			t.Errorf("%s: %v", c.Config, err)
			continue
		}
		c.Want.compare(t, c.Config, got)
	}
}

func (w *configOfTransformers) compare(t *testing.T, config []byte, got *Config) {
	near := func(a, b float64) bool { return math.Abs(a-b) <= 3e-6*math.Abs(b) }
	check := func(what string, ok bool, got, want any) {
		if !ok {
			t.Errorf("%s: %s is %v, want %v", config, what, got, want)
		}
	}
	for _, n := range []struct {
		what      string
		got, want any
	}{
		{"hidden size", got.Hidden, w.Hidden}, {"layers", got.Layers, w.Layers}, {"heads", got.Heads, w.Heads},
		{"key/value heads", got.KVHeads, w.KVHeads}, {"head width", got.HeadDim, w.HeadDim},
		{"feed-forward width", got.FFN, w.FFN}, {"vocabulary", got.Vocab, w.Vocab}, {"tied", got.Tied, w.Tied},
		{"bias of q, k, v", got.QKVBias, w.QKVBias}, {"bias of o", got.OBias, w.OBias},
		{"bias of the MLP", got.MLPBias, w.MLPBias}, {"padding", or(got.Pad, -1), or(w.Pad, -1)},
	} {
		check(n.what, n.got == n.want, n.got, n.want)
	}
	acts := map[device.Activation]float64{device.SiLU: 0.7310586, device.GELUErf: 0.8413447, device.GELUTanh: 0.841192}
	for _, n := range []struct {
		what      string
		got, want float64
	}{
		{"eps", float64(got.RMSEps), w.RMSEps}, {"activation of 1", acts[got.Act], w.ActOfOne},
		{"attention scale", float64(got.AttnScale), w.AttnScale},
		{"attention soft cap", float64(got.AttnSoftcap), w.AttnSoftcap},
		{"final soft cap", float64(got.FinalSoftcap), w.FinalSoftcap},
	} {
		check(n.what, near(n.got, n.want), n.got, n.want)
	}
	for l := range got.Layers {
		want := w.Windows[min(l, len(w.Windows)-1)]
		check("window", got.Windows[l] == want, got.Windows[l], want)
		rope, r := w.Ropes[min(l, len(w.Ropes)-1)], &got.Ropes[got.RopeOf[l]]
		f := r.frequencies(false)
		check("rotated pairs", len(f) == rope.Pairs, len(f), rope.Pairs)
		check("RoPE scale", near(max(r.Scale, 0), rope.Scale), r.Scale, rope.Scale)
		for i, at := range []int{0, len(f) / 2, len(f) - 1} {
			check("frequency", near(f[at], rope.Frequencies[i]), f[at], rope.Frequencies[i])
		}
		if rope.Long != 0 {
			check("original context", r.Original == rope.Original, r.Original, rope.Original)
			long := r.frequencies(true)
			check("long frequency", near(long[len(long)-1], rope.Long), long[len(long)-1], rope.Long)
		}
	}
}
