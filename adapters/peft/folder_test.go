package peft

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/lora"
	"weft/runtime/weights"
)

const prefix = "base_model.model."

// f32 returns a tensor of small finite numbers.
func f32(shape ...int) weights.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	t := weights.Tensor{DType: "F32", Shape: shape}
	for i := range n {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(float32(i%7)/8-0.3))
	}
	return t
}

// folder is an adapter to write and to spoil: rank 2 on q and down of stories260K's first two layers.
type folder struct {
	config  map[string]any
	tensors map[string]weights.Tensor
}

func newFolder() *folder {
	f := &folder{
		config: map[string]any{"peft_type": "LORA", "r": 2, "lora_alpha": 4,
			"target_modules": []string{"q_proj", "down_proj"}, "layers_to_transform": []int{0, 1}},
		tensors: map[string]weights.Tensor{},
	}
	for l := range 2 {
		f.pair(fmt.Sprintf("model.layers.%d.self_attn.q_proj", l), 64, 64)
		f.pair(fmt.Sprintf("model.layers.%d.mlp.down_proj", l), 64, 172)
	}
	return f
}

func (f *folder) pair(path string, out, in int) {
	f.tensors[prefix+path+".lora_A.weight"], f.tensors[prefix+path+".lora_B.weight"] = f32(2, in), f32(out, 2)
}

// drop removes the tensors whose names contain the text.
func (f *folder) drop(text string) {
	maps.DeleteFunc(f.tensors, func(name string, _ weights.Tensor) bool { return strings.Contains(name, text) })
}

func (f *folder) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(f.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := weights.WriteSafetensors(filepath.Join(dir, WeightsFile), f.tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	q0 = prefix + "model.layers.0.self_attn.q_proj"
	d1 = prefix + "model.layers.1.mlp.down_proj"
)

// Every refusal names everything that is wrong; what is sound is read.
func TestFolders(t *testing.T) {
	base := storiesBase(t)
	set := func(name string, v any) func(*folder) { return func(f *folder) { f.config[name] = v } }
	add := func(name string, v weights.Tensor) func(*folder) { return func(f *folder) { f.tensors[name] = v } }
	for name, c := range map[string]struct {
		change func(*folder)
		want   []string
	}{
		"sound": {func(*folder) {}, nil},
		"old fields": {func(f *folder) {
			f.config["enable_lora"], f.config["merge_weights"], f.config["fan_in_fan_out"] = nil, true, true
		}, nil},
		"unknown field, off": {set("something_new", map[string]any{}), nil},
		"unknown field, on":  {set("something_new", 3), []string{`"something_new" is set`}},
		"dropout":            {set("lora_dropout", 0.1), nil},
		"no kind": {func(f *folder) { delete(f.config, "peft_type") },
			[]string{"peft_type is absent"}},
		"sequence classification": {set("task_type", "SEQ_CLS"), []string{`task_type is "SEQ_CLS"`}},
		"QALoRA":                  {set("use_qalora", true), []string{"use_qalora is set"}},
		"target parameters":       {set("target_parameters", []string{"x"}), []string{"target_parameters is set"}},
		"tying, untouched":        {set("ensure_weight_tying", true), nil},
		"no rank":                 {set("r", 0), []string{"r is 0"}},
		"rank of another type":    {set("r", "two"), []string{"r: json"}},
		"alpha":                   {set("lora_alpha", 1e300), []string{`alpha of "lora_alpha" is 1e+300`}},
		"bias":                    {set("bias", "some"), []string{`bias is "some"`}},
		"wrong rank":              {set("r", 3), []string{"the tensors have rank 2, but in the configuration r is 3"}},
		"rank pattern": {func(f *folder) {
			f.config["r"], f.config["rank_pattern"] = 3,
				map[string]any{"(q|down)_proj": 2}
		}, nil},
		"rank pattern, not it":    {set("rank_pattern", map[string]any{"q_proj": 5}), []string{`rank_pattern "q_proj" says 5`}},
		"rank pattern of strings": {set("rank_pattern", map[string]any{"q_proj": "5"}), []string{"rank_pattern"}},
		"fraction of a rank": {set("rank_pattern", map[string]any{"x": 1.5}),
			[]string{"expected a whole number"}},
		"pattern that is not Go's": {set("target_modules", `(?<!k_)proj`), []string{"cannot be read by Go's regular expressions"}},
		"pattern": {func(f *folder) {
			f.config["layers_to_transform"] = nil
			f.config["target_modules"] = `.*\.[01]\..*\.(q|down)_proj`
		}, nil},
		"pattern and layers": {set("target_modules", `.*_proj`), []string{"layers_to_transform works only with a list"}},
		"excluded": {set("exclude_modules", []string{"down_proj"}),
			[]string{"does not choose: model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj"}},
		"more targets": {set("target_modules", []string{"q_proj", "down_proj", "up_proj"}),
			[]string{"does not contain: model.layers.0.mlp.up_proj, model.layers.1.mlp.up_proj"}},
		"fewer targets": {set("target_modules", []string{"q_proj"}),
			[]string{"does not choose: model.layers.0.mlp.down_proj"}},
		"a target of other models": {set("target_modules", []string{"q_proj", "down_proj", "c_attn"}), nil},
		"all layers":               {set("layers_to_transform", nil), []string{"does not contain: model.layers.2"}},
		"one layer":                {func(f *folder) { f.config["layers_to_transform"] = 0; f.drop("layers.1") }, nil},
		"layers pattern":           {set("layers_pattern", "layers"), nil},
		"layers of another name":   {set("layers_pattern", []string{"h"}), []string{"does not choose"}},
		"default targets": {set("target_modules", nil),
			[]string{"does not contain: model.layers.0.self_attn.v_proj",
				"does not choose: model.layers.0.mlp.down_proj"}},
		"old names": {func(f *folder) {
			for name, v := range f.tensors {
				delete(f.tensors, name)
				f.tensors[strings.TrimSuffix(strings.TrimPrefix(name, prefix), ".weight")+".default.weight"] = v
			}
		}, nil},
		"two names of the same tensor": {add(q0+".lora_A.default.weight", f32(2, 64)),
			[]string{"two names of the same tensor"}},
		"unknown tensor": {add(q0+".lora_C.weight", f32(2, 2)), []string{"lora_C.weight\" is unknown"}},
		"norm": {add(prefix+"model.norm.weight", f32(64)),
			[]string{"modules_to_save does not name it"}},
		"no A": {func(f *folder) { f.drop("0.self_attn.q_proj.lora_A") },
			[]string{"lora_A is missing"}},
		"flat A": {add(q0+".lora_A.weight", f32(128)),
			[]string{"they must be [r in] and [out r]"}},
		"empty": {func(f *folder) {
			f.tensors[q0+".lora_A.weight"], f.tensors[q0+".lora_B.weight"] = f32(0, 64), f32(64, 0)
		}, []string{"they must be [r in] and [out r]"}},
		"F64": {add(q0+".lora_A.weight",
			weights.Tensor{DType: "F64", Shape: []int{2, 64}, Data: make([]byte, 1024)}), []string{"has type F64"}},
		"infinity": {func(
			f *folder) {
			binary.LittleEndian.PutUint32(f.tensors[q0+".lora_A.weight"].Data[12:], 0x7f800000)
		}, []string{"contains NaN or an infinity at value 3"}},
		"NaN in BF16": {add(q0+".lora_A.weight",
			weights.Tensor{DType: "BF16", Shape: []int{2, 64}, Data: append(make([]byte, 254), 0xc0, 0x7f)}),
			[]string{"at value 127"}},
		"magnitude, not DoRA": {add(q0+".lora_magnitude_vector", f32(64)), []string{"use_dora is false"}},
		"DoRA, no magnitude":  {set("use_dora", true), []string{"lora_magnitude_vector is missing"}},
		"magnitude's shape": {func(f *folder) {
			f.config["use_dora"] = true
			f.tensors[q0+".lora_magnitude_vector.default.weight"] = f32(63)
		}, []string{"has shape [63], expected [64]"}},
		"DoRA and lora_bias": {func(f *folder) { f.config["use_dora"], f.config["lora_bias"] = true, true },
			[]string{"exclude each other", "lora_B has no bias"}},
		"bias, though none": {add(q0+".bias", f32(64)),
			[]string{"has a bias, but bias is none", "the base's layer has none"}},
		"biases of a base of none": {set("bias", "all"), nil},
		"embedding's pair on q": {func(f *folder) {
			f.tensors[q0+".lora_embedding_A"], f.tensors[q0+".lora_embedding_B"] = f32(2, 64), f32(64, 2)
			f.drop("0.self_attn.q_proj.lora_A")
			f.drop("0.self_attn.q_proj.lora_B")
		}, []string{"belong to the embedding only"}},
		"linear pair on embedding": {func(f *folder) { f.pair(embedPath, 64, 512) },
			[]string{"is called lora_embedding_A"}},
		"save what cannot be": {set("modules_to_save", []string{"lm_head", "score"}), []string{`names "score"`, "names lm_head, but the file does not contain it"}},
		"save the head": {func(f *folder) {
			f.config["modules_to_save"] = []string{"lm_head"}
			f.tensors[prefix+"lm_head.modules_to_save.default.weight"] = f32(512, 64)
		}, nil},
		"resized": {func(f *folder) {
			f.config["modules_to_save"] = []string{"lm_head"}
			f.tensors[prefix+"lm_head.weight"] = f32(520, 64)
		}, []string{"the vocabulary was resized"}},
		"another embedding": {add(prefix+"model.embed_tokens.weight", f32(512, 64)),
			[]string{"should equal the base's weight, but differs"}},
		"more layers": {func(f *folder) { f.pair("model.layers.7.mlp.down_proj", 64, 172) },
			[]string{"model.layers.7.mlp.down_proj (it has 5 layers)"}},
		"in, out": {func(f *folder) { f.pair("model.layers.1.mlp.down_proj", 172, 64) },
			[]string{"A has shape [2 64] and B [172 2], but the base's layer is [64 172]"}},
		"all at once": {func(f *folder) {
			f.config["use_bdlora"], f.config["lora_alpha"] = map[string]any{"a": 1}, "x"
			f.tensors[d1+".oops"] = f32(1)
			f.drop("0.self_attn.q_proj.lora_B")
			f.pair("model.layers.9.mlp.up_proj", 172, 64)
		}, []string{"use_bdlora", "lora_alpha", "oops", "lora_B is missing", "model.layers.9"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder()
			c.change(f)
			_, err := Load(f.write(t), base)
			checkRefusal(t, err, c.want)
		})
	}
}

// Files that are no files, that lie, or that are not there.
func TestFiles(t *testing.T) {
	base := storiesBase(t)
	write := func(t *testing.T, dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, dir, name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, dir, name string) {
		t.Helper()
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, "moved")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("moved", filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	length := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) + "{}" }
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   []string
	}{
		"no configuration": {func(t *testing.T, dir string) { remove(t, dir, ConfigFile) },
			[]string{"adapter_config.json is missing"}},
		"no tensors": {func(t *testing.T, dir string) { remove(t, dir, WeightsFile) },
			[]string{"adapter_model.safetensors is missing"}},
		"a pickle": {func(t *testing.T,
			dir string) {
			remove(t, dir, WeightsFile)
			write(t, dir, "adapter_model.bin", "x")
		}, []string{"a pickle, which is never read"}},
		"a GGUF beside": {func(t *testing.T,
			dir string) {
			remove(t, dir, ConfigFile)
			write(t, dir, "a.gguf", "x")
		}, []string{"open a.gguf itself"}},
		"linked configuration": {func(t *testing.T, dir string) { link(t, dir, ConfigFile) },
			[]string{"adapter_config.json is a symbolic link"}},
		"linked tensors": {func(t *testing.T, dir string) { link(t, dir, WeightsFile) },
			[]string{"adapter_model.safetensors is a symbolic link"}},
		"a folder": {func(t *testing.T, dir string) {
			remove(t, dir, ConfigFile)
			if err := os.Mkdir(filepath.Join(dir, ConfigFile), 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"adapter_config.json is not a regular file"}},
		"configuration of 2 MB": {func(t *testing.T,
			dir string) {
			write(t, dir, ConfigFile, strings.Repeat(" ", 2<<20))
		}, []string{"more than 1048576"}},
		"not JSON":        {func(t *testing.T, dir string) { write(t, dir, ConfigFile, `{"peft_type": "LORA",}`) }, []string{"adapter_config.json"}},
		"twice":           {func(t *testing.T, dir string) { write(t, dir, ConfigFile, `{"r": 1, "r": 2}`) }, []string{`"r" occurs twice`}},
		"NaN":             {func(t *testing.T, dir string) { write(t, dir, ConfigFile, `{"peft_type": "LORA", "lora_alpha": NaN}`) }, []string{"adapter_config.json"}},
		"a list":          {func(t *testing.T, dir string) { write(t, dir, ConfigFile, `[]`) }, []string{"does not begin with '{'"}},
		"something after": {func(t *testing.T, dir string) { write(t, dir, ConfigFile, `{"peft_type": "LORA"} {}`) }, []string{"something follows"}},
		"not UTF-8": {func(t *testing.T, dir string) { write(t, dir, ConfigFile, "{\"a\": \"\xff\"}") },
			[]string{"UTF-8"}},
		"empty file": {func(t *testing.T, dir string) { write(t, dir, WeightsFile, "") }, []string{"empty"}},
		"header of 100 MB": {func(t *testing.T, dir string) { write(t, dir, WeightsFile, length(100_000_000)) },
			[]string{"its header claims to have 100000000 bytes"}},
		"header of 2^63": {func(t *testing.T, dir string) { write(t, dir, WeightsFile, length(1<<63)) },
			[]string{"more than 8388608"}},
		"header beyond the end": {func(t *testing.T, dir string) { write(t, dir, WeightsFile, length(1000)) },
			[]string{"cut short"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder().write(t)
			c.change(t, dir)
			_, err := Load(dir, base)
			checkRefusal(t, err, c.want)
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, ErrRefused) {
		t.Errorf("error %v, want that the folder does not exist", err)
	}
}

// A refusal has room for a bounded number of reasons.
func TestReasonsAreBounded(t *testing.T) {
	f := newFolder()
	for i := range 100 {
		f.tensors[fmt.Sprintf("junk%d", i)] = f32(1)
	}
	_, err := Open(f.write(t))
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Reasons) != maxReasons || refused.More != 50 ||
		!strings.Contains(err.Error(), "and 50 more") {
		t.Errorf("%d reasons and %d more: %v", len(refused.Reasons), refused.More, err)
	}
}

// An adapter outlives its files, and nothing in it is shared with them.
func TestFolderMayVanish(t *testing.T) {
	base := storiesBase(t)
	dir := newFolder().write(t)
	a, err := Load(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, WeightsFile), 0); err != nil {
		t.Fatal(err)
	}
	if got := values(a.Layers[1][lora.DownProj].B); len(got) != 128 || got[0] != -0.3 {
		t.Errorf("B begins %v, want -0.3", got[0])
	}
}

// The configurations that PEFT's own tests hold: LoRA is read, the rest named.
func TestRealConfigs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goldens.Shared(t, "data", "adapters"), "*", "*config.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var kind struct {
			Type string `json:"peft_type"`
			Rank int    `json:"r"`
		}
		if err := json.Unmarshal(text, &kind); err != nil {
			t.Fatal(err)
		}
		c, err := configOf(text)
		if kind.Type != "LORA" {
			checkRefusal(t, err, []string{kind.Type})
		} else if err != nil || c.Rank != kind.Rank {
			t.Errorf("%s: rank %d, want %d: %v", path, c.Rank, kind.Rank, err)
		}
	}
}

// configOf reads an adapter_config.json with every refusal in the error.
func configOf(text []byte) (Config, error) {
	var r reasons
	c, _ := parseConfig(text, &r)
	return c, r.err("adapter_config.json")
}

// PEFT's rules of matching, by its own documentation and check_target_module_exists.
func TestMatching(t *testing.T) {
	q1, up := "model.layers.1.self_attn.q_proj", "model.layers.11.mlp.up_proj"
	for name, c := range map[string]struct {
		config  Config
		chosen  []string
		refused []string
	}{
		"end of a path": {Config{Targets: Modules{Names: []string{"q_proj"}}}, []string{q1},
			[]string{up, "q_projx", "xq_proj"}},
		"longer end": {Config{Targets: Modules{Names: []string{"1.self_attn.q_proj"}}}, []string{q1},
			[]string{"model.layers.11.self_attn.q_proj"}},
		"whole path":            {Config{Targets: Modules{Names: []string{q1}}}, []string{q1}, []string{"x." + up}},
		"whole path, any layer": {Config{Targets: Modules{Names: []string{q1}}, Layers: []int{5}}, []string{q1}, nil},
		"end, other layer": {Config{Targets: Modules{Names: []string{"q_proj"}}, Layers: []int{5}}, nil,
			[]string{q1, headPath}},
		"pattern is whole":  {Config{Targets: Modules{Pattern: `.*layers.1.*`}}, []string{q1, up}, nil},
		"pattern of a part": {Config{Targets: Modules{Pattern: `q_proj`}}, nil, []string{q1}},
		"alternatives":      {Config{Targets: Modules{Pattern: `lm_head|.*up_proj`}}, []string{up, headPath}, []string{q1}},
		"all linear": {Config{Targets: Modules{Pattern: AllLinear}}, []string{q1, up},
			[]string{headPath, embedPath}},
		"exclude wins": {Config{Targets: Modules{Pattern: AllLinear},
			Exclude: Modules{Names: []string{"q_proj"}}}, []string{up}, []string{q1}},
		"exclude by pattern": {Config{Targets: Modules{Names: []string{"q_proj", "up_proj"}}, Exclude: Modules{Pattern: `.*\.11\..*`}}, []string{q1}, []string{up}},
		"saved are no targets": {Config{Targets: Modules{Names: []string{"lm_head", "q_proj"}},
			Save: []string{"lm_head"}}, []string{q1}, []string{headPath}},
	} {
		t.Run(name, func(t *testing.T) {
			var r reasons
			m := newMatcher(&c.config, &r)
			if len(r.list) > 0 {
				t.Fatal(r.list)
			}
			for _, path := range c.chosen {
				if !m.targets(path) {
					t.Errorf("%s is not chosen", path)
				}
			}
			for _, path := range c.refused {
				if m.targets(path) {
					t.Errorf("%s is chosen", path)
				}
			}
		})
	}
	m := newMatcher(&Config{Alpha: 1, AlphaPattern: []Pattern{{"layers.1.self_attn.q_proj", 3}, {"q_proj", 5}, {`^model\.layers\.11\..*`, 7}}}, new(reasons))
	for path, want := range map[string]float64{q1: 3, "model.layers.2.self_attn.q_proj": 5, up: 7,
		"model.layers.2.mlp.up_proj": 1} {
		if got := m.alpha(path); got != want {
			t.Errorf("alpha of %s is %v, want %v", path, got, want)
		}
	}
}

// The report of a sound adapter says what is in it; its warnings are no refusals.
func TestInspect(t *testing.T) {
	f := newFolder()
	f.config["base_model_name_or_path"], f.config["use_rslora"] = "org/Another-1B", true
	f.config["target_modules"] = []string{"q_proj", "down_proj", "w1"}
	r, err := Inspect(f.write(t), storiesBase(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != Fits || !slices.Equal(r.Ranks, []int{2}) || !slices.Equal(r.Alphas, []float64{4}) ||
		!slices.Equal(r.Scales, []float64{4 / math.Sqrt(2)}) ||
		!slices.Equal(r.Targets, []string{"down_proj", "q_proj"}) || !slices.Equal(r.Layers, []int{0, 1}) ||
		r.Params != 2*2*(64+64+64+172) || r.Digest == "" {
		t.Errorf("%+v", r)
	}
	if all := strings.Join(r.Warnings, "\n"); len(r.Warnings) != 2 || !strings.Contains(all, "org/Another-1B") || !strings.Contains(all, `"w1", which the base does not have`) {
		t.Errorf("warnings %q", r.Warnings)
	}
}

// Every place of a value in the eight bytes that are looked at together, and the ends that are not eight bytes long.
func TestNotFinite(t *testing.T) {
	for format, c := range map[string]struct {
		size                   int
		largest, infinity, nan uint32
	}{
		"F32": {4, 0xff7fffff, 0xff800000, 0x7fc00000}, "F16": {2, 0xfbff, 0x7c00, 0xfe01},
		"BF16": {2, 0x7f7f, 0xff80, 0x7f81},
	} {
		for n := range 9 {
			data := make([]byte, 0, n*4)
			put := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v)[:c.size] }
			for range n {
				data = append(data, put(c.largest)...)
			}
			if i := notFinite(format, data); i != -1 {
				t.Errorf("%s, %d largest values: %d is said to be infinite", format, n, i)
			}
			for i := range n {
				for _, bad := range []uint32{c.infinity, c.nan} {
					spoiled := slices.Clone(data)
					copy(spoiled[i*c.size:], put(bad))
					if got := notFinite(format, spoiled); got != i {
						t.Errorf("%s, %#x at %d of %d: found at %d", format, bad, i, n, got)
					}
				}
			}
		}
	}
}

// What depends on the base: its biases, its embedding, and whether its head is the embedding.
func TestSmallBase(t *testing.T) {
	const (
		plain = iota
		dora
		embed
		saved
	)
	k0 := prefix + "model.layers.0.self_attn.k_proj"
	for name, c := range map[string]struct {
		folder int
		tied   bool
		change func(*folder)
		want   []string
	}{
		"tied":            {embed, true, func(*folder) {}, nil},
		"tied together":   {embed, true, func(f *folder) { f.config["ensure_weight_tying"] = true }, nil},
		"tied, elsewhere": {plain, true, func(f *folder) { f.config["ensure_weight_tying"] = true }, nil},
		"untied":          {embed, false, func(f *folder) { f.config["ensure_weight_tying"] = true }, nil},
		"biases forgotten": {dora, false, func(f *folder) { f.drop("bias") },
			[]string{"k_proj: bias is lora_only, but the file contains no trained bias"}},
		"all biases": {dora, false, func(f *folder) { f.config["bias"] = "all" },
			[]string{"layers.0.self_attn.q_proj: bias is all", "layers.1.self_attn.v_proj: bias is all"}},
		"a bias alone": {dora, false, func(f *folder) { f.config["bias"] = "all"; allBiases(f) }, nil},
		"bias of a base without": {plain, false, func(f *folder) {
			f.config["bias"] = "lora_only"
			f.tensors[prefix+"model.layers.0.self_attn.q_proj.bias"] = f32(4)
			f.tensors[prefix+"model.layers.1.mlp.down_proj.bias"] = f32(4)
		}, []string{"down_proj has a bias, but the base's layer has none"}},
		"bias's shape": {dora, false, func(f *folder) { f.tensors[k0+".base_layer.bias"] = f32(3) },
			[]string{"the base's layer has 2 outputs"}},
		"embedding's bias": {embed, false, func(f *folder) {
			f.config["bias"] = "all"
			f.tensors[prefix+"model.embed_tokens.bias"] = f32(4)
			allBiases(f)
		}, []string{"an embedding has no bias"}},
		"embedding's shape": {embed, false,
			func(f *folder) { f.tensors[prefix+"model.embed_tokens.base_layer.weight"] = f32(8, 5) },
			[]string{"but the base's is [8 4]"}},
		"embedding's pair": {embed, false,
			func(f *folder) { f.tensors[prefix+"model.embed_tokens.lora_embedding_A"] = f32(2, 9) },
			[]string{"the base's embedding is [8 4]"}},
		"DoRA on embedding": {embed, false, func(f *folder) {
			f.config["use_dora"] = true
			f.tensors[prefix+"model.embed_tokens.lora_magnitude_vector"] = f32(4)
		}, []string{"DoRA on the embedding is not served"}},
		"nothing is left of a row": {dora, false, func(f *folder) {
			f.tensors[k0+".lora_B.weight"] = weights.Tensor{DType: "F32", Shape: []int{2, 2}, Data: make([]byte, 16)}
		}, []string{"has norm 0"}},
		"head": {saved, false, func(f *folder) { f.tensors[prefix+"lm_head.weight"] = f32(8, 3) },
			[]string{"but the base's is [8 4]"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, base := smallFolders()[c.folder], newSmallBase()
			base.cfg.Tied = c.tied
			base.zero = name == "nothing is left of a row"
			c.change(f)
			_, err := Load(f.write(t), base)
			checkRefusal(t, err, c.want)
		})
	}
	r, err := Inspect(smallFolders()[embed].write(t), nil)
	if err != nil || r.Verdict != Sound || r.Params != 2*8+4*2 {
		t.Errorf("%d trained numbers, want those of A and B without the base's weight: %v", r.Params, err)
	}
}

// allBiases adds the biases of the small base that the folder lacks.
func allBiases(f *folder) {
	for _, s := range sites(&newSmallBase().cfg) {
		name := prefix + s.path + ".bias"
		if _, ok := f.tensors[strings.TrimSuffix(name, ".bias")+".base_layer.bias"]; s.bias && !ok {
			f.tensors[name] = f32(s.out)
		}
	}
}
