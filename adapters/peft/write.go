package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"weft/internal/durable"
	"weft/runtime/weights"
)

// Write writes a PEFT folder that PEFT, vLLM and Open can read: dir must not exist, and appears only when it is
// complete. tensors have PEFT's names ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"). The
// configuration has every member that PEFT knows, so that no reader uses a default of its own. An adapter that Open
// would refuse is not written. Equal arguments give equal bytes.
func Write(dir string, c Config, tensors map[string]weights.Tensor) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write adapter %s: %w", dir, err)
		}
	}()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fs.ErrExist)
	}
	text, err := c.encode()
	if err != nil {
		return err
	}
	parent, base := filepath.Split(filepath.Clean(dir))
	if parent == "" {
		parent = "."
	}
	temp, err := os.MkdirTemp(parent, "."+base+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(temp)
		}
	}()
	if err := fill(temp, text, tensors); err != nil {
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return err
	}
	return durable.SyncDir(parent)
}

// fill writes both files into the folder, durably, and reads them back.
func fill(dir string, config []byte, tensors map[string]weights.Tensor) error {
	if err := weights.WriteSafetensors(filepath.Join(dir, WeightsFile), tensors,
		map[string]string{"format": "pt"}); err != nil {
		return err
	}
	err := durable.Create(filepath.Join(dir, ConfigFile), config, 0o644)
	if err := errors.Join(err, os.Chmod(dir, 0o755), durable.SyncDir(dir)); err != nil {
		return err
	}
	a, err := Open(dir)
	if err != nil {
		return err
	}
	return a.Close()
}

// encode writes adapter_config.json.
func (c *Config) encode() ([]byte, error) {
	bias := c.Bias
	if bias == "" {
		bias = BiasNone
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(map[string]any{ // keys come out sorted, as PEFT writes them
		"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": true,
		"base_model_name_or_path": orNull(c.Base), "revision": nil, "auto_mapping": nil,
		"r": c.Rank, "lora_alpha": c.Alpha, "lora_dropout": c.Dropout, "rank_pattern": ordered(c.RankPattern),
		"alpha_pattern":  ordered(c.AlphaPattern),
		"target_modules": c.Targets, "exclude_modules": c.Exclude, "layers_to_transform": listOrNull(c.Layers),
		"layers_pattern": listOrNull(c.LayersPattern),
		"use_rslora":     c.RSLoRA, "use_dora": c.DoRA, "lora_bias": c.LoRABias, "bias": bias,
		"modules_to_save": listOrNull(c.Save), "ensure_weight_tying": c.TieWeights,
		"fan_in_fan_out": false, "init_lora_weights": true, "loftq_config": map[string]any{}, "megatron_config": nil,
		"megatron_core":     "megatron.core",
		"layer_replication": nil, "trainable_token_indices": c.Tokens, "target_parameters": nil,
		"alora_invocation_tokens": nil, "use_qalora": false, "qalora_group_size": 16,
		"use_bdlora": nil, "arrow_config": nil, "corda_config": nil, "eva_config": nil, "kasa_config": nil,
		"lora_ga_config": nil, "monteclora_config": nil, "velora_config": nil,
	})
	return b.Bytes(), err
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func listOrNull[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

// MarshalJSON writes the names, the pattern, or null.
func (m Modules) MarshalJSON() ([]byte, error) {
	if m.Pattern != "" {
		return json.Marshal(m.Pattern)
	}
	return json.Marshal(listOrNull(m.Names))
}

// ordered writes patterns as an object in their order: the first match is used.
type ordered []Pattern

// MarshalJSON implements json.Marshaler.
func (o ordered) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, p := range o {
		if i > 0 {
			b = append(b, ',')
		}
		k, err := json.Marshal(p.Key)
		if err != nil {
			return nil, err
		}
		v, err := json.Marshal(p.Value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, k...), ':'), v...)
	}
	return append(b, '}'), nil
}
