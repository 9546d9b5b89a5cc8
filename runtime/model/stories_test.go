package model

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/tensor"
)

// storiesReference is the content of reference.json for a model that llama2.c trained.
type storiesReference struct {
	Greedy struct {
		BOS         int32     `json:"bos"`
		TokenIDs    []int32   `json:"token_ids"`
		FirstFive   []float32 `json:"logits_pos0_first5"`
		SmallestGap float64   `json:"min_top1_top2_logit_gap"`
	} `json:"greedy"`
}

// stories260K, from safetensors and from GGUF (q and k rows interleaved there), writes the story that llama2.c does.
func TestStories(t *testing.T) { goldens.Each(t, testStories) }

func testStories(t *testing.T) {
	root := goldens.Shared(t, "data", "weights", "stories260K")
	text, err := os.ReadFile(filepath.Join(root, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want storiesReference
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"hf", "stories260K.gguf"} {
		for name, open := range floatDevices(t) {
			t.Run(file+"/"+name, func(t *testing.T) {
				dev := open(t)
				m, err := Open(filepath.Join(root, file), dev, Options{MaxBatchTokens: 16, MaxLogitRows: 16})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				h := newHarness(t, m, dev, 16, 256, tensor.F32)
				logits := h.forward(0, 1, want.Greedy.BOS)[0]
				numtest.MaxAbs(t, "first logits", logits[:len(want.Greedy.FirstFive)], want.Greedy.FirstFive, 2e-5)
				var got []int32
				for len(got) < len(want.Greedy.TokenIDs) {
					next := argmax(logits)
					got = append(got, next)
					logits = h.forward(len(got), len(got)+1, next)[0]
				}
				if !slices.Equal(got, want.Greedy.TokenIDs) {
					t.Errorf("greedy ids %v, want %v", got, want.Greedy.TokenIDs)
				}
			})
		}
	}
}

// Every GGUF file among the test data loads and computes finite values.
func TestGGUFFilesLoad(t *testing.T) { goldens.Each(t, testGGUFFilesLoad) }

func testGGUFFilesLoad(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldens.Shared(t, "data", "weights"), "*", "*.gguf"))
	if err != nil || len(files) == 0 {
		t.Skip("no GGUF file among the test data")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			dev := floatDevices(t)["ref"](t)
			m, err := Open(file, dev, Options{MaxBatchTokens: 4, MaxLogitRows: 4})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			logits := newHarness(t, m, dev, 16, 16, tensor.F16).forward(0, 3, 1, 2, 3)[2]
			if !(numtest.RelRMS(logits, make([]float32, len(logits))) > 0) ||
				slices.ContainsFunc(logits, func(v float32) bool { return v-v != 0 }) {
				t.Errorf("logits %v…", logits[:5])
			}
		})
	}
}
