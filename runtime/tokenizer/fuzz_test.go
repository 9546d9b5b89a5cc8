package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"

	"weft/internal/goldens"
)

const tiny = `{"added_tokens":[{"id":5,"content":"<s>","special":true}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},
"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"Ġa":4},"merges":["a b",["Ġ","a"]]}}`

func FuzzTokenizerJSON(f *testing.F) {
	f.Add([]byte(tiny))
	f.Add([]byte(strings.Replace(tiny, `"ab":2`, `"ab":-2`, 1)))
	f.Add([]byte(strings.Replace(tiny, `"id":5`, `"id":99999999`, 1)))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}}`))
	f.Add([]byte(`{"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"}]},"model":{"vocab":{"<0x41>":0,"▁":1,"▁▁":2},"merges":["▁ ▁"],"byte_fallback":true}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := parseHF(data)
		if err != nil {
			return
		}
		tok.finish()
		ids := tok.Encode("ab a <s> 語 \xff", EncodeOptions{AddSpecial: true})
		for _, id := range ids {
			if id < 0 {
				t.Fatalf("id %d", id)
			}
		}
		if s := tok.Decode(ids, false); !utf8.ValidString(s) {
			t.Fatalf("decoded to invalid UTF-8 %q", s)
		}
	})
}

func FuzzSentencePiece(f *testing.F) {
	piece := func(text string, ty byte) string {
		body := "\x0a" + string(rune(len(text))) + text + "\x15\x00\x00\x80\x3f\x18" + string(rune(ty))
		return "\x0a" + string(rune(len(body))) + body
	}
	bpeModel := "\x12\x02\x18\x02"
	f.Add([]byte(piece("<unk>", typeUnknown) + piece("<s>", typeControl) + piece("</s>", typeControl) +
		piece("a", typeNormal) + piece("aa", typeNormal) + bpeModel))
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"))
	f.Add([]byte(bpeModel))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := parseSentencePiece(data)
		if err != nil {
			return
		}
		tok.finish()
		tok.Decode(tok.Encode("aa b", EncodeOptions{AddSpecial: true}), true)
	})
}

func realTokenizers(t testing.TB) []*Tokenizer {
	var out []*Tokenizer
	for _, p := range []string{
		goldens.Path(t, "serve", "tokenizers", "smollm2", "tokenizer.json"),
		goldens.Shared(t, "data", "weights", "stories260K", "hf", "tokenizer.json"),
	} {
		tok, err := Load(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tok)
	}
	return out
}

func FuzzEncodeDecode(f *testing.F) {
	toks := realTokenizers(f)
	for _, s := range []string{"", "Hello, world!", "  a\n\n\tb  ", "Ünïcödé 語 🐶", "<|im_start|>user\n1234",
		"don't WON'T 'S", "\xff\xfe", "e\u0301", " \u00a0\u2003x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			ids := tok.Encode(text, EncodeOptions{SpecialAsText: true})
			if least := tok.MinTokens(text); least > len(ids) {
				t.Errorf("%q has %d tokens, MinTokens is %d", text, len(ids), least)
			}
			valid := strings.ToValidUTF8(text, "\uFFFD")
			complete := tok.byteLevel // a vocabulary may lack a byte, as SmolLM2's lacks 0x04, which then vanishes
			for i := range len(valid) {
				complete = complete && tok.bpe.bytes[valid[i]] >= 0
			}
			if got := tok.Decode(ids, false); complete && got != valid {
				t.Fatalf("%q came back as %q", valid, got)
			}
			stream, all := tok.NewStream(nil, false), ""
			for _, id := range ids {
				all += stream.Push(id)
			}
			all += stream.Flush()
			if complete && all != valid {
				t.Fatalf("%q streamed as %q", valid, all)
			}
		}
	})
}

// TestSplittersLoseNothing: the parts of every splitter together are the text, for texts of all character classes.
func TestSplittersLoseNothing(t *testing.T) {
	text := ""
	for _, part := range []string{"a", "Ü", "語", "1", "½", "٣", " ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "'", "'s",
		"'LL", "!", "_", "\u0301", "🐶", "\x00"} {
		text += part + strings.Repeat(part, 3) + " " + part
	}
	for name, split := range splitters {
		var got strings.Builder
		split(text, func(w string) {
			if w == "" {
				t.Errorf("%s emits an empty word", name)
			}
			got.WriteString(w)
		})
		if got.String() != text {
			t.Errorf("%s: %q came back as %q", name, text, got.String())
		}
	}
}

// TestHostileInput encodes a megabyte of what makes slow tokenizers quadratic; a quadratic one would not end within the
// test's time.
func TestHostileInput(t *testing.T) {
	n := 1 << 20
	if testing.Short() {
		n = 1 << 16
	}
	for _, tok := range realTokenizers(t) {
		for _, s := range []string{"a", " ", "\n", "1", "'", "\u0301", "語", "ab", "<|", "<0x", "\xff"} {
			text := strings.Repeat(s, n/len(s))
			ids := tok.Encode(text, EncodeOptions{})
			if len(ids) == 0 {
				t.Errorf("%q: no ids", s)
			}
			if least := tok.MinTokens(text); least > len(ids) || tok.byteLevel && s != "\xff" && least < n/200 {
				t.Errorf("%q: %d ids, MinTokens is %d", s, len(ids), least)
			}
		}
	}
}
