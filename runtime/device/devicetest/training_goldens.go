package devicetest

import (
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"weft/internal/goldens"
	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/weights"
)

// golden is one file of PyTorch's gradients of a single operation.
type golden struct {
	*bench
	s    *weights.Safetensors
	name string
}

// testTrainingGoldens: the single operations of the goldens, found from their files. Dropout and DoRA are composed by
// finetune/grad and tested there.
func testTrainingGoldens(b *bench, d device.Training) {
	for _, dir := range goldens.Every(b, "train", "A_grad", "ops") {
		b.trainingGoldens(d, dir)
	}
}

func (b *bench) trainingGoldens(d device.Training, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	b.must(err)
	seen := 0
	for _, path := range files {
		s, err := weights.OpenSafetensors(path)
		b.must(err)
		g := &golden{bench: b, s: s, name: strings.TrimSuffix(filepath.Base(path), ".safetensors")}
		op, _, _ := strings.Cut(g.name, "_")
		switch {
		case strings.HasPrefix(g.name, "dora_") || strings.HasSuffix(g.name, "_dropout"):
			seen--
		case op == "attn":
			g.attention(d)
		case op == "cross":
			g.crossEntropy(d)
		case op == "embedding":
			g.embedding(d)
		case op == "swiglu" || op == "geglu":
			g.glu(d)
		case op == "linear" || op == "lora":
			g.linear(d)
		case op == "rmsnorm":
			g.norm(d)
		case op == "rope":
			g.rope(d)
		default:
			b.Errorf("%s: no test for this golden", path)
		}
		seen++
		b.must(s.Close())
		b.release()
	}
	if seen < 10 {
		b.Errorf("%d goldens were tested; some of the files are missing", seen)
	}
}

// number returns a value of the file's metadata; 0 where it is absent.
func (g *golden) number(key string) float64 {
	text := g.s.Metadata()[key]
	if text == "" {
		return 0
	}
	x, err := strconv.ParseFloat(text, 64)
	g.must(err)
	return x
}

func (g *golden) floats(name string) ([]float32, []int) {
	x, shape, err := g.s.Floats(name)
	g.must(err)
	return x, shape
}

func (g *golden) ints(name string) []int32 {
	x, _, err := g.s.Ints(name)
	g.must(err)
	return x
}

// in uploads a tensor as a matrix with the tensor's first dimension as rows; out allocates one of the same shape.
func (g *golden) in(name string) device.View {
	x, shape := g.floats(name)
	return g.view(x, shape[0], len(x)/shape[0])
}

func (g *golden) room(like string) device.View {
	x, shape := g.floats(like)
	return g.out(shape[0], len(x)/shape[0])
}

// check compares with a tensor: the largest difference against the largest value, 5e-6 as the goldens' README says.
func (g *golden) check(name string, got []float32) {
	want, _ := g.floats(name)
	if len(got) != len(want) {
		g.Fatalf("%s: %d values of %s, want %d", g.name, len(got), name, len(want))
	}
	var off, top float64
	for i, w := range want {
		if e := math.Abs(float64(got[i]) - float64(w)); !(e <= off) {
			off = e
		}
		top = math.Max(top, math.Abs(float64(w)))
	}
	if !(off <= 5e-6*top) || top == 0 {
		g.Errorf("%s: %s is off by %.3g, its largest value is %.3g", g.name, name, off, top)
	}
}

func (g *golden) attention(d device.Training) {
	_, shape := g.floats("q")
	a := device.SelfAttentionArgs{Q: g.in("q"), K: g.in("k"), V: g.in("v"), Out: g.room("y"),
		LSE: g.out(shape[0], shape[1]), HeadDim: shape[2], Indptr: g.ints("indptr"),
		Scale: float32(g.number("scale")), Softcap: float32(g.number("softcap")), Window: int(g.number("window"))}
	g.ran(d.SelfAttention(a))
	r := device.SelfAttentionGradArgs{SelfAttentionArgs: a, DOut: g.in("dy"), DQ: g.room("q"), DK: g.room("k"),
		DV: g.room("v")}
	g.ran(d.SelfAttentionGrad(r))
	for name, v := range map[string]device.View{"y": a.Out, "d_q": r.DQ, "d_k": r.DK, "d_v": r.DV} {
		g.check(name, g.values(name, v))
	}
}

func (g *golden) crossEntropy(d device.Training) {
	labels := g.ints("labels")
	n := float32(1)
	if strings.HasSuffix(g.name, "_mean") {
		n = 0
		for _, l := range labels {
			if l >= 0 {
				n++
			}
		}
	}
	a := device.CrossEntropyArgs{Logits: g.in("logits"), Labels: labels, Loss: g.out(len(labels), 1), Scale: 1 / n}
	g.ran(d.CrossEntropy(a))
	var loss float64
	for _, l := range g.values("loss", a.Loss) {
		loss += float64(l)
	}
	g.check("loss", []float32{float32(loss / float64(n))})
	g.check("d_logits", g.values("d_logits", a.Logits))
}

func (g *golden) embedding(d device.Training) {
	table := g.room("w")
	zero := make([]float32, table.Rows*table.Cols)
	a := device.EmbedGradArgs{IDs: g.ints("ids"), DY: g.in("dy"), DTable: g.view(zero, table.Rows, table.Cols),
		Scale: 1}
	g.ran(d.EmbedGrad(a))
	g.check("d_w", g.values("d_w", a.DTable))
}

func (g *golden) glu(d device.Training) {
	act := map[string]device.Activation{"swiglu": device.SiLU, "geglu_tanh": device.GELUTanh,
		"geglu_erf": device.GELUErf}[g.name]
	a := device.GLUGradArgs{Gate: g.in("gate"), Up: g.in("up"), DOut: g.in("dy"), DGate: g.room("gate"),
		DUp: g.room("up"), Act: act}
	g.ran(d.GLUGrad(a))
	g.check("d_gate", g.values("d_gate", a.DGate))
	g.check("d_up", g.values("d_up", a.DUp))
}

// linear: y = x Wᵀ + b, and with adapters + s (x Aᵀ) Bᵀ: the gradients as products, as MatMulArgs says.
func (g *golden) linear(d device.Training) {
	x, dy, dx, dw := g.in("x"), g.in("dy"), g.room("x"), g.room("w")
	values, shape := g.floats("w")
	w := g.load(&quant.Matrix{Layout: quant.F32, Rows: shape[0], Cols: shape[1], Data: encode(values)})
	g.ran(d.LinearGrad(device.LinearGradArgs{Parts: []device.LinearGradPart{{W: w, DY: dy}}, DX: dx}))
	g.ran(d.MatMul(device.MatMulArgs{A: dy, TransA: true, B: x, Out: dw, Alpha: 1}))
	if _, ok := g.s.Info("A"); ok {
		s := float32(g.number("s"))
		fa, fb, da, db := g.in("A"), g.in("B"), g.room("A"), g.room("B")
		low, dlow := g.out(x.Rows, fa.Rows), g.out(x.Rows, fa.Rows)
		g.ran(d.MatMul(device.MatMulArgs{A: x, B: fa, TransB: true, Out: low, Alpha: 1}))
		g.ran(d.MatMul(device.MatMulArgs{A: dy, B: fb, Out: dlow, Alpha: s}))
		g.ran(d.MatMul(device.MatMulArgs{A: dlow, TransA: true, B: x, Out: da, Alpha: 1}))
		g.ran(d.MatMul(device.MatMulArgs{A: dy, TransA: true, B: low, Out: db, Alpha: s}))
		g.ran(d.MatMul(device.MatMulArgs{A: dlow, B: fa, Out: dx, Alpha: 1, Accumulate: true}))
		g.check("d_A", g.values("d_A", da))
		g.check("d_B", g.values("d_B", db))
	}
	g.check("d_x", g.values("d_x", dx))
	g.check("d_w", g.values("d_w", dw))
}

func (g *golden) norm(d device.Training) {
	w, _ := g.floats("w")
	if g.name == "rmsnorm_gemma" {
		for i := range w {
			w[i]++ // as loaders do
		}
	}
	x := g.in("x")
	a := device.RMSNormGradArgs{X: x, DY: g.in("dy"), DX: g.room("x"), Weight: g.buffer(device.Weights, w),
		DWeight: g.buffer(device.Weights, make([]float32, len(w))), Parts: x.Cols / len(w),
		Eps: float32(g.number("eps"))}
	g.ran(d.RMSNormGrad(a))
	g.check("d_x", g.values("d_x", a.DX))
	g.check("d_w", g.read(a.DWeight))
}

func (g *golden) rope(d device.Training) {
	_, shape := g.floats("x")
	dim, positions := shape[2], g.ints("positions")
	var table []float32
	rows := make([]int32, len(positions))
	for t, p := range positions {
		rows[t] = int32(t)
		for _, f := range []func(float64) float64{math.Cos, math.Sin} {
			for i := range dim / 2 {
				table = append(table, float32(f(float64(p)*math.Pow(g.number("theta"), -2*float64(i)/float64(dim)))))
			}
		}
	}
	a := device.RotateArgs{HeadDim: dim, Rot: dim, Table: g.buffer(device.Weights, table), TableRows: rows}
	for _, c := range []struct {
		in, out string
		inverse bool
	}{{"x", "y", false}, {"dy", "d_x", true}} {
		a.X, a.Inverse = g.in(c.in), c.inverse
		g.ran(d.Rotate(a))
		g.check(c.out, g.values(c.out, a.X))
	}
}
