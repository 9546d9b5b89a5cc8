// Package events writes what a training run measures: TensorBoard event files, and an HTML page with the curves.
package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// ErrFormat is wrapped by every refusal of an event file.
var ErrFormat = errors.New("malformed event file")

// Scalar is one value of one curve. TensorBoard groups tags by what stands before the first slash: "train/loss".
type Scalar struct {
	Tag   string
	Value float64 // stored as float32
}

// Writer appends to one event file. A record is written whole with one call of the system, so that a killed run leaves
// at most one record cut short, at the end. Not safe for concurrent use.
type Writer struct {
	f   *os.File
	buf []byte
}

// created counts the files of this process, which their names must tell apart.
var created atomic.Int64

// Create starts an event file in folder dir, which is made if needed. A run whose first step will be first > 0 writes a
// new file beside older ones, whose values from that step on TensorBoard then forgets.
func Create(dir string, now time.Time, first int64) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("event file: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || host == "" || strings.ContainsAny(host, "/\x00") {
		host = "localhost"
	}
	name := fmt.Sprintf("events.out.tfevents.%d.%s.%d.%d", now.Unix(), host, os.Getpid(), created.Add(1)-1)
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("event file: %w", err)
	}
	w := &Writer{f: f}
	version := appendBytes(appendTime(nil, now), 3, []byte("brain.Event:2"))
	err = w.record(version)
	if err == nil && first > 0 {
		// SessionLog{status: START}
		err = w.record(appendBytes(appendInt(appendTime(nil, now), 2, first), 7, appendInt(nil, 1, 1)))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// Path returns the file's name.
func (w *Writer) Path() string { return w.f.Name() }

// Write appends the values of a step as one event.
func (w *Writer) Write(now time.Time, step int64, values ...Scalar) error {
	var summary []byte
	for _, v := range values {
		if !utf8.ValidString(v.Tag) || v.Tag == "" {
			return fmt.Errorf("event file: the tag %q is empty or not UTF-8", v.Tag)
		}
		item := appendBytes(nil, 1, []byte(v.Tag))
		item = binary.LittleEndian.AppendUint32(append(item, 2<<3|wire32), math.Float32bits(float32(v.Value)))
		summary = appendBytes(summary, 1, item)
	}
	event := appendTime(nil, now)
	if step != 0 {
		event = appendInt(event, 2, step)
	}
	return w.record(appendBytes(event, 5, summary))
}

// Close ends the file.
func (w *Writer) Close() error {
	err := errors.Join(w.f.Sync(), w.f.Close())
	if err != nil {
		return fmt.Errorf("event file: %w", err)
	}
	return nil
}

// record frames a payload as TFRecord: length, its checksum, payload, its checksum.
func (w *Writer) record(payload []byte) error {
	w.buf = binary.LittleEndian.AppendUint64(w.buf[:0], uint64(len(payload)))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, masked(w.buf))
	w.buf = append(w.buf, payload...)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, masked(payload))
	if _, err := w.f.Write(w.buf); err != nil {
		return fmt.Errorf("event file: %w", err)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is the checksum of TFRecord: CRC32C, rotated by 15 and shifted by a constant.
func masked(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// The wire types of protocol buffers.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

func appendTime(b []byte, t time.Time) []byte {
	return binary.LittleEndian.AppendUint64(append(b, 1<<3|wire64), math.Float64bits(float64(t.UnixNano())/1e9))
}

func appendInt(b []byte, field byte, v int64) []byte {
	return binary.AppendUvarint(append(b, field<<3|wireVarint), uint64(v))
}

func appendBytes(b []byte, field byte, v []byte) []byte {
	return append(binary.AppendUvarint(append(b, field<<3|wireBytes), uint64(len(v))), v...)
}

// Event is one record, as far as it is read.
type Event struct {
	Time    float64 // seconds since 1970
	Step    int64
	Version string
	Start   bool // a run starts, or starts again, at Step
	Scalars []Scalar
}

// maxRecord bounds a record; ours are a few hundred bytes.
const maxRecord = 64 << 20

// Read calls f for each record of an event file. A last record cut short is io.ErrUnexpectedEOF, wrapped like every
// error.
func Read(r io.Reader, f func(Event) error) error {
	for n := 0; ; n++ {
		payload, err := readRecord(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var e Event
		if err == nil {
			e, err = parseEvent(payload)
		}
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return fmt.Errorf("event file: record %d: %w", n, err)
		}
	}
}

func readRecord(r io.Reader) ([]byte, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err // io.EOF where the file ends between records
	}
	n := binary.LittleEndian.Uint64(head[:])
	if binary.LittleEndian.Uint32(head[8:]) != masked(head[:8]) {
		return nil, fmt.Errorf("%w: the checksum of its length is wrong", ErrFormat)
	}
	if n > maxRecord {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrFormat, n, maxRecord)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n)+4))
	if err == nil && uint64(len(body)) != n+4 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(body[n:]) != masked(body[:n]) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrFormat)
	}
	return body[:n], nil
}

// value is one field of a message: a number, or bytes.
type value struct {
	field uint64
	wire  uint64
	num   uint64
	bytes []byte
}

// eachField walks over a message's fields.
func eachField(b []byte, f func(v value) error) error {
	short := fmt.Errorf("%w: a field is cut short", ErrFormat)
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return short
		}
		b = b[n:]
		v := value{field: key >> 3, wire: key & 7}
		switch v.wire {
		case wireVarint:
			if v.num, n = binary.Uvarint(b); n <= 0 {
				return short
			}
		case wire64:
			if n = 8; len(b) < n {
				return short
			}
			v.num = binary.LittleEndian.Uint64(b)
		case wire32:
			if n = 4; len(b) < n {
				return short
			}
			v.num = uint64(binary.LittleEndian.Uint32(b))
		case wireBytes:
			size, k := binary.Uvarint(b)
			if k <= 0 || size > uint64(len(b)-k) {
				return short
			}
			n = k + int(size)
			v.bytes = b[k:n]
		default:
			return fmt.Errorf("%w: wire type %d", ErrFormat, v.wire)
		}
		b = b[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

func parseEvent(b []byte) (e Event, err error) {
	err = eachField(b, func(v value) error {
		switch {
		case v.field == 1 && v.wire == wire64:
			e.Time = math.Float64frombits(v.num)
		case v.field == 2 && v.wire == wireVarint:
			e.Step = int64(v.num)
		case v.field == 3 && v.wire == wireBytes:
			e.Version = string(v.bytes)
		case v.field == 5 && v.wire == wireBytes:
			return eachField(v.bytes, func(v value) error {
				if v.field != 1 || v.wire != wireBytes {
					return nil
				}
				s, ok, err := parseScalar(v.bytes)
				if ok {
					e.Scalars = append(e.Scalars, s)
				}
				return err
			})
		case v.field == 7 && v.wire == wireBytes:
			return eachField(v.bytes, func(v value) error {
				e.Start = e.Start || v.field == 1 && v.wire == wireVarint && v.num == 1
				return nil
			})
		}
		return nil
	})
	return e, err
}

// parseScalar reads a Summary.Value; ok is false for one that holds no simple_value.
func parseScalar(b []byte) (s Scalar, ok bool, err error) {
	err = eachField(b, func(v value) error {
		switch {
		case v.field == 1 && v.wire == wireBytes:
			s.Tag = string(v.bytes)
		case v.field == 2 && v.wire == wire32:
			s.Value, ok = float64(math.Float32frombits(uint32(v.num))), true
		}
		return nil
	})
	return s, ok, err
}
