package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"

	"weft/quant"
	"weft/runtime/device"
)

// form is a representation of a matrix.
type form struct {
	layout quant.Layout
	group  int // 0: the whole row
	mins   bool
	half   bool // ScalesF16
	zero   int
}

func (f form) String() string {
	if f.layout < quant.Int8 {
		return f.layout.String()
	}
	s := fmt.Sprintf("%v,group=%d", f.layout, f.group)
	if f.zero > 0 {
		s += fmt.Sprintf(",zero=%d", f.zero)
	}
	if f.mins {
		s += ",mins"
	}
	if f.half {
		s += ",half"
	}
	return s
}

// forms are what files become (GGUF, AWQ, GPTQ, int8 per row, NF4), and a few unusual group lengths.
var forms = []form{
	{layout: quant.F32}, {layout: quant.F16}, {layout: quant.BF16},
	{layout: quant.Int8, group: 16}, {layout: quant.Int8, group: 16, half: true},
	{layout: quant.Int8, group: 16, mins: true},
	{layout: quant.Int8, group: 32, half: true}, {layout: quant.Int8, group: 32},
	{layout: quant.Int8, group: 32, mins: true}, {layout: quant.Int8, group: 32, mins: true, half: true},
	{layout: quant.Int8}, {layout: quant.Int8, mins: true}, {layout: quant.Int8, group: 128},
	{layout: quant.Int8, group: 5, mins: true},
	{layout: quant.Int4, group: 32, zero: 8, half: true}, {layout: quant.Int4, group: 64, zero: 8},
	{layout: quant.Int4, group: 128, zero: 8, half: true},
	{layout: quant.Int4, group: 32, mins: true, half: true}, {layout: quant.Int4, group: 32, mins: true},
	{layout: quant.Int4, group: 64, mins: true, half: true}, {layout: quant.Int4, group: 128, mins: true},
	{layout: quant.Int4, zero: 7}, {layout: quant.Int4, group: 16, mins: true}, {layout: quant.Int4, group: 7},
	{layout: quant.Lookup4, group: 64}, {layout: quant.Lookup4, group: 64, half: true},
	{layout: quant.Lookup4, group: 32}, {layout: quant.Lookup4, group: 20}, {layout: quant.Lookup4},
}

// matrix returns a random matrix of a form. Each group has its own scale, extreme codes occur, and some groups have
// scale 0.
func (b *bench) matrix(f form, rows, cols int) *quant.Matrix {
	m := &quant.Matrix{Layout: f.layout, Rows: rows, Cols: cols, Zero: f.zero, ScalesF16: f.half}
	values := rows * cols
	switch f.layout {
	case quant.F32:
		m.Data = encode(b.normal(values))
		return m
	case quant.F16, quant.BF16:
		to := quant.F32ToF16
		if f.layout == quant.BF16 {
			to = quant.F32ToBF16
		}
		for range values {
			m.Data = binary.LittleEndian.AppendUint16(m.Data, to(float32(b.r.NormFloat64())))
		}
		return m
	}
	m.GroupLen = f.group
	if f.group == 0 {
		m.GroupLen = cols
	}
	m.Data = make([]byte, values)
	codeRange := float32(8)
	for i := range m.Data {
		m.Data[i] = byte(b.r.Uint32())
		if f.layout != quant.Int8 {
			m.Data[i] &= 15
		}
	}
	switch f.layout {
	case quant.Int8:
		codeRange = 128
	case quant.Lookup4:
		codeRange = 1
		m.Codes = new([16]float32)
		for i := range m.Codes {
			m.Codes[i] = float32(b.r.Float64()*2 - 1)
		}
		m.Codes[0], m.Codes[15] = -1, 1
	}
	groups := rows * m.Groups()
	exact := func(x float32) float32 {
		if f.half {
			return quant.F16ToF32(quant.F32ToF16(x))
		}
		return x
	}
	for range groups {
		s := exact(float32(math.Exp(b.r.NormFloat64())) / codeRange)
		switch b.r.IntN(20) {
		case 0:
			s = 0
		case 1:
			s = -s // Q4_0 and Q5_0 files have negative scales
		}
		m.Scales = append(m.Scales, s)
		if f.mins {
			m.Mins = append(m.Mins, exact(float32(b.r.NormFloat64())))
		}
	}
	return m
}

// load puts m on the device.
func (b *bench) load(m *quant.Matrix) device.Weight {
	b.Helper()
	w, err := b.d.LoadMatrix(device.Weights, m)
	b.must(err)
	b.own(w)
	if w.Rows() != m.Rows || w.Cols() != m.Cols || w.Layout() != m.Layout {
		b.Fatalf("loaded [%d, %d] of %v as [%d, %d] of %v", m.Rows, m.Cols, m.Layout, w.Rows(), w.Cols(), w.Layout())
	}
	return w
}

// product is x [rows, Cols] times m's transpose in float64, plus bias where there is one, and the tolerance of each
// value. Activations are rounded as the device's options say.
func (b *bench) product(m *quant.Matrix, x []float32, rows int, bias []float32) (want, tol []float64) {
	in := make([]float64, rows*m.Cols)
	for t := range rows {
		b.activations(m, x[t*m.Cols:][:m.Cols], in[t*m.Cols:][:m.Cols])
	}
	want, tol = make([]float64, rows*m.Rows), make([]float64, rows*m.Rows)
	w := make([]float32, m.Cols)
	groups := m.Groups()
	size := make([]float64, m.Cols) // |w|, and where a min may cancel against the code, both
	for n := range m.Rows {
		m.Row(n, w)
		for c := range size {
			size[c] = math.Abs(float64(w[c]))
			if m.Mins != nil {
				size[c] += 2 * math.Abs(float64(m.Mins[n*groups+c/m.GroupLen]))
			}
		}
		for t := range rows {
			var sum, abs float64
			for c, v := range in[t*m.Cols:][:m.Cols] {
				sum += v * float64(w[c])
				abs += math.Abs(v) * size[c]
			}
			if bias != nil {
				sum += float64(bias[n])
				abs += math.Abs(float64(bias[n]))
			}
			want[t*m.Rows+n], tol[t*m.Rows+n] = sum, float64(m.Cols+8)*b.o.Unit*abs
		}
	}
	return want, tol
}

func (b *bench) activations(m *quant.Matrix, x []float32, dst []float64) {
	switch {
	case b.o.Integer != nil && m.Layout >= quant.Int8 && b.o.Integer(m):
		q, s := make([]int8, len(x)), make([]float32, (len(x)+quant.ActGroup-1)/quant.ActGroup)
		quant.QuantizeActs(x, q, s)
		for i := range dst {
			dst[i] = float64(s[i/quant.ActGroup]) * float64(q[i])
		}
	case b.o.BF16Dots && m.Layout == quant.BF16:
		for i := range dst {
			dst[i] = float64(quant.BF16ToF32(quant.F32ToBF16(x[i])))
		}
	default:
		for i := range dst {
			dst[i] = float64(x[i])
		}
	}
}
