package model

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"weft/internal/goldens"
	"weft/quant"
	"weft/runtime/device/cpu"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// The loss of the default model over the first batch of the recorded training run, before any training: as it is, and
// with its linear layers dequantized and put in NF4 with double quantization, where it is 2.33 and 3.05. Tolerance:
// 1e-3 (goldens' README, I).
func TestLossBeforeTraining(t *testing.T) {
	text, err := os.ReadFile(goldens.Path(t, "train", "I_anchor", "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	var run struct {
		Base struct{ SHA256 string }
		Runs map[string]struct {
			Steps []struct {
				Loss    float64
				Targets int
			}
		}
	}
	if err := json.Unmarshal(text, &run); err != nil {
		t.Fatal(err)
	}
	path, isa := cachedModel(t, run.Base.SHA256), bestISA(t)
	f, err := weights.OpenSafetensors(goldens.Path(t, "train", "I_anchor", "batches.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ints := func(name string) []int32 {
		v, _, err := f.Ints(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	ids, labels, seqs, batches := ints("ids"), ints("labels"), ints("seq_offsets"), ints("batch_offsets")
	for name, wrap := range map[string]func(weights.Source) weights.Source{
		"f32": nil,
		"nf4": func(s weights.Source) weights.Source {
			return &weights.FourBit{Source: s, Kind: quant.NF4, BlockLen: 64, Double: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newCPU(t, isa, 0, cpu.Float)
			m, err := Open(path, dev, Options{MaxBatchTokens: 1024, MaxLogitRows: 64, MaxContext: 1024, Wrap: wrap})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			sum, targets := 0.0, 0
			for s := batches[0]; s < batches[1]; s++ {
				begin, end := seqs[s], seqs[s+1]
				for i, logits := range newHarness(t, m, dev, 16, int(end-begin), tensor.F32).forward(0, int(end-begin),
					ids[begin:end]...) {
					if next := begin + int32(i) + 1; next < end && labels[next] >= 0 {
						sum, targets = sum+nll(logits, labels[next]), targets+1
					}
				}
			}
			want := run.Runs[name].Steps[0]
			if got := sum / float64(targets); targets != want.Targets || !(math.Abs(got-want.Loss) <= 1e-3) {
				t.Errorf("loss %.5f over %d trained tokens, want %.5f over %d", got, targets, want.Loss, want.Targets)
			}
		})
	}
}
