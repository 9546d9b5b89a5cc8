package modelref

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestResolve(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	t.Setenv("HOME", home)
	cache, err := Cache()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(cache, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "mine.gguf")
	outside := filepath.Join(filepath.Dir(cache), "outside.gguf")
	for _, p := range []string{own, outside, filepath.Join(cache, defaultFile), filepath.Join(cache, "other.gguf")} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ ref, path, name string }{
		{"", filepath.Join(cache, defaultFile), Default},
		{"smollm2", filepath.Join(cache, defaultFile), Default},
		{"smollm2-135m-instruct", filepath.Join(cache, defaultFile), Default},
		{"other", filepath.Join(cache, "other.gguf"), "other"},
		{"folder", filepath.Join(cache, "folder"), "folder"},
		{own, own, "mine"},
		{"absent", "", ""},
		{"../outside", "", ""},
	} {
		path, name, err := Resolve(c.ref)
		if path != c.path || name != c.name || errors.Is(err, fs.ErrNotExist) != (c.path == "") {
			t.Errorf("%q: %q, %q, %v; want %q, %q", c.ref, path, name, err, c.path, c.name)
		}
	}
}
