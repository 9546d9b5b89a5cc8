package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/weights"
)

type golden struct {
	Source string
	Cases  []struct {
		Text                string
		IDs                 []int32
		IDsAddSpecial       []int32 `json:"ids_add_special"`
		IDsSpecialAsText    []int32 `json:"ids_special_as_text"`
		Decode              string
		DecodeSkipSpecial   string  `json:"decode_skip_special"`
		DecodeSpecialAsText *string `json:"decode_special_as_text"`
	}
	Streaming []struct {
		Case         int
		SkipSpecial  bool      `json:"skip_special"`
		PrefixDecode []string  `json:"prefix_decode"`
		DecodeStream []*string `json:"decode_stream"`
	}
	Single []struct {
		ID     int32
		Token  string
		Decode string
	}
}

func goldenFiles(t *testing.T) map[string]*golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldens.Path(t, "serve", "tokenizers"), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*golden{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if json.Unmarshal(text, &g) == nil && len(g.Cases) > 0 {
			out[strings.TrimSuffix(filepath.Base(f), ".json")] = &g
		}
	}
	if len(out) == 0 {
		t.Fatal("no tokenizer golden found")
	}
	return out
}

// source finds the tokenizer file that a golden names: in the shared data, else in the goldens.
func source(t *testing.T, name string) string {
	t.Helper()
	if p, ok := strings.CutPrefix(name, "data/"); ok {
		return goldens.Shared(t, "data", p)
	}
	for _, p := range [][]string{{name}, {"serve", name}, {"serve", "tokenizers", name}} {
		path := filepath.Join(append([]string{goldens.Path(t)}, p...)...)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("source %q is nowhere", name)
	return ""
}

func TestGoldens(t *testing.T) { goldens.Each(t, testGoldens) }

func testGoldens(t *testing.T) {
	for name, g := range goldenFiles(t) {
		t.Run(name, func(t *testing.T) {
			tok, err := Load(source(t, g.Source))
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tok, g)
		})
	}
}

func checkGolden(t *testing.T, tok *Tokenizer, g *golden) {
	for i, c := range g.Cases {
		check := func(what string, want []int32, o EncodeOptions) {
			if got := tok.Encode(c.Text, o); !slices.Equal(got, want) {
				t.Errorf("case %d %q %s: %v, want %v", i, c.Text, what, got, want)
			}
		}
		check("encode", c.IDs, EncodeOptions{})
		special, text := c.IDs, c.IDs
		if c.IDsAddSpecial != nil {
			special = c.IDsAddSpecial
		}
		if c.IDsSpecialAsText != nil {
			text = c.IDsSpecialAsText
		}
		check("with special", special, EncodeOptions{AddSpecial: true})
		check("special as text", text, EncodeOptions{SpecialAsText: true})
		if got := tok.Decode(c.IDs, false); got != c.Decode {
			t.Errorf("case %d: decode %q, want %q", i, got, c.Decode)
		}
		if got := tok.Decode(c.IDs, true); got != c.DecodeSkipSpecial {
			t.Errorf("case %d: decode without special %q, want %q", i, got, c.DecodeSkipSpecial)
		}
		if c.DecodeSpecialAsText != nil {
			if got := tok.Decode(text, false); got != *c.DecodeSpecialAsText {
				t.Errorf("case %d: decode of special as text %q, want %q", i, got, *c.DecodeSpecialAsText)
			}
		}
	}
	for _, s := range g.Streaming {
		ids := g.Cases[s.Case].IDs
		stream := tok.NewStream(nil, s.SkipSpecial)
		all := ""
		for k, id := range ids {
			if got := tok.Decode(ids[:k+1], s.SkipSpecial); got != s.PrefixDecode[k] {
				t.Errorf("case %d: prefix %d decodes to %q, want %q", s.Case, k, got, s.PrefixDecode[k])
			}
			all += stream.Push(id)
			// A run of byte tokens is held back, since another may make it invalid; DecodeStream of tokenizers then
			// fails.
			if s.DecodeStream[k] != nil && all+stream.Held() != s.PrefixDecode[k] {
				t.Errorf("case %d: after id %d the text is %q, and %q is held back, want %q", s.Case, k, all,
					stream.Held(), s.PrefixDecode[k])
			}
		}
		all += stream.Flush()
		if len(ids) > 0 && all != s.PrefixDecode[len(ids)-1] {
			t.Errorf("case %d: streamed %q, want %q", s.Case, all, s.PrefixDecode[len(ids)-1])
		}
	}
	for _, s := range g.Single {
		if got := tok.Decode([]int32{s.ID}, false); got != s.Decode {
			t.Errorf("id %d (%q) decodes to %q, want %q", s.ID, s.Token, got, s.Decode)
		}
		if got, _ := tok.Token(s.ID); got != s.Token {
			t.Errorf("id %d is %q, want %q", s.ID, got, s.Token)
		}
	}
}

func fromGGUF(t testing.TB, path string) *Tokenizer {
	t.Helper()
	g, err := weights.OpenGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	tok, err := FromGGUF(g.Meta())
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestGGUFEqualsJSON compares the tokenizers in GGUF files with the goldens of the same model's tokenizer.json.
func TestGGUFEqualsJSON(t *testing.T) { goldens.Each(t, testGGUFEqualsJSON) }

func testGGUFEqualsJSON(t *testing.T) {
	all := goldenFiles(t)
	t.Run("stories260K", func(t *testing.T) {
		tok := fromGGUF(t, goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf"))
		g := all["stories260K"]
		if g == nil {
			t.Skip("no golden of stories260K in this set")
		}
		for i, c := range g.Cases {
			if got := tok.Encode(c.Text, EncodeOptions{SpecialAsText: true}); !slices.Equal(got,
				or(c.IDsSpecialAsText, c.IDs)) {
				t.Errorf("case %d %q: %v, want %v", i, c.Text, got, or(c.IDsSpecialAsText, c.IDs))
			}
		}
	})
	t.Run("smollm2", func(t *testing.T) {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		path := filepath.Join(cache, "weft", "SmolLM2-135M-Instruct.Q4_1.gguf")
		if _, err := os.Stat(path); err != nil || all["smollm2"] == nil {
			t.Skip("the default model or its golden is absent: make model")
		}
		checkGolden(t, fromGGUF(t, path), all["smollm2"])
	})
}

func or(a, b []int32) []int32 {
	if a != nil {
		return a
	}
	return b
}

// TestLlamaCppVectors runs the vectors beside each vocabulary file.
func TestLlamaCppVectors(t *testing.T) { goldens.Each(t, testLlamaCppVectors) }

func testLlamaCppVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldens.Shared(t, "data", "tokenizers", "llamacpp_vocab"), "*.gguf"))
	if err != nil || len(files) == 0 {
		t.Fatal("no vocabulary", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) { runVectors(t, fromGGUF(t, f), f) })
	}
}

func runVectors(t *testing.T, tok *Tokenizer, base string) {
	t.Helper()
	in, err := os.ReadFile(base + ".inp")
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(base + ".out")
	if err != nil {
		t.Fatal(err)
	}
	texts := strings.Split(string(in), "\n__ggml_vocab_test__\n")
	lines := strings.Split(string(out), "\n")
	for i, text := range texts {
		var want []int32
		for _, f := range strings.Fields(lines[i]) {
			id, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, int32(id))
		}
		if got := tok.Encode(text, EncodeOptions{SpecialAsText: true}); !slices.Equal(got, want) {
			t.Errorf("vector %d %q: %v, want %v", i, text, got, want)
		}
	}
}

func TestLlama2Prompts(t *testing.T) {
	text, err := os.ReadFile(goldens.Shared(t, "data", "goldens", "llama2_prompt_vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Vectors []struct {
			Text string
			IDs  []int32 `json:"ids_with_bos"`
		}
	}
	if err := json.Unmarshal(text, &g); err != nil || len(g.Vectors) == 0 {
		t.Fatal("no vector", err)
	}
	tok, err := Load(goldens.Shared(t, "data", "tokenizers", "llama2", "tokenizer.model"))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range g.Vectors {
		if got := tok.Encode(v.Text, EncodeOptions{AddSpecial: true}); !slices.Equal(got, v.IDs) {
			t.Errorf("vector %d %q: %v, want %v", i, v.Text, got, v.IDs)
		}
	}
	if g := goldenFiles(t)["llama2"]; g != nil {
		for i, c := range g.Cases {
			if got := tok.Encode(c.Text, EncodeOptions{SpecialAsText: true}); !slices.Equal(got,
				or(c.IDsSpecialAsText, c.IDs)) {
				t.Errorf("case %d %q: %v, want %v", i, c.Text, got, or(c.IDsSpecialAsText, c.IDs))
			}
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	for path, want := range map[string]string{"llama2": "damaged", "added-tokens": "without merges"} {
		_, err := Load(goldens.Shared(t, "data", "tokenizers", "hf", path, "tokenizer.json"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that contains %q", path, err, want)
		}
	}
}

// TestVectorsWithoutVocabulary runs the vectors whose GGUF is absent on the same vocabularies in other spellings.
func TestVectorsWithoutVocabulary(t *testing.T) {
	for name, load := range map[string]func(testing.TB) *Tokenizer{"llama-bpe": llama3, "qwen2": qwen2} {
		t.Run(name, func(t *testing.T) {
			in := goldens.Shared(t, "data", "tokenizers", "llamacpp_vocab", "ggml-vocab-"+name+".gguf.inp")
			runVectors(t, load(t), strings.TrimSuffix(in, ".inp"))
		})
	}
}

// llama3 reads GPT-2's encoder.json with vocab.bpe.
func llama3(t testing.TB) *Tokenizer {
	t.Helper()
	var vocab map[string]int32
	text, err := os.ReadFile(goldens.Shared(t, "data", "tokenizers", "llama3.2", "encoder.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &vocab); err != nil {
		t.Fatal(err)
	}
	merges, err := os.ReadFile(goldens.Shared(t, "data", "tokenizers", "llama3.2", "vocab.bpe"))
	if err != nil {
		t.Fatal(err)
	}
	pieces := make([]string, len(vocab))
	for p, id := range vocab {
		pieces[id] = p
	}
	var pairs [][2]string
	for line := range strings.Lines(string(merges)) {
		if left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok &&
			!strings.HasPrefix(line, "#version") {
			pairs = append(pairs, [2]string{left, right})
		}
	}
	tok := byteLevelOf(t, pieces, splitLlama3)
	if err := tok.bpe.addMerges(tok.ids, pairs); err != nil {
		t.Fatal(err)
	}
	tok.bpe.findCuts(tok.pieces)
	tok.wholeWords()
	return tok
}

// qwen2 reads tiktoken's ranks.
func qwen2(t testing.TB) *Tokenizer {
	t.Helper()
	text, err := os.ReadFile(goldens.Shared(t, "data", "tokenizers", "qwen", "qwen.tiktoken"))
	if err != nil {
		t.Fatal(err)
	}
	var pieces []string
	var scores []float32
	for line := range strings.Lines(string(text)) {
		b64, _, _ := strings.Cut(line, " ")
		raw, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			t.Fatal(err)
		}
		spelled := ""
		for _, b := range raw {
			spelled += string(byteChars[b])
		}
		scores = append(scores, -float32(len(pieces)))
		pieces = append(pieces, spelled)
	}
	tok := byteLevelOf(t, pieces, splitQwen2)
	tok.norm, tok.composes = []normStep{mapped(formNFC.apply)}, true
	tok.bpe.addScores(pieces, scores, func(int32) bool { return true })
	tok.bpe.findCuts(pieces)
	return tok
}

func byteLevelOf(t testing.TB, pieces []string, split splitter) *Tokenizer {
	t.Helper()
	tok, err := newTokenizer(pieces)
	if err != nil {
		t.Fatal(err)
	}
	tok.byteLevel, tok.pre, tok.bpe.unk = true, []preStep{split.cut}, -1
	tok.symbols(false)
	return tok
}
