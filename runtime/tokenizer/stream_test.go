package tokenizer

import (
	_ "embed"
	"encoding/json"
	"strings"
	"testing"
)

// streams are texts of random ids, as the tokenizers library decodes them: scripts/python/text_cases.py --write.
//
//go:embed testdata/streams.json
var streams []byte

// TestStreams: a stream after a prompt gives, joined, what the ids of both decode to, without the prompt's text up to
// its last complete character.
func TestStreams(t *testing.T) {
	var kinds []struct {
		Name      string
		Tokenizer json.RawMessage
		Cases     []struct {
			Prompt, New           []int32
			Skip                  bool
			Complete, Text, Whole string
		}
	}
	if err := json.Unmarshal(streams, &kinds); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		t.Run(k.Name, func(t *testing.T) {
			tok, err := parseHF(k.Tokenizer)
			if err != nil {
				t.Fatal(err)
			}
			tok.finish()
			for i, c := range k.Cases {
				if got := tok.Decode(append(c.Prompt, c.New...), c.Skip); got != c.Whole {
					t.Errorf("case %d: %v and %v decode to %q, want %q", i, c.Prompt, c.New, got, c.Whole)
				}
				if got := tok.DecodeComplete(c.Prompt, c.Skip); got != c.Complete {
					t.Errorf("case %d: %v is complete to %q, want %q", i, c.Prompt, got, c.Complete)
				}
				var text strings.Builder
				s := tok.NewStream(c.Prompt, c.Skip)
				for _, id := range c.New {
					text.WriteString(s.Push(id))
				}
				text.WriteString(s.Flush())
				if text.String() != c.Text {
					t.Errorf("case %d: after %v, %v streams %q, want %q", i, c.Prompt, c.New, text.String(), c.Text)
				}
			}
		})
	}
}
