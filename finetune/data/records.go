package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
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
	// The conversation and the user that it belongs to, and its value of Options.GroupBy; "" where it does not say so.
	Conversation, User, Group string

	kind kind
}

type kind uint8

const (
	conversation kind = iota
	split             // prompt, then completion and the end of the text
	plain             // text only
)

// Read returns the records of src as they are read: JSON Lines, objects one after another, a JSON array, or an object
// with one array of records; CSV with a header that names a field of a record; as UTF-8 or UTF-16, also compressed with
// gzip or zstd; or Parquet, which is copied to a temporary file. It keeps one record in memory at a time, of at most
// Options.MaxSampleBytes. A record that cannot be used yields a Finding (errors.As), and the iteration
// continues. Any other error ends it: of Options, of reading, or ErrBad where the rest of src cannot be parsed.
func Read(src io.Reader, o Options) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := o.fill(); err != nil {
			yield(nil, err)
			return
		}
		format := ""
		err := readRaw(src, "", &o, func(r raw) bool {
			rec, own, err := r.parse(&o)
			return yield(inFormat(rec, own, &format, r.line, err))
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// raw is the text of one record.
type raw struct {
	text []byte // nil where size is above the limit and it was not kept
	size int
	line int      // on which it begins, from 1
	bad  *Finding // it cannot be read
}

// A file that becomes more than maxGrowth times as large when it is read, and more than freeGrowth bytes, is refused.
const (
	maxGrowth  = 1000
	freeGrowth = 256 << 20
)

// readRaw cuts src into records; the name, if it is known, says whether it is CSV or plain text. The text of each
// record is valid only until take returns; it ends without an error where take returns false.
func readRaw(src io.Reader, name string, o *Options, take func(raw) bool) error {
	var stored atomic.Int64
	text, table, err := decoded(io.TeeReader(src, counter{&stored}))
	if err != nil {
		return err
	}
	read, tooMuch := int64(0), false
	bounded := func(r raw) bool {
		if read += int64(r.size); read > freeGrowth && read/maxGrowth > stored.Load() {
			tooMuch = true
			return false
		}
		return take(r)
	}
	if table {
		err = readSpooled(text, o, bounded)
	} else {
		err = readText(text, name, o, bounded)
	}
	switch {
	case tooMuch:
		return fmt.Errorf("%w: the file becomes more than %d times as large when it is unpacked", ErrBad, maxGrowth)
	case errors.Is(err, errEnough):
		return nil
	}
	return err
}

// readSpooled reads a Parquet file, whose end must be read before its start, through a temporary file.
func readSpooled(in io.Reader, o *Options, take func(raw) bool) error {
	f, size, err := spooled(in)
	if err != nil {
		return err
	}
	return errors.Join(readParquet(f, size, o, take), f.Close())
}

// readText reads JSON, CSV or lines of text.
func readText(in *bufio.Reader, name string, o *Options, take func(raw) bool) error {
	kind := ending(name)
	if kind == ".csv" || kind == ".tsv" || kind == ".txt" {
		first, err := in.Peek(1)
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: the file is empty", ErrBad)
		case err != nil:
			return err
		case first[0] == '{' || first[0] == '[': // JSON under another name
		case kind == ".txt":
			return readLines(in, o, take)
		default:
			text, _ := in.Peek(in.Buffered())
			return readCSV(&pieces{in: in, line: 1}, text, kind == ".tsv", o, take)
		}
	}
	p := &reader{o: o, take: take, in: &pieces{in: in, line: 1}}
	first, err := p.in.skipSpace()
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the file is empty", ErrBad)
	case err != nil:
		return err
	case first == '[':
		p.depth = 1
		return p.elements(&shape{})
	case first != '{' && isTable(p.in.rest(), o):
		return readCSV(p.in, p.in.rest(), false, o, take)
	}
	return p.objects()
}

// errEnough says that the caller needs no further records.
var errEnough = errors.New("enough")

// reader cuts one file into records.
type reader struct {
	o     *Options
	take  func(raw) bool
	in    *pieces
	text  []byte // of the record, at most o.MaxSampleBytes
	depth int    // of the array whose elements are records
	again int    // bytes that were read twice, see maxAgain
}

// maxAgain bounds what is read again behind broken objects: from then on each line of a file is a record, so that the
// time is in proportion to the size.
const maxAgain = 64 << 20

// give yields one record of the given size: p.text, if all of it was kept.
func (p *reader) give(size, line int) error {
	r := raw{size: size, line: line}
	if len(p.text) == size {
		r.text = bytes.TrimSpace(p.text)
		r.size = len(r.text)
	}
	if r.size > p.o.MaxSampleBytes {
		r.text = nil
	}
	if !p.take(r) {
		return errEnough
	}
	return nil
}

// keep appends a part of a record, unless the record is above the limit already.
func (p *reader) keep(part []byte, size *int) {
	if *size <= p.o.MaxSampleBytes {
		p.text = append(p.text, part...)
	}
	*size += len(part)
}

// pieces returns a text line by line, or in parts of a line, and can take text back.
type pieces struct {
	in   *bufio.Reader
	back []byte // text that was taken back; from pos it is still to be read, before in
	pos  int
	line int  // of the next byte, from 1
	lead bool // the next byte is the first of its line
}

// next returns what is there of the current line, with its end; it is valid until the next call.
func (p *pieces) next() (part []byte, err error) {
	again := p.pos < len(p.back)
	if again {
		part = p.back[p.pos:]
	} else {
		p.back, p.pos = p.back[:0], 0
		if _, err := p.in.Peek(1); err != nil {
			return nil, err
		}
		if part, err = p.in.Peek(p.in.Buffered()); err != nil {
			return nil, err
		}
	}
	p.lead = false
	if i := bytes.IndexByte(part, '\n'); i >= 0 {
		part = part[:i+1]
		p.line++
		p.lead = true
	}
	if again {
		p.pos += len(part)
		return part, nil
	}
	_, err = p.in.Discard(len(part))
	return part, err
}

// unread takes back the text that was read last, which begins on the given line, at its first byte or not.
func (p *pieces) unread(text []byte, line int, lead bool) {
	if p.line, p.lead = line, lead; len(text) <= p.pos {
		p.pos -= len(text)
		return
	}
	p.back, p.pos = append(p.back[:0], text...), 0
}

// rest returns the text that was taken back.
func (p *pieces) rest() []byte { return p.back[p.pos:] }

// skipSpace returns the next byte that is no white space, without consuming it.
func (p *pieces) skipSpace() (byte, error) {
	for {
		line, lead := p.line, p.lead
		part, err := p.next()
		if err != nil {
			return 0, err
		}
		if rest := bytes.TrimLeft(part, " \t\r\n"); len(rest) > 0 {
			p.unread(rest, line, lead && len(rest) == len(part))
			return rest[0], nil
		}
	}
}

// objects reads objects one after another, each on a line of its own or over several. A line with anything else is a
// record that cannot be used. So is an object that is broken: it ends where the next line begins with '{', or, if it is
// broken on its first line, with that line, so that it does not affect the others.
func (p *reader) objects() error {
	for first := true; ; first = false {
		c, err := p.in.skipSpace()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case c != '{':
			line := p.in.line
			size, err := p.rest(0)
			if err != nil {
				return err
			}
			if err := p.give(size, line); err != nil {
				return err
			}
		default:
			if err := p.object(first); err != nil {
				return err
			}
		}
	}
}

// rest appends the rest of the current line to the record of the given size.
func (p *reader) rest(size int) (int, error) {
	if size == 0 {
		p.text = p.text[:0]
	}
	for {
		part, err := p.in.next()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
		if p.in.lead {
			part = bytes.TrimRight(part, "\r\n")
		}
		p.keep(part, &size)
		if p.in.lead {
			return size, nil
		}
	}
}

// object reads one object, which begins with the next byte; first says that it is the first of the file.
func (p *reader) object(first bool) error {
	p.text = p.text[:0]
	line, lead := p.in.line, p.in.lead
	size, begin := 0, true  // begin: no line has ended yet
	next, nextLine := -1, 0 // where in the text, and on which line, another object may begin
	var s shape
	for {
		at, of := p.in.lead, p.in.line
		part, err := p.in.next()
		if errors.Is(err, io.EOF) {
			if done, err := p.unwrap(first, line, lead); done {
				return err
			}
			return p.broken(size, line, next, nextLine, !begin)
		}
		if err != nil {
			return err
		}
		if at && !begin && part[0] == '{' && next < 0 && size <= p.o.MaxSampleBytes {
			next, nextLine = size, of
		}
		for i := s.skip(part); i < len(part); i += 1 + s.skip(part[i+1:]) {
			if err := s.step(part[i]); err != nil {
				p.keep(part, &size)
				if done, err := p.unwrap(first, line, lead); done {
					return err
				}
				if next < 0 && !p.in.lead {
					if size, err = p.rest(size); err != nil {
						return err
					}
				}
				return p.broken(size, line, next, nextLine, !begin)
			}
			if s.ended(0) {
				p.keep(part[:i+1], &size)
				return p.complete(size, line, lead, first, part[i+1:], of)
			}
		}
		kept := size <= p.o.MaxSampleBytes
		if p.keep(part, &size); kept && size > p.o.MaxSampleBytes {
			if done, err := p.unwrap(first, line, lead); done {
				return err
			}
			first = false
			if next >= 0 {
				return p.broken(size, line, next, nextLine, true)
			}
		}
		if begin = begin && !p.in.lead; !begin && p.again > maxAgain {
			return p.give(size, line)
		}
	}
}

// complete yields the object in p.text. rest is what follows it in the last piece, of the line at.
func (p *reader) complete(size, line int, lead, first bool, rest []byte, at int) error {
	if len(p.text) == size {
		p.text = append(p.text, rest...)
		if done, err := p.unwrap(first, line, lead); done {
			return err
		}
		p.text = p.text[:size]
	}
	ended := p.in.lead
	for {
		if trimmed := bytes.TrimLeft(rest, " \t\r\n"); len(trimmed) > 0 {
			p.in.unread(trimmed, at, false)
			if trimmed[0] != '{' { // the line is one record, which is broken
				var err error
				if size, err = p.rest(size); err != nil {
					return err
				}
			}
			return p.give(size, line)
		}
		if ended {
			return p.give(size, line)
		}
		var err error
		rest, err = p.in.next()
		if errors.Is(err, io.EOF) {
			return p.give(size, line)
		}
		if err != nil {
			return err
		}
		ended = p.in.lead
	}
}

// broken yields an object that is broken, and goes on at the next object: the one at p.text[next:], or, if the object
// has more than one line, at the next line that begins with one.
func (p *reader) broken(size, line, next, nextLine int, several bool) error {
	if next >= 0 {
		p.again += size - next
		p.in.unread(p.text[next:], nextLine, true)
		p.text = p.text[:next]
		return p.give(next, line)
	}
	for several {
		at, of := p.in.lead, p.in.line
		part, err := p.in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if at && part[0] == '{' {
			p.in.unread(part, of, true)
			break
		}
	}
	return p.give(size, line)
}

// errSeveralLists says that an object that holds records holds more than one list of them.
var errSeveralLists = errors.New(
	"the object has more than one list: put the records to train on into a file of their own")

// wrapper returns the offset in p.text of the array in an object like {"data": [{}, {}]}: the object has no field of
// a record and one array of objects, beside which it may have other values. -1: it is none. p.text may be cut off.
func (p *reader) wrapper(first bool) (array int, err error) {
	if !first {
		return -1, nil
	}
	dec := json.NewDecoder(bytes.NewReader(p.text))
	found, empty := -1, -1
	if open, _ := dec.Token(); open != json.Delim('{') {
		return -1, nil
	}
	for dec.More() {
		key, _ := dec.Token()
		if key == nil {
			break
		}
		if name, _ := key.(string); p.o.isField(name) {
			return -1, nil
		}
		begin := int(dec.InputOffset())
		v, bad := dec.Token()
		if v == json.Delim('[') {
			var inner json.Token
			inner, bad = dec.Token()
			if inner == json.Delim('{') {
				if found >= 0 {
					return -1, errSeveralLists
				}
				found = begin + bytes.IndexByte(p.text[begin:], '[')
			} else if inner == json.Delim(']') {
				empty = begin + bytes.IndexByte(p.text[begin:], '[')
			}
			if bad == nil && inner != json.Delim(']') {
				bad = skipTokens(dec, 1+isOpen(inner))
			}
		} else if v == json.Delim('{') {
			bad = skipTokens(dec, 1)
		}
		if bad != nil {
			break
		}
	}
	if found < 0 {
		found = empty // without records, unless p.text is cut off before them
	}
	return found, nil // what is cut off or broken is found when the records are read
}

func isOpen(t json.Token) int {
	if t == json.Delim('{') || t == json.Delim('[') {
		return 1
	}
	return 0
}

// skipTokens reads until depth brackets are closed.
func skipTokens(dec *json.Decoder, depth int) error {
	for depth > 0 {
		t, err := dec.Token()
		switch {
		case err != nil:
			return err
		case isOpen(t) == 1:
			depth++
		case t == json.Delim('}') || t == json.Delim(']'):
			depth--
		}
	}
	return nil
}

// unwrap reads the records in the array of an object whose text, as far as it has been read, is in p.text, if it is the
// first of the file and has one.
func (p *reader) unwrap(first bool, line int, lead bool) (done bool, err error) {
	array, err := p.wrapper(first)
	if err != nil {
		return true, fmt.Errorf("%w: line %d: %w", ErrBad, line, err)
	}
	if array < 0 {
		return false, nil
	}
	s := &shape{open: []byte{'{'}, next: value}
	p.in.unread(p.text[array:], line+bytes.Count(p.text[:array], []byte{'\n'}), lead && array == 0)
	p.depth = 2
	return true, p.elements(s)
}

// elements reads the elements of an array, which the next byte begins, and what closes what s has open. After a syntax
// error the elements cannot be separated: it is an error with every policy.
func (p *reader) elements(s *shape) error {
	size, line, inside := 0, 0, false
	opened, closed := false, false // the array
	for {
		of := p.in.line
		part, err := p.in.next()
		switch {
		case errors.Is(err, io.EOF) && s.ended(0):
			return nil
		case errors.Is(err, io.EOF) && closed:
			return fmt.Errorf("%w: line %d: the object is not closed", ErrBad, p.in.line)
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: line %d: the array is not closed", ErrBad, p.in.line)
		case err != nil:
			return err
		}
		begin := 0 // of the element in the part
		for i := s.skip(part); i < len(part); i += 1 + s.skip(part[i+1:]) {
			c := part[i]
			state, depth := s.next, len(s.open)
			switch {
			case s.ended(0) && !isSpace(c):
				return fmt.Errorf("%w: line %d: more text behind the array", ErrBad, of)
			case closed && state == value && (c == '[' || c == '{'):
				return fmt.Errorf("%w: line %d: %w", ErrBad, of, errSeveralLists)
			}
			if err := s.step(c); err != nil {
				return fmt.Errorf("%w: line %d: %w", ErrBad, of, err)
			}
			if depth == p.depth && (state == value || state == valueOrEnd) &&
				(len(s.open) > depth || s.next == text || s.next == literal) {
				inside, size, line, begin = true, 0, of, i
				p.text = p.text[:0]
			}
			end := -1
			switch {
			case !inside:
			case state == literal && depth == p.depth && s.next != literal:
				end = i // the byte behind it ends a literal
			case (state != literal || depth > p.depth) && s.ended(p.depth):
				end = i + 1
			}
			if end >= 0 {
				inside = false
				p.keep(part[begin:end], &size)
				if err := p.give(size, line); err != nil {
					return err
				}
			}
			opened = opened || len(s.open) == p.depth
			closed = opened && len(s.open) < p.depth
		}
		if inside {
			p.keep(part[begin:], &size)
		}
	}
}

// parse reads one record; format is its own, if it shows one. The error is a Finding that describes its problem.
func (r raw) parse(o *Options) (rec *Record, format string, err error) {
	switch {
	case r.bad != nil:
		return nil, "", *r.bad
	case r.size > o.MaxSampleBytes:
		return nil, "", Finding{Line: r.line, Problem: TooLarge,
			Detail: fmt.Sprintf("%d bytes, more than %d", r.size, o.MaxSampleBytes)}
	case !utf8.Valid(r.text):
		return nil, "", Finding{Line: r.line, Problem: InvalidUTF8, Detail: fmt.Sprintf("byte %d", invalidAt(r.text))}
	}
	rec, format, problem, err := parseRecord(r.text, o)
	if err != nil {
		return nil, format, Finding{Line: r.line, Problem: problem, Detail: err.Error()}
	}
	rec.Line = r.line
	if o.substitute(rec) {
		rec.Notes = append(rec.Notes, Finding{Line: r.line, Problem: Placeholder, Detail: rec.firstPlaceholder()})
	}
	return rec, format, nil
}

// inFormat refuses a record that has another format than the records of its file before it, and sets that of the first.
func inFormat(rec *Record, own string, file *string, line int, err error) (*Record, error) {
	if own == "" {
		return rec, err
	}
	if *file == "" {
		*file = own
	}
	if own != *file {
		return nil, Finding{Line: line, Problem: WrongShape, Detail: fmt.Sprintf("it is %s in a file of %s", own,
			*file)}
	}
	return rec, err
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
