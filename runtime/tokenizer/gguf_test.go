package tokenizer

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"weft/runtime/weights"
)

// vocabulary is a GGUF file without tensors whose metadata is a tokenizer.
func vocabulary(model string, tokens []string, merges []string, types []int32) []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	text := func(s string) {
		put(uint64(len(s)))
		b.WriteString(s)
	}
	list := func(key string, list []string) {
		text(key)
		put([]uint32{9, 8})
		put(uint64(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	numbers := func(key string, typ uint32, n int, values any) {
		text(key)
		put([]uint32{9, typ})
		put(uint64(n))
		put(values)
	}
	b.WriteString("GGUF")
	put(uint32(3))
	put([]uint64{0, 6})
	text("tokenizer.ggml.model")
	put(uint32(8))
	text(model)
	list("tokenizer.ggml.tokens", tokens)
	list("tokenizer.ggml.merges", merges)
	numbers("tokenizer.ggml.scores", 6, len(tokens), make([]float32, len(tokens)))
	numbers("tokenizer.ggml.token_type", 5, len(types), types)
	text("tokenizer.ggml.eos_token_id")
	put(uint32(4))
	put(uint32(1))
	return b.Bytes()
}

func FuzzFromGGUF(f *testing.F) {
	f.Add(vocabulary("llama", []string{"<unk>", "</s>", "a", "aa", "<0x41>", "▁"}, nil, []int32{2, 3, 1, 1, 6, 1}))
	f.Add(vocabulary("gpt2", []string{"Ġ", "<|e|>", "a", "aa"}, []string{"a a"}, []int32{1, 3, 1, 4}))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := weights.OpenGGUF(path)
		if err != nil {
			return
		}
		defer g.Close()
		tok, err := FromGGUF(g.Meta())
		if err != nil {
			return
		}
		ids := tok.Encode("aa <s> A </s>語\xff", EncodeOptions{AddSpecial: true})
		if s := tok.Decode(ids, false); !utf8.ValidString(s) {
			t.Fatalf("decoded to invalid UTF-8 %q", s)
		}
	})
}
