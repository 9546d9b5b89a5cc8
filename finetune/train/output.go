package train

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"weft/adapters/peft"
	"weft/finetune/data"
	"weft/internal/durable"
	"weft/runtime/sample"
	"weft/runtime/weights"
)

// adapterConfig returns the adapter's configuration: names, or whole paths if names are ambiguous, and the rank and
// alpha of each layer.
func (r *run) adapterConfig() (peft.Config, error) {
	p, err := r.Config.peft()
	p.Base, p.Targets = r.BaseRef, peft.Modules{Names: r.targetNames()}
	p.RankPattern, p.AlphaPattern, p.Exclude = nil, nil, peft.Modules{}
	for i := range r.adapted {
		a := &r.adapted[i]
		if a.rank != p.Rank {
			p.RankPattern = append(p.RankPattern, peft.Pattern{Key: a.Path, Value: float64(a.rank)})
		}
		if a.alpha != p.Alpha {
			p.AlphaPattern = append(p.AlphaPattern, peft.Pattern{Key: a.Path, Value: a.alpha})
		}
	}
	return p, err
}

// targetNames returns names of layers if each is adapted in every selected block, else whole paths: readers need no
// rules for all-linear or regular expressions.
func (r *run) targetNames() []string {
	var names, paths []string
	count := map[string]int{}
	for i := range r.adapted {
		a := &r.adapted[i]
		name := lastName(a.Path)
		if a.Layer < 0 && len(r.Config.LayersToTransform) > 0 {
			name = a.Path // layers_to_transform skips a name without a number
		}
		count[name]++
		names, paths = append(names, name), append(paths, a.Path)
	}
	blocks := len(r.Config.LayersToTransform)
	if blocks == 0 {
		blocks = r.Model.Config.Layers
	}
	for i := range r.adapted {
		if a := &r.adapted[i]; a.Layer >= 0 && count[lastName(a.Path)] != blocks {
			return paths
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// write writes the adapter, or the trained model's weights, to the run's folder and returns the path.
func (r *run) write() (string, error) {
	if r.Config.Method == "full" {
		path := filepath.Join(r.Dir, modelDir)
		return path, r.writeModel(path)
	}
	path := filepath.Join(r.Dir, adapterDir)
	return path, r.replace(path, func(dir string) error {
		c, err := r.adapterConfig()
		if err != nil {
			return err
		}
		if err := peft.Write(dir, c, r.tensors(r.values)); err != nil {
			return err
		}
		parity, err := r.parity()
		if err != nil {
			return err
		}
		return parity.Write(dir)
	})
}

// Limits of a parity file: prompts, tokens per prompt, and next tokens per prompt.
const (
	parityPrompts = 4
	parityTokens  = 128
	parityTop     = 8
)

// parity records the log-probabilities of the trained model after the prompts of the first samples.
func (r *run) parity() (*peft.Parity, error) {
	p := &peft.Parity{Base: r.Base, Quantization: r.Quantization}
	for _, ids := range parityPromptsOf(r.Train) {
		logits, err := r.grad.Next(ids)
		if err != nil {
			return nil, err
		}
		p.Prompts = append(p.Prompts, nextTokens(ids, logits))
	}
	return p, nil
}

// parityPromptsOf returns the tokens of the first samples before the first trained one. There is at least one prompt:
// where every sample is trained from its first token, or only after more than parityTokens, it is a part of a sample.
func parityPromptsOf(samples []data.Sample) (out [][]int32) {
	var parts [][]int32
	for i := range samples {
		s := &samples[i]
		switch first := slices.IndexFunc(s.Labels, func(l int32) bool { return l >= 0 }); {
		case first >= 1 && first <= parityTokens:
			out = append(out, s.IDs[:first])
		case len(parts) < parityPrompts && len(s.IDs) > 0:
			parts = append(parts, s.IDs[:max(1, min(len(s.IDs)/2, parityTokens))])
		}
		if len(out) == parityPrompts {
			return out
		}
	}
	return append(out, parts[:min(len(parts), parityPrompts-len(out))]...)
}

// nextTokens returns the most probable next tokens with their log-probabilities.
func nextTokens(ids []int32, logits []float32) peft.ParityPrompt {
	q := peft.ParityPrompt{IDs: ids}
	_, top := sample.Logprobs(logits, 0, parityTop)
	for _, t := range top {
		q.Top, q.Logprobs = append(q.Top, t.Token), append(q.Logprobs, t.Logprob)
	}
	return q
}

// writeModel writes the trained weights under their Hugging Face names (the float32 masters where there are any), a
// parity file as an adapter has it, and the other files that the model needs. It subtracts the 1 that Gemma's norms
// contain in memory, whether the loader or a GGUF file added it.
func (r *run) writeModel(path string) error {
	return r.replace(path, func(dir string) error {
		tensors := r.tensors(r.values)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if r.Model.Config.SandwichNorm {
			for name, t := range tensors {
				if len(t.Shape) == 1 && filepath.Ext(name) != ".bias" {
					tensors[name] = lessOne(t)
				}
			}
		}
		dtype := "float32"
		if r.Config.bf16Model() {
			dtype = "bfloat16"
			for name, t := range tensors {
				tensors[name] = toBF16(t)
			}
		}
		if err := copyBeside(r.Beside, r.BaseDir, dir, dtype); err != nil {
			return err
		}
		if err := weights.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors,
			map[string]string{"format": "pt"}); err != nil {
			return err
		}
		parity, err := r.parity()
		if err != nil {
			return err
		}
		return parity.Write(dir)
	})
}

// writingPrefix begins the name of a folder in which a result is written.
const writingPrefix = ".writing-"

// replace creates a new folder with fill, next to path, and renames it to path.
func (r *run) replace(path string, fill func(dir string) error) error {
	tmp, err := os.MkdirTemp(r.Dir, writingPrefix)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, filepath.Base(path))
	if err = fill(made); err == nil {
		err = durable.SyncDir(made)
	}
	var settle func() error
	if err == nil {
		settle, err = r.announce(made, filepath.Base(path))
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err == nil {
		err = durable.SyncDir(r.Dir)
	}
	if err == nil {
		err = settle()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func lessOne(t weights.Tensor) weights.Tensor {
	out := weights.Tensor{DType: t.DType, Shape: t.Shape, Data: slices.Clone(t.Data)}
	v := floatsOf(out.Data)
	for i := range v {
		v[i]--
	}
	return out
}
