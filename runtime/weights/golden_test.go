package weights

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/quant"
)

// values is quant.Matrix's formula, spelled out: the tests' own reading of the layouts.
func values(t testing.TB, m *quant.Matrix) []float32 {
	t.Helper()
	out := make([]float32, m.Rows*m.Cols)
	switch m.Layout {
	case quant.F32, quant.F16, quant.BF16:
		name := map[quant.Layout]string{quant.F32: "F32", quant.F16: "F16", quant.BF16: "BF16"}[m.Layout]
		out, err := floats(name, m.Data)
		if err != nil || len(out) != m.Rows*m.Cols {
			t.Fatalf("%d values of %v: %v", len(out), m.Layout, err)
		}
		return out
	}
	for i, code := range m.Data {
		g := i/m.Cols*m.Groups() + i%m.Cols/m.GroupLen
		q := float32(int8(code))
		if m.Layout == quant.Int4 {
			q = float32(int(code) - m.Zero)
		}
		out[i] = float32(m.Scales[g] * q)
		if m.Mins != nil {
			out[i] += m.Mins[g]
		}
	}
	return out
}

// tensorValues returns any tensor of one or two dimensions.
func tensorValues(t testing.TB, s Source, name string) []float32 {
	t.Helper()
	info, ok := s.Info(name)
	if !ok {
		t.Fatalf("no tensor %q", name)
	}
	if len(info.Shape) == 1 {
		v, err := s.Vector(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	m, err := s.Matrix(name)
	if err != nil {
		t.Fatal(err)
	}
	if m.Rows != info.Shape[0] || m.Cols != info.Shape[1] {
		t.Fatalf("%s: matrix [%d, %d], info %v", name, m.Rows, m.Cols, info.Shape)
	}
	return values(t, m)
}

func open(t testing.TB, path string) Source {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// defaultModel returns the default model's file in the user's cache.
func defaultModel(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, _ := os.UserHomeDir()
		cache = filepath.Join(home, ".cache")
	}
	path := filepath.Join(cache, "weft", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is absent: run make model", path)
	}
	return path
}

// Every float32 tensor of the default model has the sha256 that transformers' GGUF loader and numpy found.
func TestDefaultModelTensors(t *testing.T) {
	text, err := os.ReadFile(goldens.Path(t, "serve", "smollm2", "weights_sha256.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(text, &want); err != nil || len(want) == 0 {
		t.Fatalf("%d hashes: %v", len(want), err)
	}
	s := open(t, defaultModel(t))
	for name, sum := range want {
		v := tensorValues(t, s, name)
		h := sha256.New()
		buf := make([]byte, 4*len(v))
		for i, x := range v {
			binary.LittleEndian.PutUint32(buf[4*i:], math.Float32bits(x))
		}
		h.Write(buf)
		if got := hex.EncodeToString(h.Sum(nil)); got != sum {
			t.Errorf("%s: sha256 %s, want %s", name, got, sum)
		}
	}
	for _, name := range s.Names() {
		if want[name] == "" {
			t.Errorf("tensor %q has no reference", name)
		}
	}
}

// The whole default model becomes matrices in a fraction of a second.
func TestDefaultModelLoadsFast(t *testing.T) {
	path := defaultModel(t)
	start := time.Now()
	s := open(t, path)
	opened := time.Since(start)
	for _, name := range s.Names() {
		if info, _ := s.Info(name); len(info.Shape) == 2 {
			if _, err := s.Matrix(name); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("opened in %v, all read after %v", opened, time.Since(start))
}

// A GGUF file and the Hugging Face folder of the same model hold equal tensors, q and k included.
func TestStoriesGGUFEqualsFolder(t *testing.T) { goldens.Each(t, testStoriesGGUFEqualsFolder) }

func testStoriesGGUFEqualsFolder(t *testing.T) {
	dir := goldens.Shared(t, "data", "weights", "stories260K")
	folder, gguf := open(t, filepath.Join(dir, "hf")), open(t, filepath.Join(dir, "stories260K.gguf"))
	names := folder.Names()
	if len(names) < 10 {
		t.Fatalf("%d tensors prove nothing", len(names))
	}
	for _, name := range names {
		numtest.Equal(t, name, tensorValues(t, gguf, name), tensorValues(t, folder, name))
	}
	for _, name := range gguf.Names() {
		if !slices.Contains(names, name) && name != "lm_head.weight" { // the GGUF stores the tied output a second time
			t.Errorf("the GGUF has %q, the folder has not", name)
		}
	}
}

func TestTinyRandomGGUF(t *testing.T) {
	g, err := OpenGGUF(goldens.Shared(t, "data", "weights", "llama-2-tiny-random", "llama-2-tiny-random.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if g.Version() != 3 || g.Architecture() != "llama" || g.NormsIncludeOne() {
		t.Errorf("version %d, architecture %q, norms include one: %v", g.Version(), g.Architecture(),
			g.NormsIncludeOne())
	}
	for _, name := range g.Names() {
		for i, v := range tensorValues(t, g, name) {
			if v != v || v > 100 || v < -100 {
				t.Fatalf("%s[%d] = %v", name, i, v)
			}
		}
	}
	meta := g.Meta()
	tokens, _ := meta["tokenizer.ggml.tokens"].([]string)
	scores, _ := meta["tokenizer.ggml.scores"].([]float32)
	types, _ := meta["tokenizer.ggml.token_type"].([]int32)
	if len(tokens) != 32000 || len(scores) != 32000 || len(types) != 32000 || tokens[1] != "<s>" ||
		meta["llama.block_count"] != uint32(1) {
		t.Errorf("metadata: %d tokens, %d scores, %d types", len(tokens), len(scores), len(types))
	}
}

// sameAs returns the folder that golden.json names as the same model, or nothing.
func sameAs(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		SameAs string `json:"same_as"`
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	return golden.SameAs
}

// Folders that golden.json lists as the same model in other files are equal tensor by tensor; every folder opens and
// reads.
func TestGoldenModelFolders(t *testing.T) { goldens.Each(t, testGoldenModelFolders) }

func testGoldenModelFolders(t *testing.T) {
	root := goldens.Path(t, "serve", "models")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		t.Run(e.Name(), func(t *testing.T) {
			s := open(t, filepath.Join(root, e.Name()))
			var whole Source
			if name := sameAs(t, filepath.Join(root, e.Name())); name != "" {
				whole = open(t, filepath.Join(root, name))
				if !slices.Equal(s.Names(), whole.Names()) {
					t.Fatalf("tensors %v, unsharded %v", s.Names(), whole.Names())
				}
			}
			for _, name := range s.Names() {
				if info, _ := s.Info(name); len(info.Shape) > 2 || info.Bytes == 0 {
					continue
				}
				got := tensorValues(t, s, name)
				if whole != nil {
					numtest.Equal(t, name, got, tensorValues(t, whole, name))
				}
			}
		})
	}
}

// Every safetensors file of the goldens opens, save those that are made to be refused; golden tensors are read as what
// they are.
func TestGoldenFiles(t *testing.T) { goldens.Each(t, testGoldenFiles) }

func testGoldenFiles(t *testing.T) {
	root := goldens.Path(t, "serve")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".safetensors" {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if strings.Contains(rel, "bad-") {
			return nil
		}
		t.Run(rel, func(t *testing.T) {
			s, err := OpenSafetensors(path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for _, name := range s.Names() {
				info, _ := s.Info(name)
				var shape []int
				var n int
				if info.Format == "I32" || info.Format == "I64" {
					v, sh, err := s.Ints(name)
					if err != nil {
						t.Fatal(err)
					}
					n, shape = len(v), sh
				} else {
					v, sh, err := s.Floats(name)
					if err != nil {
						t.Fatal(err)
					}
					n, shape = len(v), sh
				}
				want := 1
				for _, d := range shape {
					want *= d
				}
				if n != want || !slices.Equal(shape, info.Shape) {
					t.Errorf("%s: %d values of shape %v, info %v", name, n, shape, info.Shape)
				}
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The vocabulary files of llama.cpp have no tensors but much metadata.
func TestVocabularyFiles(t *testing.T) { goldens.Each(t, testVocabularyFiles) }

func testVocabularyFiles(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(goldens.Shared(t, "data", "tokenizers", "llamacpp_vocab"), "*.gguf"))
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			g, err := OpenGGUF(path)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if tokens, _ := g.Meta()["tokenizer.ggml.tokens"].([]string); len(tokens) == 0 || len(g.Names()) != 0 {
				t.Errorf("%d tokens, %d tensors", len(tokens), len(g.Names()))
			}
		})
	}
}
