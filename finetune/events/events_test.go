package events

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

var then = time.Unix(1_700_000_000, 500_000_000)

func written(t *testing.T, first int64, write func(w *Writer) error) []byte {
	t.Helper()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "runs", "a", FileName(then)), then, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "runs", "a", "events.out.tfevents.1700000000.*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %q: %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// event is one record, as far as the tests look at it.
type event struct {
	Time    float64 // seconds since 1970
	Step    int64
	Version string
	Start   bool // a run starts, or starts again, at Step
	Scalars []Scalar
}

// readAll reads an event file with protowire, which is not the encoder that wrote it.
func readAll(t *testing.T, b []byte) (out []event) {
	t.Helper()
	for len(b) > 0 {
		n := binary.LittleEndian.Uint64(b)
		head, payload := b[:8], b[12:12+n]
		if binary.LittleEndian.Uint32(b[8:]) != masked(head) ||
			binary.LittleEndian.Uint32(b[12+n:]) != masked(payload) {
			t.Fatalf("record %d has a wrong checksum", len(out))
		}
		b = b[16+n:]
		var e event
		eachField(t, payload, func(field protowire.Number, num uint64, bytes []byte) {
			switch field {
			case 1:
				e.Time = math.Float64frombits(num)
			case 2:
				e.Step = int64(num)
			case 3:
				e.Version = string(bytes)
			case 5:
				eachField(t, bytes, func(_ protowire.Number, _ uint64, bytes []byte) {
					var s Scalar
					eachField(t, bytes, func(field protowire.Number, num uint64, bytes []byte) {
						if field == 1 {
							s.Tag = string(bytes)
						} else {
							s.Value = float64(math.Float32frombits(uint32(num)))
						}
					})
					e.Scalars = append(e.Scalars, s)
				})
			case 7:
				eachField(t, bytes, func(field protowire.Number, num uint64, _ []byte) {
					e.Start = field == 1 && num == 1
				})
			}
		})
		out = append(out, e)
	}
	return out
}

// eachField calls f with each field of a message: a number, or bytes.
func eachField(t *testing.T, b []byte, f func(field protowire.Number, num uint64, bytes []byte)) {
	t.Helper()
	for len(b) > 0 {
		field, wire, n := protowire.ConsumeTag(b)
		var num uint64
		var bytes []byte
		if n > 0 {
			b = b[n:]
			switch wire {
			case protowire.VarintType:
				num, n = protowire.ConsumeVarint(b)
			case protowire.Fixed64Type:
				num, n = protowire.ConsumeFixed64(b)
			case protowire.Fixed32Type:
				var v uint32
				v, n = protowire.ConsumeFixed32(b)
				num = uint64(v)
			default:
				bytes, n = protowire.ConsumeBytes(b)
			}
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		f(field, num, bytes)
	}
}

func TestWriteAndRead(t *testing.T) {
	file := written(t, 7, func(w *Writer) error {
		return errors.Join(
			w.Write(then, 0, Scalar{"train/loss", 2.5}),
			w.Write(then.Add(time.Second), 1<<40, Scalar{"train/loss", math.NaN()}, Scalar{"eval/loss", -1}),
		)
	})
	got := readAll(t, file)
	if len(got) != 4 {
		t.Fatalf("%d events", len(got))
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
	if fresh := readAll(t, written(t, 0, func(*Writer) error { return nil })); len(fresh) != 1 {
		t.Errorf("a fresh run: %+v", fresh)
	}
}

// The bytes by another implementation: the first record of every event file, whose checksums TensorFlow's crc32c gives,
// and an independent protocol-buffer encoder.
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

func TestWriteRefuses(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), FileName(then)), then, 0)
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
