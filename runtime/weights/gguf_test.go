package weights

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/numtest"
	"weft/quant"
)

// ggufFile builds GGUF files, valid or not.
type ggufFile struct{ bytes.Buffer }

func (b *ggufFile) u32(v uint32) *ggufFile { binary.Write(b, binary.LittleEndian, v); return b }
func (b *ggufFile) u64(v uint64) *ggufFile { binary.Write(b, binary.LittleEndian, v); return b }
func (b *ggufFile) str(s string) *ggufFile { b.u64(uint64(len(s))).WriteString(s); return b }

func (b *ggufFile) head(version uint32, tensors, meta uint64) *ggufFile {
	b.WriteString(ggufMagic)
	return b.u32(version).u64(tensors).u64(meta)
}

// meta writes a key, a type, and the value's bytes as given.
func (b *ggufFile) meta(key string, typ uint32, value ...any) *ggufFile {
	b.str(key).u32(typ)
	for _, v := range value {
		if s, ok := v.(string); ok {
			b.str(s)
		} else {
			binary.Write(b, binary.LittleEndian, v)
		}
	}
	return b
}

// tensor writes a description; dims are ggml's, innermost first.
func (b *ggufFile) tensor(name string, typ quant.GGMLType, offset uint64, dims ...uint64) *ggufFile {
	b.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b.u64(d)
	}
	return b.u32(uint32(typ)).u64(offset)
}

// data pads to the alignment and appends n bytes.
func (b *ggufFile) data(align, n int) []byte {
	for b.Len()%align != 0 {
		b.WriteByte(0)
	}
	for i := range n {
		b.WriteByte(byte(i))
	}
	return b.Bytes()
}

func newGGUF(version uint32, tensors, meta uint64) *ggufFile {
	return new(ggufFile).head(version, tensors, meta)
}

// layerFile is a llama file with one q of 2 heads and one k of 1, of 4 rows a head.
func layerFile() []byte {
	return newGGUF(3, 3, 3).
		meta("general.architecture", ggufString, "llama").
		meta("llama.attention.head_count", ggufUint32, uint32(2)).
		meta("llama.attention.head_count_kv", ggufArray, uint32(ggufInt32), uint64(2), int32(9), int32(1)).
		tensor("blk.1.attn_q.weight", quant.GGMLF16, 0, 1, 8).
		tensor("blk.1.attn_k.bias", quant.GGMLF32, 32, 4).
		tensor("output_norm.weight", quant.GGMLF32, 64, 2).
		data(32, 72)
}

// q and k rows are returned in rotate-half order: stored rows 2j and 2j+1 of a head become j and j+D/2.
func TestInterleavedRowsAreSorted(t *testing.T) {
	s := open(t, writeFile(t, t.TempDir(), "x", layerFile()))
	q, err := s.Matrix("model.layers.1.self_attn.q_proj.weight")
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}; !bytes.Equal(q.Data, want) {
		t.Errorf("q rows %v, want %v", q.Data, want)
	}
	k, err := s.Vector("model.layers.1.self_attn.k_proj.bias")
	if err != nil {
		t.Fatal(err)
	}
	at := func(i byte) float32 { return math.Float32frombits(0x03020100 + uint32(i)*0x01010101) }
	numtest.Equal(t, "k bias", k, []float32{at(32), at(40), at(36), at(44)})
}

func TestGGUFRefuses(t *testing.T) {
	header := func(version uint32, tensors, meta uint64) []byte { return newGGUF(version, tensors, meta).data(1, 0) }
	withMeta := func(typ uint32, value ...any) []byte { return newGGUF(3, 0, 1).meta("k", typ, value...).data(1, 0) }
	withTensor := func(typ quant.GGMLType, offset uint64, dims ...uint64) []byte {
		return newGGUF(3, 1, 0).tensor("t", typ, offset, dims...).data(32, 64)
	}
	align := func(typ uint32, value any) []byte {
		return newGGUF(3, 1, 1).meta("general.alignment", typ, value).tensor("t", quant.GGMLF32, 0, 16).data(64, 64)
	}
	nested := newGGUF(3, 0, 1).str("k").u32(ggufArray)
	for range 100 {
		nested.u32(ggufArray).u64(1)
	}
	llama := func(build func(b *ggufFile), tensors, meta uint64) []byte {
		b := newGGUF(3, tensors, meta+1).meta("general.architecture", ggufString, "llama")
		build(b)
		return b.data(32, 256)
	}
	for _, c := range []struct {
		name string
		data []byte
		say  string
	}{
		{"magic only", []byte("GGUF"), "version needs 4 bytes"},
		{"version 0", header(0, 0, 0), "version 0 is not read"},
		{"version 1", header(1, 0, 0), "version 1 is not read"},
		{"version 4", header(4, 0, 0), "version 4 is not read"},
		{"big-endian", header(3<<24, 0, 0), "big-endian"},
		{"tensor count", header(3, 1, 0), "number of tensors is 1"},
		{"tensor count 2^63", header(3, 1<<63, 0), "number of tensors"},
		{"tensor count 2^64/32", header(3, 1<<59, 0), "number of tensors"},
		{"metadata count", header(3, 0, 1), "number of metadata"},
		{"metadata count max", header(3, 0, math.MaxUint64), "number of metadata"},
		{"key length", newGGUF(3, 0, 1).u64(1<<40).u64(0).u64(0).data(1, 0), "length of a metadata key"},
		{"key length max", newGGUF(3, 0, 1).u64(math.MaxUint64).u64(0).u64(0).data(1, 0), "length of a metadata key"},
		{"key too long", newGGUF(3, 0, 1).str(strings.Repeat("k", 70_000)).u32(0).data(1, 1), "longer than 1024"},
		{"key with controls", newGGUF(3, 0, 1).str("a\x1b[2J").u32(0).data(1, 1), `control characters: "a\x1b[2J"`},
		{"key twice", newGGUF(3, 0, 2).meta("k", ggufUint8, uint8(1)).meta("k", ggufUint8, uint8(1)).data(1, 0), `"k" occurs twice`},
		{"value type", withMeta(13, uint64(0)), "unknown value type 13"},
		{"value type max", withMeta(math.MaxUint32, uint64(0)), "unknown value type 4294967295"},
		{"value cut", withMeta(ggufUint64, uint32(0)), "k needs 8 bytes, 4 are left"},
		{"bool", withMeta(ggufBool, uint8(2)), "2 is no bool"},
		{"bool in an array", withMeta(ggufArray, uint32(ggufBool), uint64(2), uint16(0x0201)), "no bool"},
		{"string length", withMeta(ggufString, uint64(10), uint32(0)), "length of k is 10"},
		{"string length max", withMeta(ggufString, uint64(math.MaxUint64)), "length of k"},
		{"array type", withMeta(ggufArray, uint32(13), uint64(0)), "unknown element type 13"},
		{"array length", withMeta(ggufArray, uint32(ggufUint32), uint64(3), uint64(0)), "length of k is 3"},
		{"array length overflow", withMeta(ggufArray, uint32(ggufUint64), uint64(1<<61), uint64(0)), "length of k"},
		{"array of strings", withMeta(ggufArray, uint32(ggufString), uint64(2), "a", uint64(9)),
			"length of a string of k is 9"},
		{"array of strings, many", withMeta(ggufArray, uint32(ggufString), uint64(1<<60), "a"), "length of k"},
		{"arrays of arrays", nested.data(1, 64), "nested more than 4 deep"},
		{"alignment 0", align(ggufUint32, uint32(0)), "general.alignment is 0"},
		{"alignment 4", align(ggufUint32, uint32(4)), "general.alignment is 4"},
		{"alignment 48", align(ggufUint32, uint32(48)), "general.alignment is 48"},
		{"alignment 2^31", align(ggufUint32, uint32(1<<31)), "general.alignment"},
		{"alignment of a wrong type", align(ggufString, "32"), "general.alignment"},
		{"tensor name length", newGGUF(3, 1, 0).u64(1<<62).data(32, 64), "length of a tensor name"},
		{"dimensions 0", withTensor(quant.GGMLF32, 0), "has 0 dimensions"},
		{"dimensions 5", withTensor(quant.GGMLF32, 0, 1, 1, 1, 1, 1), "has 5 dimensions"},
		{"dimension zero", withTensor(quant.GGMLF32, 0, 0), "a dimension of 0"},
		{"dimension zero later", withTensor(quant.GGMLF32, 0, 4, 0), "a dimension of 0"},
		{"dimension 2^63", withTensor(quant.GGMLF32, 0, 1<<63), "dimension of 9223372036854775808"},
		{"dimension max", withTensor(quant.GGMLF32, 0, math.MaxUint64), "dimension"},
		{"product overflow", withTensor(quant.GGMLF32, 0, 1<<32, 1<<32), "dimension"},
		{"product wraps to a small size", withTensor(quant.GGMLF32, 0, 1<<62, 4, 1, 1), "dimension"},
		{"bytes overflow", withTensor(quant.GGMLF32, 0, 1<<58), "end after the file"},
		{"type unknown", withTensor(99, 0, 16), "unknown ggml type 99; supported are F32"},
		{"type removed", withTensor(4, 0, 16), "unknown ggml type 4"},
		{"not whole blocks", withTensor(quant.GGMLQ80, 0, 33), "not whole Q8_0 blocks"},
		{"size after the end", withTensor(quant.GGMLF32, 0, 17), "end after the file"},
		{"offset after the end", withTensor(quant.GGMLF32, 64, 16), "end after the file"},
		{"offset unaligned", withTensor(quant.GGMLF32, 4, 1), "not a multiple"},
		{"offset 2^63", withTensor(quant.GGMLF32, 1<<63, 1), "overflow"},
		{"offset max", withTensor(quant.GGMLF32, math.MaxUint64-31, 8), "overflow"},
		{"no data", newGGUF(3, 1, 0).tensor("t", quant.GGMLF32, 0, 1).data(1, 0), "end after the file"},
		{"tensor twice",
			newGGUF(3, 2, 0).tensor("t", quant.GGMLF32, 0, 8).tensor("t", quant.GGMLF32, 32, 8).data(32, 64),
			"occurs twice"},
		{"overlap", newGGUF(3, 2, 0).tensor("t", quant.GGMLF32, 0, 16).tensor("u", quant.GGMLF32, 32, 8).data(32, 64),
			"overlap"},
		{"same meaning", llama(func(b *ggufFile) {
			b.tensor("output.weight", quant.GGMLF32, 0, 8).tensor("lm_head.weight", quant.GGMLF32, 32, 8)
		}, 2, 0), "both mean"},
		{"no heads", llama(func(b *ggufFile) { b.tensor("blk.0.attn_q.weight", quant.GGMLF32, 0, 2, 8) }, 1, 0),
			"head_count is missing"},
		{"zero heads", llama(func(b *ggufFile) {
			b.meta("llama.attention.head_count", ggufUint32, uint32(0)).tensor("blk.0.attn_q.weight", quant.GGMLF32, 0,
				2, 8)
		}, 1, 1), "makes no sense"},
		{"heads per layer, too few", llama(func(b *ggufFile) {
			b.meta("llama.attention.head_count", ggufArray, uint32(ggufUint32), uint64(1),
				uint32(2)).tensor("blk.1.attn_q.weight", quant.GGMLF32, 0, 2, 8)
		}, 1, 1), "makes no sense"},
		{"heads do not fit", llama(func(b *ggufFile) {
			b.meta("llama.attention.head_count", ggufUint32, uint32(3)).tensor("blk.0.attn_q.weight", quant.GGMLF32, 0,
				2, 8)
		}, 1, 1), "8 rows are not 3 heads"},
	} {
		t.Run(c.name, func(t *testing.T) { mustRefuse(t, c.data, c.say) })
	}
}

// A good file cut anywhere is refused, and so is (or else it opens and reads without a crash) every change of one byte
// of its header.
func TestGGUFDamagedAnywhere(t *testing.T) {
	for name, good := range map[string][]byte{"layer": layerFile(), "blocks": blocksFile(t)} {
		t.Run(name, func(t *testing.T) {
			last := len(good)
			if name == "blocks" {
				// the writer pads the end of the file; what is cut there belongs to no tensor
				last = len(bytes.TrimRight(good, "\x00"))
			}
			for n := 4; n < last; n += 1 + n/512 {
				mustRefuse(t, good[:n], "")
			}
			dir := t.TempDir()
			for i := 0; i < min(len(good), 1100); i++ {
				for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
					bad := slices.Clone(good)
					bad[i] = v
					path := writeFile(t, dir, "x", bad)
					s, err := Open(path)
					if err != nil {
						continue
					}
					readAll(s)
					s.Close()
				}
			}
		})
	}
}

// readAll reads every tensor and ignores errors.
func readAll(s Source) {
	for _, name := range s.Names() {
		s.Info(name)
		s.Matrix(name)
		s.Vector(name)
	}
}

func blocksFile(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/blocks.gguf")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A file that the gguf Python package wrote (scripts/golden/gguf_blocks.py) reads with the values of its own
// dequantization.
func TestGGUFOfReferenceWriter(t *testing.T) {
	g, err := OpenGGUF("testdata/blocks.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	text, err := os.ReadFile("../../quant/testdata/ggml_blocks.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Cases []struct {
			Format, Values string
			Rows, Cols     int
		}
	}
	if err := json.Unmarshal(text, &want); err != nil || len(want.Cases) == 0 {
		t.Fatalf("%d cases: %v", len(want.Cases), err)
	}
	for _, c := range want.Cases {
		raw, _ := base64.StdEncoding.DecodeString(c.Values)
		values, _ := floats("F32", raw)
		name := fmt.Sprintf("blk.0.%s.weight", strings.ToLower(c.Format))
		info, ok := g.Info(name)
		if !ok || info.Format != c.Format || !slices.Equal(info.Shape, []int{c.Rows, c.Cols}) {
			t.Errorf("%s: info %+v", name, info)
			continue
		}
		numtest.Equal(t, name, tensorValues(t, g, name), values)
	}
	for key, want := range map[string]any{
		"general.architecture": "qwen2", "qwen2.block_count": uint32(1), "test.float": float32(0.1), "test.bool": true,
		"test.string": "héllo", "test.uint64": uint64(1 << 63), "test.int8": int8(-7),
	} {
		if got := g.Meta()[key]; got != want {
			t.Errorf("%s = %v (%T), want %v (%T)", key, got, got, want, want)
		}
	}
	if got, _ := g.Meta()["test.strings"].([]string); !slices.Equal(got, []string{"", "a", "日本"}) {
		t.Errorf("test.strings = %q", got)
	}
	if got, _ := g.Meta()["test.ints"].([]int32); !slices.Equal(got, []int32{1, -2, 3}) {
		t.Errorf("test.ints = %v", g.Meta()["test.ints"])
	}
}

func TestGGUFMetadataTypes(t *testing.T) {
	data := newGGUF(2, 0, 14).
		meta("u8", ggufUint8, uint8(200)).meta("i8", ggufInt8, int8(-1)).meta("u16", ggufUint16,
		uint16(60000)).meta("i16", ggufInt16, int16(-2)).
		meta("u32", ggufUint32, uint32(1<<31)).meta("i32", ggufInt32, int32(-3)).meta("f32", ggufFloat32,
		float32(1.5)).meta("f64", ggufFloat64, 2.5).
		meta("u64", ggufUint64, uint64(1<<63)).meta("i64", ggufInt64, int64(-4)).meta("bool", ggufBool, false).
		meta("none", ggufArray, uint32(ggufString), uint64(0)).
		meta("bools", ggufArray, uint32(ggufBool), uint64(2), true, false).
		meta("nested", ggufArray, uint32(ggufArray), uint64(2), uint32(ggufUint8), uint64(2), uint8(1), uint8(2),
			uint32(ggufString), uint64(1), "x").
		data(1, 0)
	g, err := OpenGGUF(writeFile(t, t.TempDir(), "x", data))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if g.Version() != 2 {
		t.Errorf("version %d", g.Version())
	}
	want := "map[bool:false bools:[true false] f32:1.5 f64:2.5 i16:-2 i32:-3 i64:-4 i8:-1 nested:[[1 2] [x]] " +
		"none:[] u16:60000 u32:2147483648 u64:9223372036854775808 u8:200]"
	if got := fmt.Sprint(g.Meta()); got != want {
		t.Errorf("metadata %s\nwant     %s", got, want)
	}
	for key, want := range map[string]string{"u8": "uint8", "i16": "int16", "f64": "float64", "none": "[]string",
		"bools": "[]bool", "nested": "[]interface {}"} {
		if got := fmt.Sprintf("%T", g.Meta()[key]); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

func TestGGUFUnsupportedFormatOpens(t *testing.T) {
	s := open(t, writeFile(t, t.TempDir(), "x", newGGUF(3, 1, 0).tensor("t", 10, 0, 256, 1).data(32, 84)))
	if info, ok := s.Info("t"); !ok || info.Format != "Q2_K" || info.Bytes != 84 {
		t.Errorf("info %+v", info)
	}
	if _, err := s.Matrix("t"); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "Q2_K") ||
		!strings.Contains(err.Error(), "Q4_K") {
		t.Errorf("error %v", err)
	}
	if _, err := s.Vector("t"); !errors.Is(err, ErrKind) {
		t.Errorf("error %v", err)
	}
	if _, err := s.Matrix("u"); !errors.Is(err, ErrNoTensor) {
		t.Errorf("error %v", err)
	}
}

func TestHuggingFaceNames(t *testing.T) {
	for _, c := range []struct{ arch, from, to string }{
		{"llama", "token_embd.weight", "model.embed_tokens.weight"},
		{"llama", "output_norm.weight", "model.norm.weight"},
		{"llama", "output.weight", "lm_head.weight"},
		{"llama", "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
		{"llama", "blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"},
		{"llama", "blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"},
		{"llama", "blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"},
		{"llama", "rope_freqs.weight", "rope_freqs.weight"},
		{"llama", "blk.01.attn_q.weight", "blk.01.attn_q.weight"},
		{"llama", "blk.-1.attn_q.weight", "blk.-1.attn_q.weight"},
		{"llama", "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_inp.weight"},
		{"llama", "blk.0.attn_q", "blk.0.attn_q"},
		{"llama", "blk.0.attn_q.scale", "blk.0.attn_q.scale"},
		{"qwen2", "blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias"},
		{"qwen3", "blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight"},
		{"gemma2", "blk.1.post_attention_norm.weight", "model.layers.1.post_attention_layernorm.weight"},
		{"gemma2", "blk.1.ffn_norm.weight", "model.layers.1.pre_feedforward_layernorm.weight"},
		{"gemma3", "blk.1.post_ffw_norm.weight", "model.layers.1.post_feedforward_layernorm.weight"},
		{"gemma3", "blk.1.attn_norm.weight", "model.layers.1.input_layernorm.weight"},
		{"phi3", "blk.1.attn_qkv.weight", "model.layers.1.self_attn.qkv_proj.weight"},
		{"phi3", "blk.1.ffn_up.weight", "model.layers.1.mlp.gate_up_proj.weight"},
		{"phi3", "rope_factors_long.weight", "rope_factors_long.weight"},
		{"phi3", "rope_factors_short.weight", "rope_factors_short.weight"},
		{"bert", "blk.1.ffn_up.weight", "blk.1.ffn_up.weight"},
	} {
		if got := HuggingFaceName(c.arch, c.from); got != c.to {
			t.Errorf("%s %s → %s, want %s", c.arch, c.from, got, c.to)
		}
	}
}

func TestNormsIncludeOne(t *testing.T) {
	for arch, want := range map[string]bool{"gemma2": true, "gemma3": true, "llama": false} {
		g, err := OpenGGUF(writeFile(t, t.TempDir(), "x",
			newGGUF(3, 0, 1).meta("general.architecture", ggufString, arch).data(1, 0)))
		if err != nil {
			t.Fatal(err)
		}
		if g.NormsIncludeOne() != want {
			t.Errorf("%s: %v", arch, !want)
		}
		g.Close()
	}
}

func TestDescribe(t *testing.T) {
	long := strings.Repeat("é", 600)
	file := newGGUF(3, 2, 4).
		meta("general.architecture", ggufString, "qwen2").meta("long", ggufString, long).
		meta("many", ggufArray, uint32(ggufUint8), uint64(9), [9]byte{1}).meta("nan", ggufFloat32, float32(math.NaN())).
		tensor("output.weight", quant.GGMLQ80, 0, 32, 2).tensor("output_norm.weight", quant.GGMLF32, 96, 8).data(32,
		128)
	d, err := Describe(writeFile(t, t.TempDir(), "m.gguf", file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"kind":"GGUF v3","architecture":"qwen2"`,
		`"many":{"len":9,"head":[1,0,0,0,0,0,0,0]}`, `"nan":"NaN"`, `"len":1200`,
		`{"name":"lm_head.weight","shape":[2,32],"format":"Q8_0","num_bytes":68,"file":"m.gguf"}`,
		`"formats":[{"format":"Q8_0","num_tensors":1,"num_values":64,"num_bytes":68},{"format":"F32","num_tensors":1,"num_values":8,"num_bytes":32}]`,
		`"num_values":72,"num_bytes":100`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s\nlacks %s", text, want)
		}
	}
	if len(text) > 3000 {
		t.Errorf("%d bytes of JSON", len(text))
	}
	folder := t.TempDir()
	writeFile(t, folder, singleFile, goodSafetensors())
	for path, kind := range map[string]string{folder: "safetensors folder",
		filepath.Join(folder, singleFile): "safetensors"} {
		d, err := Describe(path)
		if err != nil || d.Kind != kind || len(d.Tensors) != 3 || d.NumBytes != 32 || d.Metadata["format"] != "pt" {
			t.Errorf("%s: %+v, %v", path, d, err)
		}
	}
}

func FuzzGGUF(f *testing.F) {
	f.Add(layerFile())
	f.Add(blocksFile(f)[:2000])
	f.Add(newGGUF(2, 0, 1).meta("k", ggufArray, uint32(ggufString), uint64(2), "a", "b").data(1, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := OpenGGUF(writeFile(t, t.TempDir(), "x", data))
		if err != nil {
			return
		}
		defer g.Close()
		readAll(g)
	})
}

func FuzzSafetensors(f *testing.F) {
	f.Add(goodSafetensors())
	f.Add(st(`{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := OpenSafetensors(writeFile(t, t.TempDir(), "x", data))
		if err != nil {
			return
		}
		defer s.Close()
		readAll(s)
		for _, name := range s.Names() {
			s.Floats(name)
			s.Ints(name)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":1,"x":[{}]},"weight_map":{"a":"1","b":"2"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := parseIndex(data)
		if err != nil {
			return
		}
		for name, file := range files {
			if filepath.Base(file) != file || file == ".." {
				t.Errorf("%q: %q leaves the folder", name, file)
			}
		}
	})
}
