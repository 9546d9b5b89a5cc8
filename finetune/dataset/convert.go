package dataset

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"weft/finetune/data"
	"weft/internal/durable"
)

// ErrOptions says that options are invalid.
var ErrOptions = errors.New("options")

// Output is a file that was written.
type Output struct {
	Path    string `json:"path"`
	Samples int    `json:"samples"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
}

// Converted is the result of Convert.
type Converted struct {
	Output
	Format  string       `json:"format"`
	Report  *data.Report `json:"report"`
	LeftOut []string     `json:"fields_left_out,omitempty"` // fields of messages that a Parquet file has no column for
}

// Convert writes the samples of files to out, a .jsonl (or .jsonl.gz, .jsonl.zst) or .parquet file, in one of
// data.Formats. After an error an older file at out is as it was.
func Convert(paths []string, out, to string, o data.Options) (c *Converted, err error) {
	c = &Converted{Format: to}
	if !slices.Contains(data.Formats, to) {
		return nil, fmt.Errorf("%w: format %q is none of %s", ErrOptions, to, strings.Join(data.Formats, ", "))
	}
	o.Loss = data.OnAll // plain text is refused by its place in the format
	w, err := newWriter(out, to)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.discard()) }()
	c.Report, err = data.Each(paths, o, func() func(*data.Row) ([]byte, error) {
		return func(r *data.Row) ([]byte, error) {
			line, _, err := r.Record.Append(nil, to)
			return line, err
		}
	}, func(_ *data.Row, line []byte) error { return w.write(line) })
	if err != nil {
		return nil, err
	}
	if c.Output, err = w.publish(); err != nil {
		return nil, fmt.Errorf("%s: %w", out, err)
	}
	c.LeftOut = w.leftOut()
	return c, nil
}

// checkOutput refuses names that say nothing about the format, before anything is read.
func checkOutput(path string) error {
	name := strings.ToLower(path)
	for _, e := range []string{".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"} {
		if strings.HasSuffix(name, e) {
			return nil
		}
	}
	return fmt.Errorf("%w: the name of the output %q ends in none of .jsonl, .jsonl.gz, .jsonl.zst, .parquet",
		ErrOptions, path)
}

// writer writes lines of JSON to a file, as they are or as rows of a Parquet file.
type writer interface {
	write(line []byte) error
	publish() (Output, error)
	discard() error // after publish it does nothing
	leftOut() []string
}

func newWriter(path, to string) (writer, error) {
	if err := checkOutput(path); err != nil {
		return nil, err
	}
	if strings.EqualFold(filepath.Ext(path), ".parquet") {
		return newTable(path, to)
	}
	return newLines(path)
}

// lines writes JSON Lines.
type lines struct {
	draft  *durable.Draft
	sum    hash.Hash
	buf    *bufio.Writer
	pack   io.WriteCloser // nil: not compressed
	packed *bufio.Writer
	out    Output
	size   int64 // bytes before compression, of which flushed are in the file if it is not compressed
	flush  int64
}

func newLines(path string) (*lines, error) { return newLinesIn(filepath.Dir(path), path) }

// newLinesIn writes in the folder dir first.
func newLinesIn(dir, path string) (*lines, error) {
	d, err := durable.NewDraftIn(dir, path)
	if err != nil {
		return nil, err
	}
	l := &lines{draft: d, sum: sha256.New(), out: Output{Path: path}}
	l.packed = bufio.NewWriterSize(io.MultiWriter(d, l.sum, (*counted)(&l.out.Bytes)), 1<<16)
	var to io.Writer = l.packed
	if l.pack, err = packer(path, l.packed); err != nil {
		return nil, errors.Join(err, d.Discard())
	}
	if l.pack != nil {
		to = l.pack
	}
	l.buf = bufio.NewWriterSize(to, 1<<16)
	return l, nil
}

type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}

func (l *lines) write(line []byte) error {
	l.out.Samples++
	l.size += int64(len(line)) + 1
	_, err := l.buf.Write(line)
	return errors.Join(err, l.buf.WriteByte('\n'))
}

// readAt reads what was written, as io.ReaderAt; only of a file without compression.
func (l *lines) readAt(buf []byte, offset int64) (int, error) {
	if offset+int64(len(buf)) > l.flush && l.flush < l.size {
		if err := errors.Join(l.buf.Flush(), l.packed.Flush()); err != nil {
			return 0, err
		}
		l.flush = l.size
	}
	return l.draft.ReadAt(buf, offset)
}

// finish writes what is buffered.
func (l *lines) finish() error {
	err := l.buf.Flush()
	if l.pack != nil {
		err = errors.Join(err, l.pack.Close())
	}
	err = errors.Join(err, l.packed.Flush())
	l.out.SHA256 = hex.EncodeToString(l.sum.Sum(nil))
	return err
}

func (l *lines) publish() (Output, error) {
	if err := l.finish(); err != nil {
		return Output{}, err
	}
	if err := l.draft.Publish(); err != nil {
		return Output{}, err
	}
	return l.out, durable.SyncDir(filepath.Dir(l.out.Path))
}

func (l *lines) discard() error { return l.draft.Discard() }

func (l *lines) leftOut() []string { return nil }
