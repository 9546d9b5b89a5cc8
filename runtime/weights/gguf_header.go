package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode"

	"weft/quant"
)

const ggufMagic = "GGUF"

// Limits of what is read; ggml's limits are 4 dimensions and, for tensors' names, 64 bytes.
const (
	maxGGUFDims      = 4
	maxGGUFNameBytes = 1024
	maxGGUFNesting   = 4 // arrays within arrays
	maxGGUFAlignment = 1 << 20
)

// The value types of GGUF metadata.
const (
	ggufUint8 = iota
	ggufInt8
	ggufUint16
	ggufInt16
	ggufUint32
	ggufInt32
	ggufFloat32
	ggufBool
	ggufString
	ggufArray
	ggufUint64
	ggufInt64
	ggufFloat64
)

// ggufMinBytes is the minimum size of a value of each type in the file; it bounds the length of arrays.
var ggufMinBytes = [...]int{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}

// ggufHeader is everything before the tensor data, checked.
type ggufHeader struct {
	version uint32
	meta    map[string]any
	tensors []ggufTensor
	metaEnd int // where the metadata ends in the file
}

// ggufTensor is one stored tensor; its blocks are data[begin:end) of the whole file.
type ggufTensor struct {
	name       string // GGUF's own
	typ        quant.GGMLType
	shape      []int // outermost first
	begin, end int
	heads      int // rows are interleaved for RoPE within this many heads; 0: they are not
	m          *mapping
}

// cursor reads little-endian values one after another. After the first failure, which it keeps, every value reads as
// zero.
type cursor struct {
	data []byte
	at   int
	err  error
}

// parseGGUF reads the header of a GGUF file (version 2 or 3) that is data. Format:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
func parseGGUF(data []byte) (*ggufHeader, error) {
	c := &cursor{data: data}
	if string(c.take(4, "magic")) != ggufMagic {
		return nil, fmt.Errorf("it does not begin with %q: not a GGUF file", ggufMagic)
	}
	h := &ggufHeader{version: c.u32("version"), meta: map[string]any{}}
	switch v := h.version; {
	case c.err != nil:
		return nil, c.err
	case v != 0 && v&0xffff == 0:
		return nil, fmt.Errorf("version %#x: big-endian GGUF is not read", v)
	case v != 2 && v != 3:
		return nil, fmt.Errorf("version %d is not read; supported are 2 and 3", v)
	}
	numTensors := c.count("number of tensors", 8+4+8+4+8)
	numMeta := c.count("number of metadata entries", 8+4+1)
	for i := 0; i < numMeta && c.err == nil; i++ {
		key := c.name("metadata key")
		value := c.value(c.u32("type of "+key), key, 0)
		if _, twice := h.meta[key]; twice && c.err == nil {
			c.fail("metadata key %q occurs twice", key)
		}
		h.meta[key] = value
	}
	h.metaEnd = c.at
	for i := 0; i < numTensors && c.err == nil; i++ {
		h.tensors = append(h.tensors, c.tensor())
	}
	if c.err != nil {
		return nil, c.err
	}
	return h, h.place(c.at, len(data))
}

// place turns the tensors' offsets into positions in the file and checks that they are aligned, inside the file,
// disjoint and of different names.
func (h *ggufHeader) place(headerEnd, fileEnd int) error {
	align := 32
	if v, ok := h.meta["general.alignment"]; ok {
		a, isU32 := v.(uint32)
		if !isU32 || a < 8 || a > maxGGUFAlignment || a&(a-1) != 0 {
			return fmt.Errorf("general.alignment is %v, not a power of two from 8 to %d", v, maxGGUFAlignment)
		}
		align = int(a)
	}
	base := (headerEnd + align - 1) / align * align
	names := map[string]bool{}
	for i := range h.tensors {
		t := &h.tensors[i]
		switch size := t.end - t.begin; {
		case names[t.name]:
			return fmt.Errorf("tensor %q occurs twice", t.name)
		case t.begin%align != 0:
			return fmt.Errorf("tensor %q: offset %d is not a multiple of the alignment %d", t.name, t.begin, align)
		case base > fileEnd || t.begin > fileEnd-base || size > fileEnd-base-t.begin:
			return fmt.Errorf(
				"tensor %q: its %d bytes at offset %d end after the file, which has %d bytes of data: the file is "+
					"truncated or damaged",
				t.name, size, t.begin, max(0, fileEnd-base))
		}
		names[t.name] = true
		t.begin, t.end = t.begin+base, t.end+base
	}
	sorted := slices.SortedFunc(slices.Values(h.tensors),
		func(a, b ggufTensor) int { return cmp.Compare(a.begin, b.begin) })
	for i := 1; i < len(sorted); i++ {
		if sorted[i].begin < sorted[i-1].end {
			return fmt.Errorf("tensors %q and %q overlap", sorted[i-1].name, sorted[i].name)
		}
	}
	return nil
}

// tensor reads one tensor's description; begin and end are relative to the data section and not yet checked against it.
func (c *cursor) tensor() ggufTensor {
	t := ggufTensor{name: c.name("tensor name")}
	numDims := c.u32("number of dimensions of " + t.name)
	if numDims < 1 || numDims > maxGGUFDims {
		c.fail("tensor %q has %d dimensions, not 1 to %d", t.name, numDims, maxGGUFDims)
		return t
	}
	values := uint64(1)
	for range numDims {
		d := c.u64("dimension of " + t.name)
		hi, lo := bits.Mul64(values, d)
		if c.err == nil && (d == 0 || hi != 0 || lo > math.MaxInt64/16 || lo > math.MaxInt) {
			c.fail("tensor %q: a dimension of %d makes no shape", t.name, d)
			return t
		}
		values = lo
		t.shape = append(t.shape, int(d))
	}
	t.typ = quant.GGMLType(c.u32("type of " + t.name))
	offset := c.u64("offset of " + t.name)
	if c.err != nil {
		return t
	}
	blockLen, blockBytes, known := t.typ.Block()
	switch {
	case !known:
		c.fail("tensor %q has the unknown ggml type %d; supported are %s", t.name, uint32(t.typ), quant.GGMLSupported())
		return t
	case t.shape[0]%blockLen != 0:
		c.fail("tensor %q: rows of %d values are not whole %s blocks of %d", t.name, t.shape[0], t.typ, blockLen)
		return t
	}
	hi, size := bits.Mul64(values/uint64(blockLen), uint64(blockBytes))
	if end, carry := bits.Add64(offset, size, 0); hi != 0 || carry != 0 || end > math.MaxInt {
		c.fail("tensor %q: offset %d and %d values overflow", t.name, offset, values)
		return t
	}
	t.begin, t.end = int(offset), int(offset+size)
	slices.Reverse(t.shape)
	return t
}

// value reads one metadata value of a type into its Go type.
func (c *cursor) value(typ uint32, key string, depth int) any {
	switch typ {
	case ggufUint8, ggufInt8, ggufUint16, ggufInt16, ggufUint32, ggufInt32, ggufFloat32, ggufBool, ggufUint64,
		ggufInt64, ggufFloat64:
		switch a := c.array(typ, 1, key, depth).(type) {
		case []uint8:
			return first(a)
		case []int8:
			return first(a)
		case []uint16:
			return first(a)
		case []int16:
			return first(a)
		case []uint32:
			return first(a)
		case []int32:
			return first(a)
		case []float32:
			return first(a)
		case []bool:
			return first(a)
		case []uint64:
			return first(a)
		case []int64:
			return first(a)
		case []float64:
			return first(a)
		}
		return nil
	case ggufString:
		return string(c.take(c.count("length of "+key, 1), key))
	case ggufArray:
		if depth == maxGGUFNesting {
			c.fail("%s: arrays are nested more than %d deep", key, maxGGUFNesting)
			return nil
		}
		elem := c.u32("element type of " + key)
		if c.err == nil && elem >= uint32(len(ggufMinBytes)) {
			c.fail("%s: unknown element type %d", key, elem)
		}
		if c.err != nil {
			return nil
		}
		return c.array(elem, c.count("length of "+key, ggufMinBytes[elem]), key, depth+1)
	}
	c.fail("%s: unknown value type %d", key, typ)
	return nil
}

func first[T any](a []T) T { return a[0] }

// array reads n values of a known type; n has been checked against the remaining bytes, except for single values.
func (c *cursor) array(typ uint32, n int, key string, depth int) any {
	switch typ {
	case ggufString:
		return c.strings(n, key)
	case ggufArray:
		out := make([]any, 0, n)
		for range n {
			out = append(out, c.value(ggufArray, key, depth))
			if c.err != nil {
				return nil
			}
		}
		return out
	}
	b := c.take(n*ggufMinBytes[typ], key)
	if c.err != nil {
		return nil
	}
	le := binary.LittleEndian
	switch typ {
	case ggufUint8:
		return slices.Clone(b)
	case ggufInt8:
		return decodeEach(n, func(i int) int8 { return int8(b[i]) })
	case ggufUint16:
		return decodeEach(n, func(i int) uint16 { return le.Uint16(b[2*i:]) })
	case ggufInt16:
		return decodeEach(n, func(i int) int16 { return int16(le.Uint16(b[2*i:])) })
	case ggufUint32:
		return decodeEach(n, func(i int) uint32 { return le.Uint32(b[4*i:]) })
	case ggufInt32:
		return decodeEach(n, func(i int) int32 { return int32(le.Uint32(b[4*i:])) })
	case ggufFloat32:
		return decodeEach(n, func(i int) float32 { return math.Float32frombits(le.Uint32(b[4*i:])) })
	case ggufUint64:
		return decodeEach(n, func(i int) uint64 { return le.Uint64(b[8*i:]) })
	case ggufInt64:
		return decodeEach(n, func(i int) int64 { return int64(le.Uint64(b[8*i:])) })
	case ggufFloat64:
		return decodeEach(n, func(i int) float64 { return math.Float64frombits(le.Uint64(b[8*i:])) })
	}
	for _, v := range b {
		if v > 1 {
			c.fail("%s: %d is no bool", key, v)
			return nil
		}
	}
	return decodeEach(n, func(i int) bool { return b[i] == 1 })
}

func decodeEach[T any](n int, at func(i int) T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = at(i)
	}
	return out
}

// strings reads n strings; they share one copy of their bytes.
func (c *cursor) strings(n int, key string) []string {
	start := c.at
	for i := 0; i < n && c.err == nil; i++ {
		c.take(c.count("length of a string of "+key, 1), key)
	}
	if c.err != nil {
		return nil
	}
	all := string(c.data[start:c.at])
	out := make([]string, n)
	for i, at := 0, 0; i < n; i++ {
		end := at + 8 + int(binary.LittleEndian.Uint64(c.data[start+at:]))
		out[i] = all[at+8 : end]
		at = end
	}
	return out
}

func (c *cursor) name(what string) string {
	n := c.count("length of a "+what, 1)
	if n > maxGGUFNameBytes {
		c.fail("a %s of %d bytes is longer than %d", what, n, maxGGUFNameBytes)
	}
	name := c.take(n, what)
	if i := bytes.IndexFunc(name, unicode.IsControl); i >= 0 {
		c.fail("a %s has control characters: %q", what, name)
	}
	return string(name)
}

// count reads the number of elements of at least minBytes each that follow, and refuses more than fit in the rest of
// the file.
func (c *cursor) count(what string, minBytes int) int {
	n := c.u64(what)
	if left := len(c.data) - c.at; c.err == nil && n > uint64(left/minBytes) {
		c.fail("%s is %d, but only %d bytes follow: the file is truncated or damaged", what, n, left)
	}
	if c.err != nil {
		return 0
	}
	return int(n)
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64(what string) uint64 {
	if b := c.take(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// take returns the next n bytes, or nil after a failure. The result aliases the file.
func (c *cursor) take(n int, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.data)-c.at {
		c.fail("%s needs %d bytes, %d are left: the file is cut short", what, n, len(c.data)-c.at)
		return nil
	}
	b := c.data[c.at : c.at+n : c.at+n]
	c.at += n
	return b
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("at byte %d: %s", c.at, fmt.Sprintf(format, args...))
	}
}
