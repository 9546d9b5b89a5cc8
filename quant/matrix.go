// Package quant holds the weight layouts and their mathematics over slices: how file formats are converted to one of
// few layouts without loss, the value of each stored code, and how activations are quantized. It is a leaf: it imports
// nothing of weft.
package quant

// Layout is the representation of the values of a weight matrix. Many file formats map onto these few.
type Layout uint8

// The layouts (docs/ARCHITECTURE.md, "Weight layouts").
const (
	F32     Layout = iota // 4 bytes a value
	F16                   // IEEE binary16
	BF16                  // upper half of binary32
	Int8                  // one int8 code a value, scale (and optional min) per group
	Int4                  // one code 0..15 a value, scale (and zero-point or min) per group
	Lookup4               // one index 0..15 a value into 16 codes, absmax (Scales) per group: NF4, FP4, IQ4_NL, MXFP4
)

// Matrix is the device-neutral form of a weight W [Rows=Out, Cols=In] on its way from a file to a device: row-major,
// codes unpacked to one byte each. It is transient; a device packs it and keeps only the packed form.
//
// The value of a code q in column c of row r, with g = c/GroupLen and G = ceil(Cols/GroupLen), is, in float32
// arithmetic,
//
//	Int8:    Scales[r*G+g] * q                + Mins[r*G+g]   (Mins nil: no addition)
//	Int4:    Scales[r*G+g] * float32(q-Zero)  + Mins[r*G+g]   (Mins nil: no addition; Zero is 0 where Mins is set)
//	Lookup4: Scales[r*G+g] * Codes[q]
type Matrix struct {
	Layout     Layout
	Rows, Cols int
	// Data has F32/F16/BF16 little-endian values (it may alias a memory-mapped file), or one code byte per value.
	Data     []byte
	GroupLen int       // columns that share a scale; the last group of a row may be short
	Scales   []float32 // [Rows, G]
	Mins     []float32 // [Rows, G] or nil
	Zero     int       // Int4 only: the zero-point common to the whole matrix
	Codes    *[16]float32
	// ScalesF16 says that every scale and min is exactly a binary16 value, so that a device may store it in two bytes.
	ScalesF16 bool
}

// Groups returns the number of groups in a row.
func (m *Matrix) Groups() int {
	if m.GroupLen == 0 {
		return 0
	}
	return (m.Cols + m.GroupLen - 1) / m.GroupLen
}
