//go:build cgo

package grad

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// BenchmarkStep is forward and backward of the default model: LoRA of rank 8 on all linear layers, eight samples of
// 112 tokens of which the first 27 are the same.
func BenchmarkStep(b *testing.B) {
	cache, err := os.UserCacheDir()
	if err != nil {
		b.Fatal(err)
	}
	for _, precision := range []device.Precision{device.Float32, device.BF16} {
		b.Run(map[device.Precision]string{device.Float32: "float32", device.BF16: "bf16"}[precision],
			func(b *testing.B) {
				dev, err := cpu.New(cpu.Options{Activations: cpu.Fast})
				if err != nil {
					b.Fatal(err)
				}
				defer dev.Close()
				base, err := model.Open(filepath.Join(cache, "weft", "SmolLM2-135M-Instruct.Q4_1.gguf"), dev,
					model.Options{MaxBatchTokens: 16, MaxLogitRows: 4})
				if err != nil {
					b.Fatal(err)
				}
				defer base.Close()
				m, err := New(dev, base.Frozen(), Config{MaxTokens: 8 * 112, MaxSample: 112, Precision: precision})
				if err != nil {
					b.Fatal(err)
				}
				defer m.Close()
				for l := range m.blocks {
					for t := range lora.NumTargets {
						lin := m.blocks[l].linear[t]
						A, err := NewParam(dev, fmt.Sprint(l, t, "A"), 8, lin.in)
						if err != nil {
							b.Fatal(err)
						}
						B, err := NewParam(dev, fmt.Sprint(l, t, "B"), lin.out, 8)
						if err != nil {
							b.Fatal(err)
						}
						for i := range A.Values() {
							A.Values()[i] = 0.01
						}
						m.AttachLoRA(l, []lora.Target{t}, &LoRA{A: A, B: B, Scale: 2})
					}
				}
				if err := m.Prepare(); err != nil {
					b.Fatal(err)
				}
				batch, begin := &Batch{}, someTokens(1, 27, base.Config().Vocab)
				for i := range uint64(8) {
					batch.sample(append(slices.Clone(begin), someTokens(2+i, 85, base.Config().Vocab)...), 68)
				}
				for b.Loop() {
					if _, err := m.Step(batch, 1, 1); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(batch.IDs)*b.N)/b.Elapsed().Seconds(), "tokens/s")
			})
	}
}
