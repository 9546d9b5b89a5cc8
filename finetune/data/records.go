package data

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"
)

// record is one record of a file, read: messages, or prompt and completion, or text.
type record struct {
	line     int
	messages []message
	tools    []any
	kind     kind
	prompt   string // kind split: tokenized apart from the completion
	text     string // completion of kind split, text of kind plain
}

type kind uint8

const (
	conversation kind = iota
	split             // prompt, then completion and the end of the text
	plain             // text alone
)

// readFile returns the sound records of a file; the others are in the report.
func readFile(path string, o *Options, r *Report) ([]record, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file: give a .json or .jsonl file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	records, err := readRecords(io.TeeReader(f, h), o, r)
	if err != nil {
		return nil, err
	}
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	return records, nil
}

// readRecords reads a JSON array of records, or one record a line. Errors are of reading, and of what leaves the rest
// of the file without meaning.
func readRecords(src io.Reader, o *Options, r *Report) ([]record, error) {
	in := bufio.NewReaderSize(src, 1<<16)
	if bom, _ := in.Peek(3); string(bom) == "\ufeff" {
		if _, err := in.Discard(3); err != nil {
			return nil, err
		}
	}
	p := recordParser{o: o, r: r}
	line, first, err := skipSpace(in)
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: the file is empty", ErrBad)
	case err != nil:
		return nil, err
	case first == '[':
		err = p.array(in, line)
	default:
		err = p.lines(in, line)
	}
	return p.records, err
}

// skipSpace leaves in before the first byte that is no white space and returns that byte and its line.
func skipSpace(in *bufio.Reader) (line int, first byte, err error) {
	for line = 1; ; {
		c, err := in.ReadByte()
		switch {
		case err != nil:
			return line, 0, err
		case c == '\n':
			line++
		case c != ' ' && c != '\t' && c != '\r':
			return line, c, in.UnreadByte()
		}
	}
}

type recordParser struct {
	o       *Options
	r       *Report
	records []record
}

// lines reads JSON Lines; a broken line leaves the others whole.
func (p *recordParser) lines(in *bufio.Reader, line int) error {
	for ; ; line++ {
		text, size, err := readLine(in, p.o.MaxSampleBytes)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return err
		}
		if trimmed := bytes.TrimSpace(text); size > p.o.MaxSampleBytes || len(trimmed) > 0 {
			p.take(trimmed, size, line)
		}
		if last {
			return nil
		}
	}
}

// readLine returns a line without its end and its size; of one larger than limit only the size.
func readLine(in *bufio.Reader, limit int) (text []byte, size int, err error) {
	for {
		part, err := in.ReadSlice('\n')
		size += len(part)
		if size <= limit+2 {
			text = append(text, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		trimmed := bytes.TrimRight(part, "\r\n")
		size -= len(part) - len(trimmed)
		if size > limit {
			text = nil
		}
		return text, size, err
	}
}

// array reads a JSON array. Behind a syntax error no element can be told from the next: it is an error whatever the
// policy.
func (p *recordParser) array(in *bufio.Reader, line int) error {
	lines := &lineCounter{r: in, line: line}
	dec := json.NewDecoder(lines)
	fail := func(err error) error {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = errors.New("the array is not closed")
		}
		return fmt.Errorf("%w: line %d: %w", ErrBad, lines.at(next(dec)), err)
	}
	if _, err := dec.Token(); err != nil {
		return fail(err)
	}
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return fail(err)
		}
		p.take(raw, len(raw), lines.at(dec.InputOffset()-int64(len(raw))))
	}
	if _, err := dec.Token(); err != nil {
		return fail(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: line %d: more text behind the array", ErrBad, lines.at(next(dec)))
	}
	return nil
}

// next returns the offset of what the decoder would read next, behind white space.
func next(dec *json.Decoder) int64 {
	rest, _ := io.ReadAll(dec.Buffered()) // a bytes.Reader
	return dec.InputOffset() + int64(len(rest)-len(bytes.TrimLeft(rest, " \t\r\n")))
}

// lineCounter tells the line of a byte offset of what was read through it. Offsets must ascend.
type lineCounter struct {
	r       io.Reader
	read    int64
	ends    []int64 // offsets of line ends not yet passed
	line    int
	skipped int
}

func (l *lineCounter) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	for i, c := range p[:n] {
		if c == '\n' {
			l.ends = append(l.ends, l.read+int64(i))
		}
	}
	l.read += int64(n)
	return n, err
}

func (l *lineCounter) at(offset int64) int {
	for l.skipped < len(l.ends) && l.ends[l.skipped] < offset {
		l.skipped++
	}
	l.line += l.skipped
	l.ends, l.skipped = l.ends[l.skipped:], 0
	return l.line
}

// take reads one record. raw is nil where size is above the limit and it was not kept.
func (p *recordParser) take(raw []byte, size, line int) {
	p.r.Records++
	switch {
	case size > p.o.MaxSampleBytes:
		p.r.add(line, TooLarge, "%d bytes, more than %d", size, p.o.MaxSampleBytes)
		return
	case !utf8.Valid(raw):
		p.r.add(line, InvalidUTF8, "byte %d", invalidAt(raw))
		return
	}
	rec, problem, err := parseRecord(raw, p.o, p.r)
	if err != nil {
		p.r.add(line, problem, "%v", err)
		return
	}
	rec.line = line
	if p.o.substitute(rec) {
		p.r.add(line, Placeholder, "%s", rec.firstPlaceholder())
	}
	p.records = append(p.records, *rec)
}

func invalidAt(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(b)
}
