package weights

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// Files that the caller opened read like those opened by path, their stored bytes too; a name that is not there and a
// file that shrank are errors.
func TestOpenedFilesAndBytes(t *testing.T) {
	opened := func(data []byte) *os.File {
		f, err := os.Open(writeFile(t, t.TempDir(), "file", data))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	st := opened(st(`{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 3))
	s, err := NewSafetensors(st)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	g, err := NewGGUF(opened(layerFile()))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for name, c := range map[string]struct {
		read func(string, func([]byte) error) error
		name string
		want []byte
	}{
		"safetensors": {s.Bytes, "a", []byte{0, 1, 2}},
		"GGUF, in rotate-half order": {g.Bytes, "model.layers.1.self_attn.q_proj.weight",
			[]byte{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []byte
			if err := c.read(c.name, func(data []byte) error { got = bytes.Clone(data); return nil }); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			stop := errors.New("stop")
			if err := c.read(c.name, func([]byte) error { return stop }); !errors.Is(err, stop) {
				t.Errorf("error %v, want the caller's own", err)
			}
			if err := c.read("nothing", func([]byte) error { return nil }); !errors.Is(err, ErrNoTensor) {
				t.Errorf("error %v, want that there is no such tensor", err)
			}
		})
	}
	if err := os.Truncate(st.Name(), 4); err != nil {
		t.Fatal(err)
	}
	if err := s.Bytes("a", func([]byte) error { return nil }); !errors.Is(err, ErrChanged) {
		t.Errorf("error %v, want that the file changed", err)
	}
	for _, open := range []func(*os.File) error{func(f *os.File) error { return second2(NewSafetensors(f)) },
		func(f *os.File) error { return second2(NewGGUF(f)) }} {
		f := opened([]byte("neither"))
		if err := open(f); !errors.Is(err, ErrFormat) {
			t.Errorf("error %v, want a malformed file", err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Error("a refused file is still open")
		}
	}
}
