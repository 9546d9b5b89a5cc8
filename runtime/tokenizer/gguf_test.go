package tokenizer

import (
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// TestGGUFTokens: BOS, ends and special tokens where the metadata is silent or wrong. The values are llama.cpp's
// (llama-vocab.cpp at 00ad355e).
func TestGGUFTokens(t *testing.T) {
	type m = map[string]any
	const p = "tokenizer.ggml."
	base := func(kind string, tokens []string, more m) m {
		out := m{p + "model": kind, p + "tokens": tokens}
		if kind == "gpt2" {
			out[p+"merges"] = []string{}
		}
		maps.Copy(out, more)
		return out
	}
	bytes := []string{"a", "b", "Ġ"}
	for _, c := range []struct {
		name  string
		meta  m
		text  string
		ids   []int32
		stops []int32
	}{
		{"BOS of llama-bpe", base("gpt2", append(bytes, "<|b|>", "<|e|>"), m{p + "pre": "llama-bpe",
			p + "bos_token_id": uint32(3), p + "eos_token_id": uint32(4)}), "ab", []int32{3, 0, 1}, []int32{4}},
		{"none of qwen2", base("gpt2", append(bytes, "<|b|>", "<|e|>"), m{p + "pre": "qwen2",
			p + "bos_token_id": uint32(3), p + "eos_token_id": uint32(4)}), "ab", []int32{0, 1}, []int32{4}},
		{"refused BOS", base("gpt2", append(bytes, "<|b|>"), m{p + "pre": "llama-bpe", p + "add_bos_token": false,
			p + "bos_token_id": uint32(3)}), "ab", []int32{0, 1}, nil},
		{"ends of other types", base("gpt2", append(bytes, "<|end_of_text|>", "<|im_end|>", "<｜end▁of▁sentence｜>",
			"</s>"),
			m{p + "pre": "smollm", p + "token_type": []int32{1, 1, 1, 1, 4, 1, 1}, p + "eos_token_id": uint32(3)}),
			"a<|im_end|>b</s>", []int32{0, 4, 1, 6}, []int32{3, 4, 6, 5}},
		{"no types", base("gpt2", append(bytes, "<|eot_id|>", "<|im_start|>"), m{p + "pre": "smollm"}), "a<|eot_id|>",
			[]int32{0, 3}, []int32{3}},
		{"harmony", base("gpt2", append(bytes, "<|end|>", "<|return|>", "<|call|>"), m{p + "pre": "smollm"}),
			"a<|end|>",
			[]int32{0, 3}, []int32{4, 5}},
		{"SentencePiece without ids, scores, types", base("llama", []string{"<unk>", "<s>", "</s>", "▁", "a"}, nil),
			"a",
			[]int32{1, 3, 4}, []int32{2}},
		{"Phi-3", base("llama", []string{"<unk>", "<s>", "</s>", "▁", "a", "<|end|>", "<0x0A>"}, m{
			"general.name": "Phi-3-mini", p + "token_type": []int32{2, 3, 3, 1, 1, 3, 6}}), "a<|end|>\n a<s> a",
			[]int32{1, 3, 4, 5, 3, 4, 1, 3, 3, 4}, []int32{2, 5}},
	} {
		tok, err := FromGGUF(c.meta)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := tok.Encode(c.text, EncodeOptions{AddSpecial: true}); !slices.Equal(got, c.ids) {
			t.Errorf("%s: %q is %v, want %v", c.name, c.text, got, c.ids)
		}
		if !slices.Equal(tok.StopIDs(), c.stops) {
			t.Errorf("%s: stops at %v, want %v", c.name, tok.StopIDs(), c.stops)
		}
	}
	tok, err := FromGGUF(
		base("gpt2", bytes, m{"tokenizer.chat_template": "d", "tokenizer.chat_template.tool_use": "t"}),
	)
	if err != nil || !maps.Equal(tok.ChatTemplates(), map[string]string{"default": "d", "tool_use": "t"}) {
		t.Errorf("templates %v, %v", tok, err)
	}
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
