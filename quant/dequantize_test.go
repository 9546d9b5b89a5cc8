package quant

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// value is the real number of a binary16 with a 10-bit fraction, straight from IEEE 754.
func halfValue(h uint16) float64 {
	sign := 1 - 2*float64(h>>15)
	exp, frac := int(h>>10&31), float64(h&0x3ff)
	switch {
	case exp == 31 && frac != 0:
		return math.NaN()
	case exp == 31:
		return sign * math.Inf(1)
	case exp == 0:
		return sign * math.Ldexp(frac, -24)
	}
	return sign * math.Ldexp(1+frac/1024, exp-15)
}

func TestF16(t *testing.T) {
	for h := range 1 << 16 {
		want := halfValue(uint16(h))
		got := F16ToF32(uint16(h))
		if want != want {
			if got == got || F16ToF32(F32ToF16(got)) == F16ToF32(F32ToF16(got)) {
				t.Fatalf("%04x: %v, want NaN in both directions", h, got)
			}
			continue
		}
		if float64(got) != want || math.Signbit(float64(got)) != math.Signbit(want) {
			t.Fatalf("%04x: %v, want %v", h, got, want)
		}
		if back := F32ToF16(got); back != uint16(h) {
			t.Fatalf("%04x goes to %v and back to %04x", h, got, back)
		}
		// The midpoint to the next finite value goes to the even one, the values beside it to the nearest.
		if next := halfValue(uint16(h) + 1); h&0x7fff < 0x7bff {
			mid := float32((want + next) / 2)
			lo, hi := uint16(h), uint16(h)+1
			for _, c := range []struct {
				x    float32
				want uint16
			}{{mid, lo + lo&1}, {math.Float32frombits(math.Float32bits(mid) - 1), lo},
				{math.Float32frombits(math.Float32bits(mid) + 1), hi}} {
				if got := F32ToF16(c.x); got != c.want {
					t.Fatalf("F32ToF16(%v) = %04x, want %04x", c.x, got, c.want)
				}
			}
		}
	}
	for x, want := range map[float32]uint16{65519.996: 0x7bff, 65520: 0x7c00, -1e30: 0xfc00,
		float32(math.Inf(1)): 0x7c00, 0x1p-25: 0, 0x1.000002p-25: 1, -1e-40: 0x8000} {
		if got := F32ToF16(x); got != want {
			t.Errorf("F32ToF16(%v) = %04x, want %04x", x, got, want)
		}
	}
}

func TestBF16(t *testing.T) {
	for h := range 1 << 16 {
		x := BF16ToF32(uint16(h))
		if x != x {
			if y := BF16ToF32(F32ToBF16(x)); y == y {
				t.Fatalf("%04x: NaN became %v", h, y)
			}
			continue
		}
		b := math.Float32bits(x)
		if got := F32ToBF16(x); got != uint16(h) {
			t.Fatalf("%04x: came back as %04x", h, got)
		}
		if h&0x7fff >= 0x7f80 {
			continue
		}
		for low, want := range map[uint32]int{0x7fff: h, 0x8000: h + h&1, 0x8001: h + 1} {
			if got := F32ToBF16(math.Float32frombits(b | low)); int(got) != want {
				t.Fatalf("F32ToBF16(%08x) = %04x, want %04x", b|low, got, want)
			}
		}
	}
	if y := BF16ToF32(F32ToBF16(math.Float32frombits(0x7f800001))); y == y {
		t.Errorf("a NaN with a low payload became %v", y)
	}
}

// round32 rounds an exact sum or product to float32 once.
func round32(x *big.Float) float32 {
	f, _ := x.Float32()
	return f
}

func TestRow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	codes := &[16]float32{}
	for i := range codes {
		codes[i] = float32(r.NormFloat64())
	}
	for _, m := range []Matrix{
		{Layout: Int8, GroupLen: 16}, {Layout: Int8, GroupLen: 37, Mins: []float32{}},
		{Layout: Int4, GroupLen: 32, Zero: 8},
		{Layout: Int4, GroupLen: 32, Mins: []float32{}}, {Layout: Lookup4, GroupLen: 8, Codes: codes},
	} {
		m.Rows, m.Cols = 3, 37
		m.Data = make([]byte, m.Rows*m.Cols)
		for i := range m.Data {
			m.Data[i] = byte(r.IntN(256))
			if m.Layout != Int8 {
				m.Data[i] &= 15
			}
		}
		m.Scales = make([]float32, m.Rows*m.Groups())
		for i := range m.Scales {
			m.Scales[i] = float32(r.NormFloat64())
		}
		if m.Mins != nil {
			m.Mins = make([]float32, len(m.Scales))
			for i := range m.Mins {
				m.Mins[i] = float32(r.NormFloat64())
			}
		}
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		row := make([]float32, m.Cols)
		for i := range m.Rows {
			m.Row(i, row)
			for c, got := range row {
				g := i*m.Groups() + c/m.GroupLen
				level := float64(int8(m.Data[i*m.Cols+c]))
				if m.Layout == Int4 {
					level -= float64(m.Zero)
				} else if m.Layout == Lookup4 {
					level = float64(codes[m.Data[i*m.Cols+c]])
				}
				want := round32(new(big.Float).Mul(big.NewFloat(level), big.NewFloat(float64(m.Scales[g]))))
				if m.Mins != nil {
					want = round32(new(big.Float).Add(big.NewFloat(float64(want)), big.NewFloat(float64(m.Mins[g]))))
				}
				if math.Float32bits(got) != math.Float32bits(want) && (got != 0 || want != 0) {
					t.Fatalf("%v group %d: (%d, %d) = %v, want %v", m.Layout, m.GroupLen, i, c, got, want)
				}
			}
		}
	}
	f := Matrix{Layout: F32, Rows: 1, Cols: 1, Data: binary.LittleEndian.AppendUint32(nil, math.Float32bits(1.5))}
	h := Matrix{Layout: F16, Rows: 1, Cols: 1, Data: binary.LittleEndian.AppendUint16(nil, F32ToF16(1.5))}
	b := Matrix{Layout: BF16, Rows: 1, Cols: 1, Data: binary.LittleEndian.AppendUint16(nil, F32ToBF16(1.5))}
	for _, m := range []Matrix{f, h, b} {
		var got [1]float32
		if m.Row(0, got[:]); got[0] != 1.5 || m.Validate() != nil {
			t.Errorf("%v: %v (%v), want 1.5", m.Layout, got[0], m.Validate())
		}
	}
}

func TestValidate(t *testing.T) {
	valid := func() *Matrix {
		return &Matrix{Layout: Int4, Rows: 2, Cols: 5, GroupLen: 4, Zero: 8, Data: make([]byte, 10),
			Scales: make([]float32, 4)}
	}
	if err := valid().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(m *Matrix){
		"layout":       func(m *Matrix) { m.Layout = 9 },
		"negative":     func(m *Matrix) { m.Rows = -2 },
		"huge":         func(m *Matrix) { m.Rows, m.Cols = math.MaxInt/2, 3 },
		"data":         func(m *Matrix) { m.Data = m.Data[:9] },
		"group":        func(m *Matrix) { m.GroupLen = 0 },
		"scales":       func(m *Matrix) { m.Scales = m.Scales[:3] },
		"mins":         func(m *Matrix) { m.Zero, m.Mins = 0, make([]float32, 3) },
		"mins zero":    func(m *Matrix) { m.Mins = make([]float32, 4) },
		"zero":         func(m *Matrix) { m.Zero = 16 },
		"code":         func(m *Matrix) { m.Data[3] = 16 },
		"codes":        func(m *Matrix) { m.Codes = new([16]float32) },
		"no codes":     func(m *Matrix) { m.Layout, m.Zero = Lookup4, 0 },
		"scales f16":   func(m *Matrix) { m.ScalesF16, m.Scales[1] = true, 1.00001 },
		"float groups": func(m *Matrix) { m.Layout, m.Data = F32, make([]byte, 40) },
	} {
		m := valid()
		change(m)
		if err := m.Validate(); !errors.Is(err, ErrMatrix) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
