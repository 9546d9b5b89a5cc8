package peft

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"weft/runtime/weights"
)

// ggufHarmless lists metadata below "adapter." that does not change what an adapter computes.
var ggufHarmless = map[string]bool{
	"adapter.type": true, "adapter.lora.alpha": true, "adapter.lora.task_name": true,
	"adapter.lora.prompt_prefix": true,
}

// openGGUF opens an adapter as llama.cpp's convert_lora_to_gguf.py writes it: general.type "adapter", adapter.type
// "lora", adapter.lora.alpha, and for each adapted tensor of the base a pair NAME.lora_a [r, in], NAME.lora_b [out, r];
// that of token_embd.weight has a transposed A, [V, r]. The scale is alpha/r, or 1 where alpha is 0 or absent, as in
// llama.cpp. The file has no list of target modules: its tensors are the target modules.
func (a *Adapter) openGGUF() error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		a.wrong.add("", "%s is neither a folder nor a regular file", a.path)
		return err
	}
	g, err := weights.NewGGUF(f)
	if err != nil {
		return a.malformed(err)
	}
	a.file, a.gguf, a.arch = g, true, g.Architecture()
	a.Config = Config{Bias: BiasNone, Rank: 1}
	a.readGGUFMeta(g.Meta())
	for _, name := range g.Names() {
		path, kind, ok := splitGGUFName(a.arch, name)
		if strings.HasSuffix(name, "_norm.weight") || strings.HasSuffix(name, "norm.weight") {
			a.wrong.add("extract the adapter without norms", "tensor %q changes a norm, which is not served", name)
			continue
		}
		a.addTensor(name, path, kind, ok)
	}
	return nil
}

func (a *Adapter) readGGUFMeta(meta map[string]any) {
	text := func(key string) string { s, _ := meta[key].(string); return s }
	if t := text("general.type"); t != "adapter" {
		a.wrong.add("give a LoRA adapter; give a model with --model", "general.type is %s, expected \"adapter\"",
			orAbsent(t))
	}
	if t := text("adapter.type"); t != "lora" {
		a.wrong.add("", "adapter.type is %s; only lora is served", orAbsent(t))
	}
	if v, ok := meta["adapter.lora.alpha"]; ok {
		alpha, isFloat := v.(float32)
		if !isFloat || !(math.Abs(float64(alpha)) <= maxAlpha) {
			a.wrong.add("", "adapter.lora.alpha is %v, expected a float32 of a size up to %g", v, maxAlpha)
		}
		a.Config.Alpha = float64(alpha)
	}
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		if strings.HasPrefix(key, "adapter.") && !ggufHarmless[key] {
			a.wrong.add("", "%.200s is set: it could change what the adapter computes", key)
		}
	}
	a.Config.Base = text("general.base_model.0.name")
}

// splitGGUFName is splitName for GGUF.
func splitGGUFName(arch, name string) (path string, k kind, ok bool) {
	for suffix, kinds := range map[string][2]kind{".lora_a": {kindA, kindEmbedA}, ".lora_b": {kindB, kindEmbedB}} {
		tensor, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		path, ok := strings.CutSuffix(weights.HuggingFaceName(arch, tensor), ".weight")
		if path == embedPath {
			return path, kinds[1], ok
		}
		return path, kinds[0], ok
	}
	return "", 0, false
}

// undoInterleaving puts the rows of B of q or k in a GGUF of architecture llama into the order of rotate-half, by heads
// of headDim rows.
func undoInterleaving(data []byte, rows, headDim int) ([]byte, error) {
	if headDim < 2 || headDim%2 != 0 || rows%headDim != 0 {
		return nil, fmt.Errorf("%d rows are not heads of %d", rows, headDim)
	}
	out := make([]byte, len(data))
	size := len(data) / rows
	for r := range rows {
		copy(out[r*size:][:size], data[weights.InterleavedRow(r, headDim)*size:])
	}
	return out, nil
}
