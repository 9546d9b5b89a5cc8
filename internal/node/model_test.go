package node

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/device"
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

// A model that is still being loaded when the context ends is given up.
func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	end()
	n, err := Open(ctx, Config{Model: storiesConfig(t), Listen: "127.0.0.1:0"})
	if !errors.Is(err, context.Canceled) || n != nil {
		t.Errorf("%v, %v", n, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n, err := Open(t.Context(), Config{Model: storiesConfig(t), Listen: l.Addr().String()}); err == nil || n != nil {
		t.Errorf("an address that is taken: %v, %v", n, err)
	}
}
