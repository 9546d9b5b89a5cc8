package weights

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/quant"
)

// gptqFolder writes a checkpoint of one layer q_proj in GPTQ's format, from a golden, beside a plain tensor and biases.
func gptqFolder(t *testing.T, config map[string]string, edit func(map[string]Tensor)) string {
	t.Helper()
	golden := open(t, goldens.Path(t, "train", "E_export", "gptq_linear_actorder.safetensors")).(*Safetensors)
	tensors := map[string]Tensor{
		"model.norm.weight": {
			"F32",
			[]int{1},
			[]byte{0, 0, 128, 63},
		}, "q_proj.bias": {"F16", []int{48}, make([]byte, 96)},
		"k_proj.bias": {"F16", []int{1}, []byte{0, 60}},
	}
	for _, part := range []string{"qweight", "qzeros", "scales", "g_idx"} {
		data, err := golden.raw(part)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := golden.Info(part)
		tensors["q_proj."+part] = Tensor{info.Format, info.Shape, data}
	}
	if edit != nil {
		edit(tensors)
	}
	dir := t.TempDir()
	if err := WriteSafetensors(filepath.Join(dir, singleFile), tensors, nil); err != nil {
		t.Fatal(err)
	}
	for name, text := range config {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const gptqConfig = `{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":32,"desc_act":true,"sym":false}}`

func TestGPTQCheckpoint(t *testing.T) { goldens.Each(t, testGPTQCheckpoint) }

func testGPTQCheckpoint(t *testing.T) {
	want, _, err := open(t,
		goldens.Path(t, "train", "E_export", "gptq_linear_actorder.safetensors")).(*Safetensors).Floats(
		"dequantized_f16")
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []map[string]string{
		{"config.json": gptqConfig},
		{"config.json": `{}`, "quantize_config.json": `{"bits":4,"group_size":32,"desc_act":true}`},
	} {
		src := open(t, gptqFolder(t, config, nil))
		if names := src.Names(); !slices.Equal(names, []string{"k_proj.bias", "model.norm.weight", "q_proj.weight"}) {
			t.Errorf("names %v", names)
		}
		info, ok := src.Info("q_proj.weight")
		if !ok || !slices.Equal(info.Shape, []int{48, 128}) || info.Format != "GPTQ" ||
			info.Bytes != 16*48*4+4*6*4+4*48*2+128*4 || !strings.HasSuffix(info.File, singleFile) {
			t.Errorf("info %+v, %v", info, ok)
		}
		m, err := src.Matrix("q_proj.weight")
		if err != nil {
			t.Fatal(err)
		}
		got, row := make([]float32, 128*48), make([]float32, 128)
		for r := range 48 {
			m.Row(r, row)
			for c, v := range row {
				got[c*48+r] = v
			}
		}
		numtest.Equal(t, "values", got, want)
		src.Release("q_proj.weight")
		src.Release("model.norm.weight")
		if v, err := src.Vector("model.norm.weight"); err != nil || v[0] != 1 {
			t.Errorf("plain tensor %v: %v", v, err)
		}
	}
	// scales of another type are taken where they are binary16 values, and only there
	scales := func(values func([]float32)) func(map[string]Tensor) {
		return func(ts map[string]Tensor) {
			v, err := floats("F16", ts["q_proj.scales"].Data)
			if err != nil {
				t.Fatal(err)
			}
			values(v)
			ts["q_proj.scales"] = Tensor{"F32", []int{4, 48}, vector(v).Data}
		}
	}
	if _, err := open(t,
		gptqFolder(t, map[string]string{"config.json": gptqConfig},
			scales(func([]float32) {}))).Matrix("q_proj.weight"); err != nil {
		t.Error(err)
	}
	if _, err := open(t,
		gptqFolder(t, map[string]string{"config.json": gptqConfig},
			scales(func(v []float32) { v[7] = 0.1 }))).Matrix("q_proj.weight"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("scales that binary16 does not hold: %v", err)
	}
}

func TestQuantizedRefuses(t *testing.T) {
	config := map[string]string{"config.json": gptqConfig}
	with := func(text string) map[string]string { return map[string]string{"config.json": text} }
	for _, c := range []struct {
		name, say string
		kind      error
		config    map[string]string
		edit      func(map[string]Tensor)
	}{
		{"no config", "no such file", os.ErrNotExist, nil, nil},
		{"no packing", "has no quantization_config", ErrFormat, with(`{}`), nil},
		{"broken config", "config.json", ErrFormat, with(`{`), nil},
		{"bits", "gptq in 8 bits; read are", ErrUnsupported, with(strings.Replace(gptqConfig, `"bits":4`, `"bits":8`, 1)), nil},
		{"groups", "in groups of 0", ErrUnsupported, with(strings.Replace(gptqConfig, `:32`, `:0`, 1)), nil},
		{"method", `quant_method "hqq"`, ErrUnsupported, with(strings.Replace(gptqConfig, `"gptq"`, `"hqq"`, 1)), nil},
		{"other method", `"bitsandbytes" has no such tensors`, ErrFormat, with(`{"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}}`), nil},
		{"missing part", `"q_proj.qzeros", which belongs to it, is missing`, ErrFormat, config, func(ts map[string]Tensor) { delete(ts, "q_proj.qzeros") }},
		{"twice", "quantized in two ways", ErrFormat, config, func(ts map[string]Tensor) {
			state := []byte(`{"quant_type":"nf4","blocksize":64,"shape":[48,128]}`)
			ts["q_proj.weight"], ts["q_proj.weight.absmax"], ts["q_proj.weight.quant_map"] = Tensor{"U8", []int{0},
				nil}, Tensor{"U8", []int{0}, nil}, Tensor{"U8", []int{0}, nil}
			ts["q_proj.weight.quant_state.bitsandbytes__nf4"] = Tensor{"U8", []int{len(state)}, state}
		}},
	} {
		s, err := Open(gptqFolder(t, c.config, c.edit))
		if s != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) ||
			!strings.Contains(err.Error(), "q_proj.") {
			t.Errorf("%s: %v, want %q", c.name, err, c.say)
		}
	}
	for _, c := range []struct {
		say  string
		edit func(map[string]Tensor)
	}{
		{"words of weights", func(ts map[string]Tensor) { ts["q_proj.scales"] = Tensor{"F16", []int{0}, nil} }},
		{"g_idx has 1 entries",
			func(ts map[string]Tensor) { ts["q_proj.g_idx"] = Tensor{"I32", []int{1}, make([]byte, 4)} }},
		{"is no integer type",
			func(ts map[string]Tensor) { ts["q_proj.g_idx"] = Tensor{"F32", []int{1}, make([]byte, 4)} }},
	} {
		_, err := open(t, gptqFolder(t, config, c.edit)).Matrix("q_proj.weight")
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%v, want %q", err, c.say)
		}
	}
}

// bnbTensors are the parts of a weight [4, 8] in bitsandbytes' form with double quantization.
func bnbTensors(state string) map[string]Tensor {
	b := quant.Quantize4(quant.NF4, []float32{0: 1, 9: -3, 31: 0.5}, 4, 8, 16, true)
	return map[string]Tensor{
		"w": {"U8", []int{16, 1}, b.Packed}, "w.absmax": {"U8", []int{2}, b.Nested.Codes},
		"w.nested_absmax": vector(b.Nested.Absmax), "w.nested_quant_map": vector(b.Nested.Map[:]),
		"w.quant_map": vector(b.Codes[:]), "w.quant_state.bitsandbytes__nf4": {"U8", []int{len(state)}, []byte(state)},
	}
}

const bnbState = `{"quant_type":"nf4","blocksize":16,"dtype":"bfloat16","shape":[4,8],"nested_blocksize":256,"nested_dtype":"float32","nested_offset":1.75}`

func TestBitsandbytesCheckpoint(t *testing.T) {
	write := func(edit func(map[string]Tensor), state string) string {
		ts := bnbTensors(state)
		if edit != nil {
			edit(ts)
		}
		path := filepath.Join(t.TempDir(), "any.safetensors")
		if err := WriteSafetensors(path, ts, nil); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// The bytes of the codes count, not their type: FSDP-QLoRA stores them as bfloat16.
	var values []float32
	for _, storage := range []string{"U8", "BF16", "F32"} {
		src := open(t, write(func(ts map[string]Tensor) {
			ts["w"] = Tensor{storage, []int{128 / int(dtypeBits[storage]), 1}, ts["w"].Data}
		}, bnbState))
		if !slices.Equal(src.Names(), []string{"w"}) {
			t.Errorf("names %v", src.Names())
		}
		m, err := src.Matrix("w")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 32)
		for r := range 4 {
			m.Row(r, got[8*r:])
		}
		if values == nil {
			values = got
		}
		if math.Abs(float64(got[0])-1) > 0.02 || math.Abs(float64(got[9])+3) > 0.01 {
			t.Errorf("values %v", got)
		}
		numtest.Equal(t, storage, got, values)
	}
	for _, c := range []struct {
		say, state string
		edit       func(map[string]Tensor)
		kind       error
	}{
		{`quant_type "int8"`, strings.Replace(bnbState, "nf4", "int8", 1), nil, ErrUnsupported},
		{`says "fp4"`, strings.Replace(bnbState, "nf4", "fp4", 1), nil, ErrFormat},
		{"shape [4 -8]", strings.Replace(bnbState, ",8]", ",-8]", 1), nil, ErrFormat},
		{"blocks of 0", strings.Replace(bnbState, `"blocksize":16`, `"blocksize":0`, 1), nil, ErrFormat},
		{"must both be given", strings.Replace(bnbState, `"nested_offset":1.75`, `"x":1`, 1), nil, ErrFormat},
		{"quant_state: ", bnbState[1:], nil, ErrFormat},
		{"16 bytes of codes, want 20", strings.Replace(bnbState, "[4,8]", "[5,8]", 1), nil, ErrFormat},
		{"not U8", bnbState, func(ts map[string]Tensor) { ts["w.absmax"] = Tensor{"F32", []int{2}, make([]byte, 8)} },
			ErrFormat},
		{`"w.quant_map" has 8 values, want 16`, bnbState, func(ts map[string]Tensor) { ts["w.quant_map"] = Tensor{"F32", []int{8}, make([]byte, 32)} }, ErrFormat},
		{`"w.nested_quant_map" has 0 values`, bnbState, func(ts map[string]Tensor) { ts["w.nested_quant_map"] = Tensor{"F32", []int{0}, nil} }, ErrFormat},
		{`"w.nested_absmax", which belongs to it, is missing`, bnbState, func(ts map[string]Tensor) { delete(ts, "w.nested_absmax") }, ErrFormat},
	} {
		s, err := Open(write(c.edit, c.state))
		if err == nil {
			_, err = s.Matrix("w")
			s.Close()
		}
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%v, want %q", err, c.say)
		}
	}
}

func TestParseQuantization(t *testing.T) {
	for text, want := range map[string]Quantization{
		`{"quant_method":"awq","bits":4,"group_size":-1,"zero_point":true,"version":"GEMM"}`:       {Method: "awq"},
		`{"quant_method":"gptq","bits":4,"group_size":128,"checkpoint_format":"gptq_v2"}`:          {Method: "gptq", GroupLen: 128},
		`{"quant_method":"gptq","bits":4,"group_size":128,"checkpoint_format":"gptq","extra":[1]}`: {Method: "gptq", GroupLen: 128, ZeroLess: 1},
		`{"quant_method":"bitsandbytes","load_in_4bit":true,"group_size":3}`:                       {Method: "bitsandbytes"},
	} {
		if got, err := ParseQuantization([]byte(text)); err != nil || *got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, say := range map[string]string{
		`{"quant_method":"awq","bits":4,"group_size":128,"version":"gemv"}`:                    `version "gemv"`,
		`{"quant_method":"awq","bits":4,"group_size":128,"version":"gemm","zero_point":false}`: "without zero-points",
		`{"quant_method":"gptq","bits":4,"group_size":128,"checkpoint_format":"marlin"}`:       `"marlin"`,
		`{"quant_method":"bitsandbytes","load_in_8bit":true}`:                                  "in 8 bits",
		`{"quant_method":"compressed-tensors"}`:                                                `"compressed-tensors"`,
	} {
		if _, err := ParseQuantization([]byte(text)); !errors.Is(err, ErrUnsupported) ||
			!strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want %q", text, err, say)
		}
	}
	if _, err := ParseQuantization([]byte("[")); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

// 4 bits apply to linear layers only, and not twice.
func TestFourBitApplies(t *testing.T) {
	dir := goldens.Path(t, "train", "C_qlora", "checkpoints", "nf4")
	for path, plain := range map[string]bool{dir: false, goldens.Path(t, "train", "models", "tiny-llama"): true} {
		src := open(t, path)
		want := 0
		for _, name := range src.Names() {
			if plain && strings.HasSuffix(name, "_proj.weight") {
				want++
			}
		}
		f := &FourBit{Source: src, Kind: quant.NF4, BlockLen: 64}
		n := 0
		for _, name := range src.Names() {
			if f.Applies(name) {
				n++
			}
			if info, _ := f.Info(name); len(info.Shape) != 2 {
				continue
			}
			m, err := f.Matrix(name)
			if err != nil || (m.Layout == quant.Lookup4) != strings.HasSuffix(name, "_proj.weight") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n != want {
			t.Errorf("%s: %d layers, want %d", path, n, want)
		}
	}
}

// FuzzQuantized: a checkpoint with arbitrary parts opens or is refused, and its weights fit their shapes.
func FuzzQuantized(f *testing.F) {
	f.Add([]byte(bnbState), []byte(gptqConfig), uint8(16), uint8(2))
	f.Add(
		[]byte(`{"quant_type":"nf4","blocksize":64,"shape":[1,32]}`),
		[]byte(`{"quant_method":"awq","bits":4,"group_size":8,"version":"gemm"}`),
		uint8(16),
		uint8(1),
	)
	f.Fuzz(func(t *testing.T, state, config []byte, packed, blocks uint8) {
		_, _ = ParseQuantization(config)
		s, err := parseQuantState(state)
		if err != nil {
			return
		}
		if s.Shape[0]*s.Shape[1] > 1<<16 {
			return
		}
		ts := bnbTensors(string(state))
		ts["w"] = Tensor{"U8", []int{int(packed)}, make([]byte, packed)}
		ts["w.absmax"] = Tensor{"U8", []int{int(blocks)}, make([]byte, blocks)}
		if s.NestedOffset == nil {
			ts["w.absmax"] = Tensor{"F32", []int{int(blocks)}, make([]byte, 4*int(blocks))}
		}
		if s.Kind == "fp4" {
			ts["w.quant_state.bitsandbytes__fp4"] = ts["w.quant_state.bitsandbytes__nf4"]
			delete(ts, "w.quant_state.bitsandbytes__nf4")
		}
		src, err := openQuantized(memory(ts), "")
		if err != nil {
			t.Fatal(err)
		}
		m, err := src.Matrix("w")
		if err != nil {
			return
		}
		if err := m.Validate(); err != nil || m.Rows != s.Shape[0] || m.Cols != s.Shape[1] {
			t.Fatalf("[%d, %d] of %v: %v", m.Rows, m.Cols, s.Shape, err)
		}
	})
}

// memory is tensors without a file.
type memory map[string]Tensor

func (m memory) Names() []string { return slices.Sorted(maps.Keys(m)) }
func (m memory) Info(name string) (Info, bool) {
	t, ok := m[name]
	return Info{Shape: t.Shape, Format: t.DType, Bytes: int64(len(t.Data))}, ok
}
func (m memory) Matrix(string) (*quant.Matrix, error) { return nil, ErrKind }
func (m memory) Vector(string) ([]float32, error)     { return nil, ErrKind }
func (m memory) Release(string)                       {}
func (m memory) Close() error                         { return nil }
func (m memory) raw(name string) ([]byte, error)      { return m[name].Data, nil }
func (m memory) Ints(name string) ([]int32, []int, error) {
	v, err := ints(m[name].DType, m[name].Data)
	return v, m[name].Shape, err
}
func (m memory) Floats(name string) ([]float32, []int, error) {
	v, err := floats(m[name].DType, m[name].Data)
	return v, m[name].Shape, err
}

// vector is a float32 tensor of one dimension.
func vector(v []float32) Tensor {
	data := make([]byte, 0, 4*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return Tensor{DType: "F32", Shape: []int{len(v)}, Data: data}
}
