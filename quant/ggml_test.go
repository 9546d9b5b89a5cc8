package quant

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"weft/internal/numtest"
)

// ggmlBlocks is testdata/ggml_blocks.json: random blocks with the values that the gguf Python package gives them
// (scripts/golden/gguf_blocks.py).
type ggmlBlocks struct {
	Cases []struct {
		Format         string
		Type           GGMLType
		Rows, Cols     int
		Blocks, Values []byte
	}
}

func readBlocks(t testing.TB) ggmlBlocks {
	t.Helper()
	text, err := os.ReadFile("testdata/ggml_blocks.json")
	if err != nil {
		t.Fatal(err)
	}
	var b ggmlBlocks
	if err := json.Unmarshal(text, &b); err != nil || len(b.Cases) == 0 {
		t.Fatalf("%d cases: %v", len(b.Cases), err)
	}
	return b
}

// formula is the value of a Matrix by its doc.
func formula(m *Matrix) []float32 {
	out := make([]float32, m.Rows*m.Cols)
	for i := range out {
		switch m.Layout {
		case F32:
			out[i] = float32At(m.Data[4*i:])
			continue
		case F16:
			out[i] = half(m.Data[2*i:])
			continue
		case BF16:
			out[i] = math.Float32frombits(uint32(m.Data[2*i])<<16 | uint32(m.Data[2*i+1])<<24)
			continue
		}
		g := i/m.Cols*m.Groups() + i%m.Cols/m.GroupLen
		q := float32(int8(m.Data[i]))
		if m.Layout == Int4 {
			q = float32(int(m.Data[i]) - m.Zero)
		}
		out[i] = float32(m.Scales[g] * q)
		if m.Mins != nil {
			out[i] += m.Mins[g]
		}
	}
	return out
}

func float32At(b []byte) float32 {
	return math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
}

// Every format's values are bitwise what the reference implementation gives, and the layout's guarantees are satisfied.
func TestDecodeGGMLEqualsReference(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range readBlocks(t).Cases {
		seen[c.Format] = true
		t.Run(c.Format, func(t *testing.T) {
			if c.Type.String() != c.Format {
				t.Fatalf("type %d is %s here", uint32(c.Type), c.Type)
			}
			want := make([]float32, c.Rows*c.Cols)
			for i := range want {
				want[i] = float32At(c.Values[4*i:])
			}
			m, err := DecodeGGML(c.Type, c.Blocks, c.Rows, c.Cols)
			if err != nil {
				t.Fatal(err)
			}
			numtest.Equal(t, c.Format, formula(m), want)
			if m.Rows != c.Rows || m.Cols != c.Cols || len(m.Scales) != c.Rows*m.Groups() || m.Mins != nil &&
				len(m.Mins) != len(m.Scales) {
				t.Errorf("matrix [%d, %d], %d scales, %d mins", m.Rows, m.Cols, len(m.Scales), len(m.Mins))
			}
			if m.Layout == Int4 {
				for i, q := range m.Data {
					if q > 15 {
						t.Fatalf("code [%d] = %d", i, q)
					}
				}
			}
		})
	}
	for _, name := range strings.Split(GGMLSupported(), ", ") {
		if !seen[name] {
			t.Errorf("%s is called supported, but has no reference blocks", name)
		}
	}
}

func TestDecodeGGMLRefuses(t *testing.T) {
	for _, c := range []struct {
		name       string
		typ        GGMLType
		bytes      int
		rows, cols int
		say        string
	}{
		{"unsupported", 10, 84, 1, 256, "Q2_K (10) is not read; supported are F32, F16"},
		{"unknown", 77, 84, 1, 256, "ggml type 77 (77) is not read"},
		{"removed", 4, 84, 1, 256, "not read"},
		{"short", GGMLQ40, 17, 1, 32, "needs 1 blocks of 18 bytes, there are 17"},
		{"long", GGMLQ40, 36, 1, 32, "needs 1 blocks"},
		{"ragged", GGMLQ40, 18, 1, 31, "not a multiple of the 32"},
		{"no rows", GGMLF32, 0, 0, 32, "no values"},
		{"negative", GGMLF32, 0, -1, -32, "no values"},
		{"overflow", GGMLF32, 0, math.MaxInt, 2, "too many"},
		{"many", GGMLF32, 8, math.MaxInt / 2, 2, "needs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := DecodeGGML(c.typ, make([]byte, c.bytes), c.rows, c.cols)
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("matrix %v, error %v, want one that contains %q", m != nil, err, c.say)
			}
		})
	}
}

func TestHalfReadsEveryValue(t *testing.T) {
	for h := range 1 << 16 {
		got := half([]byte{byte(h), byte(h >> 8)})
		sign, exp, frac := 1-2*float64(h>>15), h>>10&31, float64(h&0x3ff)
		want := sign * math.Ldexp(1+frac/1024, exp-15)
		if exp == 0 {
			want = sign * math.Ldexp(frac/1024, -14)
		}
		switch {
		case exp == 31 && frac != 0:
			if got == got {
				t.Fatalf("%#04x = %v, want NaN", h, got)
			}
		case exp == 31:
			if !math.IsInf(float64(got), int(sign)) {
				t.Fatalf("%#04x = %v, want an infinity", h, got)
			}
		case float64(got) != want || math.Signbit(float64(got)) != (h>>15 == 1):
			t.Fatalf("%#04x = %v, want %v", h, got, want)
		}
	}
}

func BenchmarkDecodeGGML(b *testing.B) {
	for _, c := range readBlocks(b).Cases {
		if c.Type.String() == "F32" || strings.HasSuffix(c.Format, "F16") {
			continue
		}
		b.Run(c.Format, func(b *testing.B) {
			const rows, cols = 512, 2048
			length, size, _ := c.Type.Block()
			data := make([]byte, rows*cols/length*size)
			for i := 0; i < len(data); {
				i += copy(data[i:], c.Blocks)
			}
			b.SetBytes(rows * cols)
			for b.Loop() {
				if _, err := DecodeGGML(c.Type, data, rows, cols); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
