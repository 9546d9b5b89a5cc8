package adapters

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"weft/adapters/peft"
	"weft/adapters/peft/pefttest"
	"weft/quant"
	"weft/runtime/device/ref"
	"weft/runtime/model"
	"weft/runtime/tensor"
)

// shape is a base of which only the configuration is asked.
type shape struct{ cfg *model.Config }

func (s shape) Name() string                         { return "" }
func (s shape) Config() *model.Config                { return s.cfg }
func (s shape) Matrix(string) (*quant.Matrix, error) { return nil, errors.New("no weights") }
func (s shape) Vector(string) ([]float32, error)     { return nil, errors.New("no weights") }
func (s shape) Release(string)                       {}

// BenchmarkLoad takes an adapter of rank 16 on all linear layers of SmolLM2's shape from its files to memory, checked; BenchmarkDigest finds its file unchanged.
func BenchmarkLoad(b *testing.B) {
	base := shape{&model.Config{Architecture: "llama", Hidden: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, FFN: 1536, Vocab: 49152, Tied: true}}
	dir := benchAdapter(b, base)
	dev := ref.New(ref.Options{})
	defer dev.Close()
	load := LoadPEFT(base, dev)
	for b.Loop() {
		r, err := load(context.Background(), Version{}, dir)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(r.Bytes())
		r.Free()
	}
}

func BenchmarkDigest(b *testing.B) {
	base := shape{&model.Config{Architecture: "llama", Hidden: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, FFN: 1536, Vocab: 49152, Tied: true}}
	file := filepath.Join(benchAdapter(b, base), peft.WeightsFile)
	for b.Loop() {
		if _, err := fileDigest(context.Background(), file); err != nil {
			b.Fatal(err)
		}
	}
}

func benchAdapter(b *testing.B, base shape) string {
	dir := filepath.Join(b.TempDir(), "adapter")
	if err := pefttest.Write(dir, base.cfg, pefttest.Options{Rank: 16, DType: tensor.F16}); err != nil {
		b.Fatal(err)
	}
	return dir
}
