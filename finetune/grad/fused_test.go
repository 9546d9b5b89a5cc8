package grad

import (
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/device"
	"weft/runtime/lora"
)

// The parts of a fused layer see one dropped input, as the one layer that PEFT adapts does; another layer sees another.
func TestFusedPartsShareDropout(t *testing.T) {
	forDevices(t, "phi3", func(t *testing.T, dev device.Device) {
		f := openModel(t, dev, goldens.Path(t, "serve", "models", "phi3"))
		m := newModel(t, dev, f, false)
		loraOf := func(name string, in, out int) *LoRA {
			A, err := NewParam(dev, name+".A", 4, in)
			if err != nil {
				t.Fatal(err)
			}
			B, err := NewParam(dev, name+".B", out, 4)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := 0, A.Values(); i < len(v); i++ {
				v[i] = float32(i%7) - 3
			}
			return &LoRA{A: A, B: B, Scale: 1, Dropout: 0.5}
		}
		c := f.Config
		q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		m.AttachLoRA(0, Fused["self_attn.qkv_proj"], loraOf("qkv", c.Hidden, q+2*kv))
		m.AttachLoRA(1, Fused["self_attn.qkv_proj"], loraOf("qkv1", c.Hidden, q+2*kv))
		ready(t, m)
		b := &Batch{IDs: []int32{5, 6, 7, 8}, Labels: []int32{-1, 6, 7, 8}, Indptr: []int32{0, 4}}
		if _, err := m.Step(b, 1, 9); err != nil {
			t.Fatal(err)
		}
		seen := func(layer int, target lora.Target) []float32 {
			return floats(m.blocks[layer].keep.xa[target])[:4*4]
		}
		first := seen(0, lora.QProj)
		if slices.Max(first) == 0 && slices.Min(first) == 0 {
			t.Fatal("A x is zero")
		}
		for _, target := range []lora.Target{lora.KProj, lora.VProj} {
			if !slices.Equal(seen(0, target), first) {
				t.Errorf("part %d sees %v, the first %v", target, seen(0, target), first)
			}
		}
		if m.blocks[0].linear[lora.QProj].index == m.blocks[1].linear[lora.QProj].index {
			t.Error("two layers have the same dropout")
		}
	})
}
