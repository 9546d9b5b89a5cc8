package quant

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
)

// tensorFile is a safetensors file as these tests need it: quant is a leaf and may not import the package that reads
// them.
type tensorFile struct {
	t      testing.TB
	data   []byte
	header map[string]struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
}

func readTensors(t testing.TB, elem ...string) *tensorFile {
	t.Helper()
	raw, err := os.ReadFile(goldens.Path(t, append([]string{"train"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(raw)
	f := &tensorFile{t: t, data: raw[8+n:]}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw[8:8+n], &all); err != nil {
		t.Fatal(err)
	}
	delete(all, "__metadata__")
	text, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(text, &f.header)
	}
	if err != nil || len(f.header) == 0 {
		t.Fatalf("%v: %d tensors: %v", elem, len(f.header), err)
	}
	return f
}

func (f *tensorFile) bytes(name, dtype string) []byte {
	f.t.Helper()
	h, ok := f.header[name]
	if !ok || h.DType != dtype {
		f.t.Fatalf("tensor %s is %v, want %s", name, h, dtype)
	}
	return f.data[h.Offsets[0]:h.Offsets[1]]
}

func (f *tensorFile) floats(name string) []float32 {
	f.t.Helper()
	b := f.bytes(name, "F32")
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = float32At(b[4*i:])
	}
	return out
}

// bnbCases is D_bnb/cases.json, as far as it is needed.
type bnbCases struct {
	Blocks4 []struct {
		File      string
		Shape     []int
		BlockSize int
	} `json:"quantize_4bit"`
	Blockwise []struct {
		File, Map string
		BlockSize int
	} `json:"quantize_blockwise"`
}

func readCases(t testing.TB) bnbCases {
	t.Helper()
	text, err := os.ReadFile(goldens.Path(t, "train", "D_bnb", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c bnbCases
	if err := json.Unmarshal(text, &c); err != nil || len(c.Blocks4) == 0 || len(c.Blockwise) == 0 {
		t.Fatalf("%d and %d cases: %v", len(c.Blocks4), len(c.Blockwise), err)
	}
	return c
}

func TestCodebooksEqualBitsandbytes(t *testing.T) { goldens.Each(t, testCodebooksEqualBitsandbytes) }

func testCodebooksEqualBitsandbytes(t *testing.T) {
	text, err := os.ReadFile(goldens.Path(t, "train", "D_bnb", "codebooks.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]struct {
		Bits []string `json:"float32_bits_hex"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]float32{"dynamic_signed": DynamicSigned.Values[:],
		"dynamic_unsigned": DynamicUnsigned.Values[:]} {
		var w []float32
		for _, hex := range want[name].Bits {
			u, err := strconv.ParseUint(hex, 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			w = append(w, math.Float32frombits(uint32(u)))
		}
		numtest.Equal(t, name, got, w)
	}
}

func TestBlockwise8EqualsBitsandbytes(t *testing.T) {
	goldens.Each(t, testBlockwise8EqualsBitsandbytes)
}

func testBlockwise8EqualsBitsandbytes(t *testing.T) {
	maps := map[string]*Map8{"dynamic_signed": DynamicSigned, "dynamic_unsigned": DynamicUnsigned}
	for _, c := range readCases(t).Blockwise {
		t.Run(c.File, func(t *testing.T) {
			f := readTensors(t, "D_bnb", filepath.Base(c.File))
			m, x, want := maps[c.Map], f.floats("x"), f.bytes("codes", "U8")
			codes, absmax := make([]byte, len(x)), make([]float32, (len(x)+c.BlockSize-1)/c.BlockSize)
			QuantizeBlockwise8(m, x, c.BlockSize, codes, absmax)
			for i := range codes {
				if codes[i] != want[i] {
					t.Fatalf("code [%d] of %v = %d, want %d", i, x[i], codes[i], want[i])
				}
			}
			numtest.Equal(t, "absmax", absmax, f.floats("absmax"))
			for i, code := range codes {
				x[i] = m.Values[code] * absmax[i/c.BlockSize]
			}
			numtest.Equal(t, "dequantized", x, f.floats("dequant"))
		})
	}
}

// rowsCols is a golden's shape as a matrix; one of the cases is a vector.
func rowsCols(shape []int) (int, int) {
	if len(shape) == 1 {
		return 1, shape[0]
	}
	return shape[0], shape[1]
}

// Codes, absmaxes and values are bitsandbytes', and the served layout gives the same values.
func TestQuantize4EqualsBitsandbytes(t *testing.T) { goldens.Each(t, testQuantize4EqualsBitsandbytes) }

func testQuantize4EqualsBitsandbytes(t *testing.T) {
	for _, c := range readCases(t).Blocks4 {
		f := readTensors(t, "D_bnb", c.File)
		x := f.floats("x")
		rows, cols := rowsCols(c.Shape)
		for _, kind := range []Kind4{NF4, FP4} {
			t.Run(c.File+"/"+kind.String(), func(t *testing.T) {
				name := kind.String()
				b := Quantize4(kind, x, rows, cols, c.BlockSize, false)
				if !bytes.Equal(b.Packed, f.bytes(name+".packed", "U8")) {
					t.Error("codes differ")
				}
				numtest.Equal(t, "absmax", b.Absmax, f.floats(name+".absmax"))
				checkValues(t, b, f.floats(name+".dequant_f32"))

				d := Quantize4(kind, x, rows, cols, c.BlockSize, true)
				if !bytes.Equal(d.Packed, b.Packed) {
					t.Error("codes of the double quantization differ")
				}
				numtest.Equal(t, "offset", []float32{d.Nested.Offset}, f.floats(name+"_dq.offset"))
				if !bytes.Equal(d.Nested.Codes, f.bytes(name+"_dq.absmax", "U8")) {
					t.Error("codes of the absmaxes differ")
				}
				numtest.Equal(t, "nested absmax", d.Nested.Absmax, f.floats(name+"_dq.absmax2"))
				if kind == NF4 {
					checkValues(t, d, f.floats("nf4_dq.dequant_f32"))
				}
			})
		}
	}
}

func checkValues(t *testing.T, b *Blocks4, want []float32) {
	t.Helper()
	m, err := b.Matrix()
	if err == nil {
		err = m.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, m.Rows*m.Cols)
	for r := range m.Rows {
		m.Row(r, got[r*m.Cols:])
	}
	numtest.Equal(t, "values in layout "+m.Layout.String(), got, want)
	if m.Layout == F32 && b.Cols%4 == 0 {
		t.Errorf("%d columns in blocks of %d became F32", b.Cols, b.BlockLen)
	}
}

func TestBlocks4Refuses(t *testing.T) {
	for _, c := range []struct {
		say   string
		spoil func(b *Blocks4)
	}{
		{"shape [0, 8]", func(b *Blocks4) { b.Rows = 0 }},
		{"shape [4611686018427387904, 8]", func(b *Blocks4) { b.Rows = 1 << 62 }},
		{"blocks of 0", func(b *Blocks4) { b.BlockLen = 0 }},
		{"31 bytes of codes, want 32 for [8, 8]", func(b *Blocks4) { b.Packed = b.Packed[1:] }},
		{"in blocks of 0", func(b *Blocks4) { b.Nested.BlockLen = 0 }},
		{"3 nested absmaxes in 1 blocks of 256, want 4", func(b *Blocks4) { b.Nested.Codes = b.Nested.Codes[1:] }},
		{"4 nested absmaxes in 0 blocks", func(b *Blocks4) { b.Nested.Absmax = nil }},
		{"nested offset NaN", func(b *Blocks4) { b.Nested.Offset = float32(math.NaN()) }},
		{"0 absmaxes, want 4 for blocks of 16", func(b *Blocks4) { b.Nested = nil }},
	} {
		b := Quantize4(NF4, make([]float32, 64), 8, 8, 16, true)
		c.spoil(b)
		if _, err := b.Matrix(); !errors.Is(err, ErrBlocks4) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%v, want %q", err, c.say)
		}
	}
}

// A value on a midpoint takes the lower code, in 8 bits too.
func TestMap8Ties(t *testing.T) {
	for _, m := range []*Map8{DynamicSigned, DynamicUnsigned} {
		for i, mid := range m.mids {
			if got := m.Code(mid); int(got) != i {
				t.Fatalf("midpoint %d has code %d", i, got)
			}
			if got := m.Code(math.Nextafter32(mid, 2)); int(got) != i+1 {
				t.Fatalf("above midpoint %d: code %d", i, got)
			}
			if got := m.Code(m.Values[i]); int(got) != i {
				t.Fatalf("value %d has code %d", i, got)
			}
		}
	}
}

// A short block divides by its absmax, a full one multiplies by the inverse: the two differ where a value lies at a
// midpoint.
func TestShortBlocksDivide(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	differ := 0
	for range 20_000 {
		top := r.Float32() + 0.5
		x := []float32{top, sorted4[NF4].mids[r.IntN(15)] * top}
		for _, blockLen := range []int{2, 4} {
			s := x[1] / top
			if blockLen == 2 {
				s = x[1] * (1 / top)
			}
			want := byte(0)
			for _, m := range sorted4[NF4].mids {
				if m < s {
					want++
				}
			}
			if got := Quantize4(NF4, x, 1, 2, blockLen, false).Packed[0] & 15; got != want {
				t.Fatalf("%v in blocks of %d: code %d, want %d", x, blockLen, got, want)
			}
		}
		if Quantize4(NF4, x, 1, 2, 2, false).Packed[0] != Quantize4(NF4, x, 1, 2, 4, false).Packed[0] {
			differ++
		}
	}
	if differ == 0 {
		t.Error("no value distinguishes the rules")
	}
}
