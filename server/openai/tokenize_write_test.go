package openai

import (
	"bufio"
	"bytes"
	"io"
	"testing"
)

// TestTokenizedIsWrittenWithoutGarbage: an answer has up to millions of ids; none of them allocates.
func TestTokenizedIsWrittenWithoutGarbage(t *testing.T) {
	out := &Tokenized{MaxModelLen: 5, Tokens: make([]int32, 10_000)}
	for i := range out.Tokens {
		out.Tokens[i] = int32(i) * 100
	}
	w := bufio.NewWriter(io.Discard)
	if n := testing.AllocsPerRun(5, func() {
		if err := out.WriteJSON(w); err != nil {
			t.Error(err)
		}
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
	var text bytes.Buffer
	w.Reset(&text)
	out = &Tokenized{Tokens: []int32{7, -8}, MaxModelLen: 5, Text: func(int32) string { return `"` }}
	if err := out.WriteJSON(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); got != `{"count":2,"max_model_len":5,"tokens":[7,-8],"token_strs":["\"","\""]}` {
		t.Error(got)
	}
}
