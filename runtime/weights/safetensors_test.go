package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"weft/internal/numtest"
)

// st is a safetensors file of a header as given and dataBytes bytes of data.
func st(header string, dataBytes int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range dataBytes {
		b = append(b, byte(i))
	}
	return b
}

func writeFile(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mustRefuse opens a file that must be refused with an error that names it and says what is wrong, without much memory.
func mustRefuse(t *testing.T, data []byte, say string) {
	t.Helper()
	path := writeFile(t, t.TempDir(), "model", data)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, err := Open(path)
	runtime.ReadMemStats(&after)
	if err == nil {
		s.Close()
		t.Fatalf("opened; want an error that contains %q", say)
	}
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), say) {
		t.Errorf("error %q; want ErrFormat, the path, and %q", err, say)
	}
	if used, limit := after.TotalAlloc-before.TotalAlloc, allocLimit(len(data)); used > limit {
		t.Errorf("%d bytes allocated for a file of %d, allowed %d", used, len(data), limit)
	}
}

// allocLimit is what opening a file of a size may allocate in all, garbage included.
func allocLimit(size int) uint64 { return 64<<10 + 40*uint64(size) }

func TestSafetensorsRefuses(t *testing.T) {
	claim := func(n uint64, rest string) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), rest...) }
	one := func(dtype, shape, offsets string) string {
		return fmt.Sprintf(`{"a":{"dtype":%q,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets)
	}
	for _, c := range []struct {
		name string
		data []byte
		say  string
	}{
		{"empty", nil, "empty"},
		{"short", []byte{1, 2, 3}, "too few"},
		{"length only", claim(5, ""), "cut short"},
		{"name too long", st(`{"`+strings.Repeat("a", 1<<20)+`":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`, 1), "a key of 1048576 bytes is longer than 1024"},
		{"length over file", claim(1000, "{}"), "cut short"},
		{"length over limit", claim(MaxHeaderBytes+1, "{}"), "hostile"},
		{"length 100 MB", claim(MaxHeaderBytes, "{}"), "cut short"},
		{"length 2^63", claim(1<<63, "{}"), "hostile"},
		{"length max", claim(math.MaxUint64, "{}"), "hostile"},
		{"no header", claim(0, ""), "'{'"},
		{"not JSON", st("hello", 0), "'{'"},
		{"leading space", st(" {}", 0), "'{'"},
		{"array", st("[]", 0), "'{'"},
		{"cut JSON", st(`{"a":`, 0), "EOF"},
		{"invalid UTF-8", st("{\"\xff\":1}", 0), "UTF-8"},
		{"after the end", st("{}x", 0), "after the end"},
		{"two values", st("{}{}", 0), "after the end"},
		{"tensor is a number", st(`{"a":1}`, 0), "found 1"},
		{"no fields", st(`{"a":{}}`, 0), "missing"},
		{"no dtype", st(`{"a":{"shape":[0],"data_offsets":[0,0]}}`, 0), "missing"},
		{"unknown field", st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}`, 1), `"x"`},
		{"field twice", st(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "twice"},
		{"tensor twice", st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "twice"},
		{"metadata not text", st(`{"__metadata__":{"a":1}}`, 0), "not a string"},
		{"metadata nested", st(`{"__metadata__":{"a":{}}}`, 0), "not a string"},
		{"metadata key twice", st(`{"__metadata__":{"a":"1","a":"2"}}`, 0), "twice"},
		{"dtype unknown", st(one("Q4_1", "[1]", "[0,1]"), 1), `"Q4_1" is unknown`},
		{"dtype case", st(one("f32", "[1]", "[0,4]"), 4), "unknown"},
		{"shape negative", st(one("U8", "[-1]", "[0,1]"), 1), "-1"},
		{"shape fraction", st(one("U8", "[1.0]", "[0,1]"), 1), "1.0"},
		{"shape exponent", st(one("U8", "[1e0]", "[0,1]"), 1), "1e0"},
		{"shape text", st(one("U8", `["1"]`, "[0,1]"), 1), "not an integer"},
		{"shape 2^63", st(one("U8", "[9223372036854775808]", "[0,1]"), 1), "9223372036854775808"},
		{"shape overflow", st(one("F32", "[4611686018427387904,4]", "[0,0]"), 0), "does not take"},
		{"shape overflow to zero", st(one("F32", "[4294967296,4294967296]", "[0,0]"), 0), "does not take"},
		{"dimensions", st(one("U8", "["+strings.Repeat("1,", 40)+"1]", "[0,1]"), 1), "more than 32"},
		{"false size", st(one("F32", "[2]", "[0,4]"), 4), "does not take"},
		{"odd bits", st(one("F4", "[3]", "[0,2]"), 2), "does not take"},
		{"offsets one", st(one("U8", "[1]", "[0]"), 1), "has 1 values"},
		{"offsets three", st(one("U8", "[1]", "[0,1,2]"), 1), "more than 2"},
		{"offsets reversed", st(one("U8", "[1]", "[1,0]"), 1), "outside"},
		{"offsets after the end", st(one("U8", "[8]", "[0,8]"), 7), "outside"},
		{"offsets huge", st(one("U8", "[1]", "[9223372036854775806,9223372036854775807]"), 1), "outside"},
		{"hole at the start", st(one("U8", "[1]", "[1,2]"), 2), "no tensor"},
		{"hole at the end", st(one("U8", "[1]", "[0,1]"), 2), "after the last"},
		{"hole between", st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), "no tensor"},
		{"overlap", st(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), "overlap"},
		{"same place", st(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), "overlap"},
		{"deep", st(`{"a":`+strings.Repeat("[", 50_000)+"}", 0), "want {"},
	} {
		t.Run(c.name, func(t *testing.T) { mustRefuse(t, c.data, c.say) })
	}
}

func goodSafetensors() []byte {
	return st(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},`+
		`"b":{"dtype":"I64","shape":[],"data_offsets":[24,32]},"c":{"dtype":"BF16","shape":[0,4],"data_offsets":[32,32]}}   `, 32)
}

// A good file opens; cut anywhere, or with something behind it, it does not.
func TestSafetensorsCutAnywhere(t *testing.T) {
	good := goodSafetensors()
	s := open(t, writeFile(t, t.TempDir(), "model", good))
	if got := s.Names(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Fatalf("names %v", got)
	}
	for n := range good {
		mustRefuse(t, good[:n], "")
	}
	mustRefuse(t, append(slices.Clone(good), 0), "after the last")
}

func TestSafetensorsReads(t *testing.T) {
	le := binary.LittleEndian
	data := map[string]Tensor{
		"f32": {"F32", []int{2, 2},
			le.AppendUint32(le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, 0x3f800000), 0xbf800000), 0x7f800000),
				1)},
		"f16":   {"F16", []int{2}, le.AppendUint16(le.AppendUint16(nil, 0x3c00), 0x0001)},
		"bf16":  {"BF16", []int{1, 2}, le.AppendUint16(le.AppendUint16(nil, 0x3f80), 0xff80)},
		"f64":   {"F64", []int{1}, le.AppendUint64(nil, math.Float64bits(0.1))},
		"i32":   {"I32", []int{2, 1}, le.AppendUint32(le.AppendUint32(nil, 7), 0xfffffff9)},
		"i64":   {"I64", nil, le.AppendUint64(nil, 1<<64-5)},
		"big":   {"I64", []int{1}, le.AppendUint64(nil, 1<<31)},
		"u64":   {"U64", []int{1}, le.AppendUint64(nil, 1<<64-1)},
		"u8":    {"U8", []int{3}, []byte{0, 128, 255}},
		"bool":  {"BOOL", []int{2}, []byte{0, 1}},
		"empty": {"F32", []int{0, 3}, nil},
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	meta := map[string]string{"made": "here", "é": "\"<&>"}
	if err := WriteSafetensors(path, data, meta); err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(path)
	if err := WriteSafetensors(path, data, meta); err != nil { // replaces the file
		t.Fatal(err)
	}
	second, _ := os.ReadFile(path)
	if !bytes.Equal(first, second) || len(first) == 0 {
		t.Errorf("written twice: %d and %d bytes that differ", len(first), len(second))
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%d files in the folder, want 1", len(left))
	}
	s, err := OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !maps.Equal(s.Metadata(), meta) || !slices.Equal(s.Names(), slices.Sorted(maps.Keys(data))) {
		t.Errorf("metadata %v, names %v", s.Metadata(), s.Names())
	}
	inf := float32(math.Inf(1))
	for name, want := range map[string][]float32{
		"f32": {1, -1, inf, 0x1p-149}, "f16": {1, 0x1p-24}, "bf16": {1, -inf}, "f64": {0.1}, "empty": {},
	} {
		got, shape, err := s.Floats(name)
		if err != nil || !slices.Equal(shape, data[name].Shape) {
			t.Errorf("%s: shape %v, error %v", name, shape, err)
		}
		numtest.Equal(t, name, got, want)
	}
	for name, want := range map[string][]int32{"i32": {7, -7}, "i64": {-5}, "u8": {0, 128, 255}, "bool": {0, 1}} {
		got, shape, err := s.Ints(name)
		if err != nil || !slices.Equal(got, want) || !slices.Equal(shape, data[name].Shape) {
			t.Errorf("%s: %v %v, error %v; want %v", name, got, shape, err, want)
		}
	}
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"big", second3(s.Ints("big")), ErrKind},
		{"u64", second3(s.Ints("u64")), ErrKind},
		{"floats of ints", second3(s.Floats("i32")), ErrKind},
		{"ints of floats", second3(s.Ints("f32")), ErrKind},
		{"vector of a matrix", second2(s.Vector("f32")), ErrKind},
		{"matrix of a vector", second2(s.Matrix("f16")), ErrKind},
		{"empty matrix", second2(s.Matrix("empty")), ErrKind},
		{"matrix of ints", second2(s.Matrix("i32")), ErrUnsupported},
		{"absent matrix", second2(s.Matrix("no")), ErrNoTensor},
		{"absent vector", second2(s.Vector("no")), ErrNoTensor},
		{"absent ints", second3(s.Ints("no")), ErrNoTensor},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: error %v, want %v", c.what, c.err, c.want)
		}
	}
	numtest.Equal(t, "bf16 matrix", tensorValues(t, s, "bf16"), []float32{1, -inf})
}

func second2[A any](_ A, err error) error         { return err }
func second3[A, B any](_ A, _ B, err error) error { return err }

func TestWriteSafetensorsRefuses(t *testing.T) {
	for name, tensors := range map[string]map[string]Tensor{
		"dtype":    {"a": {"Q4_1", []int{1}, make([]byte, 1)}},
		"size":     {"a": {"F32", []int{2}, make([]byte, 4)}},
		"negative": {"a": {"U8", []int{-1, -1}, make([]byte, 1)}},
		"overflow": {"a": {"U8", []int{1 << 62, 1 << 62}, nil}},
		"name":     {"__metadata__": {"U8", []int{1}, make([]byte, 1)}},
		"UTF-8":    {"\xff": {"U8", []int{1}, make([]byte, 1)}},
	} {
		path := filepath.Join(t.TempDir(), "x")
		err := WriteSafetensors(path, tensors, nil)
		if left, _ := os.ReadDir(filepath.Dir(path)); err == nil || len(left) != 0 {
			t.Errorf("%s: error %v, %d files left", name, err, len(left))
		}
	}
	if err := WriteSafetensors(filepath.Join(t.TempDir(), "no", "x"), nil, nil); err == nil {
		t.Error("written into a folder that is not there")
	}
}

// A shard or index with false entries is refused.
func TestDirRefuses(t *testing.T) {
	file := func(names ...string) []byte {
		var parts []string
		for i, n := range names {
			parts = append(parts, fmt.Sprintf(`%q:{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}`, n, i, i+1))
		}
		return st("{"+strings.Join(parts, ",")+"}", len(names))
	}
	index := func(pairs string) []byte { return []byte(`{"metadata":{"total_size":3},"weight_map":{` + pairs + `}}`) }
	const i = indexFile
	for _, c := range []struct {
		name  string
		files map[string][]byte
		say   string
	}{
		{"good", map[string][]byte{i: index(`"a":"1","b":"2"`), "1": file("a"), "2": file("b")}, ""},
		{"empty folder", nil, "neither"},
		{"pickle", map[string][]byte{"pytorch_model.bin": {1}}, "pickle"},
		{"GGUF inside", map[string][]byte{"m.gguf": {1}}, "open m.gguf itself"},
		{"shard missing", map[string][]byte{i: index(`"a":"1","b":"2"`), "1": file("a")}, "shard 2, which is missing"},
		{"tensor doubled", map[string][]byte{i: index(`"a":"1","b":"2"`), "1": file("a"), "2": file("b", "a")}, "again"},
		{"tensor elsewhere", map[string][]byte{i: index(`"a":"2","b":"1"`), "1": file("a"), "2": file("b")}, "but it is in 1"},
		{"tensor absent", map[string][]byte{i: index(`"a":"1","b":"1"`), "1": file("a")}, "but it is not"},
		{"tensor not listed", map[string][]byte{i: index(`"a":"1"`), "1": file("a", "b")}, "not listed"},
		{"shard malformed", map[string][]byte{i: index(`"a":"1"`), "1": []byte("?")}, "too few"},
		{"out of the folder", map[string][]byte{i: index(`"a":"../1"`)}, "not the name of a file"},
		{"absolute", map[string][]byte{i: index(`"a":"/etc/passwd"`)}, "not the name of a file"},
		{"dots", map[string][]byte{i: index(`"a":".."`)}, "not the name of a file"},
		{"no map", map[string][]byte{i: []byte(`{"metadata":{}}`)}, "weight_map"},
		{"empty map", map[string][]byte{i: index("")}, "weight_map"},
		{"map twice", map[string][]byte{i: []byte(`{"weight_map":{"a":"1"},"weight_map":{"a":"1"}}`), "1": file("a")}, "twice"},
		{"name twice", map[string][]byte{i: index(`"a":"1","a":"1"`), "1": file("a")}, "twice"},
		{"map of integers", map[string][]byte{i: index(`"a":1`)}, "not a string"},
		{"not JSON", map[string][]byte{i: []byte("shards")}, "invalid"},
		{"after the end", map[string][]byte{i: []byte(`{"weight_map":{"a":"1"}} x`), "1": file("a")}, "after the end"},
		{"single malformed", map[string][]byte{singleFile: []byte("?")}, "too few"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range c.files {
				writeFile(t, dir, name, data)
			}
			s, err := Open(dir)
			if err == nil {
				defer s.Close()
			}
			switch {
			case c.say == "" && err != nil:
				t.Error(err)
			case c.say != "" && (err == nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.say)):
				t.Errorf("error %v, want ErrFormat and %q", err, c.say)
			}
		})
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "absent"), os.DevNull} {
		if s, err := Open(path); err == nil || s != nil {
			t.Errorf("%s: %v, %v", path, s, err)
		}
	}
}

// A file that is cut under its mapping gives an error, no crash; reads that were done before stay.
func TestTruncatedWhileOpen(t *testing.T) {
	const n = 1 << 20
	path := writeFile(t, t.TempDir(), "model", st(fmt.Sprintf(`{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}`, n, n), n))
	s, err := OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Ints("a"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Ints("a"); !errors.Is(err, ErrChanged) {
		t.Errorf("after truncation: %v", err)
	}
	// The size check cannot see a cut that comes later: the fault itself must become the error.
	err = s.m.fault(func() error {
		_, err := ints("U8", s.m.data)
		return err
	})
	if runtime.GOOS == "linux" && !errors.Is(err, ErrChanged) {
		t.Errorf("reading a lost page: %v", err)
	}
}
