package pefttest

import (
	"bytes"
	"path/filepath"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/lora"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// What Write puts into files is what Adapter returns, another seed is another adapter, and what was not asked for stays
// untouched.
func TestWriteEqualsAdapter(t *testing.T) {
	cfg, err := Config(goldens.Shared(t, "data", "weights", "stories260K", "hf"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Seed: 7, Rank: 3, DType: tensor.BF16, Targets: []string{"q_proj", "down_proj"}, Layers: []int{1, 4}}
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := Write(dir, cfg, o); err != nil {
		t.Fatal(err)
	}
	file, err := weights.OpenSafetensors(filepath.Join(dir, "adapter_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	a := Adapter(cfg, o)
	if n := len(file.Names()); n != 8 {
		t.Errorf("%d tensors, want A and B of two layers in two blocks", n)
	}
	m := a.Layers[4][lora.DownProj]
	b, err := file.Matrix("base_model.model.model.layers.4.mlp.down_proj.lora_B.weight")
	if err != nil {
		t.Fatal(err)
	}
	if m.Rank() != 3 || m.Scale != 2 || m.B.Rows != cfg.Hidden || !bytes.Equal(m.B.Data, b.Data) {
		t.Errorf("rank %d, scale %v, B %d rows: another B than the file's", m.Rank(), m.Scale, m.B.Rows)
	}
	if !a.Layers[0][lora.QProj].Empty() || !a.Layers[4][lora.UpProj].Empty() {
		t.Error("a layer that was not asked for is adapted")
	}
	o.Seed++
	if other := Adapter(cfg, o).Layers[4][lora.DownProj]; bytes.Equal(other.B.Data, m.B.Data) {
		t.Error("two seeds, one adapter")
	}
}

func TestFused(t *testing.T) {
	cfg, err := Config(goldens.Path(t, "serve", "models", "phi3"))
	if err != nil {
		t.Fatal(err)
	}
	layer := Adapter(cfg, Options{}).Layers[0]
	q, k := layer[lora.QProj], layer[lora.KProj]
	if q.B.Rows != cfg.Heads*cfg.HeadDim || k.B.Rows != cfg.KVHeads*cfg.HeadDim || &q.A.Data[0] != &k.A.Data[0] {
		t.Errorf("q has %d rows, k %d: not the parts of one fused layer that share A", q.B.Rows, k.B.Rows)
	}
}
