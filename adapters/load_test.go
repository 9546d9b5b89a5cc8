package adapters

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"weft/adapters/peft"
	"weft/adapters/peft/pefttest"
	"weft/runtime/device"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// small is a model's shape that takes no time.
var small = pefttest.Shape{Cfg: &model.Config{Architecture: "llama", Hidden: 32, Layers: 2, Heads: 2, KVHeads: 1,
	HeadDim: 16, FFN: 64, Vocab: 64, Tied: true}}

// parityFolder writes an adapter of small that recorded one prompt, on a base in the given quantization.
func parityFolder(t *testing.T, quantization string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := pefttest.Write(dir, small.Cfg, pefttest.Options{Rank: 2}); err != nil {
		t.Fatal(err)
	}
	p := &peft.Parity{Base: "b", Quantization: quantization,
		Prompts: []peft.ParityPrompt{{IDs: []int32{5, 6}, Top: []int32{7, 9}, Logprobs: []float64{-0.2, -1.9}}}}
	if err := p.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// An adapter is loaded where what is computed with it is what its parity file says, or where there is nothing to
// compare; what is refused leaves nothing on the device.
func TestLoadReplaysTheParityFile(t *testing.T) {
	broken := errors.New("the engine is gone")
	for name, c := range map[string]struct {
		trained, served string
		none            bool
		next            float64
		fails, want     error
		replays         int
	}{
		"the same":                    {next: -0.3, replays: 1},
		"another answer":              {next: -3, want: peft.ErrParity, replays: 1},
		"no answer":                   {fails: broken, want: broken, replays: 1},
		"the same quantization":       {trained: "nf4", served: "nf4", next: -0.3, replays: 1},
		"another answer in nf4":       {trained: "nf4", served: "nf4", next: -3, want: peft.ErrParity, replays: 1},
		"trained in another":          {trained: "nf4", next: -3},
		"served in another":           {served: "nf4", next: -3},
		"nothing to replay with":      {none: true},
		"nothing to replay with, nf4": {none: true, trained: "nf4"},
		"an answer that is no number": {next: math.NaN(), want: peft.ErrParity, replays: 1},
		"another scaling":             {trained: "nf4, double quantization", served: "nf4", next: -0.2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := parityFolder(t, c.trained)
			dev := ref.New(ref.Options{})
			defer dev.Close()
			var log bytes.Buffer
			replays := 0
			cfg := LoadConfig{Base: small, Device: dev, Model: small.Cfg, Quantization: c.served,
				Log: slog.New(slog.NewTextHandler(&log, nil))}
			if !c.none {
				cfg.Replay = func(_ context.Context, digest string, w *lora.Weights,
					ids []int32) (map[int32]float64, error) {
					replays++
					if digest != "d" || w == nil || len(ids) != 2 || ids[0] != 5 {
						t.Errorf("replays %v of %s with %v", ids, digest, w)
					}
					return map[int32]float64{7: c.next, 9: -2}, c.fails
				}
			}
			load := LoadPEFT(cfg)
			for range 2 {
				r, err := load(t.Context(), Version{Tenant: "acme", Name: "x", Digest: "d"}, dir)
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Fatalf("error %v, want %v", err, c.want)
				}
				if err == nil {
					if r.Bytes() <= 0 || dev.InUse(device.Adapters) == 0 {
						t.Errorf("%d bytes, %d on the device", r.Bytes(), dev.InUse(device.Adapters))
					}
					r.Free()
				}
				if n := dev.InUse(device.Adapters); n != 0 {
					t.Errorf("%d bytes stay on the device", n)
				}
			}
			// What is good under a digest stays good; what was refused is tried again.
			want := c.replays
			if c.want != nil {
				want *= 2
			}
			if replays != want {
				t.Errorf("%d replays, want %d", replays, want)
			}
			if told := strings.Contains(log.String(), "another quantization"); told != (c.trained != c.served &&
				!c.none) {
				t.Errorf("log %q", log.String())
			}
		})
	}
}

// testParity writes a parity file of prompts of some lengths into an adapter of small.
func testParity(t *testing.T, prompts ...[]int32) string {
	t.Helper()
	dir := parityFolder(t, "")
	p := &peft.Parity{Base: "b"}
	for _, ids := range prompts {
		p.Prompts = append(p.Prompts, peft.ParityPrompt{IDs: ids, Top: []int32{7}, Logprobs: []float64{-0.2}})
	}
	if err := p.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestParityThatCannotBeReplayed: at an upload for a known base it is refused; without a base it is taken, and its load
// fails with the reason. Prompts that only this server's context is too short for are skipped.
func TestParityThatCannotBeReplayed(t *testing.T) {
	shape := small
	cfg := *small.Cfg
	cfg.MaxContext = 100
	shape.Cfg = &cfg
	long := make([]int32, 90)
	for what, c := range map[string]struct {
		dir     string
		fits    bool
		replays int
	}{
		"a token beyond the vocabulary": {testParity(t, []int32{5, 64}), false, 0},
		"a negative token":              {testParity(t, []int32{-1}), false, 0},
		"longer than the model":         {testParity(t, make([]int32, 101)), false, 0},
		"longer than this server":       {testParity(t, []int32{5}, long, []int32{6}), true, 2},
		"all longer than this server":   {testParity(t, long), true, 0},
	} {
		_, err := CheckPEFT(shape, "base")(t.Context(), c.dir)
		if errors.Is(err, ErrInvalid) == c.fits || c.fits && err != nil {
			t.Errorf("%s: uploaded for its base: %v", what, err)
		}
		if _, err := CheckPEFT(nil, "")(t.Context(), c.dir); err != nil {
			t.Errorf("%s: uploaded without a base: %v", what, err)
		}
		dev, replays := ref.New(ref.Options{}), 0
		load := LoadPEFT(LoadConfig{Base: shape, Device: dev, Model: &cfg, Context: 64,
			Replay: func(context.Context, string, *lora.Weights, []int32) (map[int32]float64, error) {
				replays++
				return map[int32]float64{7: -0.3}, nil
			}})
		r, err := load(t.Context(), Version{Digest: "d"}, c.dir)
		if (err == nil) != c.fits || err != nil && !errors.Is(err, peft.ErrParity) || replays != c.replays {
			t.Errorf("%s: loaded with %d replays: %v", what, replays, err)
		}
		if err == nil {
			r.Free()
		}
		dev.Close()
	}
}

// An adapter that fits its base and not the model that runs is refused before anything is computed with it.
func TestLoadChecksTheModel(t *testing.T) {
	dev := ref.New(ref.Options{})
	defer dev.Close()
	deeper := *small.Cfg
	deeper.Layers++
	load := LoadPEFT(LoadConfig{Base: small, Device: dev, Model: &deeper,
		Replay: func(context.Context, string, *lora.Weights, []int32) (map[int32]float64, error) {
			t.Error("replayed")
			return nil, nil
		}})
	if _, err := load(t.Context(), Version{Digest: "d"}, parityFolder(t, "")); !errors.Is(err, device.ErrShape) {
		t.Error(err)
	}
	if n := dev.InUse(device.Adapters); n != 0 {
		t.Errorf("%d bytes stay on the device", n)
	}
}
