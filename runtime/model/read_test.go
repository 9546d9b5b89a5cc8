package model

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadConfig: what is no file of a sensible size is refused unread, and an error of the JSON says where it lies.
func TestReadConfig(t *testing.T) {
	dir := t.TempDir()
	if _, err := readConfig(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	large := filepath.Join(dir, "config.json")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxConfigBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig(large); err == nil || !strings.Contains(err.Error(), "more than 16777216") {
		t.Errorf("a large file: %v", err)
	}
	for text, place := range map[string]string{`{"hidden_size": "x"}`: "at byte 19", `{"hidden_size": 1`: "at byte 17", `{"a" 1}`: "at byte 6"} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), place) {
			t.Errorf("%s: %v, want %s", text, err, place)
		}
	}
}
