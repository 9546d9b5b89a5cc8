package sse

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func read(in string, limit int) (events []string, err error) {
	r := NewReader(iotest.OneByteReader(strings.NewReader(in)), limit)
	for {
		ev, err := r.Next()
		if err != nil {
			return events, err
		}
		events = append(events, ev.Name+"|"+string(ev.Data))
	}
}

func TestReader(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for name, c := range map[string]struct {
		in   string
		want []string
		err  error
	}{
		"empty":             {"", nil, io.EOF},
		"events":            {"data: a\n\ndata: b\n\n", []string{"|a", "|b"}, io.EOF},
		"carriage returns":  {"data: a\r\n\r\ndata: b\r\n\r\n", []string{"|a", "|b"}, io.EOF},
		"no space":          {"data:a\n\ndata:  b\n\ndata\n\n", []string{"|a", "| b", "|"}, io.EOF},
		"names":             {"event: start\ndata: a\n\ndata: b\n\n", []string{"start|a", "|b"}, io.EOF},
		"several lines":     {"data: a\ndata: b\ndata:\n\n", []string{"|a\nb\n"}, io.EOF},
		"comments":          {": ping\n\n: ping\ndata: a\n: ping\n\nid: 1\nretry: 5\n\n", []string{"|a"}, io.EOF},
		"name without data": {"event: start\n\ndata: a\n\n", []string{"|a"}, io.EOF},
		"cut":               {"data: a\n\ndata: b\n", []string{"|a"}, io.ErrUnexpectedEOF},
		"cut in a line":     {"data: a\n\ndata: b", []string{"|a"}, io.ErrUnexpectedEOF},
		"long line":         {"data: " + long + "\n\n", []string{"|" + long}, io.EOF},
		"too long line":     {"data: " + long + long + "\n\n", nil, ErrTooLong},
		"too many lines":    {"data: a\n\n" + strings.Repeat("data: xxxxxxx\n", 20_000), []string{"|a"}, ErrTooLong},
	} {
		got, err := read(c.in, 100_000)
		if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: %d events, %v, want %d, %v", name, len(got), err, len(c.want), c.err)
		}
	}
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(strings.NewReader("data: a\n\n"), iotest.ErrReader(broken)), 100)
	if _, err := r.Next(); err != nil {
		t.Error(err)
	}
	if _, err := r.Next(); !errors.Is(err, broken) {
		t.Errorf("a stream that breaks: %v", err)
	}
}
