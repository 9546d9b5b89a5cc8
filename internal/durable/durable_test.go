package durable

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write := func(text string, fail error) error {
		return Replace(path, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, fail)
		})
	}
	want := func(text string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Fatalf("the file holds %q (%v), want %q", got, err, text)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 1 {
			t.Fatalf("the folder holds %v (%v), want the file alone", entries, err)
		}
	}
	if err := write("old", nil); err != nil {
		t.Fatal(err)
	}
	want("old")
	if err := write("half", io.ErrShortWrite); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("a failed write returned %v", err)
	}
	want("old")
	if err := write("new", nil); err != nil {
		t.Fatal(err)
	}
	want("new")
	if err := Create(path, nil, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a file that exists was created again: %v", err)
	}
	if err := SyncDir(filepath.Join(path, "nowhere")); err == nil {
		t.Fatal("a folder that does not exist was synced")
	}
}

func TestSHA256(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for path, text := range map[string]string{a: "a", b: "bc"} {
		if err := Create(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// FIPS 180-2, appendix B.1: the digest of "abc"
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got, err := SHA256(t.Context(), a, b); err != nil || got != abc {
		t.Fatalf("got %s (%v), want %s", got, err, abc)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := SHA256(ended, a); !errors.Is(err, context.Canceled) {
		t.Fatalf("an ended context returned %v", err)
	}
}
