package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestCutsChangeNothing compares encoding part by part, twice for the cache's sake, with encoding as a whole, over
// vocabularies made at random.
func TestCutsChangeNothing(t *testing.T) {
	for _, byteLevel := range []bool{false, true} {
		rng := rand.New(rand.NewPCG(5, 6))
		cut := 0
		for range 300 {
			tok := randomVocabulary(t, rng, byteLevel)
			for range 30 {
				text := randomText(rng)
				want := tok.bpe.encodePart(nil, text)
				for range 2 {
					if got := tok.bpe.encodeParts(nil, text); !slices.Equal(got, want) {
						t.Fatalf("%q of %q: %v, want %v", text, tok.pieces[256:], got, want)
					}
				}
				if text != "" && tok.bpe.cuts.next(text) < len(text) {
					cut++
				}
			}
		}
		if cut < 1000 {
			t.Errorf("%d texts were cut, that proves little", cut)
		}
	}
}

var cutLetters = []string{"a", "b", "c", meta, "é", "è", "語", "誟", ">", "🐶"}

func randomText(rng *rand.Rand) string {
	var text strings.Builder
	for range rng.IntN(40) {
		text.WriteString(append(cutLetters, "z", "\n", "<0x41>")[rng.IntN(len(cutLetters)+3)])
	}
	return text.String()
}

// randomVocabulary has all bytes, the letters, and merges of random tokens.
func randomVocabulary(t *testing.T, rng *rand.Rand, byteLevel bool) *Tokenizer {
	var pieces, parts []string
	for i := range 256 {
		if byteLevel {
			pieces = append(pieces, string(byteChars[i]))
		} else {
			pieces = append(pieces, fmt.Sprintf("<0x%02X>", i))
		}
	}
	if byteLevel {
		for _, b := range []byte(strings.Join(cutLetters, "")) {
			parts = append(parts, pieces[b])
		}
	} else {
		parts = cutLetters
		pieces = append(pieces, parts...)
	}
	var pairs [][2]string
	for range 1 + rng.IntN(20) {
		pair := [2]string{parts[rng.IntN(len(parts))], parts[rng.IntN(len(parts))]}
		if !slices.Contains(pieces, pair[0]+pair[1]) {
			pieces = append(pieces, pair[0]+pair[1])
		}
		parts = append(slices.Clip(parts), pair[0]+pair[1])
		pairs = append(pairs, pair)
	}
	tok, err := newTokenizer(pieces)
	if err != nil {
		t.Fatal(err)
	}
	if rng.IntN(2) == 0 { // merges of one rank
		scores := make([]float32, len(pieces))
		for i := range scores {
			scores[i] = float32(rng.IntN(3))
		}
		tok.bpe.addScores(pieces, scores, func(id int32) bool { return byteLevel || id >= 256 })
	} else if err := tok.bpe.addMerges(tok.ids, pairs); err != nil {
		t.Fatal(err)
	}
	tok.bpe.unk, tok.byteLevel = -1, byteLevel
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

// TestConcurrentEncode: tokenizers used concurrently give the same results.
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

// TestLongIsScan: long lists of symbols are merged as looking for the best pair again and again does.
func TestLongIsScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		tok := randomVocabulary(t, rng, false)
		for range 10 {
			symbols := make([]int32, rng.IntN([]int{maxScan, 1000}[rng.IntN(2)]))
			for i := range symbols {
				symbols[i] = int32(256 + rng.IntN(4)) // a, b, c, ▁
			}
			want := slices.Clone(symbols)
			for {
				best := merge{rank: noMerge}
				at := -1
				for i := range max(len(want)-1, 0) {
					if m := tok.bpe.merges.get(want[i], want[i+1]); m.rank < best.rank {
						best, at = m, i
					}
				}
				if at < 0 {
					break
				}
				want[at] = best.id
				want = slices.Delete(want, at+1, at+2)
			}
			got := slices.Clone(symbols)
			if got = got[:tok.bpe.mergeLong(got)]; !slices.Equal(got, want) {
				t.Fatalf("%d of %q: %v, want %v", symbols, tok.pieces[256:], got, want)
			}
			if len(symbols) < maxScan {
				if got := tok.bpe.mergeAll(nil, slices.Clone(symbols)); !slices.Equal(got, want) {
					t.Fatalf("short %d of %q: %v, want %v", symbols, tok.pieces[256:], got, want)
				}
			}
		}
	}
}

// TestMemoryOfLongWords: a text takes little memory beside its ids, garbage included.
func TestMemoryOfLongWords(t *testing.T) {
	const size = 1 << 20
	for _, tok := range realTokenizers(t) {
		for what, piece := range map[string]string{"one word": "a", "spaces": " ", "words": "some of the words ",
			"no words": "\x01\x02\x7f", "characters": "語", "lines": "\n\n \n"} {
			text := strings.Repeat(piece, size/len(piece))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ids := tok.Encode(text, EncodeOptions{})
			runtime.ReadMemStats(&after)
			got := float64(after.TotalAlloc-before.TotalAlloc) / size
			if got > 16 {
				t.Errorf("%d pieces, %s: %d ids, %.1f bytes were allocated for each byte of the text",
					len(tok.pieces), what, len(ids), got)
			}
		}
	}
}
