package devicetest

import (
	"errors"
	"math"
	"slices"
	"strings"
	"sync"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

func testBuffers(b *bench) {
	for _, n := range []int64{0, 1, 63, 64, 4097} {
		buf, err := b.d.Alloc(device.Activations, n)
		b.must(err)
		b.own(buf)
		got := make([]byte, n)
		b.must(buf.Read(0, got))
		if buf.Bytes() != n || slices.ContainsFunc(got, func(x byte) bool { return x != 0 }) {
			b.Errorf("%d bytes: Bytes %d, or not zeroed", n, buf.Bytes())
		}
		for i := range got {
			got[i] = byte(i) + 1
		}
		b.must(buf.Write(0, got))
		if n > 2 {
			b.must(buf.Write(1, []byte{99}))
			part := make([]byte, 2)
			b.must(buf.Read(1, part))
			if part[0] != 99 || part[1] != got[2] {
				b.Errorf("read %v back", part)
			}
		}
		if h := buf.Host(); h != nil && int64(len(h)) != n {
			b.Errorf("Host has %d bytes of %d", len(h), n)
		}
		for _, off := range []int64{-1, n, n + 1, math.MaxInt64} {
			if err := buf.Write(off, []byte{1}); !errors.Is(err, device.ErrShape) {
				b.Errorf("write at %d of %d: %v", off, n, err)
			}
			if err := buf.Read(off, make([]byte, 1)); !errors.Is(err, device.ErrShape) {
				b.Errorf("read at %d of %d: %v", off, n, err)
			}
		}
	}
	if b.d.InUse(device.Activations) < 4097 || b.d.InUse(device.NumPurposes) != 0 {
		b.Errorf("in use: %d bytes of activations, %d of an invalid purpose", b.d.InUse(device.Activations),
			b.d.InUse(device.NumPurposes))
	}
	if b.d.Name() == "" || b.d.Describe() == "" {
		b.Error("the device has no name or description")
	}
}

// operands is one set of valid arguments of every operation on one device.
type operands struct {
	embed     device.EmbedArgs
	norm      device.RMSNormArgs
	linear    device.LinearArgs
	lora      device.LoRAArgs
	rope      device.RoPEArgs
	attention device.AttentionArgs
	glu       device.GLUArgs
	add       device.AddArgs
	softcap   device.SoftcapArgs
	logs      device.LogSoftmaxArgs
	kv        device.KVCache
	copied    [2][]int32
}

func (b *bench) operands() *operands {
	const rows, cols = 3, 16
	v := func() device.View { return b.view(b.normal(rows*cols), rows, cols) }
	w := b.load(b.matrix(form{layout: quant.Int8, group: 16}, cols, cols))
	ad := b.adapter(loraForm{rank: 2, a: tensor.F32, b: tensor.F32, gain: true, bias: true}, cols, cols).m
	ad2 := b.adapter(loraForm{rank: 3, a: tensor.F16, b: tensor.BF16}, cols, cols).m
	kv := b.cache(device.KVConfig{Layers: 1, KVHeads: 2, HeadDim: 8, PageLen: 16, NumPages: 3, DType: tensor.F32})
	o := &operands{
		embed: device.EmbedArgs{IDs: []int32{0, 3, 15}, Table: w, Scale: 1, Out: v()},
		norm: device.RMSNormArgs{X: v(), Add: v(), Out: v(), Weight: b.buffer(device.Weights, b.normal(cols)),
			Eps: 1e-5},
		linear: device.LinearArgs{X: v(),
			Parts: []device.LinearPart{{W: w, Bias: b.buffer(device.Weights, b.normal(cols)), Out: v()},
				{W: w, Out: v()}}},
		lora: device.LoRAArgs{X: v(), Parts: []device.LoRAPart{
			{Out: v(),
				Segments: []device.LoRASegment{{Begin: 0, End: 1, Scale: 1, M: &ad},
					{Begin: 1, End: 3, Scale: 0.5, M: &ad2}}},
			{Out: v(), Segments: []device.LoRASegment{{Begin: 1, End: 3, Scale: 1, M: &ad}}},
		}},
		rope: device.RoPEArgs{
			Q: v(), K: v(), V: v(), HeadDim: 8, Rot: 4, Table: b.buffer(device.Weights, b.normal(4*5)),
			TableRows: []int32{-1, 0, 4}, Cache: kv, Slots: []int32{0, 1, 47},
		},
		attention: device.AttentionArgs{
			Q: v(), Out: v(), HeadDim: 8, Cache: kv, Indptr: []int32{0, 1, 3}, Positions: []int32{0, 16, 17},
			PageTables: [][]int32{{2}, {1, 0}}, Scale: 1,
		},
		glu: device.GLUArgs{Gate: v(), Up: v(), Out: v()}, add: device.AddArgs{X: v(), Y: v()},
		softcap: device.SoftcapArgs{X: v(), Cap: 2}, logs: device.LogSoftmaxArgs{X: v(), Out: v()},
		kv: kv, copied: [2][]int32{{0, 1}, {1, 2}},
	}
	return o
}

// all runs every operation and returns its error by name.
func (o *operands) all(d device.Device) map[string]error {
	return map[string]error{
		"embed": d.Embed(o.embed), "rmsnorm": d.RMSNorm(o.norm), "linear": d.Linear(o.linear), "lora": d.LoRA(o.lora),
		"rope": d.RoPE(o.rope), "attention": d.Attention(o.attention),
		"glu": d.GLU(o.glu), "add": d.Add(o.add), "softcap": d.Softcap(o.softcap), "logsoftmax": d.LogSoftmax(o.logs),
		"copy pages": d.CopyPages(o.kv, o.copied[0], o.copied[1]),
	}
}

// spoilt is one wrong change of valid arguments of the operation op.
type spoilt struct {
	op, name string
	change   func(o *operands)
}

// viewFaults are the possible errors of a required view.
var viewFaults = map[string]func(v *device.View){
	"absent": func(v *device.View) { *v = device.View{} }, "dtype": func(v *device.View) { v.DType = tensor.BF16 },
	"rows":    func(v *device.View) { v.Rows-- },
	"columns": func(v *device.View) { v.Cols-- }, "offset": func(
		v *device.View) {
		v.Offset = v.Buf.Bytes()/4 - 4
	}, "negative offset": func(v *device.View) { v.Offset = -1 },
	"huge offset": func(v *device.View) { v.Offset = math.MaxInt64 - 3 }, "stride": func(
		v *device.View) {
		v.Stride = v.Cols - 1
	}, "huge stride": func(v *device.View) { v.Stride = math.MaxInt / 2 },
	"negative stride": func(v *device.View) { v.Stride = -v.Cols }, "negative rows": func(
		v *device.View) {
		v.Rows = -1
	},
}

func faults() []spoilt {
	out := []spoilt{
		{"embed", "id", func(o *operands) { o.embed.IDs = []int32{0, 16, 1} }},
		{"embed", "negative id", func(o *operands) { o.embed.IDs = []int32{0, -1, 1} }},
		{"embed", "no table", func(o *operands) { o.embed.Table = nil }},
		{"rmsnorm", "no weight", func(o *operands) { o.norm.Weight = nil }},
		{"rmsnorm", "parts", func(o *operands) { o.norm.Parts = 2 }},
		{"rmsnorm", "eps", func(o *operands) { o.norm.Eps = float32(math.NaN()) }},
		{"rmsnorm", "rows and add", func(o *operands) { o.norm.Rows = []int32{0, 1, 2} }},
		{"rmsnorm", "row", func(o *operands) { o.norm.Add, o.norm.Rows = device.View{}, []int32{0, 1, 3} }},
		{"rmsnorm", "rows in place",
			func(o *operands) { o.norm.Add, o.norm.Rows, o.norm.Out = device.View{}, []int32{0, 1, 2}, o.norm.X }},
		{"rmsnorm", "half overlap",
			func(o *operands) { o.norm.Out = o.norm.X; o.norm.Out.Stride = 16; o.norm.X.Stride = 17 }},
		{"linear", "no parts", func(o *operands) { o.linear.Parts = nil }},
		{"linear", "precision", func(o *operands) { o.linear.Precision = 3 }},
		{"linear", "no weight", func(o *operands) { o.linear.Parts[1].W = nil }},
		{"linear", "bias", func(o *operands) { o.linear.Parts[0].Bias = o.rope.Table }},
		{"linear", "in place", func(o *operands) { o.linear.Parts[0].Out = o.linear.X }},
		{"linear", "two parts into one", func(o *operands) { o.linear.Parts[1].Out = o.linear.Parts[0].Out }},
		{"lora", "order", func(o *operands) { s := o.lora.Parts[0].Segments; s[0], s[1] = s[1], s[0] }},
		{"lora", "past the end", func(o *operands) { o.lora.Parts[0].Segments[1].End = 4 }},
		{"lora", "reversed", func(o *operands) { s := &o.lora.Parts[1].Segments[0]; s.Begin, s.End = 3, 1 }},
		{"lora", "negative rank", func(o *operands) { o.lora.Parts[0].Segments[0].M.Rank = -1 }},
		{"lora", "rank", func(o *operands) { o.lora.Parts[0].Segments[0].M.Rank = 1 << 20 }},
		{"lora", "huge rank", func(o *operands) { o.lora.Parts[0].Segments[0].M.Rank = math.MaxInt }},
		{"lora", "no b", func(o *operands) { o.lora.Parts[0].Segments[0].M.B = device.Region{} }},
		{"lora", "a shorter x",
			func(o *operands) { m := o.lora.Parts[0].Segments[0].M; m.A, m.Rank = device.Region{}, 17 }},
		{"lora", "another layer's in", func(o *operands) { o.lora.Parts[0].Segments[0].M.In = 15 }},
		{"lora", "another layer's out", func(o *operands) { o.lora.Parts[0].Segments[0].M.Out = 17 }},
		{"lora", "element type", func(o *operands) { o.lora.Parts[0].Segments[0].M.A.DType = tensor.F64 }},
		{"lora", "no element type", func(o *operands) { o.lora.Parts[0].Segments[0].M.B.DType = tensor.Invalid }},
		{"lora", "a past the end", func(o *operands) { o.lora.Parts[0].Segments[0].M.A.Offset += 1 << 12 }},
		{"lora", "b past the end", func(o *operands) {
			o.lora.Parts[0].Segments[1].M.B.Offset = o.lora.Parts[0].Segments[1].M.B.Buf.Bytes() - 2
		}},
		{"lora", "negative offset", func(o *operands) { o.lora.Parts[0].Segments[0].M.A.Offset = -4 }},
		{"lora", "half an element", func(o *operands) { o.lora.Parts[0].Segments[0].M.A.Offset++ }},
		{"lora", "gain past the end",
			func(o *operands) { o.lora.Parts[0].Segments[0].M.Gain.Offset = math.MaxInt64 - 3 }},
		{"lora", "gain of F16", func(o *operands) { o.lora.Parts[0].Segments[0].M.Gain.DType = tensor.F16 }},
		{"lora", "bias past the end", func(o *operands) { o.lora.Parts[0].Segments[0].M.Bias.Offset += 1 << 12 }},
		{"lora", "scaled gain", func(o *operands) { o.lora.Parts[0].Segments[0].Scale = 0.5 }},
		{"lora", "in place", func(o *operands) { o.lora.Parts[1].Out = o.lora.X }},
		{"lora", "two parts into one", func(o *operands) { o.lora.Parts[1].Out = o.lora.Parts[0].Out }},
		{"rope", "slot", func(o *operands) { o.rope.Slots = []int32{0, 1, 48} }},
		{"rope", "negative slot", func(o *operands) { o.rope.Slots = []int32{0, -1, 1} }},
		{"rope", "odd width", func(o *operands) { o.rope.Rot = 3 }},
		{"rope", "width", func(o *operands) { o.rope.Rot = 10 }},
		{"rope", "head width", func(o *operands) { o.rope.HeadDim = 16 }},
		{"rope", "layer", func(o *operands) { o.rope.Layer = 1 }},
		{"rope", "no cache", func(o *operands) { o.rope.Cache = nil }},
		{"rope", "no table", func(o *operands) { o.rope.Table = nil }},
		{"rope", "table row", func(o *operands) { o.rope.TableRows = []int32{-1, 0, 5} }},
		{"rope", "negative table row", func(o *operands) { o.rope.TableRows = []int32{-2, 0, 1} }},
		{"rope", "table rows", func(o *operands) { o.rope.TableRows = o.rope.TableRows[:2] }},
		{"rope", "k is v", func(o *operands) { o.rope.V = o.rope.K }},
		{"attention", "head width", func(o *operands) { o.attention.HeadDim = 0 }},
		{"attention", "layer", func(o *operands) { o.attention.Layer = -1 }},
		{"attention", "no cache", func(o *operands) { o.attention.Cache = nil }},
		{"attention", "in place", func(o *operands) { o.attention.Out = o.attention.Q }},
		{"attention", "indptr order",
			func(o *operands) { o.attention.Indptr, o.attention.PageTables = []int32{0, 4, 3}, [][]int32{{2}, {1}} }},
		{"attention", "indptr start", func(o *operands) { o.attention.Indptr = []int32{1, 1, 3} }},
		{"attention", "indptr end", func(o *operands) { o.attention.Indptr = []int32{0, 1, 2} }},
		{"attention", "indptr length", func(o *operands) { o.attention.Indptr = []int32{0, 3} }},
		{"attention", "no indptr", func(o *operands) { o.attention.Indptr = nil }},
		{"attention", "positions apart", func(o *operands) { o.attention.Positions = []int32{0, 16, 18} }},
		{"attention", "negative position", func(o *operands) { o.attention.Positions = []int32{-1, 16, 17} }},
		{"attention", "position past the table", func(o *operands) { o.attention.Positions = []int32{16, 16, 17} }},
		{"attention", "huge position", func(o *operands) { o.attention.Positions = []int32{math.MaxInt32, 16, 17} }},
		{"attention", "page", func(o *operands) { o.attention.PageTables[1] = []int32{3, 0} }},
		{"attention", "negative page", func(o *operands) { o.attention.PageTables[1] = []int32{-1, 0} }},
		{"attention", "window", func(o *operands) { o.attention.Window = -1 }},
		{"attention", "softcap", func(o *operands) { o.attention.Softcap = -1 }},
		{"attention", "scale", func(o *operands) { o.attention.Scale = float32(math.Inf(1)) }},
		{"glu", "activation", func(o *operands) { o.glu.Act = 7 }},
		{"softcap", "cap", func(o *operands) { o.softcap.Cap = 0 }},
		{"copy pages", "lengths", func(o *operands) { o.copied[0] = o.copied[0][:1] }},
		{"copy pages", "page", func(o *operands) { o.copied[0] = []int32{0, 3} }},
		{"copy pages", "negative page", func(o *operands) { o.copied[1] = []int32{0, -1} }},
	}
	views := map[string][]func(o *operands) *device.View{
		"embed": {func(o *operands) *device.View { return &o.embed.Out }},
		"rmsnorm": {func(o *operands) *device.View { return &o.norm.X },
			func(o *operands) *device.View { return &o.norm.Out }},
		"linear": {func(o *operands) *device.View { return &o.linear.X },
			func(o *operands) *device.View { return &o.linear.Parts[1].Out }},
		"lora": {func(o *operands) *device.View { return &o.lora.X },
			func(o *operands) *device.View { return &o.lora.Parts[1].Out }},
		"rope": {
			func(o *operands) *device.View { return &o.rope.Q }, func(o *operands) *device.View { return &o.rope.K },
			func(o *operands) *device.View { return &o.rope.V },
		},
		"attention": {func(o *operands) *device.View { return &o.attention.Q },
			func(o *operands) *device.View { return &o.attention.Out }},
		"glu": {func(o *operands) *device.View { return &o.glu.Gate },
			func(o *operands) *device.View { return &o.glu.Up }, func(o *operands) *device.View { return &o.glu.Out }},
		"add": {func(o *operands) *device.View { return &o.add.X },
			func(o *operands) *device.View { return &o.add.Y }},
		"logsoftmax": {func(o *operands) *device.View { return &o.logs.X },
			func(o *operands) *device.View { return &o.logs.Out }},
	}
	for op, list := range views {
		for i, view := range list {
			for what, fault := range viewFaults {
				out = append(out, spoilt{op, name("view ", i, " ", what), func(o *operands) { fault(view(o)) }})
			}
		}
	}
	return out
}

// testShapes: each fault is ErrShape from the call itself and changes nothing.
func testShapes(b *bench) {
	valid := b.operands()
	for op, err := range valid.all(b.d) {
		if err != nil {
			b.Errorf("%s: valid arguments are refused: %v", op, err)
		}
	}
	b.must(b.d.Sync())
	b.release()
	for _, f := range faults() {
		o := b.operands()
		before := b.snapshot()
		f.change(o)
		err := o.one(b.d, f.op)
		if !errors.Is(err, device.ErrShape) {
			b.Errorf("%s, %s: %v, want ErrShape", f.op, f.name, err)
		}
		b.must(b.d.Sync())
		if err != nil &&
			!slices.EqualFunc(b.snapshot(), before,
				func(x, y []float32) bool { return slices.Equal(bitsOf(x), bitsOf(y)) }) {
			b.Errorf("%s, %s: refused, yet something was written", f.op, f.name)
		}
		b.release()
	}
	for what, c := range map[string]device.KVConfig{
		"page length": {Layers: 1, KVHeads: 1, HeadDim: 8, PageLen: 8, NumPages: 1, DType: tensor.F32},
		"type":        {Layers: 1, KVHeads: 1, HeadDim: 8, PageLen: 16, NumPages: 1, DType: tensor.I8},
		"layers":      {Layers: -1, KVHeads: 1, HeadDim: 8, PageLen: 16, NumPages: 1, DType: tensor.F32}, "nothing": {},
		"overflow": {Layers: math.MaxInt / 2, KVHeads: math.MaxInt / 2, HeadDim: 8, PageLen: 16, NumPages: 1 << 20,
			DType: tensor.F32},
	} {
		if kv, err := b.d.NewKVCache(c); !errors.Is(err, device.ErrShape) {
			b.Errorf("kv cache, %s: %v, %v", what, kv, err)
		}
	}
	bad := b.matrix(form{layout: quant.Int4, group: 32, zero: 8}, 3, 40)
	bad.Scales = bad.Scales[1:]
	for _, m := range []*quant.Matrix{nil, bad} {
		if w, err := b.d.LoadMatrix(device.Weights, m); !errors.Is(err, device.ErrShape) {
			b.Errorf("matrix %+v: %v, %v", m, w, err)
		}
	}
	for _, n := range []int64{-1, math.MinInt64} {
		if buf, err := b.d.Alloc(device.Scratch, n); !errors.Is(err, device.ErrShape) {
			b.Errorf("%d bytes: %v, %v", n, buf, err)
		}
	}
	if buf, err := b.d.Alloc(device.NumPurposes, 8); !errors.Is(err, device.ErrShape) {
		b.Errorf("invalid purpose: %v, %v", buf, err)
	}
}

// one runs a single operation.
func (o *operands) one(d device.Device, op string) error {
	switch op {
	case "embed":
		return d.Embed(o.embed)
	case "rmsnorm":
		return d.RMSNorm(o.norm)
	case "linear":
		return d.Linear(o.linear)
	case "lora":
		return d.LoRA(o.lora)
	case "rope":
		return d.RoPE(o.rope)
	case "attention":
		return d.Attention(o.attention)
	case "glu":
		return d.GLU(o.glu)
	case "add":
		return d.Add(o.add)
	case "softcap":
		return d.Softcap(o.softcap)
	case "logsoftmax":
		return d.LogSoftmax(o.logs)
	default:
		return d.CopyPages(o.kv, o.copied[0], o.copied[1])
	}
}

// snapshot is the content of every buffer of the test.
func (b *bench) snapshot() [][]float32 {
	var out [][]float32
	for _, x := range b.owned {
		if buf, ok := x.(device.Buffer); ok {
			out = append(out, b.read(buf))
		}
	}
	return out
}

func bitsOf(x []float32) []uint32 {
	out := make([]uint32, len(x))
	for i, v := range x {
		out[i] = math.Float32bits(v)
	}
	return out
}

// testForeign: operands of another device, and freed ones, are ErrShape.
func testForeign(b *bench) {
	other := &bench{T: b.T, d: b.open(b.T), o: b.o, r: b.r, open: b.open}
	o := other.operands()
	for op, err := range o.all(b.d) {
		if !errors.Is(err, device.ErrShape) {
			b.Errorf("%s on another device's memory: %v, want ErrShape", op, err)
		}
	}
	other.close()
	mine := b.operands()
	mine.embed.Table, mine.linear.Parts[0].W, mine.norm.Weight = o.embed.Table, o.embed.Table, o.norm.Weight
	mine.rope.Cache, mine.attention.Cache = o.kv, o.kv
	mine.lora.Parts[1].Segments[0].M.Bias = o.lora.Parts[1].Segments[0].M.Bias
	for _, op := range []string{"embed", "linear", "rmsnorm", "rope", "attention", "lora"} {
		if err := mine.one(b.d, op); !errors.Is(err, device.ErrShape) {
			b.Errorf("%s with one freed operand: %v, want ErrShape", op, err)
		}
	}
	b.must(b.d.Sync())
}

func testOutOfMemory(b *bench) {
	if b.o.Limited == nil {
		b.Skip("the device has no limit to test")
	}
	const limit = 1 << 20
	l := &bench{T: b.T, d: b.o.Limited(b.T, limit), o: b.o, r: b.r, open: b.open}
	first := l.buffer(device.Activations, make([]float32, limit/8))
	used := func() (n int64) {
		for p := range device.NumPurposes {
			n += l.d.InUse(p)
		}
		return n
	}
	before := used()
	refused := func() map[string]error {
		buf, e1 := l.d.Alloc(device.Scratch, limit*3/4)
		w, e2 := l.d.LoadMatrix(device.Weights, b.matrix(form{layout: quant.F32}, 512, 400))
		kv, e3 := l.d.NewKVCache(device.KVConfig{Layers: 1, KVHeads: 2, HeadDim: 64, PageLen: 16, NumPages: 48,
			DType: tensor.F32})
		if buf != nil && e1 != nil || w != nil && e2 != nil || kv != nil && e3 != nil {
			b.Error("an error was returned together with a result")
		}
		for _, x := range []struct {
			err  error
			free interface{ Free() }
		}{{e1, buf}, {e2, w}, {e3, kv}} {
			if x.err == nil {
				x.free.Free()
			}
		}
		return map[string]error{"alloc": e1, "load matrix": e2, "new kv cache": e3}
	}
	for op, err := range refused() {
		if !errors.Is(err, device.ErrOutOfMemory) {
			b.Errorf("%s beyond the limit: %v, want ErrOutOfMemory", op, err)
		}
	}
	if used() != before {
		b.Errorf("refusals changed the bytes in use from %d to %d", before, used())
	}
	if _, err := l.d.Alloc(device.Scratch, math.MaxInt64-100); !errors.Is(err, device.ErrOutOfMemory) {
		b.Errorf("2^63 bytes: %v, want ErrOutOfMemory", err)
	}
	first.Free()
	l.owned = nil
	buf, err := l.d.Alloc(device.Scratch, limit*3/4)
	if err != nil {
		b.Errorf("after freeing: %v", err)
	} else {
		buf.Free()
	}
	l.close()
}

func testClosed(b *bench) {
	d := b.open(b.T)
	c := &bench{T: b.T, d: d, o: b.o, r: b.r, open: b.open}
	o := c.operands()
	if err := d.Close(); err == nil {
		b.Error("closed with buffers alive and without an error")
	} else {
		for _, p := range []device.Purpose{device.Weights, device.KV, device.Activations, device.Adapters} {
			if want := p.String(); !strings.Contains(err.Error(), want) {
				b.Errorf("the error of Close does not name %s: %v", want, err)
			}
		}
	}
	errs := o.all(d)
	errs["sync"], errs["close"] = d.Sync(), d.Close()
	_, errs["alloc"] = d.Alloc(device.Scratch, 8)
	_, errs["load matrix"] = d.LoadMatrix(device.Weights, b.matrix(form{layout: quant.F32}, 2, 2))
	_, errs["new kv cache"] = d.NewKVCache(o.kv.Config())
	for op, err := range errs {
		if !errors.Is(err, device.ErrClosed) {
			b.Errorf("%s on a closed device: %v, want ErrClosed", op, err)
		}
	}
	c.release() // owners may free late
}

// testConcurrent: memory is allocated and freed on many goroutines while operations are recorded and run.
func testConcurrent(b *bench) {
	o := b.operands()
	var group sync.WaitGroup
	m := b.matrix(form{layout: quant.Int4, group: 32, zero: 8}, 40, 64)
	for range 4 {
		group.Go(func() {
			for range 30 {
				buf, err := b.d.Alloc(device.Scratch, 1000)
				w, err2 := b.d.LoadMatrix(device.Adapters, m)
				if err != nil || err2 != nil {
					b.Errorf("alloc: %v, load: %v", err, err2)
					return
				}
				b.d.InUse(device.Scratch)
				buf.Free()
				w.Free()
			}
		})
	}
	for range 30 {
		b.must(b.d.Linear(o.linear))
		b.must(b.d.Sync())
	}
	group.Wait()
}
