package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/limits"
	"weft/internal/settings/network"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/runtime/weights"
)

// storiesConfig is a small model on the ref device, which every build has.
func storiesConfig(t *testing.T) ModelConfig {
	c := DefaultModelConfig()
	c.Ref = goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf")
	c.Device, c.Memory = "ref", 1<<30
	return c
}

func TestOpenModel(t *testing.T) {
	m, err := OpenModel(storiesConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out strings.Builder
	g, err := m.Generate(t.Context(), &out, "Once upon a time", GenerateOptions{MaxTokens: new(20)})
	if err != nil || out.String() != g.Text || !strings.HasPrefix(g.Text, ", there was a little girl") ||
		g.FinishReason != "length" || g.CompletionTokens != 20 || len(g.TokenIDs) != 20 {
		t.Errorf("%+v, %q, %v", g, out.String(), err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := m.Generate(ended, &out, "Once", GenerateOptions{MaxTokens: new(400)}); err == nil {
		t.Error("a context that has ended ends nothing")
	}
}

// Settings that make no sense are refused by their names, before anything is loaded, and what cannot fit when it does
// not.
func TestOpenModelRefuses(t *testing.T) {
	for name, change := range map[string]func(*ModelConfig){
		"threads -1":          func(c *ModelConfig) { c.Threads = -1 },
		"max-context -1":      func(c *ModelConfig) { c.MaxContext = -1 },
		"max-batch-tokens 0":  func(c *ModelConfig) { c.MaxBatchTokens = 0 },
		"max-seqs 0":          func(c *ModelConfig) { c.MaxSeqs = 0 },
		"max-queued 0":        func(c *ModelConfig) { c.MaxQueued = 0 },
		"page-len 7":          func(c *ModelConfig) { c.PageLen = 7 },
		`kv-type "f64"`:       func(c *ModelConfig) { c.KVType = "f64" },
		`device "tpu"`:        func(c *ModelConfig) { c.Device = "tpu" },
		`activations "slow"`:  func(c *ModelConfig) { c.Activations = "slow" },
		"bnb-4bit-quant-type": func(c *ModelConfig) { c.Load4Bit = weights.Load4Bit{On: true, Type: "nf5"} },
		"bnb-4bit":            func(c *ModelConfig) { c.Load4Bit.Double = true },
	} {
		c := storiesConfig(t)
		change(&c)
		var s *SettingError
		if _, err := OpenModel(c); !errors.As(err, &s) || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := storiesConfig(t)
	c.Memory = 100 << 10
	if _, err := OpenModel(c); !errors.Is(err, device.ErrOutOfMemory) {
		t.Errorf("100 KiB: %v", err)
	}
}

// Where the settings name no budget, it is half of what the limits of the process leave; a larger one is only warned
// of.
func TestMemoryFollowsLimits(t *testing.T) {
	before := ownLimits
	defer func() { ownLimits = before }()
	ownLimits = func() limits.Limits { return limits.Limits{Memory: 40 << 20, MemoryFrom: "memory.max of cgroup /x"} }
	c := storiesConfig(t)
	c.Memory = 0
	m, err := OpenModel(c)
	if err != nil {
		t.Fatal(err)
	}
	used := device.TotalInUse(m.Device)
	if err := m.Close(); err != nil || used > 20<<20 || used < 10<<20 {
		t.Errorf("%d bytes are in use, %v", used, err)
	}

	ownLimits = func() limits.Limits { return limits.Limits{Memory: 2 << 20, MemoryFrom: "memory.max of cgroup /x"} }
	_, err = OpenModel(c)
	if !errors.Is(err, device.ErrOutOfMemory) || !strings.Contains(err.Error(), "memory.max of cgroup /x") {
		t.Errorf("%v", err)
	}
	ownLimits = func() limits.Limits { return limits.Limits{Memory: 1 << 18, MemoryFrom: "memory.max of cgroup /x"} }
	_, err = OpenModel(c)
	if !errors.Is(err, device.ErrOutOfMemory) || !strings.Contains(err.Error(), "memory.max of cgroup /x") ||
		!strings.Contains(err.Error(), "the weights take at least ") {
		t.Errorf("less than the weights: %v", err)
	}
	var log bytes.Buffer
	c.Memory, c.Log = 64<<20, slog.New(slog.NewTextHandler(&log, nil))
	if m, err = OpenModel(c); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "memory.max of cgroup /x") {
		t.Errorf("the log says %s", log.String())
	}
}

// A model that is still being loaded when the context ends is given up.
func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	end()
	n, err := Open(ctx, Config{Model: storiesConfig(t), Settings: network.Settings{Listen: "127.0.0.1:0"}})
	if !errors.Is(err, context.Canceled) || n != nil {
		t.Errorf("%v, %v", n, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := Config{Model: storiesConfig(t), Settings: network.Settings{Listen: l.Addr().String()}}
	if n, err := Open(t.Context(), cfg); err == nil || n != nil {
		t.Errorf("an address that is taken: %v, %v", n, err)
	}
}

// untrained returns the folder of a model with one layer and a vocabulary of four tokens, after change of its tensors.
func untrained(t *testing.T, change func(map[string]weights.Tensor)) string {
	t.Helper()
	const hidden, vocab = 32, 4
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.json": `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
			"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
			"vocab_size": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}`,
		"tokenizer.json": `{"added_tokens": [{"id": 4, "content": "<PRE>", "special": true}],
			"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "x": 3}, "merges": ["a b"]}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tensors := map[string]weights.Tensor{}
	add := func(name string, shape ...int) {
		data := make([]byte, 0, 4*hidden*hidden)
		for i := range shape[0] * append(shape, 1)[1] {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(i%7)/7))
		}
		tensors[name] = weights.Tensor{DType: "F32", Shape: shape, Data: data}
	}
	add("model.embed_tokens.weight", vocab, hidden)
	add("model.norm.weight", hidden)
	const layer = "model.layers.0."
	for _, name := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
		"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} {
		add(layer+name+".weight", hidden, hidden)
	}
	add(layer+"input_layernorm.weight", hidden)
	add(layer+"post_attention_layernorm.weight", hidden)
	if change != nil {
		change(tensors)
	}
	if err := weights.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A tokenizer may have more tokens than the model has embeddings (CodeLlama's infilling tokens): only prompts with one
// of these are refused.
func TestMoreTokensThanEmbeddings(t *testing.T) {
	dir := untrained(t, nil)
	var log bytes.Buffer
	c := DefaultModelConfig()
	c.Ref, c.Device, c.Memory, c.Log = dir, "ref", 1<<28, slog.New(slog.NewTextHandler(&log, nil))
	m, err := OpenModel(c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !strings.Contains(log.String(), "tokens=5 embeddings=4") {
		t.Errorf("the log says %s", log.String())
	}
	if g, err := m.Generate(t.Context(), io.Discard, "abx", GenerateOptions{MaxTokens: new(3)}); err != nil ||
		g.CompletionTokens != 3 {
		t.Errorf("%+v, %v", g, err)
	}
	_, err = m.Generate(t.Context(), io.Discard, "a<PRE>b", GenerateOptions{})
	if !errors.Is(err, engine.ErrInvalid) || !strings.Contains(err.Error(), "token 1 is 4") {
		t.Errorf("%v, want engine.ErrInvalid", err)
	}
}

// Keys beyond the values of f16 make no numbers: the error names the setting, and another type of the KV cache serves
// them.
func TestKVRange(t *testing.T) {
	c := DefaultModelConfig()
	c.Device, c.Memory = "ref", 1<<28
	c.Ref = untrained(t, func(tensors map[string]weights.Tensor) {
		data := tensors["model.layers.0.self_attn.k_proj.weight"].Data
		for i := 0; i < len(data); i += 4 {
			v := math.Float32frombits(binary.LittleEndian.Uint32(data[i:]))
			binary.LittleEndian.PutUint32(data[i:], math.Float32bits(v*1e6))
		}
	})
	for _, kind := range []string{"f16", "bf16", "f32"} {
		c.KVType = kind
		m, err := OpenModel(c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Generate(t.Context(), io.Discard, "abx", GenerateOptions{MaxTokens: new(3)})
		if hint := err != nil && strings.Contains(err.Error(), "--kv-type bf16 or f32"); hint != (kind == "f16") ||
			hint != errors.Is(err, sample.ErrNonFinite) {
			t.Errorf("%s: %v", kind, err)
		}
		m.Close()
	}
}
