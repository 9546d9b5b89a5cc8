package weights

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/quant"
)

// A rewritten file has the metadata, names, shapes and rows of the other: matrices as bfloat16, vectors as they are.
func TestRewrite(t *testing.T) {
	for name, path := range map[string]string{
		"rows of heads": writeFile(t, t.TempDir(), "x", layerFile()),
		"stories":       goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf"),
	} {
		g, err := OpenGGUF(path)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "copy.gguf")
		if err := g.Rewrite(out, func(name string) ([]float32, error) { return Values(g, name) }); err != nil {
			t.Fatal(err)
		}
		copied := open(t, out).(*GGUF)
		if !slices.Equal(copied.Names(), g.Names()) || len(copied.Meta()) != len(g.Meta()) ||
			copied.Architecture() != "llama" {
			t.Errorf("%s: tensors %v, want %v", name, copied.Names(), g.Names())
		}
		for _, tensor := range g.Names() {
			want, err := Values(g, tensor)
			if err != nil {
				t.Fatal(err)
			}
			info, _ := copied.Info(tensor)
			got, err := Values(copied, tensor)
			if err != nil {
				t.Fatal(err)
			}
			format := "F32"
			if len(info.Shape) == 2 {
				format = "BF16"
				for i := range want {
					want[i] = quant.BF16ToF32(quant.F32ToBF16(want[i]))
				}
			}
			if info.Format != format || !slices.EqualFunc(got, want, func(a, b float32) bool {
				return a == b || a != a && b != b
			}) {
				t.Errorf("%s: %s %+v: other values", name, tensor, info)
			}
		}
		wrong := errors.New("no such values")
		if err := g.Rewrite(out, func(string) ([]float32, error) { return nil, wrong }); !errors.Is(err, wrong) {
			t.Error(err)
		}
		if err := g.Rewrite(out, func(string) ([]float32, error) { return []float32{1, 2, 3}, nil }); err == nil {
			t.Errorf("%s: values of another shape are written", name)
		}
		if again := open(t, out); len(again.Names()) != len(g.Names()) {
			t.Errorf("%s: a failed call changed the file", name)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}
