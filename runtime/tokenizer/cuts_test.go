package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestCutsChangeNothing compares encoding part by part, twice for the cache's sake, with encoding as a whole, over vocabularies made at random.
func TestCutsChangeNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	letters := []string{"a", "b", "c", meta, "é", "語", ">"}
	cut := 0
	for range 300 {
		tok := randomVocabulary(t, rng, letters)
		if tok.bpe.cuts == nil {
			t.Fatal("a vocabulary with all bytes has no cuts")
		}
		for range 30 {
			var text strings.Builder
			for range rng.IntN(40) {
				text.WriteString(append(letters, "z", "\n", "<0x41>")[rng.IntN(len(letters)+3)])
			}
			want := tok.bpe.encodePart(nil, text.String())
			for range 2 {
				if got := tok.bpe.encodeChars(nil, text.String()); !slices.Equal(got, want) {
					t.Fatalf("%q of %q: %v, want %v", text.String(), tok.pieces[256:], got, want)
				}
			}
			if n := text.Len(); n > 0 && tok.bpe.cuts.next(text.String()) < n {
				cut++
			}
		}
	}
	if cut < 1000 {
		t.Errorf("%d texts were cut, that proves little", cut)
	}
}

// randomVocabulary has all bytes, the letters, and merges of random tokens.
func randomVocabulary(t *testing.T, rng *rand.Rand, letters []string) *Tokenizer {
	var pieces []string
	for i := range 256 {
		pieces = append(pieces, fmt.Sprintf("<0x%02X>", i))
	}
	pieces = append(pieces, letters...)
	var pairs [][2]string
	for range 1 + rng.IntN(12) {
		pair := [2]string{pieces[256+rng.IntN(len(pieces)-256)], pieces[256+rng.IntN(len(pieces)-256)]}
		if !slices.Contains(pieces, pair[0]+pair[1]) {
			pieces = append(pieces, pair[0]+pair[1])
		}
		pairs = append(pairs, pair)
	}
	tok, err := newTokenizer(pieces)
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.bpe.addMerges(tok.ids, pairs); err != nil {
		t.Fatal(err)
	}
	tok.bpe.unk = -1
	tok.symbols(true)
	tok.bpe.findCuts(tok.pieces)
	return tok
}

// TestNoCuts: a vocabulary in which bytes merge, or one that lacks a byte, encodes a run as a whole.
func TestNoCuts(t *testing.T) {
	var vocab strings.Builder
	for i := range 256 {
		fmt.Fprintf(&vocab, `"<0x%02X>":%d,`, i, i)
	}
	const file = `{"normalizer":{"type":"Prepend","prepend":"▁"},"model":{"type":"BPE","byte_fallback":true,"vocab":{%s"a":256,"b":257,"ab":258,"<0x41><0x42>":259},"merges":[["a","b"]%s]}}`
	for _, c := range []struct {
		vocab, merges string
		cuts          bool
	}{
		{vocab.String(), "", true},
		{vocab.String(), `,["<0x41>","<0x42>"]`, false},
		{strings.Replace(vocab.String(), `"<0x07>":7,`, "", 1), "", false},
	} {
		tok, err := parseHF(fmt.Appendf(nil, file, c.vocab, c.merges))
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.bpe.cuts != nil; got != c.cuts {
			t.Errorf("merges %q: cuts %v, want %v", c.merges, got, c.cuts)
		}
	}
}

// TestConcurrentEncode: tokenizers that are used at once give what they give alone.
func TestConcurrentEncode(t *testing.T) {
	for _, tok := range realTokenizers(t) {
		texts := make([]string, 50)
		want := make([][]int32, len(texts))
		for i := range texts {
			texts[i] = strings.Repeat(fmt.Sprintf("word%d and 語%c, ", i, 'a'+i%26), 20)
			want[i] = tok.Encode(texts[i], EncodeOptions{})
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range texts {
					if got := tok.Encode(texts[i], EncodeOptions{}); !slices.Equal(got, want[i]) {
						t.Errorf("%q: %v, want %v", texts[i], got, want[i])
					}
				}
			})
		}
		all.Wait()
	}
}
