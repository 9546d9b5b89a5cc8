package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"weft/internal/bounded"
	"weft/runtime/weights"
	"weft/server/openai"
)

const (
	generationConfigFile     = "generation_config.json"
	maxGenerationConfigBytes = 1 << 20
)

// ggufSampling are the keys below general.sampling. that stand for members of a generation_config.json.
var ggufSampling = map[string]string{
	"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}

// samplingDefaults reads the sampling defaults for the model at path as --generation-config says: auto are the model's
// own (generation_config.json in its folder, or a GGUF file's general.sampling keys), vllm and none are the API's, and
// anything else is a folder with a generation_config.json. Keys of GGUF that weft does not implement are logged.
func samplingDefaults(path, from string, log *slog.Logger) (openai.Sampling, error) {
	switch from {
	case "", "vllm", "none":
		return openai.Sampling{}, nil
	case "auto":
		return ownSampling(path, log)
	}
	s, err := readGenerationConfig(from)
	if errors.Is(err, fs.ErrNotExist) {
		return s, refusef("generation-config %q: give auto, vllm, none or a folder with a %s: %v", from,
			generationConfigFile, err)
	}
	return s, err
}

func ownSampling(path string, log *slog.Logger) (openai.Sampling, error) {
	st, err := os.Stat(path)
	if err != nil {
		return openai.Sampling{}, err
	}
	if !st.IsDir() {
		if g, err := weights.OpenGGUF(path); err == nil {
			s, err := ggufSamplingDefaults(g.Meta(), log)
			return s, errors.Join(err, g.Close())
		} // else safetensors, or a file whose own error comes later
		path = filepath.Dir(path)
	}
	s, err := readGenerationConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, err
}

func readGenerationConfig(folder string) (openai.Sampling, error) {
	file := filepath.Join(folder, generationConfigFile)
	text, err := bounded.ReadFile(file, maxGenerationConfigBytes)
	if err != nil {
		return openai.Sampling{}, err
	}
	s, err := openai.ParseGenerationConfig(text)
	if err != nil {
		return s, fmt.Errorf("%s: %w; correct it, or use --generation-config none", file, err)
	}
	return s, nil
}

// ggufSamplingDefaults reads the metadata that llama.cpp takes as defaults of its samplers.
func ggufSamplingDefaults(meta map[string]any, log *slog.Logger) (openai.Sampling, error) {
	members := map[string]json.RawMessage{}
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		name, ok := strings.CutPrefix(key, "general.sampling.")
		if !ok {
			continue
		}
		member, known := ggufSampling[name]
		switch {
		case !known && log != nil:
			log.Warn("the model file's sampling default is not used", "key", key, "value", meta[key])
		case known:
			members[member] = numberText(meta[key])
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		return openai.Sampling{}, err
	}
	s, err := openai.ParseGenerationConfig(text)
	if err != nil {
		return s, fmt.Errorf("the model file's general.sampling keys: %w; use --generation-config none", err)
	}
	return s, nil
}

// numberText returns a number as the shortest JSON that means it in its type: a float32 of 0.6 is 0.6. Other values are
// strings, which are refused with their member's name.
func numberText(v any) json.RawMessage {
	switch v := v.(type) {
	case float32:
		if v-v == 0 {
			return json.RawMessage(strconv.FormatFloat(float64(v), 'g', -1, 32))
		}
	case float64:
		if v-v == 0 {
			return json.RawMessage(strconv.FormatFloat(v, 'g', -1, 64))
		}
	case uint8, int8, uint16, int16, uint32, int32, uint64, int64:
		return json.RawMessage(fmt.Sprint(v))
	}
	return json.RawMessage(strconv.Quote(fmt.Sprintf("%T", v)))
}

func ptrOr[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
