package dataset

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"

	"weft/finetune/data"
	"weft/internal/durable"
	"weft/internal/jinja"
)

// parquetWriter writes a Parquet file. Its columns must be known before the first row, so that the lines are first
// written to a file without name, while the fields that occur are noted.
type parquetWriter struct {
	path, to string
	spool    *os.File
	lines    *bufio.Writer
	samples  int
	fields   map[string]bool // of records, and "messages." and the field of messages
	draft    *durable.Draft
}

func newTable(path, to string) (*parquetWriter, error) {
	f, err := durable.Scratch(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return &parquetWriter{path: path, to: to, spool: f, lines: bufio.NewWriterSize(f, 1<<16),
		fields: map[string]bool{}}, nil
}

func (t *parquetWriter) write(line []byte) error {
	v, err := jinja.DecodeJSON(line)
	if err != nil {
		return err
	}
	m, _ := v.(*jinja.Map)
	t.note("", m)
	t.samples++
	_, err = t.lines.Write(line)
	return errors.Join(err, t.lines.WriteByte('\n'))
}

// note notes the fields that an object has.
func (t *parquetWriter) note(prefix string, m *jinja.Map) {
	for i := range m.Len() {
		k, v := m.At(i)
		key, _ := k.(string)
		t.fields[prefix+key] = true
		list, _ := v.([]any)
		for _, e := range list {
			if e, ok := e.(*jinja.Map); ok && prefix == "" && key != "tools" {
				t.note(key+".", e)
			}
		}
	}
}

// node is a column, or a group or list of columns.
type node struct {
	name    string
	integer bool
	list    bool
	fields  []*node // sorted by name, as package parquet orders them
}

func text(name string) *node { return &node{name: name} }

func group(name string, list bool, fields ...*node) *node {
	slices.SortFunc(fields, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return &node{name: name, list: list, fields: fields}
}

// messageFields are the fields of messages that have a column where they occur.
var messageFields = map[string]*node{
	"role": text("role"), "content": text("content"), "name": text("name"), "tool_call_id": text("tool_call_id"),
	"reasoning_content": text("reasoning_content"), "weight": {name: "weight", integer: true},
	"tool_calls": group("tool_calls", true, text("id"), text("type"),
		group("function", false, text("name"), text("arguments"))),
}

// columns returns the columns of the records that were written: those that can occur in the format, of which the
// optional ones only where they do.
func (t *parquetWriter) columns() []*node {
	var top []*node
	switch t.to {
	case data.ToMessages:
		var of []*node
		for _, name := range slices.Sorted(maps.Keys(messageFields)) {
			if t.fields["messages."+name] {
				of = append(of, messageFields[name])
			}
		}
		top = append(top, group("messages", true, of...))
	case data.ToAlpaca:
		top = append(top, text("instruction"), text("input"), text("output"))
		if t.fields["history"] {
			top = append(top, &node{name: "history", list: true, fields: []*node{{name: "element", list: true,
				fields: []*node{text("element")}}}})
		}
	default:
		top = append(top, group("conversations", true, text("from"), text("value")))
	}
	for _, name := range []string{"system", "tools", "conversation_id", "user"} {
		if t.fields[name] && !slices.ContainsFunc(top, func(n *node) bool { return n.name == name }) {
			top = append(top, text(name))
		}
	}
	return group("", false, top...).fields
}

func (t *parquetWriter) leftOut() (out []string) {
	for _, name := range slices.Sorted(maps.Keys(t.fields)) {
		if field, of := strings.CutPrefix(name, "messages."); of && messageFields[field] == nil {
			out = append(out, field)
		}
	}
	return out
}

// schema is the node as package parquet describes it.
func (n *node) schema() parquet.Node {
	switch {
	case n.list && len(n.fields) == 1 && n.fields[0].name == "element":
		return parquet.Optional(parquet.List(n.fields[0].schema()))
	case n.list:
		return parquet.Optional(parquet.List(parquet.Optional(n.members())))
	case n.fields != nil:
		return parquet.Optional(n.members())
	case n.integer:
		return parquet.Optional(parquet.Int(64))
	}
	return parquet.Optional(parquet.String())
}

func (n *node) members() parquet.Group {
	g := parquet.Group{}
	for _, f := range n.fields {
		g[f.name] = f.schema()
	}
	return g
}

// shredder turns records into rows: the values of each leaf column with their levels.
type shredder struct {
	row    parquet.Row
	column int
}

// add adds the value of a node, nil for none. rep is its repetition level, def the definition level of what holds it,
// depth the number of lists around it.
func (s *shredder) add(n *node, v any, rep, def, depth int) error {
	switch {
	case n.list:
		list, ok := v.([]any)
		if v != nil && !ok {
			return fmt.Errorf("%s is no list", n.name)
		}
		of, begin := n.element(), s.column
		if len(list) == 0 {
			empty := def
			if v != nil {
				empty++ // a list without elements
			}
			return s.add(of, nil, rep, empty, depth+1)
		}
		for i, e := range list {
			s.column = begin
			if i > 0 {
				rep = depth + 1
			}
			if err := s.add(of, e, rep, def+2, depth+1); err != nil {
				return err
			}
		}
		return nil
	case n.fields != nil:
		m, _ := v.(*jinja.Map)
		if v != nil && m == nil {
			return fmt.Errorf("%s is no object", n.name)
		}
		if m != nil {
			def++
		}
		for _, f := range n.fields {
			var field any
			if m != nil {
				field, _ = m.Get(f.name)
			}
			if err := s.add(f, field, rep, def, depth); err != nil {
				return err
			}
		}
		return nil
	}
	value, err := n.leaf(v)
	if err != nil {
		return err
	}
	if v != nil {
		def++
	}
	s.row = append(s.row, value.Level(rep, def, s.column))
	s.column++
	return nil
}

// element returns the node of a list's elements.
func (n *node) element() *node {
	if len(n.fields) == 1 && n.fields[0].name == "element" {
		return n.fields[0]
	}
	return &node{name: n.name, fields: n.fields}
}

func (n *node) leaf(v any) (parquet.Value, error) {
	switch v := v.(type) {
	case nil:
		return parquet.NullValue(), nil
	case int64:
		if n.integer {
			return parquet.Int64Value(v), nil
		}
	case string:
		if !n.integer {
			return parquet.ByteArrayValue([]byte(v)), nil
		}
	case []any:
		if text, ok := joined(v); ok && n.name == "content" {
			return parquet.ByteArrayValue([]byte(text)), nil
		}
	}
	if n.name == "tools" {
		text, err := data.MarshalJSON(v)
		return parquet.ByteArrayValue(text), err
	}
	return parquet.Value{}, fmt.Errorf("%s is neither text nor absent: give it as JSON Lines", n.name)
}

// joined returns the text of content in parts, if they are nothing but text.
func joined(parts []any) (string, bool) {
	var b strings.Builder
	for _, p := range parts {
		m, _ := p.(*jinja.Map)
		if m == nil {
			return "", false
		}
		v, _ := m.Get("text")
		s, ok := v.(string)
		if !ok {
			return "", false
		}
		b.WriteString(s)
	}
	return b.String(), true
}

// rowsInGroup and bytesInGroup bound a group of rows, which is in memory until it is written.
const (
	rowsInGroup  = 10_000
	bytesInGroup = 32 << 20
)

func (t *parquetWriter) publish() (out Output, err error) {
	if err := t.lines.Flush(); err != nil {
		return out, err
	}
	if _, err := t.spool.Seek(0, io.SeekStart); err != nil {
		return out, err
	}
	if t.draft, err = durable.NewDraft(t.path); err != nil {
		return out, err
	}
	out = Output{Path: t.path, Samples: t.samples}
	sum := sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(t.draft, sum, (*counted)(&out.Bytes)), 1<<16)
	if err := t.rows(buf); err != nil {
		return out, err
	}
	if err := buf.Flush(); err != nil {
		return out, err
	}
	out.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := t.draft.Publish(); err != nil {
		return out, err
	}
	return out, durable.SyncDir(filepath.Dir(t.path))
}

// rows writes the rows of the lines in the spool.
func (t *parquetWriter) rows(to io.Writer) error {
	columns := t.columns()
	top := &node{fields: columns}
	w := parquet.NewWriter(to, parquet.NewSchema("samples", top.members()), parquet.Compression(&parquet.Zstd),
		parquet.CreatedBy("weft", "", ""), parquet.DataPageStatistics(false))
	in := bufio.NewReaderSize(t.spool, 1<<16)
	var s shredder
	for n, size := 0, 0; ; {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return w.Close()
		}
		if err != nil {
			return err
		}
		v, err := jinja.DecodeJSON(line)
		if err != nil {
			return err
		}
		m, _ := v.(*jinja.Map)
		s.row, s.column = s.row[:0], 0
		for _, c := range columns {
			field, _ := m.Get(c.name)
			if err := s.add(c, field, 0, 0, 0); err != nil {
				return fmt.Errorf("%w: sample %d: %w", data.ErrBad, n+1, err)
			}
		}
		slices.SortStableFunc(s.row, func(a, b parquet.Value) int { return a.Column() - b.Column() })
		if _, err := w.WriteRows([]parquet.Row{s.row}); err != nil {
			return err
		}
		n++
		if size += len(line); n%rowsInGroup == 0 || size > bytesInGroup {
			if err := w.Flush(); err != nil {
				return err
			}
			size = 0
		}
	}
}

func (t *parquetWriter) discard() error {
	err := t.spool.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if t.draft != nil {
		err = errors.Join(err, t.draft.Discard())
	}
	return err
}
