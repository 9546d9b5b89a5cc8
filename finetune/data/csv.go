package data

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"weft/internal/jinja"
)

// BrokenCSV is the problem of a row that is no CSV, or has another number of fields than the header.
const BrokenCSV Problem = "broken CSV"

// delimiters are those that a header may have; of those that occur equally often the first is it.
const delimiters = ",\t;|"

// csvReader cuts a CSV file into rows, each a record whose fields have the names in the header. Package csv reads what
// is in a row; where a row ends is decided here, so that a quote that is never closed takes no other row along and no
// more memory than a record may have.
type csvReader struct {
	reader
	comma  byte
	header []string
	fields *csv.Reader
	feed   *bytes.Reader
	out    []byte
}

// readCSV yields the rows of a CSV file as records; first is the start of its text.
func readCSV(in *pieces, first []byte, tabs bool, o *Options, take func(raw) bool) error {
	c := &csvReader{reader: reader{o: o, take: take, in: in}}
	first, _, _ = bytes.Cut(first, []byte("\n"))
	if c.comma = delimiter(first); tabs {
		c.comma = '\t'
	}
	if mark := strings.TrimSpace(string(first)); len(mark) == 5 && strings.HasPrefix(mark, "sep=") { // Excel's
		c.comma = mark[4]
		if _, err := c.row(); err != nil {
			return err
		}
	}
	line := c.in.line
	head, err := c.row()
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the file is empty", ErrBad)
	case err != nil:
		return err
	case head.problem != "":
		return fmt.Errorf("%w: line %d: the header: %s", ErrBad, head.line, head.problem)
	}
	if c.header, err = c.parse(head.size); err != nil {
		return fmt.Errorf("%w: line %d: the header: %w", ErrBad, line, err)
	}
	c.header = slices.Clone(c.header)
	if !slices.ContainsFunc(c.header, func(name string) bool { return o.wants(strings.TrimSpace(name)) }) {
		return fmt.Errorf("%w: line %d: no column says what to train on; the columns are %q%s", ErrBad, line,
			c.header, o.hint())
	}
	for i, name := range c.header {
		if c.header[i] = strings.TrimSpace(name); c.header[i] != "" && slices.Index(c.header, c.header[i]) < i {
			return fmt.Errorf("%w: line %d: the column %q stands twice in the header", ErrBad, line, c.header[i])
		}
	}
	for {
		row, err := c.row()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !c.take(c.record(row)) {
			return errEnough
		}
	}
}

// delimiter returns the one that the header has most often outside of quotes.
func delimiter(header []byte) byte {
	var count [len(delimiters)]int
	quoted := false
	for _, c := range header {
		if quoted = quoted != (c == '"'); quoted {
			continue
		}
		if i := strings.IndexByte(delimiters, c); i >= 0 {
			count[i]++
		}
	}
	best := 0
	for i, n := range count {
		if n > count[best] {
			best = i
		}
	}
	return delimiters[best]
}

// isTable reports whether a text that is no JSON begins with a header of CSV: two columns or more, of which one has a
// name that says what to train on.
func isTable(text []byte, o *Options) bool {
	text, _, _ = bytes.Cut(text, []byte("\n"))
	r := csv.NewReader(bytes.NewReader(text))
	r.Comma = rune(delimiter(text))
	names, err := r.Read()
	return err == nil && len(names) > 1 && slices.ContainsFunc(names, func(name string) bool {
		return o.wants(strings.TrimSpace(name))
	})
}

// csvRow is one row in c.text.
type csvRow struct {
	size, line int
	problem    string
}

// row reads the next row that is not blank.
func (c *csvReader) row() (csvRow, error) {
	const (
		begin = iota // of a field
		plain        // in a field without quotes
		quoted
		closing // behind a quote in a quoted field: it closes the field, or is the first of two
	)
	c.text = c.text[:0]
	r, state, quote := csvRow{line: c.in.line}, begin, 0
	next, nextLine := -1, 0 // the second line of the row
	for {
		at := c.in.line
		part, err := c.in.next()
		switch {
		case errors.Is(err, io.EOF) && r.size == 0:
			return r, err
		case errors.Is(err, io.EOF) && state == quoted:
			r.problem = fmt.Sprintf("the quote that opens a field in line %d is never closed", quote)
			return c.takeBack(r, next, nextLine), nil
		case errors.Is(err, io.EOF):
			return r, nil
		case err != nil:
			return r, err
		}
		for _, b := range part {
			switch {
			case state == begin && b == '"':
				state, quote = quoted, at
			case state == quoted && b == '"':
				state = closing
			case state == quoted:
			case state == closing && b == '"':
				state = quoted
			case b == c.comma:
				state = begin
			case b == '\r' || b == '\n':
			case state == closing:
				r.problem = cmp.Or(r.problem, "text behind the quote that closes a field: write a quote within a "+
					"field as two")
				state = plain
			case b == '"':
				r.problem = cmp.Or(r.problem, "a quote within a field that does not begin with one: put the field in "+
					"quotes and write the quote as two")
			default:
				state = plain
			}
		}
		if next < 0 && r.size > 0 && at > r.line {
			next, nextLine = r.size, at
		}
		c.keep(part, &r.size)
		switch ended := c.in.lead; {
		case ended && len(bytes.TrimSpace(c.text)) == 0:
			c.text, r = c.text[:0], csvRow{line: c.in.line}
			state, next = begin, -1
		case ended && r.problem != "":
			return c.takeBack(r, next, nextLine), nil
		case ended && state != quoted:
			return r, nil
		case ended && (r.size > c.o.MaxSampleBytes || c.again > maxAgain):
			r.problem = fmt.Sprintf("the quote that opens a field in line %d is not closed in %d bytes", quote, r.size)
			return c.takeBack(r, next, nextLine), nil
		}
	}
}

// takeBack takes back the lines of a row but for its first, so that they are read as rows of their own.
func (c *csvReader) takeBack(r csvRow, next, nextLine int) csvRow {
	if next >= 0 && len(c.text) == r.size {
		c.again += r.size - next
		c.in.unread(c.text[next:], nextLine, true)
		c.text, r.size = c.text[:next], next
	}
	return r
}

// parse reads the fields of the row in c.text; they are valid until the next call.
func (c *csvReader) parse(size int) ([]string, error) {
	if len(c.text) < size {
		return nil, fmt.Errorf("%d bytes, more than %d", size, c.o.MaxSampleBytes)
	}
	if c.feed == nil {
		c.feed = bytes.NewReader(nil)
		c.fields = csv.NewReader(c.feed)
		c.fields.Comma, c.fields.FieldsPerRecord, c.fields.ReuseRecord = rune(c.comma), -1, true
	}
	c.feed.Reset(c.text)
	out, err := c.fields.Read()
	if err != nil {
		c.feed = nil // what it holds of the row is dropped
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			err = bad.Err
		}
	}
	return out, err
}

// record makes a record of a row.
func (c *csvReader) record(row csvRow) raw {
	r := raw{size: row.size, line: row.line}
	if row.size > c.o.MaxSampleBytes && row.problem == "" {
		return r
	}
	broken := func(text string) raw {
		r.bad = &Finding{Line: row.line, Problem: BrokenCSV, Detail: text}
		return r
	}
	if row.problem != "" {
		return broken(row.problem)
	}
	fields, err := c.parse(row.size)
	switch {
	case err != nil:
		return broken(err.Error())
	case len(fields) != len(c.header):
		return broken(fmt.Sprintf("%d fields, the header has %d (separated by %q)", len(fields), len(c.header),
			c.comma))
	}
	c.out = append(c.out[:0], '{')
	for i, text := range fields {
		if c.header[i] == "" {
			continue // a column of row numbers
		}
		if len(c.out) > 1 {
			c.out = append(c.out, ',')
		}
		c.out = append(appendText(c.out, c.header[i]), ':')
		c.out = appendText(c.out, text)
	}
	r.text = append(c.out, '}')
	c.out, r.size = r.text, len(r.text)
	return r
}

// appendText appends a text as a JSON string. What is no UTF-8 stays as it is.
func appendText(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for text := []byte(s); ; {
		n := jinja.PlainJSON(text)
		out = append(out, text[:n]...)
		if n == len(text) {
			return append(out, '"')
		}
		c := text[n]
		text = text[n+1:]
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
}

// readLines yields each line of a text file that is not blank as a record of plain text.
func readLines(in *bufio.Reader, o *Options, take func(raw) bool) error {
	p := &reader{o: o, take: take, in: &pieces{in: in, line: 1, lead: true}}
	var out []byte
	for {
		line := p.in.line
		if _, err := p.in.in.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		size, err := p.rest(0)
		if err != nil {
			return err
		}
		r := raw{size: size, line: line}
		switch {
		case size <= o.MaxSampleBytes && len(bytes.TrimSpace(p.text)) == 0:
			continue
		case size <= o.MaxSampleBytes && !utf8.Valid(p.text):
			r.text = p.text // it is reported as such
		case size <= o.MaxSampleBytes:
			out = append(appendText(append(out[:0], `{"text":`...), string(p.text)), '}')
			r.text, r.size = out, len(out)
		}
		if !take(r) {
			return errEnough
		}
	}
}
