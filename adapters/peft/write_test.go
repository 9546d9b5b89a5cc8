package peft

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/quant"
	"weft/runtime/weights"
)

// Every golden adapter, written again, is the same adapter: configuration, tensors and digest.
func TestWriteIsReadBack(t *testing.T) {
	goldenAdapters(t, func(t *testing.T, dir string, g *golden) {
		if g.Expect == "refuse" {
			return
		}
		a, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		again := filepath.Join(t.TempDir(), "again")
		if err := Write(again, a.Config, tensorsOf(t, dir)); err != nil {
			t.Fatal(err)
		}
		b, err := Open(again)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if !reflect.DeepEqual(a.Config, b.Config) {
			t.Errorf("configuration %+v became %+v", a.Config, b.Config)
		}
		if x, y := digest(t, dir), digest(t, again); x != y {
			t.Errorf("digest %s became %s", x, y)
		}
		checkMembers(t, dir, again)
	})
}

func tensorsOf(t *testing.T, dir string) map[string]weights.Tensor {
	t.Helper()
	file, err := weights.OpenSafetensors(filepath.Join(dir, WeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := map[string]weights.Tensor{}
	for _, name := range file.Names() {
		info, _ := file.Info(name)
		err := file.Bytes(name, func(data []byte) error {
			out[name] = weights.Tensor{DType: info.Format, Shape: info.Shape, Data: bytes.Clone(data)}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// checkMembers wants every member that PEFT writes to be written, so that no reader's default decides anything.
func checkMembers(t *testing.T, dir, again string) {
	t.Helper()
	read := func(dir string) (out map[string]any) {
		text, err := os.ReadFile(filepath.Join(dir, ConfigFile))
		if err == nil {
			err = json.Unmarshal(text, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		delete(out, "peft_version") // PEFT did not write it
		return out
	}
	theirs, ours := read(dir), read(again)
	for k, v := range theirs {
		if o, ok := ours[k]; !ok || !reflect.DeepEqual(o, v) {
			t.Errorf("%s is %v, want %v", k, o, v)
		}
	}
	for k, v := range ours {
		if _, ok := theirs[k]; !ok && v != nil {
			t.Errorf("%s is %v, which PEFT does not know", k, v)
		}
	}
}

func digest(t *testing.T, path string) string {
	t.Helper()
	d, err := Digest(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What Open would refuse is not written, nor is anything over what is there; nothing is left behind.
func TestWriteRefuses(t *testing.T) {
	sound := Config{Rank: 2, Alpha: 4, Targets: Modules{Names: []string{"q_proj", "down_proj"}}}
	parent := t.TempDir()
	bad := sound
	bad.Rank = 5
	if err := Write(filepath.Join(parent, "x"), bad, newFolder().tensors); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v, want a refusal of the rank", err)
	}
	if err := Write(filepath.Join(parent, "y"), sound, newFolder().tensors); err != nil {
		t.Error(err)
	}
	if err := Write(filepath.Join(parent, "y"), sound, newFolder().tensors); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want that it exists", err)
	}
	if err := os.WriteFile(filepath.Join(parent, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(parent, "file"), sound, newFolder().tensors); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want that the file exists", err)
	}
	if err := Write(filepath.Join(parent, "none", "z"), sound, newFolder().tensors); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that the parent does not exist", err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 2 {
		t.Errorf("%v is in the folder, want y and file", entries)
	}
}

// The digest is of what is computed: another spelling is the same, another bit is not.
func TestDigest(t *testing.T) {
	plain := digest(t, newFolder().write(t))
	for name, c := range map[string]struct {
		change func(*folder)
		same   bool
	}{
		"training only": {func(f *folder) { f.config["lora_dropout"], f.config["base_model_name_or_path"] = 0.5, "x" },
			true},
		"spelled names": {func(f *folder) {
			rename(f.tensors, q0+".lora_A.weight", "model.layers.0.self_attn.q_proj.lora_A.default.weight")
		}, true},
		"targets, spelled": {func(f *folder) {
			f.config["target_modules"], f.config["layers_to_transform"] = `.*\.[01]\..*(q|down)_proj`, nil
		}, true},
		"rank by a pattern": {func(f *folder) { f.config["r"], f.config["rank_pattern"] = 9, map[string]any{".*": 2} },
			true},
		"alpha": {func(f *folder) { f.config["lora_alpha"] = 5 }, false},
		"alpha of one": {func(f *folder) { f.config["alpha_pattern"] = map[string]any{"1.mlp.down_proj": 3} },
			false},
		"rsLoRA":   {func(f *folder) { f.config["use_rslora"] = true }, false},
		"a bit":    {func(f *folder) { f.tensors[d1+".lora_B.weight"].Data[8]++ }, false},
		"a module": {func(f *folder) { f.config["layers_to_transform"] = 0; f.drop("layers.1") }, false},
		"another module": {func(f *folder) {
			rename(f.tensors, q0+".lora_A.weight", prefix+"model.layers.0.self_attn.o_proj.lora_A.weight")
			rename(f.tensors, q0+".lora_B.weight", prefix+"model.layers.0.self_attn.o_proj.lora_B.weight")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder()
			c.change(f)
			if got := digest(t, f.write(t)); (got == plain) != c.same {
				t.Errorf("digest %s, before %s", got, plain)
			}
		})
	}
	// Worked out from the documentation by another program; registries hold such digests, so that it must never change.
	const want = "e6c760557272803ffef16d29455e3facd18117e67d2fba7a5bc938c36c718439"
	if got := digest(t, "testdata/llamacpp"); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	if got := digest(t, "testdata/llamacpp/adapter.gguf"); got == want {
		t.Error("a GGUF and a folder of other types have one digest")
	}
}

func rename(tensors map[string]weights.Tensor, from, to string) {
	tensors[to] = tensors[from]
	delete(tensors, from)
}

// The order of a file's data and of its header, spaces in it, and metadata are no part of an adapter.
func TestDigestIgnoresLayout(t *testing.T) {
	dir := newFolder().write(t)
	want := digest(t, dir)
	tensors := tensorsOf(t, dir)
	var header bytes.Buffer
	header.WriteString(`{ "__metadata__": {"a":"b"}`)
	var data []byte
	names := slices.Sorted(maps.Keys(tensors))
	slices.Reverse(names)
	for _, name := range names {
		x := tensors[name]
		entry, err := json.Marshal(map[string]any{"dtype": x.DType, "shape": x.Shape,
			"data_offsets": []int{len(data), len(data) + len(x.Data)}})
		if err != nil {
			t.Fatal(err)
		}
		header.WriteString(`,` + "\n" + `"` + name + `": ` + string(entry))
		data = append(data, x.Data...)
	}
	header.WriteString("}   ")
	file := slices.Concat([]byte{byte(header.Len()), byte(header.Len() >> 8), 0, 0, 0, 0, 0, 0}, header.Bytes(), data)
	if err := os.WriteFile(filepath.Join(dir, WeightsFile), file, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := digest(t, dir); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

// A base whose weights are quantized, and one whose embedding came with the adapter in another type, are recognized.
func TestSavedBaseWeight(t *testing.T) {
	base := storiesBase(t)
	own, err := base.Matrix("model.embed_tokens.weight")
	if err != nil {
		t.Fatal(err)
	}
	half, row := make([]byte, 0, 2*own.Rows*own.Cols), make([]float32, own.Cols)
	for r := range own.Rows {
		own.Row(r, row)
		for _, v := range row { // BF16 by cutting off
			half = binary.LittleEndian.AppendUint16(half, uint16(math.Float32bits(v)>>16))
		}
	}
	f := newFolder()
	f.tensors[prefix+"model.embed_tokens.weight"] = weights.Tensor{DType: "BF16", Shape: []int{own.Rows, own.Cols},
		Data: half}
	a, err := Load(f.write(t), base)
	if err != nil {
		t.Fatal(err)
	}
	if a.EmbedTable != nil {
		t.Error("the unchanged embedding became a table of the adapter")
	}
	quantized, err := OpenModel(cachedModel(t, readSmolLM2(t).SHA256), "")
	if err != nil {
		t.Fatal(err)
	}
	defer quantized.Close()
	for noise, same := range map[float32]bool{0: true, 0.05: true, 0.2: false} {
		b := &builder{a: withEmbedding(t, quantized, noise), base: quantized}
		got, err := b.sameAsBase(embedPath, b.a.modules[embedPath][kindBase])
		if err != nil || got != same {
			t.Errorf("the embedding of the 4-bit file, off by %v of each value: recognized %v, want %v: %v", noise, got,
				same, err)
		}
	}
}

// withEmbedding opens an adapter that brings base's embedding along, as BF16, each value bigger or smaller by a share
// of it.
func withEmbedding(t *testing.T, base *ModelFile, noise float32) *Adapter {
	t.Helper()
	own, err := base.Matrix("model.embed_tokens.weight")
	if err != nil {
		t.Fatal(err)
	}
	x := weights.Tensor{DType: "BF16", Shape: []int{own.Rows, own.Cols}}
	row := make([]float32, own.Cols)
	for i := range own.Rows {
		own.Row(i, row)
		for j, v := range row {
			x.Data = binary.LittleEndian.AppendUint16(x.Data, quant.F32ToBF16(v*(1+noise*float32(1-j%2*2))))
		}
	}
	f := newFolder()
	f.tensors[prefix+"model.embed_tokens.base_layer.weight"] = x
	a, err := Open(f.write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// The stories adapters fit the GGUF of their base, too: DoRA's norms come out the same from either file.
func TestGainsFromGGUF(t *testing.T) { goldens.Each(t, testGainsFromGGUF) }

func testGainsFromGGUF(t *testing.T) {
	gguf, err := OpenModel(goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf"), "stories260K")
	if err != nil {
		t.Fatal(err)
	}
	defer gguf.Close()
	dir := goldens.Path(t, "serve", "adapters", "stories-dora")
	want, err := Load(dir, storiesBase(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir, gguf)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Layers, want.Layers) {
		t.Error("another adapter over the GGUF of the same weights")
	}
}
