package quant

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// ErrGGML is wrapped by every error of DecodeGGML.
var ErrGGML = errors.New("ggml tensor")

// GGMLType is the number by which GGUF files name a tensor format (enum ggml_type).
type GGMLType uint32

// The formats that DecodeGGML reads.
const (
	GGMLF32  GGMLType = 0
	GGMLF16  GGMLType = 1
	GGMLQ40  GGMLType = 2
	GGMLQ41  GGMLType = 3
	GGMLQ50  GGMLType = 6
	GGMLQ51  GGMLType = 7
	GGMLQ80  GGMLType = 8
	GGMLQ4K  GGMLType = 12
	GGMLQ5K  GGMLType = 13
	GGMLQ6K  GGMLType = 14
	GGMLBF16 GGMLType = 30
)

// ggmlFormat is how a format is stored: blocks of blockLen values in blockBytes bytes. layout is the layout that
// DecodeGGML returns; decode is nil for formats of which only the size is known.
type ggmlFormat struct {
	name                 string
	blockLen, blockBytes int
	layout               ggmlLayout
	decode               func(m *Matrix, data []byte)
}

// ggmlLayout is the form of the Matrix that a format becomes. groupLen 0 means plain values that alias the data.
type ggmlLayout struct {
	layout    Layout
	groupLen  int
	mins      bool
	zero      int
	scalesF16 bool
}

var ggmlFormats = map[GGMLType]ggmlFormat{
	GGMLF32:  {name: "F32", blockLen: 1, blockBytes: 4, layout: ggmlLayout{layout: F32}, decode: aliasGGML},
	GGMLF16:  {name: "F16", blockLen: 1, blockBytes: 2, layout: ggmlLayout{layout: F16}, decode: aliasGGML},
	GGMLBF16: {name: "BF16", blockLen: 1, blockBytes: 2, layout: ggmlLayout{layout: BF16}, decode: aliasGGML},
	GGMLQ40: {name: "Q4_0", blockLen: 32, blockBytes: 18,
		layout: ggmlLayout{layout: Int4, groupLen: 32, zero: 8, scalesF16: true}, decode: decodeQ40},
	GGMLQ41: {name: "Q4_1", blockLen: 32, blockBytes: 20,
		layout: ggmlLayout{layout: Int4, groupLen: 32, mins: true, scalesF16: true}, decode: decodeQ41},
	GGMLQ50: {name: "Q5_0", blockLen: 32, blockBytes: 22,
		layout: ggmlLayout{layout: Int8, groupLen: 32, scalesF16: true}, decode: decodeQ50},
	GGMLQ51: {name: "Q5_1", blockLen: 32, blockBytes: 24,
		layout: ggmlLayout{layout: Int8, groupLen: 32, mins: true, scalesF16: true}, decode: decodeQ51},
	GGMLQ80: {name: "Q8_0", blockLen: 32, blockBytes: 34,
		layout: ggmlLayout{layout: Int8, groupLen: 32, scalesF16: true}, decode: decodeQ80},
	GGMLQ4K: {name: "Q4_K", blockLen: 256, blockBytes: 144, layout: ggmlLayout{layout: Int4, groupLen: 32, mins: true},
		decode: decodeQ4K},
	GGMLQ5K: {name: "Q5_K", blockLen: 256, blockBytes: 176, layout: ggmlLayout{layout: Int8, groupLen: 32, mins: true},
		decode: decodeQ5K},
	GGMLQ6K: {name: "Q6_K", blockLen: 256, blockBytes: 210, layout: ggmlLayout{layout: Int8, groupLen: 16},
		decode: decodeQ6K},

	9:  {name: "Q8_1", blockLen: 32, blockBytes: 40},
	10: {name: "Q2_K", blockLen: 256, blockBytes: 84},
	11: {name: "Q3_K", blockLen: 256, blockBytes: 110},
	15: {name: "Q8_K", blockLen: 256, blockBytes: 292},
	16: {name: "IQ2_XXS", blockLen: 256, blockBytes: 66},
	17: {name: "IQ2_XS", blockLen: 256, blockBytes: 74},
	18: {name: "IQ3_XXS", blockLen: 256, blockBytes: 98},
	19: {name: "IQ1_S", blockLen: 256, blockBytes: 50},
	20: {name: "IQ4_NL", blockLen: 32, blockBytes: 18},
	21: {name: "IQ3_S", blockLen: 256, blockBytes: 110},
	22: {name: "IQ2_S", blockLen: 256, blockBytes: 82},
	23: {name: "IQ4_XS", blockLen: 256, blockBytes: 136},
	24: {name: "I8", blockLen: 1, blockBytes: 1},
	25: {name: "I16", blockLen: 1, blockBytes: 2},
	26: {name: "I32", blockLen: 1, blockBytes: 4},
	27: {name: "I64", blockLen: 1, blockBytes: 8},
	28: {name: "F64", blockLen: 1, blockBytes: 8},
	29: {name: "IQ1_M", blockLen: 256, blockBytes: 56},
	34: {name: "TQ1_0", blockLen: 256, blockBytes: 54},
	35: {name: "TQ2_0", blockLen: 256, blockBytes: 66},
	39: {name: "MXFP4", blockLen: 32, blockBytes: 17},
	40: {name: "NVFP4", blockLen: 64, blockBytes: 36},
}

// String returns ggml's name of the format, or its number where it is unknown.
func (t GGMLType) String() string {
	if f, ok := ggmlFormats[t]; ok {
		return f.name
	}
	return fmt.Sprintf("ggml type %d", uint32(t))
}

// Block returns how many values a block holds and in how many bytes; ok is false for an unknown format.
func (t GGMLType) Block() (values, bytes int, ok bool) {
	f, ok := ggmlFormats[t]
	return f.blockLen, f.blockBytes, ok
}

// GGMLSupported lists the formats that DecodeGGML reads, for messages.
func GGMLSupported() string {
	var names []string
	for _, t := range []GGMLType{GGMLF32, GGMLF16, GGMLBF16, GGMLQ80, GGMLQ40, GGMLQ41, GGMLQ50, GGMLQ51, GGMLQ4K,
		GGMLQ5K, GGMLQ6K} {
		names = append(names, t.String())
	}
	return strings.Join(names, ", ")
}

// DecodeGGML turns the stored rows of a ggml tensor into a Matrix without loss: Matrix's formula in float32 gives bit
// for bit what ggml's dequantization gives. F32, F16 and BF16 alias data; every other format is unpacked into new
// memory. data must be exactly rows*cols values.
//
//	Q8_0 → Int8 groups of 32           Q4_0 → Int4 groups of 32, Zero 8    Q4_1 → Int4 groups of 32, Mins
//	Q5_0 → Int8 groups of 32 (q-16)    Q5_1 → Int8 groups of 32, Mins
//	Q4_K → Int4 groups of 32, Mins     Q5_K → Int8 groups of 32, Mins      Q6_K → Int8 groups of 16 (q-32)
func DecodeGGML(t GGMLType, data []byte, rows, cols int) (*Matrix, error) {
	f, ok := ggmlFormats[t]
	if !ok || f.decode == nil {
		return nil,
			fmt.Errorf("%w: format %s (%d) is not read; supported are %s", ErrGGML, t, uint32(t), GGMLSupported())
	}
	if rows <= 0 || cols <= 0 || rows > math.MaxInt/cols {
		return nil, fmt.Errorf("%w: shape [%d, %d] has no values or too many", ErrGGML, rows, cols)
	}
	if cols%f.blockLen != 0 {
		return nil, fmt.Errorf("%w: %d columns are not a multiple of the %d values in a %s block", ErrGGML, cols,
			f.blockLen, f.name)
	}
	blocks := rows * (cols / f.blockLen)
	if len(data)/f.blockBytes != blocks || len(data)%f.blockBytes != 0 {
		return nil, fmt.Errorf("%w: %s [%d, %d] needs %d blocks of %d bytes, there are %d bytes", ErrGGML, f.name, rows,
			cols, blocks, f.blockBytes, len(data))
	}
	l := f.layout
	m := &Matrix{Layout: l.layout, Rows: rows, Cols: cols, GroupLen: l.groupLen, Zero: l.zero, ScalesF16: l.scalesF16}
	if l.groupLen > 0 {
		m.Data = make([]byte, rows*cols)
		m.Scales = make([]float32, rows*cols/l.groupLen)
	}
	if l.mins {
		m.Mins = make([]float32, len(m.Scales))
	}
	f.decode(m, data)
	return m, nil
}

func aliasGGML(m *Matrix, data []byte) { m.Data = data }

// Eight codes at a time in a uint64, one a byte.
const (
	nibbles = 0x0f0f0f0f0f0f0f0f
	ones    = 0x0101010101010101
	threes  = 0x0303030303030303
	tops    = 0x8080808080808080
)

// minus subtracts k (at most 127) from each of eight codes below 128, as int8.
func minus(codes uint64, k uint64) uint64 { return ((codes | tops) - k*ones) ^ tops }

// sixteens spreads eight bits over eight bytes: bit i set makes byte i 16.
func sixteens(bits byte) uint64 {
	picked := uint64(bits) * ones & 0x8040201008040201
	return ((picked + 0x7f7f7f7f7f7f7f7f) & tops) >> 3
}

// decodeQ40: d f16, 16 bytes of nibbles; byte j holds value j (low) and j+16 (high). w = d*(q-8).
func decodeQ40(m *Matrix, data []byte) {
	for b := range m.Scales {
		blk, out := data[b*18:][:18], m.Data[b*32:][:32]
		m.Scales[b] = half(blk)
		unpackNibbles(out, blk[2:])
	}
}

// decodeQ41: d f16, m f16, nibbles as Q4_0. w = d*q + m.
func decodeQ41(m *Matrix, data []byte) {
	for b := range m.Scales {
		blk, out := data[b*20:][:20], m.Data[b*32:][:32]
		m.Scales[b], m.Mins[b] = half(blk), half(blk[2:])
		unpackNibbles(out, blk[4:])
	}
}

func unpackNibbles(out, packed []byte) {
	lo, hi := binary.LittleEndian.Uint64(packed), binary.LittleEndian.Uint64(packed[8:])
	binary.LittleEndian.PutUint64(out, lo&nibbles)
	binary.LittleEndian.PutUint64(out[8:], hi&nibbles)
	binary.LittleEndian.PutUint64(out[16:], lo>>4&nibbles)
	binary.LittleEndian.PutUint64(out[24:], hi>>4&nibbles)
}

// decodeQ50: d f16, 32 fifth bits, nibbles as Q4_0. w = d*(q-16).
func decodeQ50(m *Matrix, data []byte) {
	for b := range m.Scales {
		blk, out := data[b*22:][:22], m.Data[b*32:][:32]
		m.Scales[b] = half(blk)
		unpackNibbles(out, blk[6:])
		for i := range 4 {
			o := out[8*i:][:8]
			q := binary.LittleEndian.Uint64(o) | sixteens(blk[2+i])
			binary.LittleEndian.PutUint64(o, minus(q, 16))
		}
	}
}

// decodeQ51: d f16, m f16, 32 fifth bits, nibbles as Q4_0. w = d*q + m.
func decodeQ51(m *Matrix, data []byte) {
	for b := range m.Scales {
		blk, out := data[b*24:][:24], m.Data[b*32:][:32]
		m.Scales[b], m.Mins[b] = half(blk), half(blk[2:])
		unpackNibbles(out, blk[8:])
		for i := range 4 {
			o := out[8*i:][:8]
			binary.LittleEndian.PutUint64(o, binary.LittleEndian.Uint64(o)|sixteens(blk[4+i]))
		}
	}
}

// decodeQ80: d f16, 32 int8. w = d*q.
func decodeQ80(m *Matrix, data []byte) {
	for b := range m.Scales {
		blk := data[b*34:][:34]
		m.Scales[b] = half(blk)
		copy(m.Data[b*32:][:32], blk[2:])
	}
}

// scalesK unpacks the 12 bytes of eight 6-bit scales and eight 6-bit mins of Q4_K and Q5_K into the groups at b*8:
// scale d*sc, min -(dmin*m), both exact in float32 (11 + 6 bits).
func scalesK(m *Matrix, b int, blk []byte) {
	d, dmin, s := half(blk), half(blk[2:]), blk[4:16]
	scales, mins := m.Scales[b*8:][:8], m.Mins[b*8:][:8]
	for j := range 8 {
		var sc, mn byte
		if j < 4 {
			sc, mn = s[j]&63, s[j+4]&63
		} else {
			sc, mn = s[j+4]&15|s[j-4]>>6<<4, s[j+4]>>4|s[j]>>6<<4
		}
		scales[j], mins[j] = d*float32(sc), -(dmin * float32(mn))
	}
}

// decodeQ4K: d f16, dmin f16, 12 bytes of scales, 128 bytes of nibbles; 32 bytes hold 32 values (low), then 32 (high).
// w = d*sc*q - dmin*m.
func decodeQ4K(m *Matrix, data []byte) {
	for b := range len(m.Scales) / 8 {
		blk, out := data[b*144:][:144], m.Data[b*256:][:256]
		scalesK(m, b, blk)
		for i := 0; i < 128; i += 8 {
			q := binary.LittleEndian.Uint64(blk[16+i:])
			o := i/32*64 + i%32
			binary.LittleEndian.PutUint64(out[o:], q&nibbles)
			binary.LittleEndian.PutUint64(out[o+32:], q>>4&nibbles)
		}
	}
}

// decodeQ5K: as Q4_K with 32 bytes of fifth bits before the nibbles; bit 2c of byte l belongs to low value l of chunk
// c, bit 2c+1 to the high one.
func decodeQ5K(m *Matrix, data []byte) {
	for b := range len(m.Scales) / 8 {
		blk, out := data[b*176:][:176], m.Data[b*256:][:256]
		scalesK(m, b, blk)
		for i := 0; i < 128; i += 8 {
			q, h := binary.LittleEndian.Uint64(blk[48+i:]), binary.LittleEndian.Uint64(blk[16+i%32:])>>(i/32*2)
			o := i/32*64 + i%32
			binary.LittleEndian.PutUint64(out[o:], q&nibbles|h&ones<<4)
			binary.LittleEndian.PutUint64(out[o+32:], q>>4&nibbles|h>>1&ones<<4)
		}
	}
}

// decodeQ6K: 128 bytes of low nibbles, 64 bytes of upper pairs of bits, 16 int8 scales, d f16. w = d*sc*(q-32), d*sc
// exact in float32 (11 + 8 bits).
func decodeQ6K(m *Matrix, data []byte) {
	for b := range len(m.Scales) / 16 {
		blk, out := data[b*210:][:210], m.Data[b*256:][:256]
		d := half(blk[208:])
		for j := range 16 {
			m.Scales[b*16+j] = d * float32(int8(blk[192+j]))
		}
		for i := 0; i < 64; i += 8 { // 8 bytes of upper bits: 8 values in each of 4 runs of 32
			n, l := i/32, i%32
			lo, hi := binary.LittleEndian.Uint64(blk[n*64+l:]), binary.LittleEndian.Uint64(blk[n*64+l+32:])
			h := binary.LittleEndian.Uint64(blk[128+i:])
			o := out[n*128+l:]
			binary.LittleEndian.PutUint64(o, minus(lo&nibbles|h&threes<<4, 32))
			binary.LittleEndian.PutUint64(o[32:], minus(hi&nibbles|h>>2&threes<<4, 32))
			binary.LittleEndian.PutUint64(o[64:], minus(lo>>4&nibbles|h>>4&threes<<4, 32))
			binary.LittleEndian.PutUint64(o[96:], minus(hi>>4&nibbles|h>>6&threes<<4, 32))
		}
	}
}

// half reads the little-endian binary16 at the head of b.
func half(b []byte) float32 { return F16ToF32(binary.LittleEndian.Uint16(b)) }
