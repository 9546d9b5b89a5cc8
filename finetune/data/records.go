package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode/utf8"
)

// Record is one record of a file: a conversation, a prompt with its completion, or plain text.
type Record struct {
	Line     int       // on which it begins, from 1
	Messages []Message // of a conversation
	Tools    []any     // tools for the conversation's template, as decoded JSON
	Prompt   string    // instead of Messages, with Text as its completion
	Text     string    // a completion, or plain text without prompt
	Notes    []Finding // findings that do not make it bad

	kind kind
}

type kind uint8

const (
	conversation kind = iota
	split             // prompt, then completion and the end of the text
	plain             // text only
)

// Read returns the records of src, a JSON array or JSON Lines, as they are read. It keeps one in memory at a time, of
// at most Options.MaxSampleBytes. A record that cannot be used yields a Finding (errors.As), and the iteration
// continues. Any other error ends it: of Options, of reading, or ErrBad where the rest of src cannot be parsed.
func Read(src io.Reader, o Options) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := o.fill(); err != nil {
			yield(nil, err)
			return
		}
		format := ""
		(&reader{o: &o, format: &format, yield: yield}).read(src)
	}
}

// reader yields the records of one file.
type reader struct {
	o      *Options
	format *string // of the file, once a record has shown it
	yield  func(*Record, error) bool
}

// read yields all records, and last the error that ends them.
func (p *reader) read(src io.Reader) {
	in := bufio.NewReaderSize(src, 1<<16)
	if bom, _ := in.Peek(3); string(bom) == "\ufeff" {
		if _, err := in.Discard(3); err != nil {
			p.yield(nil, err)
			return
		}
	}
	line, first, err := skipSpace(in)
	switch {
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: the file is empty", ErrBad)
	case err != nil:
	case first == '[':
		err = p.array(in, line)
	default:
		err = p.lines(in, line)
	}
	if err != nil && !errors.Is(err, errEnough) {
		p.yield(nil, err)
	}
}

// errEnough says that the caller needs no further records.
var errEnough = errors.New("enough")

// skipSpace skips white space of in and returns the next byte, not consumed, and its line.
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

// lines reads JSON Lines; an invalid line does not affect the others.
func (p *reader) lines(in *bufio.Reader, line int) error {
	for ; ; line++ {
		text, size, err := readLine(in, p.o.MaxSampleBytes)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return err
		}
		if trimmed := bytes.TrimSpace(text); size > p.o.MaxSampleBytes || len(trimmed) > 0 {
			if err := p.take(trimmed, size, line); err != nil {
				return err
			}
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

// array reads a JSON array. After a syntax error the elements cannot be separated: it is an error with every policy.
func (p *reader) array(in *bufio.Reader, line int) error {
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
		if err := p.take(raw, len(raw), lines.at(dec.InputOffset()-int64(len(raw)))); err != nil {
			return err
		}
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

// lineCounter returns the line of a byte offset in the data read through it. Offsets must ascend.
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

// take yields one record. raw is nil where size is above the limit and it was not kept. The error is errEnough.
func (p *reader) take(raw []byte, size, line int) error {
	rec, err := p.parse(raw, size, line)
	if !p.yield(rec, err) {
		return errEnough
	}
	return nil
}

// parse reads one record, or returns a Finding that describes its problem.
func (p *reader) parse(raw []byte, size, line int) (*Record, error) {
	switch {
	case size > p.o.MaxSampleBytes:
		return nil, Finding{line, TooLarge, fmt.Sprintf("%d bytes, more than %d", size, p.o.MaxSampleBytes)}
	case !utf8.Valid(raw):
		return nil, Finding{line, InvalidUTF8, fmt.Sprintf("byte %d", invalidAt(raw))}
	}
	rec, problem, err := parseRecord(raw, p.o, p.format)
	if err != nil {
		return nil, Finding{line, problem, err.Error()}
	}
	rec.Line = line
	if p.o.substitute(rec) {
		rec.Notes = append(rec.Notes, Finding{line, Placeholder, rec.firstPlaceholder()})
	}
	return rec, nil
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
