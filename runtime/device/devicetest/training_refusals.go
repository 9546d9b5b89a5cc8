package devicetest

import (
	"errors"
	"math"
	"slices"

	"weft/quant"
	"weft/runtime/device"
)

// gradients is one set of valid arguments of every operation of device.Training.
type gradients struct {
	matmul    device.MatMulArgs
	linear    device.LinearGradArgs
	norm      device.RMSNormGradArgs
	rotate    device.RotateArgs
	attention device.SelfAttentionArgs
	back      device.SelfAttentionGradArgs
	glu       device.GLUGradArgs
	entropy   device.CrossEntropyArgs
	embed     device.EmbedGradArgs
}

func (b *bench) gradients() *gradients {
	const rows, cols = 3, 16
	v := func() device.View { return b.view(b.normal(rows*cols), rows, cols) }
	w := b.load(b.matrix(form{layout: quant.Int8, group: 16}, cols, cols))
	attention := func() device.SelfAttentionArgs {
		return device.SelfAttentionArgs{Q: v(), K: v(), V: v(), Out: v(), LSE: b.view(b.normal(rows*4), rows, 4),
			HeadDim: 4, Indptr: []int32{0, 1, 3}, Scale: 1}
	}
	return &gradients{
		matmul: device.MatMulArgs{A: v(), TransA: true, B: v(), Out: b.view(b.normal(cols*cols), cols, cols),
			Alpha: 1},
		linear: device.LinearGradArgs{Parts: []device.LinearGradPart{{W: w, DY: v()}, {W: w, DY: v()}}, DX: v()},
		norm: device.RMSNormGradArgs{X: v(), DY: v(), DX: v(), Weight: b.buffer(device.Weights, b.normal(cols)),
			DWeight: b.buffer(device.Weights, b.normal(cols)), Eps: 1e-5},
		rotate: device.RotateArgs{X: v(), HeadDim: 8, Rot: 4, Table: b.buffer(device.Weights, b.normal(4*5)),
			TableRows: []int32{-1, 0, 4}},
		attention: attention(),
		back:      device.SelfAttentionGradArgs{SelfAttentionArgs: attention(), DOut: v(), DQ: v(), DK: v(), DV: v()},
		glu:       device.GLUGradArgs{Gate: v(), Up: v(), DOut: v(), DGate: v(), DUp: v()},
		entropy: device.CrossEntropyArgs{Logits: v(), Labels: []int32{-1, 0, 15}, Loss: b.view(b.normal(rows), rows, 1),
			Scale: 1},
		embed: device.EmbedGradArgs{IDs: []int32{0, 2, 2}, DY: v(), DTable: v(), Scale: 1},
	}
}

// each runs every operation, or the one of that name, and returns its error by name.
func (g *gradients) each(d device.Training, only string) map[string]error {
	out := map[string]error{}
	for name, run := range map[string]func() error{
		"matmul":              func() error { return d.MatMul(g.matmul) },
		"linear grad":         func() error { return d.LinearGrad(g.linear) },
		"rmsnorm grad":        func() error { return d.RMSNormGrad(g.norm) },
		"rotate":              func() error { return d.Rotate(g.rotate) },
		"self attention":      func() error { return d.SelfAttention(g.attention) },
		"self attention grad": func() error { return d.SelfAttentionGrad(g.back) },
		"glu grad":            func() error { return d.GLUGrad(g.glu) },
		"cross entropy":       func() error { return d.CrossEntropy(g.entropy) },
		"embed grad":          func() error { return d.EmbedGrad(g.embed) },
	} {
		if only == "" || only == name {
			out[name] = run()
		}
	}
	return out
}

// spoiltGradient is one wrong change of valid arguments of the operation op.
type spoiltGradient struct {
	op, name string
	change   func(g *gradients)
}

func gradientFaults() []spoiltGradient {
	nan := float32(math.NaN())
	out := []spoiltGradient{
		{"matmul", "alpha", func(g *gradients) { g.matmul.Alpha = nan }},
		{"matmul", "precision", func(g *gradients) { g.matmul.Precision = 3 }},
		{"matmul", "into a", func(g *gradients) {
			g.matmul.TransA, g.matmul.TransB, g.matmul.Out = false, true, g.matmul.A
			g.matmul.Out.Cols = 3
		}},
		{"matmul", "inner", func(g *gradients) { g.matmul.TransA = false }},
		{"linear grad", "no parts", func(g *gradients) { g.linear.Parts = nil }},
		{"linear grad", "precision", func(g *gradients) { g.linear.Precision = 3 }},
		{"linear grad", "no weight", func(g *gradients) { g.linear.Parts[1].W = nil }},
		{"linear grad", "weight and matrix", func(g *gradients) { g.linear.Parts[1].Matrix = g.linear.Parts[0].DY }},
		{"linear grad", "matrix of other columns", func(g *gradients) {
			m := g.linear.Parts[0].DY
			m.Cols--
			g.linear.Parts[1].W, g.linear.Parts[1].Matrix, g.linear.Parts[1].DY.Cols = nil, m, m.Rows
		}},
		{"linear grad", "matrix is dx", func(g *gradients) {
			g.linear.Parts[1].W, g.linear.Parts[1].Matrix, g.linear.Parts[1].DY.Cols = nil, g.linear.DX, 3
		}},
		{"linear grad", "in place", func(g *gradients) { g.linear.DX = g.linear.Parts[1].DY }},
		{"rmsnorm grad", "no weight", func(g *gradients) { g.norm.Weight = nil }},
		{"rmsnorm grad", "parts", func(g *gradients) { g.norm.Parts = 2 }},
		{"rmsnorm grad", "eps", func(g *gradients) { g.norm.Eps = nan }},
		{"rmsnorm grad", "gradient's length", func(g *gradients) { g.norm.DWeight = g.rotate.Table }},
		{"rmsnorm grad", "gradient is the weight", func(g *gradients) { g.norm.DWeight = g.norm.Weight }},
		{"rmsnorm grad", "into x", func(g *gradients) { g.norm.DX = g.norm.X }},
		{"rmsnorm grad", "half overlap",
			func(g *gradients) { g.norm.DX = g.norm.DY; g.norm.DX.Stride = 16; g.norm.DY.Stride = 17 }},
		{"rotate", "odd width", func(g *gradients) { g.rotate.Rot = 3 }},
		{"rotate", "width", func(g *gradients) { g.rotate.Rot = 10 }},
		{"rotate", "head width", func(g *gradients) { g.rotate.HeadDim = 0 }},
		{"rotate", "no table", func(g *gradients) { g.rotate.Table = nil }},
		{"rotate", "table row", func(g *gradients) { g.rotate.TableRows = []int32{-1, 0, 5} }},
		{"rotate", "negative table row", func(g *gradients) { g.rotate.TableRows = []int32{-2, 0, 1} }},
		{"self attention", "head width", func(g *gradients) { g.attention.HeadDim = 5 }},
		{"self attention", "no head width", func(g *gradients) { g.attention.HeadDim = 0 }},
		{"self attention", "in place", func(g *gradients) { g.attention.Out = g.attention.Q }},
		{"self attention", "lse in k",
			func(g *gradients) { lse := g.attention.K; lse.Cols = 4; g.attention.LSE = lse }},
		{"self attention", "window", func(g *gradients) { g.attention.Window = -1 }},
		{"self attention", "softcap", func(g *gradients) { g.attention.Softcap = nan }},
		{"self attention", "scale", func(g *gradients) { g.attention.Scale = nan }},
		{"self attention", "indptr order", func(g *gradients) { g.attention.Indptr = []int32{0, 4, 3} }},
		{"self attention", "indptr start", func(g *gradients) { g.attention.Indptr = []int32{1, 3} }},
		{"self attention", "indptr end", func(g *gradients) { g.attention.Indptr = []int32{0, 2} }},
		{"self attention", "no indptr", func(g *gradients) { g.attention.Indptr = nil }},
		{"self attention", "prefixes of other samples", func(g *gradients) { g.attention.Prefix = []int32{-1} }},
		{"self attention", "its own prefix", func(g *gradients) { g.attention.Prefix = []int32{-1, 1} }},
		{"self attention", "prefix of a prefix",
			func(g *gradients) { g.attention.Indptr, g.attention.Prefix = []int32{0, 1, 2, 3}, []int32{-1, 0, 1} }},
		{"self attention grad", "indptr", func(g *gradients) { g.back.Indptr = []int32{0, 2} }},
		{"self attention grad", "dk is dv", func(g *gradients) { g.back.DV = g.back.DK }},
		{"self attention grad", "dq is dout", func(g *gradients) { g.back.DQ = g.back.DOut }},
		{"self attention grad", "dk is k", func(g *gradients) { g.back.DK = g.back.K }},
		{"glu grad", "activation", func(g *gradients) { g.glu.Act = 7 }},
		{"glu grad", "both into one", func(g *gradients) { g.glu.DUp = g.glu.DGate }},
		{"cross entropy", "label", func(g *gradients) { g.entropy.Labels = []int32{0, 16, 1} }},
		{"cross entropy", "labels", func(g *gradients) { g.entropy.Labels = g.entropy.Labels[:2] }},
		{"cross entropy", "scale", func(g *gradients) { g.entropy.Scale = nan }},
		{"cross entropy", "softcap", func(g *gradients) { g.entropy.Softcap = -1 }},
		{"cross entropy", "no loss", func(g *gradients) { g.entropy.Loss = device.View{} }},
		{"cross entropy", "loss in logits",
			func(g *gradients) { g.entropy.Loss = g.entropy.Logits; g.entropy.Loss.Cols = 1 }},
		{"embed grad", "id", func(g *gradients) { g.embed.IDs = []int32{0, 3, 1} }},
		{"embed grad", "negative id", func(g *gradients) { g.embed.IDs = []int32{0, -1, 1} }},
		{"embed grad", "scale", func(g *gradients) { g.embed.Scale = nan }},
		{"embed grad", "in place", func(g *gradients) { g.embed.DTable = g.embed.DY }},
	}
	type view = func(g *gradients) *device.View
	for op, list := range map[string][]view{
		"matmul": {func(g *gradients) *device.View { return &g.matmul.A },
			func(g *gradients) *device.View { return &g.matmul.B },
			func(g *gradients) *device.View { return &g.matmul.Out }},
		"linear grad": {func(g *gradients) *device.View { return &g.linear.DX },
			func(g *gradients) *device.View { return &g.linear.Parts[1].DY }},
		"rmsnorm grad": {func(g *gradients) *device.View { return &g.norm.X },
			func(g *gradients) *device.View { return &g.norm.DY },
			func(g *gradients) *device.View { return &g.norm.DX }},
		"rotate": {func(g *gradients) *device.View { return &g.rotate.X }},
		"self attention": {
			func(g *gradients) *device.View { return &g.attention.Q },
			func(g *gradients) *device.View { return &g.attention.K },
			func(g *gradients) *device.View { return &g.attention.V },
			func(g *gradients) *device.View { return &g.attention.Out },
			func(g *gradients) *device.View { return &g.attention.LSE },
		},
		"self attention grad": {
			func(g *gradients) *device.View { return &g.back.Out },
			func(g *gradients) *device.View { return &g.back.DOut },
			func(g *gradients) *device.View { return &g.back.DQ },
			func(g *gradients) *device.View { return &g.back.DK },
			func(g *gradients) *device.View { return &g.back.DV },
		},
		"glu grad": {
			func(g *gradients) *device.View { return &g.glu.Gate },
			func(g *gradients) *device.View { return &g.glu.Up },
			func(g *gradients) *device.View { return &g.glu.DOut },
			func(g *gradients) *device.View { return &g.glu.DGate },
			func(g *gradients) *device.View { return &g.glu.DUp },
		},
		"cross entropy": {func(g *gradients) *device.View { return &g.entropy.Logits }},
		"embed grad": {func(g *gradients) *device.View { return &g.embed.DY },
			func(g *gradients) *device.View { return &g.embed.DTable }},
	} {
		for i, at := range list {
			for what, fault := range viewFaults {
				out = append(out, spoiltGradient{op, name("view ", i, " ", what), func(g *gradients) { fault(at(g)) }})
			}
		}
	}
	return out
}

// testTrainingShapes: each fault is ErrShape from the call itself and changes nothing.
func testTrainingShapes(b *bench, d device.Training) {
	for op, err := range b.gradients().each(d, "") {
		if err != nil {
			b.Errorf("%s: valid arguments are refused: %v", op, err)
		}
	}
	b.must(d.Sync())
	b.release()
	for _, f := range gradientFaults() {
		g := b.gradients()
		before := b.snapshot()
		f.change(g)
		err := g.each(d, f.op)[f.op]
		if !errors.Is(err, device.ErrShape) {
			b.Errorf("%s, %s: %v, want ErrShape", f.op, f.name, err)
		}
		b.must(d.Sync())
		if err != nil &&
			!slices.EqualFunc(b.snapshot(), before,
				func(x, y []float32) bool { return slices.Equal(bitsOf(x), bitsOf(y)) }) {
			b.Errorf("%s, %s: refused, yet something was written", f.op, f.name)
		}
		b.release()
	}
}

// testTrainingForeign: operands of another device are ErrShape, a closed device is ErrClosed.
func testTrainingForeign(b *bench, d device.Training) {
	other := &bench{T: b.T, d: b.open(b.T), o: b.o, r: b.r, open: b.open}
	g := other.gradients()
	for op, err := range g.each(d, "") {
		if !errors.Is(err, device.ErrShape) {
			b.Errorf("%s on another device's memory: %v, want ErrShape", op, err)
		}
	}
	mine := b.gradients()
	mine.linear.Parts[1].W, mine.norm.DWeight, mine.rotate.Table = g.linear.Parts[1].W, g.norm.DWeight, g.rotate.Table
	mine.matmul.B, mine.attention.LSE, mine.back.LSE, mine.glu.DUp, mine.entropy.Loss, mine.embed.DTable = g.matmul.B,
		g.attention.LSE, g.back.LSE, g.glu.DUp, g.entropy.Loss, g.embed.DTable
	for op, err := range mine.each(d, "") {
		if !errors.Is(err, device.ErrShape) {
			b.Errorf("%s with one foreign operand: %v, want ErrShape", op, err)
		}
	}
	b.must(d.Sync())
	closed := other.d.(device.Training)
	if err := closed.Close(); err == nil {
		b.Error("closed with buffers alive and without an error")
	}
	for op, err := range g.each(closed, "") {
		if !errors.Is(err, device.ErrClosed) {
			b.Errorf("%s on a closed device: %v, want ErrClosed", op, err)
		}
	}
	other.release()
}
