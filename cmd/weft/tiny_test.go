package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// tinyModel is a folder with a small untrained Llama whose tokens are the bytes and "th": no file from elsewhere is
// needed.
func tinyModel(t *testing.T) string {
	t.Helper()
	vocab := map[string]int{}
	for b, other := 0, 256; b < 256; b++ { // GPT-2's names of bytes
		name := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad {
			name = rune(other)
			other++
		}
		vocab[string(name)] = b
	}
	vocab["</s>"], vocab["th"] = 256, 257
	tokenizer, err := json.Marshal(map[string]any{
		"version": "1.0", "added_tokens": []any{map[string]any{"id": 256, "content": "</s>", "special": true}},
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
		"decoder":       map[string]any{"type": "ByteLevel"},
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{"t h"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"tokenizer.json":        string(tokenizer),
		"tokenizer_config.json": `{"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}`,
		"config.json": `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 258,
			"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
			"num_key_value_heads": 1, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "eos_token_id": 256,
			"initializer_range": 0.2, "tie_word_embeddings": false}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "run")
	data := writeFile(t, "one.jsonl", `{"prompt":"a","completion":"b"}`)
	if _, stderr, status := run(t, "", "train", "--model", dir, "--data", data, "--out", out, "--method", "full",
		"--init", "random", "--max-steps", "1", "--save-steps", "0", "--memory", "1GiB"); status != 0 {
		t.Fatal(stderr)
	}
	return filepath.Join(out, "model")
}
