package adapters

import (
	"context"
	"path/filepath"
	"testing"

	"weft/adapters/peft"
	"weft/adapters/peft/pefttest"
	"weft/internal/durable"
	"weft/runtime/device/ref"
	"weft/runtime/model"
	"weft/runtime/tensor"
)

// smol is SmolLM2's shape.
var smol = pefttest.Shape{Cfg: &model.Config{Architecture: "llama", Hidden: 576, Layers: 30, Heads: 9, KVHeads: 3,
	HeadDim: 64, FFN: 1536, Vocab: 49152, Tied: true}}

// BenchmarkLoad takes an adapter of rank 16 on all linear layers of SmolLM2's shape from its files to memory, checked;
// BenchmarkDigest finds its file unchanged.
func BenchmarkLoad(b *testing.B) {
	dir := benchAdapter(b)
	dev := ref.New(ref.Options{})
	defer dev.Close()
	load := LoadPEFT(LoadConfig{Base: smol, Device: dev, Model: smol.Cfg})
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
	file := filepath.Join(benchAdapter(b), peft.WeightsFile)
	for b.Loop() {
		if _, err := durable.SHA256(context.Background(), file); err != nil {
			b.Fatal(err)
		}
	}
}

func benchAdapter(b *testing.B) string {
	dir := filepath.Join(b.TempDir(), "adapter")
	if err := pefttest.Write(dir, smol.Cfg, pefttest.Options{Rank: 16, DType: tensor.F16}); err != nil {
		b.Fatal(err)
	}
	return dir
}
