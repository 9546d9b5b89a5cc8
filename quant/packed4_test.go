package quant

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"weft/internal/numtest"
)

func (f *tensorFile) halves(name string) []float32 {
	f.t.Helper()
	b := f.bytes(name, "F16")
	out := make([]float32, len(b)/2)
	for i := range out {
		out[i] = half(b[2*i:])
	}
	return out
}

func (f *tensorFile) ints(name string) []int32 {
	f.t.Helper()
	b := f.bytes(name, "I32")
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

func readAWQ(t testing.TB, group int, name string) (*PackedAWQ, *tensorFile) {
	f := readTensors(t, "E_export", name)
	shape := f.header["qweight"].Shape
	return &PackedAWQ{In: shape[0], Out: 8 * shape[1], GroupLen: group, QWeight: f.ints("qweight"),
		QZeros: f.ints("qzeros"), Scales: f.halves("scales")}, f
}

func readGPTQ(t testing.TB, name string) (*PackedGPTQ, *tensorFile) {
	f := readTensors(t, "E_export", name)
	shape := f.header["qweight"].Shape
	return &PackedGPTQ{
		In: 8 * shape[0], Out: shape[1], GroupLen: 32, QWeight: f.ints("qweight"), QZeros: f.ints("qzeros"),
		Scales: f.halves("scales"), GroupOf: f.ints("g_idx"), ZeroLess: 1,
	}, f
}

// checkTransposed compares a matrix's values, rounded to binary16, with a golden stored [in, out], and its codes.
func checkTransposed(t *testing.T, m *Matrix, f *tensorFile) {
	t.Helper()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	want, codes, row := f.halves("dequantized_f16"), f.bytes("int4", "U8"), make([]float32, m.Cols)
	for r := range m.Rows {
		m.Row(r, row)
		for c, v := range row {
			if got := F16ToF32(F32ToF16(v)); got != want[c*m.Rows+r] {
				t.Fatalf("[%d, %d] = %v, want %v", r, c, got, want[c*m.Rows+r])
			}
			if m.Layout == Int4 && m.Data[r*m.Cols+c] != codes[c*m.Rows+r] {
				t.Fatalf("code [%d, %d] = %d, want %d", r, c, m.Data[r*m.Cols+c], codes[c*m.Rows+r])
			}
		}
	}
}

func TestAWQ(t *testing.T) {
	for name, group := range map[string]int{"awq_linear_g128.safetensors": 128, "awq_linear_g64.safetensors": 64,
		"awq_linear_g32.safetensors": 32} {
		p, f := readAWQ(t, group, name)
		m, err := p.Matrix()
		if err != nil {
			t.Fatal(err)
		}
		checkTransposed(t, m, f)
		// The layout is exact: scale*(q-z) is one rounding of nothing.
		row := make([]float32, m.Cols)
		zeros := f.bytes("zeros", "U8")
		m.Row(1, row)
		for c, v := range row {
			g := c / group
			if want := p.Scales[g*p.Out+1] * float32(int(m.Data[m.Cols+c])-int(zeros[g*p.Out+1])); v != want {
				t.Fatalf("%s: [1, %d] = %v, want %v", name, c, v, want)
			}
		}
	}
}

func TestGPTQ(t *testing.T) {
	for name, layout := range map[string]Layout{"gptq_linear.safetensors": Int4,
		"gptq_linear_actorder.safetensors": F16} {
		p, f := readGPTQ(t, name)
		m, err := p.Matrix()
		if err != nil {
			t.Fatal(err)
		}
		if m.Layout != layout {
			t.Errorf("%s became %v, want %v", name, m.Layout, layout)
		}
		checkTransposed(t, m, f)
	}
}

// One zero-point for all groups needs no mins.
func TestSymmetricGPTQ(t *testing.T) {
	p, _ := readGPTQ(t, "gptq_linear.safetensors")
	p.GroupOf = nil
	for i := range p.QZeros {
		p.QZeros[i] = 0x77777777
	}
	m, err := p.Matrix()
	if err != nil || m.Zero != 8 || m.Mins != nil || !m.ScalesF16 || m.Validate() != nil {
		t.Fatalf("zero %d, %d mins: %v", m.Zero, len(m.Mins), err)
	}
	want := make([]float32, p.In)
	for i := range want {
		want[i] = p.Scales[i/32*p.Out] * float32(int(p.QWeight[i/8*p.Out]>>(4*(i%8))&15)-8)
	}
	got := make([]float32, p.In)
	m.Row(0, got)
	numtest.Equal(t, "row", got, want)
	for i := range p.QZeros {
		p.QZeros[i] = -1 // zero-point 16
	}
	if m, err = p.Matrix(); err != nil || m.Mins == nil {
		t.Errorf("zero-point 16 became %d: %v", m.Zero, err)
	}
}

func TestPacked4Refuses(t *testing.T) {
	for _, c := range []struct {
		say   string
		spoil func(a *PackedAWQ, g *PackedGPTQ)
	}{
		{"shape [", func(a *PackedAWQ, g *PackedGPTQ) { a.In, g.In = 0, -1 }},
		{"no multiple of the group", func(a *PackedAWQ, g *PackedGPTQ) { a.GroupLen, g.GroupLen = 48, 0 }},
		{"do not fill words of 8", func(a *PackedAWQ, g *PackedGPTQ) { a.Out, g.In, g.GroupLen = 12, 12, 12 }},
		{"of zeros, ", func(a *PackedAWQ, g *PackedGPTQ) { a.QZeros, g.QZeros = a.QZeros[1:], g.QZeros[1:] }},
		{"words of weights", func(a *PackedAWQ, g *PackedGPTQ) { a.QWeight, g.QWeight = nil, nil }},
		{"scales", func(a *PackedAWQ, g *PackedGPTQ) { a.Scales, g.Scales = a.Scales[1:], g.Scales[1:] }},
		{"g_idx[3] = 4 is not one of 4 groups", func(a *PackedAWQ, g *PackedGPTQ) { a.In, g.GroupOf[3] = 0, 4 }},
		{"g_idx has 127 entries", func(a *PackedAWQ, g *PackedGPTQ) { a.In, g.GroupOf = 0, g.GroupOf[1:] }},
	} {
		a, _ := readAWQ(t, 64, "awq_linear_g64.safetensors")
		g, _ := readGPTQ(t, "gptq_linear.safetensors")
		c.spoil(a, g)
		_, err1 := a.Matrix()
		_, err2 := g.Matrix()
		if !errors.Is(err1, ErrPacked4) || !errors.Is(err2, ErrPacked4) ||
			!strings.Contains(err1.Error()+err2.Error(), c.say) {
			t.Errorf("%v and %v, want %q", err1, err2, c.say)
		}
	}
}
