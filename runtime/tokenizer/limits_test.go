package tokenizer

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestSmallFilesCostLittle holds files to the memory and time that their size justifies; each was taken for sound
// before its limit.
func TestSmallFilesCostLittle(t *testing.T) {
	nested := `{"type":"Sequence","normalizers":[` + strings.Repeat(`{"type":"NFC"},`, 20000) + `{"type":"NFC"}]}`
	nested = strings.Repeat(`{"type":"Sequence","normalizers":[`, 4000) + nested + strings.Repeat(`]}`, 4000)
	around := `{"type":"TemplateProcessing","single":[` + strings.Repeat(`{"SpecialToken":{"id":"s"}},`, 99) + `{"SpecialToken":{"id":"s"}}],"special_tokens":{"s":{"ids":[1]}}}`
	var sparse strings.Builder
	for i := range 60 {
		fmt.Fprintf(&sparse, `{"id":%d,"content":"x%d"},`, 6+i*65000, i)
	}
	for _, c := range []struct{ name, old, new, says string }{
		{"a long added token", `"content":"<s>"`, `"content":"` + strings.Repeat("a", maxAddedBytes+1) + `"`, "1025 bytes"},
		{"added tokens far apart", `"added_tokens":[`, `"added_tokens":[` + sparse.String(), "has id"},
		{"deep steps", `"normalizer":null`, `"normalizer":` + nested, "more than 1024 steps"},
		{"many tokens around a text", `"normalizer":null`, `"post_processor":` + around, "more than 64 tokens"},
	} {
		text := strings.Replace(tiny, c.old, c.new, 1)
		if text == tiny {
			t.Fatalf("%s: the file is unchanged", c.name)
		}
		if _, err := parseHF([]byte(text)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.says) ||
			len(err.Error()) > 1000 {
			t.Errorf("%s: %.200v, want it to say %q", c.name, err, c.says)
		}
	}
}

// TestErrorsSayWhere: an error of a file names the place in it.
func TestErrorsSayWhere(t *testing.T) {
	for text, place := range map[string]string{`{"model": [`: "at byte 11", `{"model": {"type": 1}}`: "at byte 20"} {
		if _, err := parseHF([]byte(text)); err == nil || !strings.Contains(err.Error(), place) {
			t.Errorf("%s: %v, want %s", text, err, place)
		}
	}
	if _, err := parseSentencePiece([]byte("\x0a\x00\x0a\x09abc")); err == nil ||
		!strings.Contains(err.Error(), "at byte 4 of 7: a field of 9 bytes, 3 are left") {
		t.Error(err)
	}
	if _, err := Load(t.TempDir()); err == nil ||
		!strings.Contains(err.Error(), "neither tokenizer.json nor tokenizer.model") {
		t.Error(err)
	}
}
