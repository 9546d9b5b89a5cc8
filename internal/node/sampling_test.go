package node

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/server/openai"
)

func TestSamplingDefaults(t *testing.T) {
	dir, other, bare, wrong := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	for folder, text := range map[string]string{
		dir: `{"temperature": 0.6, "top_k": 20}`, other: `{"temperature": 0.1}`, wrong: `{"top_p": 7}`,
	} {
		if err := os.WriteFile(filepath.Join(folder, "generation_config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(file, []byte("no GGUF"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, from  string
		temperature float64 // 0: none
		topK        int
	}{
		{dir, "auto", 0.6, 20}, {file, "auto", 0.6, 20}, {dir, "vllm", 0, 0}, {dir, "none", 0, 0}, {dir, "", 0, 0},
		{dir, other, 0.1, 0}, {bare, "auto", 0, 0}, {bare, dir, 0.6, 20},
	} {
		s, err := samplingDefaults(c.path, c.from, nil)
		if err != nil || ptrOr(s.Temperature, 0) != c.temperature || ptrOr(s.TopK, 0) != c.topK {
			t.Errorf("%+v: %+v, %v", c, s, err)
		}
	}
	var setting *SettingError
	if _, err := samplingDefaults(dir, bare, nil); !errors.As(err, &setting) ||
		!strings.Contains(err.Error(), "give auto, vllm, none or a folder") {
		t.Errorf("a folder without the file: %v", err)
	}
	if _, err := samplingDefaults(wrong, "auto", nil); err == nil ||
		!strings.Contains(err.Error(), "generation_config.json: top_p must be from 0 to 1, not 7; correct it") {
		t.Errorf("a value out of range: %v", err)
	}
}

// GGUF's keys are llama.cpp's; those of other samplers are logged.
func TestGGUFSamplingDefaults(t *testing.T) {
	var log bytes.Buffer
	s, err := ggufSamplingDefaults(map[string]any{
		"general.name": "x", "general.sampling.temp": float32(0.6), "general.sampling.top_p": float32(0.95),
		"general.sampling.top_k": int32(20), "general.sampling.min_p": float32(0.05),
		"general.sampling.penalty_repeat": float32(1.1), "general.sampling.mirostat": int32(2),
	}, slog.New(slog.NewTextHandler(&log, nil)))
	want := openai.Sampling{Temperature: new(0.6), TopP: new(0.95), TopK: new(20), MinP: new(0.05),
		RepetitionPenalty: new(1.1)}
	for _, p := range [][2]*float64{{s.Temperature, want.Temperature}, {s.TopP, want.TopP}, {s.MinP, want.MinP},
		{s.RepetitionPenalty, want.RepetitionPenalty}} {
		if p[0] == nil || *p[0] != *p[1] {
			t.Errorf("%v, want %v", p[0], *p[1])
		}
	}
	if err != nil || *s.TopK != 20 || s.MaxTokens != nil ||
		!strings.Contains(log.String(), "general.sampling.mirostat") {
		t.Errorf("%+v, %v, log %s", s, err, log.String())
	}
	for key, v := range map[string]any{"general.sampling.temp": float32(9), "general.sampling.top_k": "many"} {
		if _, err := ggufSamplingDefaults(map[string]any{key: v}, nil); err == nil ||
			!strings.Contains(err.Error(), "--generation-config none") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
