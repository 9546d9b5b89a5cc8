package events

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

var then = time.Unix(1_700_000_000, 500_000_000)

func written(t *testing.T, first int64, write func(w *Writer) error) []byte {
	t.Helper()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "runs", "a"), then, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	if name := filepath.Base(w.Path()); !strings.HasPrefix(name, "events.out.tfevents.1700000000.") {
		t.Errorf("name %s", name)
	}
	b, err := os.ReadFile(w.Path())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readAll(b []byte) (out []Event, err error) {
	err = Read(bytes.NewReader(b), func(e Event) error {
		out = append(out, e)
		return nil
	})
	return out, err
}

func TestWriteAndRead(t *testing.T) {
	file := written(t, 7, func(w *Writer) error {
		return errors.Join(
			w.Write(then, 0, Scalar{"train/loss", 2.5}),
			w.Write(then.Add(time.Second), 1<<40, Scalar{"train/loss", math.NaN()}, Scalar{"eval/loss", -1}),
		)
	})
	got, err := readAll(file)
	if err != nil || len(got) != 4 {
		t.Fatalf("%d events: %v", len(got), err)
	}
	const at = 1_700_000_000.5
	if got[0].Version != "brain.Event:2" || got[0].Time != at || got[0].Start {
		t.Errorf("first %+v", got[0])
	}
	if !got[1].Start || got[1].Step != 7 {
		t.Errorf("start %+v", got[1])
	}
	if e := got[2]; e.Step != 0 || !slices.Equal(e.Scalars, []Scalar{{"train/loss", 2.5}}) {
		t.Errorf("%+v", e)
	}
	if e := got[3]; e.Step != 1<<40 || e.Time != at+1 || len(e.Scalars) != 2 || !math.IsNaN(e.Scalars[0].Value) ||
		e.Scalars[1] != (Scalar{"eval/loss", -1}) {
		t.Errorf("%+v", e)
	}
	if fresh, err := readAll(written(t, 0, func(*Writer) error { return nil })); err != nil || len(fresh) != 1 {
		t.Errorf("a fresh run: %+v, %v", fresh, err)
	}
}

// The bytes by another implementation: the first record of every event file, whose checksums TensorFlow's crc32c gives,
// and a protocol-buffer encoder that is not ours.
func TestBytes(t *testing.T) {
	file := written(t, 0, func(w *Writer) error { return w.Write(then, 300, Scalar{"a/b", 1}) })
	// The well-known vector of CRC32C: 32 zero bytes have 0x8a9136aa; masked as TFRecord does.
	if got := masked(make([]byte, 32)); got != 0xfd7fffa {
		t.Errorf("masked %08x", got)
	}
	first := 12 + 24 + 4
	payload := file[first+12 : len(file)-4]
	var value, summary, want []byte
	value = protowire.AppendString(protowire.AppendTag(value, 1, protowire.BytesType), "a/b")
	value = protowire.AppendFixed32(protowire.AppendTag(value, 2, protowire.Fixed32Type), math.Float32bits(1))
	summary = protowire.AppendBytes(protowire.AppendTag(summary, 1, protowire.BytesType), value)
	want = protowire.AppendFixed64(protowire.AppendTag(want, 1, protowire.Fixed64Type),
		math.Float64bits(1_700_000_000.5))
	want = protowire.AppendVarint(protowire.AppendTag(want, 2, protowire.VarintType), 300)
	want = protowire.AppendBytes(protowire.AppendTag(want, 5, protowire.BytesType), summary)
	if !bytes.Equal(payload, want) {
		t.Errorf("%x, want %x", payload, want)
	}
}

func TestReadRefuses(t *testing.T) {
	file := written(t, 0, func(w *Writer) error { return w.Write(then, 1, Scalar{"a", 1}) })
	const second = 12 + 24 + 4
	for at := second + 1; at < len(file); at++ {
		if got, err := readAll(file[:at]); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) != 1 ||
			!strings.Contains(err.Error(), "record 1") {
			t.Fatalf("cut at %d: %d events, %v", at, len(got), err)
		}
	}
	for at := second; at < len(file); at++ {
		bad := bytes.Clone(file)
		bad[at] ^= 1
		if got, err := readAll(bad); !errors.Is(err, ErrFormat) || len(got) != 1 {
			t.Fatalf("byte %d spoiled: %d events, %v", at, len(got), err)
		}
	}
	stop := errors.New("stop")
	if err := Read(bytes.NewReader(file), func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	w, err := Create(t.TempDir(), then, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, tag := range []string{"", "\xff"} {
		if err := w.Write(then, 1, Scalar{tag, 1}); err == nil {
			t.Errorf("tag %q was written", tag)
		}
	}
	if _, err := Create("/dev/null/x", then, 0); err == nil {
		t.Error("a file in no folder")
	}
}

func FuzzRead(f *testing.F) {
	frame := func(payload []byte) []byte {
		path := filepath.Join(f.TempDir(), "x")
		file, err := os.Create(path)
		if err != nil {
			f.Fatal(err)
		}
		defer file.Close()
		if err := (&Writer{f: file}).record(payload); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(frame([]byte("\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x1a\x0dbrain.Event:2")))
	f.Add(frame([]byte("\x10\x05\x2a\x0a\x0a\x08\x0a\x01a\x15\x00\x00\x80\x3f")))
	f.Add([]byte("\x10\x05\x3a\x02\x08\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readAll(b)
		e, err := parseEvent(b) // what a checksum would hide from the fuzzer
		if err == nil && len(e.Scalars) > len(b) {
			t.Fatalf("%d scalars of %d bytes", len(e.Scalars), len(b))
		}
	})
}
