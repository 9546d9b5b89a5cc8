// Package tensor names element types, dimensions and views; it holds no storage and does no arithmetic.
//
// Dimension letters mean the same in Go, C and CUDA:
//
//	T tokens in the batch      S sequences            H hidden width
//	Hq, Hkv query / KV heads   D head width           F feed-forward width
//	V vocabulary               R adapter rank         P tokens per KV page
package tensor

import "fmt"

// DType is the type of one element.
type DType uint8

// Element types of weight files and of device buffers.
const (
	Invalid DType = iota
	F32
	F16  // IEEE 754 binary16
	BF16 // upper half of binary32
	F64
	I8
	U8
	I16
	I32
	I64
	Bool
)

var dtypes = [...]struct {
	name string
	size int
}{
	Invalid: {"invalid", 0}, F32: {"F32", 4}, F16: {"F16", 2}, BF16: {"BF16", 2}, F64: {"F64", 8},
	I8: {"I8", 1}, U8: {"U8", 1}, I16: {"I16", 2}, I32: {"I32", 4}, I64: {"I64", 8}, Bool: {"BOOL", 1},
}

// String returns the safetensors spelling of the type.
func (d DType) String() string {
	if int(d) >= len(dtypes) {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Size returns the bytes of one element, 0 for Invalid.
func (d DType) Size() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].size
}
