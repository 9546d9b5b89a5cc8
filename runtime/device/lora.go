package device

import (
	"encoding/binary"
	"math"

	"weft/runtime/tensor"
)

// Region is memory inside a Buffer, from the byte Offset on, which is a multiple of the element's size. The zero Region
// is absent. Several regions may lie in one Buffer.
type Region struct {
	Buf    Buffer
	Offset int64
	DType  tensor.DType
}

// LoRAMatrices are the LoRA matrices of one adapter for one linear layer. Its memory is read only; the adapter's owner
// frees it.
//
//	A     [Rank, In] row-major, F32, F16 or BF16. Absent: the first Rank columns of X are the product with A
//	B     [ceil(Out/16)][Rank][16], F32, F16 or BF16: groups of LoRAPanel outputs, the last zero-padded (PackLoRAB)
//	Gain  F32 [Out] or absent (DoRA)
//	Bias  F32 [Out] or absent
type LoRAMatrices struct {
	A, B, Gain, Bias Region
	In, Out          int
	Rank             int     // 0: no A and B
	Scale            float32 // alpha/r, or alpha/sqrt(r) for rsLoRA
}

// Empty reports whether the layer is left unchanged. m may be nil.
func (m *LoRAMatrices) Empty() bool {
	return m == nil || m.Rank == 0 && m.Gain.Buf == nil && m.Bias.Buf == nil
}

// LoRASegment applies one adapter to the rows [Begin, End) of the batch.
type LoRASegment struct {
	Begin, End int
	Scale      float32       // multiplies M.Scale and M.Bias; must be 1 with M.Gain
	M          *LoRAMatrices // nil or empty: the adapter does not change this layer
}

// LoRAPart is the change of one linear layer.
type LoRAPart struct {
	Out      View          // [T, N]
	Segments []LoRASegment // disjoint and ascending; rows in none keep their bits
}

// LoRAArgs: Out[t] = Gain ⊙ (Out[t] + Scale·B(A x[t])) + Bias for the rows of each segment of each part, at the
// segment's own rank, without padding. The parts share X [T, In]; their Outs are disjoint from it and from one another.
type LoRAArgs struct {
	X     View
	Parts []LoRAPart
}

// LoRAPanel is the number of outputs in one group of B.
const LoRAPanel = 16

// LoRABBytes returns the bytes of a packed B.
func LoRABBytes(out, rank int, t tensor.DType) int64 {
	return (int64(out) + LoRAPanel - 1) / LoRAPanel * LoRAPanel * int64(rank) * int64(t.Size())
}

// PackLoRAB writes src, B [out, rank] row-major with elements of size bytes, to dst, which has LoRABBytes, in the order
// of LoRAMatrices.
func PackLoRAB(dst, src []byte, out, rank, size int) {
	if size == 2 {
		packB[[2]byte](dst, src, out, rank)
	} else {
		packB[[4]byte](dst, src, out, rank)
	}
}

func packB[E [2]byte | [4]byte](dst, src []byte, out, rank int) {
	var zero E
	size := len(zero)
	for panel := 0; panel < out; panel += LoRAPanel {
		lanes, first := min(LoRAPanel, out-panel), 0
		from := src[panel*rank*size:]
		if size == 2 && lanes == LoRAPanel {
			first = rank &^ 3
			packFours(dst[panel*rank*size:], from, rank)
		}
		for r := first; r < rank; r++ {
			to := dst[(panel*rank+r*LoRAPanel)*size:][:LoRAPanel*size]
			for l := range lanes {
				copy(to[l*size:][:size], from[(l*rank+r)*size:])
			}
			clear(to[lanes*size:])
		}
	}
}

// packFours packs a whole panel of elements of two bytes but for the last rank%4 of each row: four rows by four
// elements are turned in registers.
func packFours(dst, src []byte, rank int) {
	const low, high = 0x0000ffff0000ffff, 0xffff0000ffff0000
	for l := 0; l < LoRAPanel; l += 4 {
		r0, r1, r2, r3 := src[2*l*rank:][:2*rank], src[2*(l+1)*rank:][:2*rank], src[2*(l+2)*rank:][:2*rank],
			src[2*(l+3)*rank:][:2*rank]
		for r := 0; r+4 <= rank; r += 4 {
			a, b := binary.LittleEndian.Uint64(r0[2*r:]), binary.LittleEndian.Uint64(r1[2*r:])
			c, d := binary.LittleEndian.Uint64(r2[2*r:]), binary.LittleEndian.Uint64(r3[2*r:])
			even, odd := a&low|b&low<<16, a>>16&low|b&high
			even2, odd2 := c&low|d&low<<16, c>>16&low|d&high
			to := dst[2*(r*LoRAPanel+l):][: 6*LoRAPanel+8 : 6*LoRAPanel+8]
			binary.LittleEndian.PutUint64(to, even&math.MaxUint32|even2<<32)
			binary.LittleEndian.PutUint64(to[2*LoRAPanel:], odd&math.MaxUint32|odd2<<32)
			binary.LittleEndian.PutUint64(to[4*LoRAPanel:], even>>32|even2&^math.MaxUint32)
			binary.LittleEndian.PutUint64(to[6*LoRAPanel:], odd>>32|odd2&^math.MaxUint32)
		}
	}
}

// CheckLoRA checks LoRAArgs.
func CheckLoRA(a LoRAArgs) error {
	const op = "lora"
	if err := checkView(op, "x", a.X, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	for i := range a.Parts {
		p := &a.Parts[i]
		if err := checkView(op, "out", p.Out, a.X.Rows, p.Out.Cols); err != nil {
			return err
		}
		if overlap(p.Out, a.X) {
			return shapeErr(op, "out of part %d overlaps x", i)
		}
		for j := range i {
			if overlap(p.Out, a.Parts[j].Out) {
				return shapeErr(op, "the outs of parts %d and %d overlap", j, i)
			}
		}
		end := 0
		for j := range p.Segments {
			s := &p.Segments[j]
			if s.Begin < end || s.End < s.Begin || s.End > a.X.Rows {
				return shapeErr(op,
					"segment %d of part %d is [%d, %d): want ascending, disjoint segments in the rows [%d, %d)", j, i,
					s.Begin, s.End, end, a.X.Rows)
			}
			end = s.End
			if err := checkLoRAMatrices(s, j, a.X.Cols, p.Out.Cols); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkLoRAMatrices(s *LoRASegment, i, in, out int) error {
	const op = "lora"
	m := s.M
	if m.Empty() {
		return nil
	}
	if m.Rank < 0 || m.Out != out || m.A.Buf != nil && m.In != in || m.A.Buf == nil && m.Rank > in {
		return shapeErr(op, "segment %d: rank %d of a layer [%d, %d]; x has %d columns, out %d", i, m.Rank, m.Out, m.In,
			in, out)
	}
	if m.Gain.Buf != nil && s.Scale != 1 {
		return shapeErr(op, "segment %d: scale %v with a gain, which no sum of adapters has", i, s.Scale)
	}
	if m.Rank > 0 {
		if m.B.Buf == nil {
			return shapeErr(op, "segment %d: rank %d without B", i, m.Rank)
		}
		if m.A.Buf != nil && !m.A.contains(int64(m.Rank), int64(in)) {
			return shapeErr(op,
				"segment %d: A %v of [%d, %d] is no F32, F16 or BF16 inside its buffer of %d bytes, at an offset of "+
					"whole elements (%d)", i,
				m.A.DType, m.Rank, in, m.A.Buf.Bytes(), m.A.Offset)
		}
		if !m.B.contains(int64(m.Rank), (int64(out)+LoRAPanel-1)/LoRAPanel*LoRAPanel) {
			return shapeErr(op,
				"segment %d: B %v of [%d, %d] is no F32, F16 or BF16 inside its buffer of %d bytes, at an offset of "+
					"whole elements (%d)", i,
				m.B.DType, out, m.Rank, m.B.Buf.Bytes(), m.B.Offset)
		}
	}
	for _, v := range [...]Region{m.Gain, m.Bias} {
		if v.Buf != nil && (v.DType != tensor.F32 || !v.contains(1, int64(out))) {
			return shapeErr(op, "segment %d: a gain or bias at %d of its buffer of %d bytes is not [%d] of F32", i,
				v.Offset, v.Buf.Bytes(), out)
		}
	}
	return nil
}

// contains reports whether a float matrix [rows, cols] lies inside the region's buffer.
func (s *Region) contains(rows, cols int64) bool {
	if s.DType != tensor.F32 && s.DType != tensor.F16 && s.DType != tensor.BF16 {
		return false
	}
	size := int64(s.DType.Size())
	elems := (s.Buf.Bytes() - s.Offset) / size
	return s.Offset >= 0 && s.Offset <= s.Buf.Bytes() && s.Offset%size == 0 && (cols == 0 || rows <= elems/cols)
}
