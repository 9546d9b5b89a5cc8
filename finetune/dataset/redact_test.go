package dataset

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/finetune/redact"
)

// Counts cover every record, also those whose finds are not shown; the text around a find is cut between characters,
// and colours mark the value.
func TestRedact(t *testing.T) {
	var text strings.Builder
	for range 50 {
		text.WriteString(`{"messages":[{"role":"user","content":"` + strings.Repeat("请", 40) + ` a@example.com\u001b[2J ` +
			strings.Repeat("好", 40) + `"},{"role":"assistant","content":"ok"}]}` + "\n")
	}
	path := filepath.Join(t.TempDir(), "x.jsonl")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := redact.New(redact.Options{Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	found, err := Redact([]string{path}, r, 2, data.Options{})
	if err != nil || found.Samples != 50 || found.Touched != 50 || found.Counts[redact.Email] != 50 ||
		len(found.Shown) != 2 || found.Shown[1].Line != 2 || found.Shown[1].Path != path {
		t.Fatalf("%+v, %v", found, err)
	}
	var b strings.Builder
	clean := func(s string) string { return strings.ReplaceAll(s, "\x1b", "?") }
	if err := found.WriteText(&b, true, clean); err != nil {
		t.Fatal(err)
	}
	want := "…" + strings.Repeat("请", 13) + " " + red + "a@example.com" + reset + "?[2J " +
		strings.Repeat("好", 11) + "…\n"
	if !strings.Contains(b.String(), want) {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
