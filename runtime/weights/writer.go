package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
	"unicode/utf8"

	"weft/internal/durable"
)

// Tensor is one tensor to write: Data holds its values, little-endian and row-major.
type Tensor struct {
	DType string // as safetensors spells it
	Shape []int
	Data  []byte
}

// WriteSafetensors writes a file that OpenSafetensors and every other reader of the format accept: data from a multiple
// of 8 bytes on, wide dtypes first so that every value is aligned, then by name; metadata (may be nil) as __metadata__.
// The file is complete or absent: it is written next to path, synced, and renamed. Two calls with equal arguments write
// equal bytes.
func WriteSafetensors(path string, tensors map[string]Tensor, metadata map[string]string) error {
	header, err := encodeHeader(tensors, metadata)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err = durable.Replace(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, name := range writeOrder(tensors) {
			if _, err := w.Write(tensors[name].Data); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeOrder(tensors map[string]Tensor) []string {
	return slices.SortedFunc(maps.Keys(tensors), func(a, b string) int {
		return cmp.Or(cmp.Compare(dtypeBits[tensors[b].DType], dtypeBits[tensors[a].DType]), cmp.Compare(a, b))
	})
}

// encodeHeader returns the length and the JSON, padded with spaces so that the data begins at a multiple of 8.
func encodeHeader(tensors map[string]Tensor, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	sep := byte('{')
	field := func(key string, value any) error {
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		b.WriteByte(sep)
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
		sep = ','
		return nil
	}
	if len(metadata) > 0 {
		if err := field("__metadata__", metadata); err != nil {
			return nil, err
		}
	}
	at := 0
	for _, name := range writeOrder(tensors) {
		t := tensors[name]
		if err := checkTensor(name, t); err != nil {
			return nil, err
		}
		shape := append([]int{}, t.Shape...) // never null
		err := field(name, struct {
			DType   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{t.DType, shape, [2]int{at, at + len(t.Data)}})
		if err != nil {
			return nil, err
		}
		at += len(t.Data)
	}
	if sep == '{' {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	n := b.Len() - 8
	if n > MaxHeaderBytes {
		return nil, fmt.Errorf("the header would have %d bytes, more than %d", n, MaxHeaderBytes)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(n))
	return b.Bytes(), nil
}

func checkTensor(name string, t Tensor) error {
	size, known := dtypeBits[t.DType]
	if !known || name == "__metadata__" || !utf8.ValidString(name) {
		return fmt.Errorf("tensor %q: the dtype %q or the name cannot be written", name, t.DType)
	}
	for _, d := range t.Shape {
		hi, lo := bits.Mul64(size, uint64(d))
		if d < 0 || hi != 0 {
			return fmt.Errorf("tensor %q: shape %v makes no sense", name, t.Shape)
		}
		size = lo
	}
	if size%8 != 0 || size/8 != uint64(len(t.Data)) {
		return fmt.Errorf("tensor %q: %d bytes are not shape %v of %s", name, len(t.Data), t.Shape, t.DType)
	}
	return nil
}
