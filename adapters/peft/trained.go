package peft

import (
	"errors"
	"slices"
)

// trainedSuffixes are how Trained names the kinds after the module's path.
var trainedSuffixes = map[kind]string{
	kindA: ".lora_A.weight", kindB: ".lora_B.weight", kindLoRABias: ".lora_B.bias",
	kindEmbedA: ".lora_embedding_A", kindEmbedB: ".lora_embedding_B", kindMagnitude: ".lora_magnitude_vector",
	kindBias: ".bias", kindWeight: ".weight",
}

// Trained returns the trained tensors of a PEFT folder as float32, row after row, by the module's path with
// ".lora_A.weight" [r, in], ".lora_B.weight" [out, r], ".lora_B.bias" [out], ".lora_embedding_A" [r, V],
// ".lora_embedding_B" [H, r], ".lora_magnitude_vector" [out], ".bias" [out] or ".weight" (of modules_to_save, [out,
// in]) behind it. Check or Build says before that they fit a base.
func (a *Adapter) Trained() (map[string][]float32, error) {
	if a.gguf {
		return nil, errors.New("a GGUF file does not say how its adapter was trained: give a PEFT folder")
	}
	out := map[string][]float32{}
	for path, m := range a.modules {
		for k, r := range m {
			suffix, ok := trainedSuffixes[k]
			if !ok {
				continue
			}
			if len(r.shape) == 1 {
				r.shape = slices.Concat([]int{1}, r.shape)
			}
			f, err := a.loraMatrix(r)
			if err != nil {
				return nil, err
			}
			values, w := make([]float32, f.Rows*f.Cols), matrix(f)
			for i := range f.Rows {
				w.Row(i, values[i*f.Cols:][:f.Cols])
			}
			out[path+suffix] = values
		}
	}
	return out, nil
}
