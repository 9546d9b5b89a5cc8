package model

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/bounded"
)

// TestReadConfig: anything but a regular file of bounded size is refused unread, and a JSON error states its position.
func TestReadConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ConfigOf(dir, nil); !errors.Is(err, ErrConfig) || !errors.Is(err, bounded.ErrNotRegular) {
		t.Errorf("a folder: %v", err)
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file, nil, 0o600), os.Truncate(file,
		maxConfigBytes+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := ConfigOf(dir, nil); err == nil || !strings.Contains(err.Error(), "more than 16777216") {
		t.Errorf("a large file: %v", err)
	}
	for text, place := range map[string]string{`{"model_type": "llama", "hidden_size": "x"}`: "at byte 42", `{"hidden_size": 1`: "at byte 17", `{"a" 1}`: "at byte 6"} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), place) {
			t.Errorf("%s: %v, want %s", text, err, place)
		}
	}
}
