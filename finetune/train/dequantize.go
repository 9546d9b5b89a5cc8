package train

import (
	"errors"
	"os"
	"path/filepath"

	"weft/internal/durable"
	"weft/quant"
	"weft/runtime/weights"
)

// Dequantize writes the model at path, whatever its weights are stored in, with values rounded to bfloat16, into the
// new folder out, and returns the path of the written model. A GGUF file becomes a GGUF file, other models a Hugging
// Face folder.
func Dequantize(path, out string) (model string, err error) {
	src, err := weights.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if err := os.MkdirAll(out, 0o777); err != nil {
		return "", err
	}
	if g, ok := src.(*weights.GGUF); ok {
		model = filepath.Join(out, "model.gguf")
		return model, g.Rewrite(model, func(name string) ([]float32, error) {
			x, err := weights.Values(g, name)
			for i := range x {
				x[i] = quant.BF16ToF32(quant.F32ToBF16(x[i]))
			}
			return x, err
		})
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	tensors := map[string]weights.Tensor{}
	for _, name := range src.Names() {
		x, err := weights.Values(src, name)
		if err != nil {
			return "", err
		}
		info, _ := src.Info(name)
		tensors[name] = toBF16(weights.Tensor{DType: "F32", Shape: info.Shape, Data: bytesOf(x)})
		src.Release(name)
	}
	if err := copyBeside(besideWeights(path), path, out, "bfloat16"); err != nil {
		return "", err
	}
	return out, weights.WriteSafetensors(filepath.Join(out, "model.safetensors"), tensors,
		map[string]string{"format": "pt"})
}

// RewriteGGUF writes the result of a whole model's training, the folder trained, as a GGUF file with the metadata of
// the GGUF file base from which it was trained: its tokenizer and configuration.
func RewriteGGUF(base, trained, out string) (err error) {
	g, err := weights.OpenGGUF(base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	src, err := weights.Open(trained)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return g.Rewrite(out, func(name string) ([]float32, error) {
		from := name
		if _, ok := src.Info(from); !ok && name == "lm_head.weight" {
			from = "model.embed_tokens.weight" // a tied head is trained as the embedding
		}
		info, ok := src.Info(from)
		if !ok {
			return weights.Values(g, name) // tables that are no parameters
		}
		x, err := weights.Values(src, from)
		if err == nil && len(info.Shape) == 1 && filepath.Ext(name) != ".bias" && g.NormsIncludeOne() {
			for i := range x {
				x[i]++
			}
		}
		return x, err
	})
}

// copyBeside copies files beside a model's weights into a folder; dtype is that of the new weights.
func copyBeside(names []string, from, to, dtype string) error {
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if name == "config.json" {
			if text, err = modelConfig(text, dtype); err != nil {
				return err
			}
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := durable.Create(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
