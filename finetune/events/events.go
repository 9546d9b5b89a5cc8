// Package events writes what a training run measures: TensorBoard event files, and an HTML page with the curves.
package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Scalar is one value of one curve. TensorBoard groups tags by the text before the first slash: "train/loss".
type Scalar struct {
	Tag   string
	Value float64 // stored as float32
}

// Writer appends to one event file. A record is written with one system call, so that a killed run leaves at most one
// incomplete record, at the end. Not safe for concurrent use.
type Writer struct {
	f   *os.File
	buf []byte
}

// created counts the files of this process, to give them different names.
var created atomic.Int64

// FileName returns the name of a new event file, as TensorBoard expects it: each call returns another one.
func FileName(now time.Time) string {
	host, err := os.Hostname()
	if err != nil || host == "" || strings.ContainsAny(host, "/\x00") {
		host = "localhost"
	}
	return fmt.Sprintf("events.out.tfevents.%d.%s.%d.%d", now.Unix(), host, os.Getpid(), created.Add(1)-1)
}

// Create starts the event file at path, in a folder that is made if needed. A run whose first step will be first > 0
// writes a new file next to older ones; TensorBoard then discards their values from that step on.
func Create(path string, now time.Time, first int64) (*Writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("event file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
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
