package weights

import (
	"cmp"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"unicode/utf8"
)

// Limits of one metadata value in a Description.
const (
	maxShownElements = 8
	maxShownBytes    = 512
)

// Description summarizes a model file for people and, as JSON, for programs.
type Description struct {
	Path         string         `json:"path"`
	Kind         string         `json:"kind"` // "safetensors", "safetensors folder" or "GGUF v3"
	Architecture string         `json:"architecture,omitempty"`
	Metadata     map[string]any `json:"metadata,omitempty"` // long strings and arrays are cut, see Elided
	Tensors      []TensorInfo   `json:"tensors"`            // by name
	Formats      []FormatTotal  `json:"formats"`            // by bytes, the largest first
	NumValues    int64          `json:"num_values"`
	NumBytes     int64          `json:"num_bytes"` // of the tensors; files hold headers and padding besides
}

// TensorInfo is one tensor of a Description.
type TensorInfo struct {
	Name     string `json:"name"`
	Shape    []int  `json:"shape"` // outermost first
	Format   string `json:"format"`
	NumBytes int64  `json:"num_bytes"`
	File     string `json:"file"` // base name
}

// FormatTotal sums the tensors of one format.
type FormatTotal struct {
	Format     string `json:"format"`
	NumTensors int    `json:"num_tensors"`
	NumValues  int64  `json:"num_values"`
	NumBytes   int64  `json:"num_bytes"`
}

// Elided replaces a metadata value that is too long to show: its first elements, or the head of a string.
type Elided struct {
	Len  int `json:"len"` // elements, or bytes of a string
	Head any `json:"head"`
}

// Describe opens a model as Open does, without reading tensors.
func Describe(path string) (*Description, error) {
	s, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	d := &Description{Path: path, Metadata: map[string]any{}}
	files := s
	if q, ok := s.(*Quantized); ok {
		files = q.tensorFiles
	}
	if p, ok := files.(*plain); ok {
		files = p.tensorFiles
	}
	switch s := files.(type) {
	case *GGUF:
		d.Kind, d.Architecture = fmt.Sprintf("GGUF v%d", s.Version()), s.Architecture()
		for k, v := range s.Meta() {
			d.Metadata[k] = elide(v)
		}
	case *Safetensors:
		d.Kind = "safetensors"
		d.addMetadata(s)
	case *Dir:
		d.Kind = "safetensors folder"
		for _, shard := range s.shards {
			d.addMetadata(shard)
		}
	}
	d.addTensors(s)
	return d, nil
}

func (d *Description) addMetadata(s *Safetensors) {
	for k, v := range s.meta {
		d.Metadata[k] = elide(v)
	}
}

func (d *Description) addTensors(s Source) {
	totals := map[string]*FormatTotal{}
	for _, name := range s.Names() {
		info, _ := s.Info(name)
		d.Tensors = append(d.Tensors, TensorInfo{name, info.Shape, info.Format, info.Bytes, filepath.Base(info.File)})
		n := int64(1)
		for _, dim := range info.Shape {
			n *= int64(dim)
		}
		t := totals[info.Format]
		if t == nil {
			t = &FormatTotal{Format: info.Format}
			totals[info.Format] = t
		}
		t.NumTensors, t.NumValues, t.NumBytes = t.NumTensors+1, t.NumValues+n, t.NumBytes+info.Bytes
		d.NumValues, d.NumBytes = d.NumValues+n, d.NumBytes+info.Bytes
	}
	for _, t := range totals {
		d.Formats = append(d.Formats, *t)
	}
	slices.SortFunc(d.Formats, func(a, b FormatTotal) int {
		return cmp.Or(cmp.Compare(b.NumBytes, a.NumBytes), cmp.Compare(a.Format, b.Format))
	})
}

// elide cuts long strings and arrays. NaN and infinities, which JSON lacks, become strings.
func elide(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) <= maxShownBytes {
			return v
		}
		n := maxShownBytes
		for n > 0 && !utf8.RuneStart(v[n]) {
			n--
		}
		return Elided{Len: len(v), Head: v[:n]}
	case float32:
		return finite(float64(v), v)
	case float64:
		return finite(v, v)
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return v
	}
	head := []any{} // a []uint8 would become base64
	for i := range min(r.Len(), maxShownElements) {
		head = append(head, elide(r.Index(i).Interface()))
	}
	if r.Len() > maxShownElements {
		return Elided{Len: r.Len(), Head: head}
	}
	return head
}

func finite(f float64, v any) any {
	if f-f != 0 {
		return fmt.Sprint(f)
	}
	return v
}
