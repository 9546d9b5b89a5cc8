package tokenizer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// benchTexts are a megabyte of English, one of this repository's own code, and the files that WEFT_BENCH_TEXT lists.
func benchTexts(b *testing.B) map[string]string {
	out := map[string]string{}
	read := func(name, path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		out[name] += string(text)
	}
	read("english", goldens.Shared(b, "data", "corpora", "tinyshakespeare_input.txt"))
	code, err := filepath.Glob("../../*/*/*.go")
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range code {
		read("code", path)
	}
	for _, path := range filepath.SplitList(os.Getenv("WEFT_BENCH_TEXT")) {
		read(filepath.Base(path), path)
	}
	for name, text := range out {
		out[name] = strings.ToValidUTF8(text[:min(len(text), 1e6)], "")
	}
	return out
}

func benchTokenizers(b *testing.B) map[string]*Tokenizer {
	out := map[string]*Tokenizer{"llama3": llama3(b), "qwen2": qwen2(b)}
	out["gpt2"] = fromGGUF(b, goldens.Shared(b, "data", "tokenizers", "llamacpp_vocab", "ggml-vocab-gpt-2.gguf"))
	for name, path := range map[string]string{
		"smollm2": goldens.Path(b, "serve", "tokenizers", "smollm2"),
		"llama2":  goldens.Path(b, "serve", "tokenizers", "llama2"),
		"phi3":    goldens.Shared(b, "data", "tokenizers", "hf", "phi-3"),
	} {
		tok, err := Load(path)
		if err != nil {
			b.Fatal(err)
		}
		out[name] = tok
	}
	return out
}

// BenchmarkEncode measures what a tokenizer does that has seen the text; BenchmarkEncodeCold what a new one does. The
// tokenizers library's own figures are those of scripts/bench/tokenizer.py.
func BenchmarkEncode(b *testing.B) { benchEncode(b, false) }

func BenchmarkEncodeCold(b *testing.B) { benchEncode(b, true) }

func benchEncode(b *testing.B, cold bool) {
	texts := benchTexts(b)
	for name, tok := range benchTokenizers(b) {
		for kind, text := range texts {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if cold {
						tok.bpe.cache, tok.bpe.parts = newWordCache(), newWordCache()
					}
					tok.Encode(text, EncodeOptions{})
				}
			})
		}
	}
}
