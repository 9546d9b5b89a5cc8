package quant

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"weft/internal/numtest"
	"weft/internal/testdata"
)

// tensorFile is a safetensors file as these tests need it: quant is a leaf and may not import the package that reads them.
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
	raw, err := os.ReadFile(testdata.Goldens(t, append([]string{"train"}, elem...)...))
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
	text, err := os.ReadFile(testdata.Goldens(t, "train", "D_bnb", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c bnbCases
	if err := json.Unmarshal(text, &c); err != nil || len(c.Blocks4) == 0 || len(c.Blockwise) == 0 {
		t.Fatalf("%d and %d cases: %v", len(c.Blocks4), len(c.Blockwise), err)
	}
	return c
}

func TestCodebooksEqualBitsandbytes(t *testing.T) {
	text, err := os.ReadFile(testdata.Goldens(t, "train", "D_bnb", "codebooks.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]struct {
		Bits []string `json:"float32_bits_hex"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]float32{"dynamic_signed": DynamicSigned.Values[:], "dynamic_unsigned": DynamicUnsigned.Values[:]} {
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
			DequantizeBlockwise8(m, codes, absmax, c.BlockSize, x)
			numtest.Equal(t, "dequantized", x, f.floats("dequant"))
		})
	}
}
