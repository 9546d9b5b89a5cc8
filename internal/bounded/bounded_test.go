package bounded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRead(t *testing.T) {
	for size, want := range map[int]error{0: nil, 9: nil, 10: nil, 11: ErrTooLong, 1000: ErrTooLong} {
		text, err := Read(strings.NewReader(strings.Repeat("x", size)), 10)
		if !errors.Is(err, want) || err == nil && len(text) != size {
			t.Errorf("%d bytes: %d, %v", size, len(text), err)
		}
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, size := range map[string]int{"full": 10, "long": 11} {
		if err := os.WriteFile(at(name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("full", at("link")), syscall.Mkfifo(at("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"full": nil, "long": ErrTooLong, "pipe": ErrNotRegular, ".": ErrNotRegular,
		"none": fs.ErrNotExist, "link": nil} {
		text, err := ReadFile(at(name), 10)
		if !errors.Is(err, want) || err == nil && len(text) != 10 ||
			err != nil && !strings.Contains(err.Error(), filepath.Base(at(name))) {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
		if name == "link" {
			want = ErrNotRegular
		}
		if _, err := ReadFileNoLink(at(name), 10); !errors.Is(err, want) {
			t.Errorf("%s without links: %v", name, err)
		}
	}
}
