// Package sse reads server-sent events (text/event-stream of the HTML standard).
package sse

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrTooLong says that an event is longer than the reader's limit.
var ErrTooLong = errors.New("sse: event too long")

// Event is one event with data. Its slices are valid until the next call of Next.
type Event struct {
	Name string // of the field event, "" where there is none
	Data []byte // the lines of the fields data, joined by line feeds
}

// Reader splits a stream into events. Lines end with LF or CRLF. Comments and the fields id and retry are skipped, as
// are events without data.
type Reader struct {
	lines *bufio.Scanner
	limit int
	data  []byte
}

// NewReader reads events of at most limit bytes from r. The memory grows with the events, not with the limit.
func NewReader(r io.Reader, limit int) *Reader {
	s := &Reader{lines: bufio.NewScanner(r), limit: limit}
	s.lines.Buffer(nil, limit)
	return s
}

// Next waits for the next event. At the end it returns io.EOF, within an event io.ErrUnexpectedEOF, ErrTooLong above
// the limit, or what the stream's Read returned.
func (r *Reader) Next() (Event, error) {
	ev, has := Event{}, false
	r.data = r.data[:0]
	for r.lines.Scan() {
		line := r.lines.Bytes()
		if len(line) == 0 {
			if has {
				ev.Data = r.data
				return ev, nil
			}
			ev = Event{}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			ev.Name = string(value)
		case "data":
			if has {
				r.data = append(r.data, '\n')
			}
			has, r.data = true, append(r.data, value...)
			if len(r.data) > r.limit {
				return Event{}, r.tooLong()
			}
		}
	}
	switch err := r.lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return Event{}, r.tooLong()
	case err != nil:
		return Event{}, err
	case has:
		return Event{}, io.ErrUnexpectedEOF
	}
	return Event{}, io.EOF
}

func (r *Reader) tooLong() error { return fmt.Errorf("%w: more than %d bytes", ErrTooLong, r.limit) }
