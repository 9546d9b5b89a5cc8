package peft

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/quant"
	"weft/runtime/lora"
	"weft/runtime/weights"
)

// PEFT trained these adapters and saved them plainly: scripts/python/init_cases.py --write.
const initialFolder = "testdata/initial"

// openInitial opens the base of the fixture.
func openInitial(t testing.TB) *ModelFile {
	t.Helper()
	base, err := OpenModel(filepath.Join(initialFolder, "base"), "base")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	return base
}

// copied returns a copy of an adapter of the fixture.
func copied(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{ConfigFile, WeightsFile} {
		text, err := os.ReadFile(filepath.Join(initialFolder, name, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A converted adapter changes the unchanged base to what PEFT computes with the base that it has changed: in memory,
// and in the files that Convert writes.
func TestInitialMatrices(t *testing.T) {
	base := openInitial(t)
	for name, rank := range map[string]int{initPiSSA: 2, initOLoRA: 2} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, name)
			inMemory, err := Load(dir, base)
			if err != nil {
				t.Fatal(err)
			}
			sameDelta(t, filepath.Join(initialFolder, name), base, inMemory)
			report, err := Inspect(dir, base)
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(report.Warnings, "\n"); report.Init != name || report.Verdict != Fits ||
				!strings.Contains(all, "subtracts the initial LoRA matrices") || report.Ranks[0] != rank {
				t.Errorf("%+v", report)
			}

			if _, err := Convert(t.Context(), dir, nil); !errors.Is(err, ErrRefused) {
				t.Errorf("without a base: %v", err)
			}
			err = Use(dir, base, func(*lora.Adapter) error { return nil })
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "adapters add with --model") {
				t.Errorf("unconverted: %v", err)
			}
			did, err := Convert(t.Context(), dir, base)
			if err != nil || did == "" {
				t.Fatal(did, err)
			}
			a, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if a.Config.Init != "" || a.Config.Rank != 2*rank {
				t.Errorf("converted: %+v", a.Config)
			}
			converted, err := a.Build(base)
			if err != nil {
				t.Fatal(err)
			}
			sameDelta(t, filepath.Join(initialFolder, name), base, converted)
			again, err := Convert(t.Context(), dir, base)
			if err != nil || again != "" {
				t.Error("a converted adapter was converted again:", again, err)
			}
			digest, err := a.Digest()
			if err != nil || digest != report.Digest {
				t.Errorf("digest %s, inspected %s: %v", digest, report.Digest, err)
			}
		})
	}
}

// sameDelta compares scale·BA of every module with the difference of PEFT's weights.
func sameDelta(t *testing.T, dir string, base Base, a *lora.Adapter) {
	t.Helper()
	src, err := weights.OpenSafetensors(filepath.Join(dir, "delta.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	compare := func(path string, m *lora.Module, transposed bool) {
		want, err := src.Matrix(path + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		if m.A.Rows == 0 {
			return
		}
		ma, mb := matrix(m.A), matrix(m.B)
		rowA, rowB, row := make([]float32, ma.Cols), make([]float32, mb.Cols), make([]float32, want.Cols)
		for i := range want.Rows {
			want.Row(i, row)
			for j, w := range row {
				o, in := i, j
				if transposed {
					o, in = j, i
				}
				mb.Row(o, rowB)
				var got float64
				for k := range mb.Cols {
					ma.Row(k, rowA)
					got += float64(rowB[k]) * float64(rowA[in]) * float64(m.Scale)
				}
				if math.Abs(got-float64(w)) > 2e-5 { // PEFT decomposes in float32
					t.Fatalf("%s: [%d %d] changes by %v, in PEFT by %v", path, i, j, got, w)
				}
			}
		}
	}
	for _, s := range sites(base.Config()) {
		if s.path == headPath {
			compare(s.path, &a.Head, false)
			continue
		}
		compare(s.path, &a.Layers[s.layer][s.parts[0].target], false)
	}
	compare(embedPath, &a.Embed, true)
}

// Every value of init_lora_weights is served as it is, converted, or refused by name with what to do.
func TestInitializations(t *testing.T) {
	base := openInitial(t)
	for value, want := range map[string]string{
		`true`: "", `false`: "", `null`: "", `""`: "", `"gaussian"`: "", `"Gaussian"`: "", `"eva"`: "", `"orthogonal"`: "",
		`"mica"`: "", `"True"`: "",
		`"olora"`: "subtracts", `"OLoRA"`: "subtracts", `"pissa"`: "subtracts",
		`"pissa_niter_16"`: `"pissa_niter_16": PEFT subtracted a randomized approximation`,
		`"pissa_niter_0"`:  `"pissa_niter_0"`,
		`"loftq"`:          `"loftq": PEFT replaced the base's weights by quantized ones`,
		`"corda"`:          `"corda": PEFT subtracted`, `"corda_kpm"`: `"corda_kpm"`, `"lora_ga"`: `"lora_ga": PEFT subtracted`,
		`"PiSSA"`: "which weft does not know", `"new"`: "which weft does not know",
	} {
		dir := copied(t, initOLoRA)
		path := filepath.Join(dir, ConfigFile)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), `"olora"`, value, 1)
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Inspect(dir, base)
		if err != nil {
			t.Fatal(err)
		}
		told := strings.Join(r.Warnings, "\n")
		if r.Verdict == Refused {
			told = r.Reasons[0].What
			if r.Reasons[0].Fix == "" || len(r.Reasons) != 1 {
				t.Errorf("%s: %+v", value, r.Reasons)
			}
		}
		if refused := want != "" && want != "subtracts"; (r.Verdict == Refused) != refused ||
			want == "" && told != "" || !strings.Contains(told, want) {
			t.Errorf("%s: %s, %q, want %q", value, r.Verdict, told, want)
		}
	}
}

// heavy is a base whose weights are quantized, tied, or far too slow to read.
type heavy struct {
	Base
	change func(*quant.Matrix) *quant.Matrix
}

func (h heavy) Matrix(name string) (*quant.Matrix, error) {
	m, err := h.Base.Matrix(name)
	if err != nil {
		return nil, err
	}
	return h.change(m), nil
}

// What cannot be converted is refused with PEFT's call; a caller who gives up gets no refusal.
func TestConversionRefused(t *testing.T) {
	base := openInitial(t)
	same := func(m *quant.Matrix) *quant.Matrix { return m }
	zeroColumn := func(m *quant.Matrix) *quant.Matrix {
		c := *m
		c.Data = slices.Clone(m.Data)
		for i := range m.Rows {
			clear(c.Data[i*m.Cols*4+4 : i*m.Cols*4+8])
		}
		return &c
	}
	identity := func(m *quant.Matrix) *quant.Matrix {
		c := *m
		c.Data = make([]byte, len(m.Data))
		for i := range min(m.Rows, m.Cols) {
			binary.LittleEndian.PutUint32(c.Data[(i*m.Cols+i)*4:], math.Float32bits(1))
		}
		return &c
	}
	eight := func(m *quant.Matrix) *quant.Matrix {
		c := &quant.Matrix{Layout: quant.Int8, Rows: m.Rows, Cols: m.Cols, Data: make([]byte, m.Rows*m.Cols),
			GroupLen: m.Cols, Scales: make([]float32, m.Rows)}
		return c
	}
	for name, c := range map[string]struct {
		adapter string
		change  func(*quant.Matrix) *quant.Matrix
		want    string
	}{
		"equal values":         {initPiSSA, identity, "singular values 2 and 3"},
		"dependent columns":    {initOLoRA, zeroColumn, "column 1 of the base's weight depends"},
		"quantized base":       {initOLoRA, eight, "the base's are quantized"},
		"quantized base too":   {initPiSSA, eight, "the base's are quantized"},
		"longer than it may":   {initPiSSA, same, "took longer than 0s"},
		"longer than it may 2": {initOLoRA, same, "took longer than 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := open(filepath.Join(initialFolder, c.adapter))
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			limit := ConversionTime
			if strings.HasPrefix(name, "longer") {
				limit = 0
			}
			_, err = a.convert(t.Context(), heavy{base, c.change}, limit)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(err.Error(), "path_initial_model_for_weight_conversion") {
				t.Errorf("%v", err)
			}
		})
	}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Convert(gone, copied(t, initPiSSA), base); !errors.Is(err, context.Canceled) ||
		errors.Is(err, ErrRefused) {
		t.Errorf("given up: %v", err)
	}
}

// The changed weight of the head beside an adapter on it must be the one that belongs to the initial matrices.
func TestChangedHeadOfAnotherBase(t *testing.T) {
	base := openInitial(t)
	dir := copied(t, initPiSSA)
	path := filepath.Join(dir, WeightsFile)
	src, err := weights.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	tensors := map[string]weights.Tensor{}
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		if err := src.Bytes(name, func(data []byte) error {
			data = slices.Clone(data)
			if strings.HasSuffix(name, "lm_head.base_layer.weight") {
				copy(data, data[len(data)/2:])
			}
			tensors[name] = weights.Tensor{DType: info.Format, Shape: info.Shape, Data: data}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	src.Close()
	if err := weights.WriteSafetensors(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Convert(t.Context(), dir, base); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "without the initial LoRA matrices") {
		t.Error(err)
	}
}

// WVVᵀ is the best approximation of its rank, for every shape and spectrum; it does not depend on the signs of vectors.
func TestDominant(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, c := range []struct {
		name          string
		out, in, rank int
		value         func(i int) float64
	}{
		{"falling", 40, 30, 5, func(i int) float64 { return 1 / float64(1+i) }},
		{"close", 60, 90, 7, func(i int) float64 { return 3 - 0.02*float64(i) }},
		{"equal above the cut", 30, 50, 6, func(i int) float64 { return []float64{2, 1}[min(i/6, 1)] }},
		{"rank below", 20, 64, 5, func(i int) float64 { return []float64{3, 2, 1, 0, 0}[min(i, 4)] }},
		{"zero", 10, 12, 3, func(int) float64 { return 0 }},
		{"whole", 6, 200, 6, func(i int) float64 { return 9 - float64(i) }},
		{"one row", 1, 9, 1, func(int) float64 { return 2 }},
		{"one column", 9, 1, 1, func(int) float64 { return 2 }},
		{"wide spread", 50, 50, 9, func(i int) float64 { return math.Pow(2.5, -float64(i)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := min(c.out, c.in)
			u, v := orthonormal(rng, n, c.out), orthonormal(rng, n, c.in)
			sum := func(o, i, terms int) (s float64) { // of the largest singular values
				for k := range min(terms, n) {
					s += u[k][o] * c.value(k) * v[k][i]
				}
				return s
			}
			w := &quant.Matrix{Layout: quant.F32, Rows: c.out, Cols: c.in}
			for o := range c.out {
				for i := range c.in {
					w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(float32(sum(o, i, n))))
				}
			}
			for _, scale := range []float64{2, -0.5} {
				initial, err := pissa(t.Context(), w, c.rank, scale)
				if err != nil {
					t.Fatal(err)
				}
				for o := range c.out {
					for i := range c.in {
						var got float64
						for k := range initial.a {
							got += scale * initial.b[k][o] * initial.a[k][i]
						}
						if want := sum(o, i, c.rank); math.Abs(got-want) > 2e-5 {
							t.Fatalf("[%d %d] is %v, want %v", o, i, got, want)
						}
					}
				}
			}
		})
	}
}

// orthonormal returns count random orthonormal vectors of length n.
func orthonormal(rng *rand.Rand, count, n int) [][]float64 {
	out := newVectors(count, n)
	for k, v := range out {
		for i := range v {
			v[i] = rng.NormFloat64()
		}
		orthogonalize(v, out[:k], nil)
		scaleBy(v, 1/norm(v))
	}
	return out
}
