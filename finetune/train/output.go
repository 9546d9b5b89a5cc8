package train

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"weft/adapters/peft"
	"weft/runtime/sample"
	"weft/runtime/weights"
)

// peftConfig is adapter_config.json with every field that PEFT would fill in.
func (r *run) peftConfig() map[string]any {
	c := &r.Config
	targets := r.targetNames()
	ranks, alphas := map[string]int{}, map[string]float64{}
	for i := range r.adapted {
		a := &r.adapted[i]
		if a.rank != c.Rank {
			ranks[a.path] = a.rank
		}
		if a.alpha != c.Alpha {
			alphas[a.path] = a.alpha
		}
	}
	var layers any
	if len(c.LayersToTransform) > 0 {
		layers = c.LayersToTransform
	}
	return map[string]any{
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": r.BaseRef, "revision": nil, "inference_mode": true, "auto_mapping": nil,
		"r": c.Rank, "lora_alpha": c.Alpha, "lora_dropout": c.Dropout, "target_modules": targets, "exclude_modules": nil, "bias": c.Bias,
		"use_rslora": c.RsLoRA, "use_dora": c.DoRA, "rank_pattern": ranks, "alpha_pattern": alphas, "layers_to_transform": layers, "layers_pattern": nil,
		"modules_to_save": nil, "fan_in_fan_out": false, "init_lora_weights": true, "lora_bias": false, "megatron_config": nil, "megatron_core": "megatron.core",
		"layer_replication": nil, "loftq_config": map[string]any{}, "eva_config": nil, "corda_config": nil, "trainable_token_indices": nil,
	}
}

// targetNames are names of layers where each is adapted in every chosen block, else whole paths: no reader has to know the rules of all-linear or of an expression.
func (r *run) targetNames() []string {
	var names, paths []string
	count := map[string]int{}
	for i := range r.adapted {
		name := lastPart(r.adapted[i].path)
		count[name]++
		names, paths = append(names, name), append(paths, r.adapted[i].path)
	}
	blocks := len(r.Config.LayersToTransform)
	if blocks == 0 {
		blocks = r.Model.Config.Layers
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, n := range names {
		if count[n] != blocks {
			return paths
		}
	}
	return names
}

func lastPart(path string) string { return path[1+lastDot(path):] }

func lastDot(path string) int {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '.' {
			return i
		}
	}
	return -1
}

// write leaves the adapter, or the trained model's weights, in the run's folder and returns where.
func (r *run) write() (string, error) {
	if r.Config.Method == "full" {
		path := filepath.Join(r.Dir, "model")
		return path, r.writeModel(path)
	}
	path := filepath.Join(r.Dir, "adapter")
	return path, r.replace(path, func(dir string) error {
		text, err := json.MarshalIndent(r.peftConfig(), "", "  ")
		if err != nil {
			return err
		}
		if err := writeSynced(filepath.Join(dir, "adapter_config.json"), append(text, '\n')); err != nil {
			return err
		}
		if err := weights.WriteSafetensors(filepath.Join(dir, "adapter_model.safetensors"), r.tensors(r.values), map[string]string{"format": "pt"}); err != nil {
			return err
		}
		proof, err := r.proof()
		if err != nil {
			return err
		}
		return proof.Write(dir)
	})
}

// Of a proof: how many prompts, of how many tokens at most, and how many next tokens of each.
const (
	proofPrompts = 4
	proofTokens  = 128
	proofTop     = 8
)

// proof records what the trained adapter computes after the prompts of the first samples.
func (r *run) proof() (*peft.Proof, error) {
	p := &peft.Proof{Base: r.Base}
	for i := range r.Train {
		s := &r.Train[i]
		first := slices.IndexFunc(s.Labels, func(l int32) bool { return l >= 0 })
		if first < 1 || first > proofTokens {
			continue
		}
		logits, err := r.grad.Next(s.IDs[:first])
		if err != nil {
			return nil, err
		}
		p.Prompts = append(p.Prompts, nextTokens(s.IDs[:first], logits))
		if len(p.Prompts) == proofPrompts {
			break
		}
	}
	return p, nil
}

// nextTokens are the likeliest ones with their log-probabilities.
func nextTokens(ids []int32, logits []float32) peft.ProofPrompt {
	q := peft.ProofPrompt{IDs: ids}
	_, top := sample.Logprobs(logits, 0, proofTop)
	for _, t := range top {
		q.Top, q.Logprobs = append(q.Top, t.Token), append(q.Logprobs, t.Logprob)
	}
	return q
}

// writeModel writes the trained weights under their Hugging Face names; Gemma's norms lose the 1 that was added when they were loaded.
func (r *run) writeModel(path string) error {
	return r.replace(path, func(dir string) error {
		tensors := r.tensors(r.values)
		if r.Model.Config.NormPlusOne {
			for name, t := range tensors {
				if len(t.Shape) == 1 && !isBias(name) {
					tensors[name] = lessOne(t)
				}
			}
		}
		return weights.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, map[string]string{"format": "pt"})
	})
}

// replace fills a folder beside path and puts it in path's place.
func (r *run) replace(path string, fill func(dir string) error) error {
	tmp, err := os.MkdirTemp(r.Dir, ".writing-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.RemoveAll(tmp)
	err = os.Chmod(tmp, 0o755)
	if err == nil {
		err = fill(tmp)
	}
	if err == nil {
		err = syncDir(tmp)
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(r.Dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func isBias(name string) bool { return filepath.Ext(name) == ".bias" }

func lessOne(t weights.Tensor) weights.Tensor {
	out := weights.Tensor{DType: t.DType, Shape: t.Shape, Data: slices.Clone(t.Data)}
	v := floatsOf(out.Data)
	for i := range v {
		v[i]--
	}
	return out
}
