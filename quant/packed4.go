package quant

import (
	"errors"
	"fmt"
	"math"
)

// ErrPacked4 is wrapped by every error about AWQ's and GPTQ's packed tensors.
var ErrPacked4 = errors.New("malformed packed weights")

// awqOrder is the column, among eight, of each nibble of a word of AWQ's GEMM format, the lowest first.
var awqOrder = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

// PackedAWQ is a linear layer in AutoAWQ's GEMM format, transposed: eight adjacent outputs in a word.
//
//	w[o, i] = (q[i, o] - z[i/GroupLen, o]) * scale[i/GroupLen, o]
type PackedAWQ struct {
	In, Out, GroupLen int
	QWeight           []int32   // [In, Out/8]
	QZeros            []int32   // [In/GroupLen, Out/8]
	Scales            []float32 // [In/GroupLen, Out], binary16 values
}

// Matrix returns the weight in the Int4 layout, without loss: scale*q + (-scale*z) is exact in float32 where scale is a
// binary16 value.
func (p *PackedAWQ) Matrix() (*Matrix, error) {
	if err := checkPacked("AWQ", p.In, p.Out, p.GroupLen, p.Out); err != nil {
		return nil, err
	}
	groups := p.In / p.GroupLen
	if len(p.QWeight) != p.In*p.Out/8 || len(p.QZeros) != groups*p.Out/8 || len(p.Scales) != groups*p.Out {
		return nil, packedLengths("AWQ", p.In, p.Out, p.GroupLen, len(p.QWeight), len(p.QZeros), len(p.Scales))
	}
	m := newPacked(p.Out, p.In, p.GroupLen)
	zeros := make([]int, len(m.Scales))
	for i := range p.In {
		for w, word := range p.QWeight[i*p.Out/8:][:p.Out/8] {
			for n, c := range awqOrder {
				m.Data[(8*w+c)*p.In+i] = byte(uint32(word)>>(4*n)) & 15
			}
		}
	}
	for g := range groups {
		for w, word := range p.QZeros[g*p.Out/8:][:p.Out/8] {
			for n, c := range awqOrder {
				zeros[(8*w+c)*groups+g] = int(uint32(word) >> (4 * n) & 15)
			}
		}
		for o := range p.Out {
			m.Scales[o*groups+g] = p.Scales[g*p.Out+o]
		}
	}
	m.setZeros(zeros)
	return m, nil
}

// PackedGPTQ is a linear layer in AutoGPTQ's format, transposed: eight adjacent inputs in a word of QWeight, eight
// outputs in one of QZeros.
//
//	w[o, i] = (q[i, o] - z[g, o]) * scale[g, o],  g = GroupOf[i], or i/GroupLen where GroupOf is nil
type PackedGPTQ struct {
	In, Out, GroupLen int
	QWeight           []int32   // [In/8, Out]
	QZeros            []int32   // [In/GroupLen, Out/8]
	Scales            []float32 // [In/GroupLen, Out], binary16 values
	GroupOf           []int32   // [In] ("g_idx") or nil
	ZeroLess          int       // QZeros stores z minus this: 1 in the first version of the format, 0 in "gptq_v2"
}

// Matrix returns the weight in the Int4 layout, without loss; or, if the inputs of a group are not adjacent
// ("act-order"), in F16, each value rounded once, which is what AutoGPTQ computes with.
func (p *PackedGPTQ) Matrix() (*Matrix, error) {
	if err := checkPacked("GPTQ", p.In, p.Out, p.GroupLen, p.In); err != nil {
		return nil, err
	}
	groups := p.In / p.GroupLen
	if p.Out%8 != 0 || len(p.QWeight) != p.In/8*p.Out || len(p.QZeros) != groups*p.Out/8 ||
		len(p.Scales) != groups*p.Out {
		return nil, packedLengths("GPTQ", p.In, p.Out, p.GroupLen, len(p.QWeight), len(p.QZeros), len(p.Scales))
	}
	inOrder := true
	if p.GroupOf != nil {
		if len(p.GroupOf) != p.In {
			return nil, fmt.Errorf("%w: GPTQ: g_idx has %d entries for %d inputs", ErrPacked4, len(p.GroupOf), p.In)
		}
		for i, g := range p.GroupOf {
			if g < 0 || int(g) >= groups {
				return nil, fmt.Errorf("%w: GPTQ: g_idx[%d] = %d is not one of %d groups", ErrPacked4, i, g, groups)
			}
			inOrder = inOrder && int(g) == i/p.GroupLen
		}
	}
	m := newPacked(p.Out, p.In, p.GroupLen)
	for r := range p.In / 8 {
		for o, word := range p.QWeight[r*p.Out:][:p.Out] {
			for n := range 8 {
				m.Data[o*p.In+8*r+n] = byte(uint32(word)>>(4*n)) & 15
			}
		}
	}
	zeros := make([]int, len(m.Scales))
	for g := range groups {
		for o := range p.Out {
			zeros[o*groups+g] = int(uint32(p.QZeros[(g*p.Out+o)/8])>>(4*(o%8))&15) + p.ZeroLess
			m.Scales[o*groups+g] = p.Scales[g*p.Out+o]
		}
	}
	if inOrder {
		m.setZeros(zeros)
		return m, nil
	}
	return p.halves(m, zeros), nil
}

// halves computes the values of codes whose groups are scattered over the row.
func (p *PackedGPTQ) halves(codes *Matrix, zeros []int) *Matrix {
	groups := p.In / p.GroupLen
	m := &Matrix{Layout: F16, Rows: p.Out, Cols: p.In, Data: make([]byte, 0, 2*len(codes.Data))}
	for k, q := range codes.Data {
		at := k/p.In*groups + int(p.GroupOf[k%p.In])
		h := F32ToF16(codes.Scales[at] * float32(int(q)-zeros[at]))
		m.Data = append(m.Data, byte(h), byte(h>>8))
	}
	return m
}

func checkPacked(format string, in, out, groupLen, packed int) error {
	switch {
	case in < 1 || out < 1 || in > math.MaxInt/16/out:
		return fmt.Errorf("%w: %s: shape [%d, %d]", ErrPacked4, format, out, in)
	case groupLen < 1 || in%groupLen != 0:
		return fmt.Errorf("%w: %s: %d inputs are no multiple of the group of %d", ErrPacked4, format, in, groupLen)
	case packed%8 != 0:
		return fmt.Errorf("%w: %s: %d values do not fill words of 8", ErrPacked4, format, packed)
	}
	return nil
}

func packedLengths(format string, in, out, groupLen, weights, zeros, scales int) error {
	return fmt.Errorf("%w: %s [%d, %d] in groups of %d: %d words of weights, %d of zeros, %d scales", ErrPacked4,
		format, out, in, groupLen, weights, zeros, scales)
}

func newPacked(rows, cols, groupLen int) *Matrix {
	return &Matrix{Layout: Int4, Rows: rows, Cols: cols, GroupLen: groupLen, Data: make([]byte, rows*cols),
		Scales: make([]float32, rows*(cols/groupLen))}
}

// setZeros gives the groups their zero-points: one for the whole matrix where all are equal, else as mins.
func (m *Matrix) setZeros(zeros []int) {
	common := zeros[0] <= 15
	for _, z := range zeros {
		common = common && z == zeros[0]
	}
	if common {
		m.Zero, m.ScalesF16 = zeros[0], true
		return
	}
	m.Mins = make([]float32, len(zeros))
	for g, z := range zeros {
		m.Mins[g] = -m.Scales[g] * float32(z)
	}
}
