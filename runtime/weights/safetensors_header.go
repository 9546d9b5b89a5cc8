package weights

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// MaxHeaderBytes is the longest safetensors header that is read, the limit of the format's own library.
const MaxHeaderBytes = 100_000_000

// maxDims bounds the rank of a safetensors tensor; the format itself names no limit.
const maxDims = 32

// dtypeBits is the size of a value of each dtype of the format.
var dtypeBits = map[string]uint64{
	"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
	"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
	"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}

// entry is one tensor of a safetensors file: its values lie at data[begin:end) of the whole file.
type entry struct {
	name       string
	dtype      string
	shape      []int
	begin, end int
}

// parseHeader reads the header of a safetensors file that is data. Afterwards the format's rules are satisfied: names
// are unique, sizes agree with shapes, and the tensors fill the rest of the file without hole or overlap.
func parseHeader(data []byte) (map[string]entry, map[string]string, error) {
	if len(data) < 8 {
		return nil, nil, fmt.Errorf("%d bytes are too few for a safetensors file", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	switch {
	case n > MaxHeaderBytes:
		return nil, nil,
			fmt.Errorf(
				"the first 8 bytes say that the header has %d bytes, more than %d: not a safetensors file, or a "+
					"hostile one", n, MaxHeaderBytes)
	case n > uint64(len(data)-8):
		return nil, nil,
			fmt.Errorf("the first 8 bytes say that the header has %d bytes, but only %d follow: the file is cut short",
				n, len(data)-8)
	case n == 0 || data[8] != '{':
		return nil, nil, fmt.Errorf("the header does not begin with '{'")
	}
	r, err := newJSONReader(data[8 : 8+n])
	if err != nil {
		return nil, nil, err
	}
	base := 8 + int(n)
	tensors, meta := map[string]entry{}, map[string]string{}
	err = r.object("header", func(key string) error {
		if key == "__metadata__" {
			return r.object(key, func(k string) (err error) {
				meta[k], err = r.text(key + "." + k)
				return err
			})
		}
		e, err := parseEntry(r, key, len(data)-base)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		e.begin, e.end = e.begin+base, e.end+base
		tensors[key] = e
		return nil
	})
	if err == nil {
		err = r.end()
	}
	if err == nil {
		err = checkFilled(tensors, base, len(data))
	}
	if err != nil {
		return nil, nil, err
	}
	return tensors, meta, nil
}

// parseEntry reads one tensor's description; begin and end are relative to the data, which has dataBytes.
func parseEntry(r *jsonReader, name string, dataBytes int) (entry, error) {
	e := entry{name: name}
	var shape, offsets []int64
	fields := 0
	err := r.object("description", func(key string) (err error) {
		fields++
		switch key {
		case "dtype":
			e.dtype, err = r.text(key)
		case "shape":
			shape, err = r.uints(key, maxDims)
		case "data_offsets":
			offsets, err = r.uints(key, 2)
		default:
			err = fmt.Errorf("unknown field %q", key)
		}
		return err
	})
	if err != nil {
		return e, err
	}
	size, known := dtypeBits[e.dtype]
	switch {
	case fields != 3:
		return e, fmt.Errorf("dtype, shape or data_offsets is missing")
	case !known:
		return e, fmt.Errorf("dtype %q is unknown", e.dtype)
	case len(offsets) != 2:
		return e, fmt.Errorf("data_offsets has %d values, want 2", len(offsets))
	case offsets[0] > offsets[1] || offsets[1] > int64(dataBytes):
		return e, fmt.Errorf("data_offsets %v are outside the %d bytes of data: the file is truncated or damaged",
			offsets, dataBytes)
	}
	var overflow bool
	e.shape = make([]int, len(shape))
	for i, d := range shape {
		e.shape[i] = int(d)
		hi, lo := bits.Mul64(size, uint64(d))
		overflow = overflow || hi != 0 || int64(e.shape[i]) != d
		size = lo
	}
	if overflow || size%8 != 0 || size/8 != uint64(offsets[1]-offsets[0]) {
		return e, fmt.Errorf("shape %v of %s does not take the %d bytes between data_offsets %v", shape, e.dtype,
			offsets[1]-offsets[0], offsets)
	}
	e.begin, e.end = int(offsets[0]), int(offsets[1])
	return e, nil
}

// checkFilled refuses holes and overlaps: the tensors, by offset, must tile [base, end).
func checkFilled(tensors map[string]entry, base, end int) error {
	sorted := make([]entry, 0, len(tensors))
	for _, e := range tensors {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	at, before := base, "the header"
	for _, e := range sorted {
		if e.begin < at {
			return fmt.Errorf("tensors %q and %s overlap", e.name, before)
		}
		if e.begin > at {
			return fmt.Errorf("%d bytes between %s and tensor %q belong to no tensor", e.begin-at, before, e.name)
		}
		at, before = e.end, fmt.Sprintf("%q", e.name)
	}
	if at != end {
		return fmt.Errorf("%d bytes after the last tensor belong to none", end-at)
	}
	return nil
}
