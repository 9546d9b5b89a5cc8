package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
)

// Names of the models: the default one as published, its conversions made by llama-quantize, and random weights of
// Llama-3.2-1B's shape.
const (
	small = "smollm2-135m-"
	big   = "synth-1b-"
)

func (s *suite) model(name string) string { return filepath.Join(s.models, name+".gguf") }

// linkSmall puts the default model among the models.
func (s *suite) linkSmall() error {
	if err := os.MkdirAll(s.models, 0o755); err != nil {
		return err
	}
	if missing(s.model(small + "Q4_1")) {
		cache, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		from := filepath.Join(cache, "weft", "SmolLM2-135M-Instruct.Q4_1.gguf")
		if err := os.Symlink(from, s.model(small+"Q4_1")); err != nil {
			return err
		}
	}
	return nil
}

// makeOwnModels makes the models that need no baseline.
func (s *suite) makeOwnModels(context.Context) error {
	if err := s.linkSmall(); err != nil {
		return err
	}
	if missing(s.model(big + "Q8_0")) {
		log.Print("making random weights of Llama-3.2-1B's shape")
		if err := synthesize(s.model(small+"Q4_1"), s.model(big+"Q8_0")); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) makeModels(ctx context.Context) error {
	if err := s.makeOwnModels(ctx); err != nil {
		return err
	}
	// llama-quantize stores some tensors in other types; the random weights have one type
	for _, m := range []struct{ from, to, kind string }{
		{small + "Q4_1", small + "Q8_0", "Q8_0"}, {small + "Q4_1", small + "Q4_0", "Q4_0"},
		{small + "Q4_1", small + "F16", "F16"},
		{small + "Q4_1", small + "BF16", "BF16"}, {big + "Q8_0", big + "Q4_0", "Q4_0"},
		{big + "Q8_0", big + "BF16", "BF16"}, {big + "Q8_0", big + "F16", "F16"},
	} {
		to := s.model(m.to)
		if !missing(to) {
			continue
		}
		if s.baseline == "" {
			return fmt.Errorf("%s is missing, and without -baseline there is no llama-quantize to make it", to)
		}
		log.Printf("making %s", m.to)
		args := []string{"--allow-requantize", s.model(m.from), to + ".part", m.kind, fmt.Sprint(s.threads)}
		if m.from == big+"Q8_0" {
			args = append([]string{"--pure"}, args...)
		}
		cmd := exec.CommandContext(ctx, filepath.Join(s.baseline, "llama-quantize"), args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
		if err := os.Rename(to+".part", to); err != nil {
			return err
		}
	}
	return nil
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return err != nil
}
