package terminal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Neither a buffer, a file, a pipe nor /dev/null is a terminal; the master of a pseudo-terminal is.
func TestIs(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, v := range map[string]any{"a buffer": &bytes.Buffer{}, "a file": file, "null": null, "a pipe": w} {
		if Is(v) {
			t.Errorf("%s counts as a terminal", name)
		}
	}
	if master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err == nil {
		defer master.Close()
		if !Is(master) {
			t.Error("a pseudo-terminal does not count as a terminal")
		}
	}
}
