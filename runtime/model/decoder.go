package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/tensor"
)

// layer is one decoder block on the device; absent biases and norms are nil.
type layer struct {
	attnNorm, mlpNorm, postAttn, postMLP     device.Buffer
	q, k, v, o, gate, up, down               device.Weight
	qBias, kBias, vBias, oBias               device.Buffer
	gateBias, upBias, downBias, qNorm, kNorm device.Buffer
}

// decoder is the forward pass of every architecture; the differences are in Config. Not safe for concurrent use.
type decoder struct {
	cfg       *Config
	dev       device.Device
	opt       Options
	embed     device.Weight
	head      device.Weight
	finalNorm device.Buffer
	layers    []layer
	ropes     []ropeTable
	bytes     map[string]int64
	free      []interface{ Free() }

	// Activations, F32: x is the residual stream, y the next addition to it, h its norm.
	x, y, h, q, k, v, attn, gate, up, last, logits device.Buffer

	tokens int      // of the last Forward
	lora   []placed // its adapters
	passes int      // over them
	whole  bool     // one of them touches the embedding or the head
	// one of them replaces norms
	ownNorms bool
	slots    []int32
	rows     [][]int32 // per RoPE kind, the table row of each token
	parts    []device.LinearPart
	changes  [3]device.LoRAPart // of the parts, as many as a linear layer has at most
	out      []float32
	tap      func(stage string, v device.View) // for tests: called after each stage
}

// ropeTable is the cos and sin of each position, filled as positions appear. longrope's long half follows the short
// one.
type ropeTable struct {
	buf    device.Buffer
	freq   [2][]float64
	filled [2]int // positions, short and long
	scale  float64
}

const ropeFill = 1024

func (d *decoder) allocate(l *loader) error {
	c, n := d.cfg, d.opt.MaxBatchTokens
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	for _, b := range []struct {
		to         *device.Buffer
		rows, cols int
	}{
		{&d.x, n, c.Hidden}, {&d.y, n, c.Hidden}, {&d.h, n, c.Hidden}, {&d.q, n, q}, {&d.k, n, kv}, {&d.v, n, kv},
		{&d.attn, n, q},
		{&d.gate, n, c.FFN}, {&d.up, n, c.FFN}, {&d.last, d.opt.MaxLogitRows, c.Hidden},
		{&d.logits, d.opt.MaxLogitRows, c.Vocab},
	} {
		buf, err := d.dev.Alloc(device.Activations, 4*int64(b.rows)*int64(b.cols))
		if err != nil {
			return err
		}
		*b.to = buf
		l.free = append(l.free, buf)
	}
	d.ropes = make([]ropeTable, len(c.Ropes))
	d.rows = make([][]int32, len(c.Ropes))
	for i := range c.Ropes {
		r, t := &c.Ropes[i], &d.ropes[i]
		if err := t.allocate(d.dev, r, d.opt.MaxContext); err != nil {
			return err
		}
		l.free = append(l.free, t.buf)
	}
	return nil
}

// variants returns how many tables are stored one after another: longrope has a short and a long one.
func (t *ropeTable) variants() int {
	if t.freq[1] != nil {
		return 2
	}
	return 1
}

// allocate allocates memory for the positions of a context; no row is filled.
func (t *ropeTable) allocate(dev device.Device, r *Rope, context int) (err error) {
	t.freq[0], t.scale = r.frequencies(false), r.Scale
	if t.scale == 0 {
		t.scale = 1
	}
	if r.Long != nil {
		t.freq[1] = r.frequencies(true)
	}
	t.buf, err = dev.Alloc(device.Activations, 4*int64(t.variants()*context)*int64(r.Rot))
	return err
}

// grow fills the table of variant up to position, ropeFill rows at a time.
func (t *ropeTable) grow(variant, position, context int) error {
	freq := t.freq[variant]
	for position >= t.filled[variant] {
		begin := t.filled[variant]
		end := min(begin+ropeFill, context)
		rows := make([]byte, 0, 8*len(freq)*(end-begin))
		for p := begin; p < end; p++ {
			for _, f := range freq {
				rows = binary.LittleEndian.AppendUint32(rows, math.Float32bits(float32(math.Cos(float64(p)*f)*t.scale)))
			}
			for _, f := range freq {
				rows = binary.LittleEndian.AppendUint32(rows, math.Float32bits(float32(math.Sin(float64(p)*f)*t.scale)))
			}
		}
		if err := t.buf.Write(int64(variant*context+begin)*int64(8*len(freq)), rows); err != nil {
			return err
		}
		t.filled[variant] = end
	}
	return nil
}

func (d *decoder) Config() *Config         { return d.cfg }
func (d *decoder) MaxBatchTokens() int     { return d.opt.MaxBatchTokens }
func (d *decoder) MaxLogitRows() int       { return d.opt.MaxLogitRows }
func (d *decoder) Bytes() map[string]int64 { return d.bytes }

func (d *decoder) GatheredBytes() int64 {
	if d.embed == d.head {
		return 0
	}
	return d.embed.Bytes()
}

func (d *decoder) KVConfig() device.KVConfig {
	return device.KVConfig{Layers: d.cfg.Layers, KVHeads: d.cfg.KVHeads, HeadDim: d.cfg.HeadDim}
}

// RopeSwitch returns longrope's original context if sequences may be longer, else 0.
func (d *decoder) RopeSwitch() int {
	for _, r := range d.cfg.Ropes {
		if r.Long != nil && d.opt.MaxContext > r.Original {
			return r.Original
		}
	}
	return 0
}

func (d *decoder) Close() error {
	err := d.dev.Sync()
	for _, f := range d.free {
		f.Free()
	}
	d.free = nil
	return err
}

func view(b device.Buffer, rows, cols int) device.View {
	return device.View{Buf: b, Rows: rows, Cols: cols, Stride: cols, DType: tensor.F32}
}

// Forward records the whole pass; Logits, or the device's Sync, runs it.
func (d *decoder) Forward(b *Batch, cache device.KVCache) error {
	d.tokens = 0 // no logits until everything is recorded
	if err := d.check(b, cache); err != nil {
		return err
	}
	if err := d.place(b, cache.Config().PageLen); err != nil {
		return err
	}
	c, n := d.cfg, len(b.IDs)
	x := view(d.x, n, c.Hidden)
	if err := d.dev.Embed(device.EmbedArgs{IDs: b.IDs, Table: d.embed, Scale: c.EmbedScale, Out: x}); err != nil {
		return err
	}
	if err := d.embedAdapters(b, x); err != nil {
		return err
	}
	d.see("embed", x)
	for l := range d.layers {
		if err := d.layer(l, b, cache); err != nil {
			return fmt.Errorf("layer %d: %w", l, err)
		}
	}
	if err := d.dev.Add(device.AddArgs{X: x, Y: view(d.y, n, c.Hidden)}); err != nil {
		return err
	}
	d.see("layer", x)
	d.tokens = n
	return nil
}

func (d *decoder) see(stage string, v device.View) {
	if d.tap != nil {
		d.tap(stage, v)
	}
}

// layer adds y of the previous layer to the residual stream and writes its own output to y.
func (d *decoder) layer(l int, b *Batch, cache device.KVCache) error {
	c, w, n, dev := d.cfg, &d.layers[l], len(b.IDs), d.dev
	x, y, h := view(d.x, n, c.Hidden), view(d.y, n, c.Hidden), view(d.h, n, c.Hidden)
	q, k, v := view(d.q, n, c.Heads*c.HeadDim), view(d.k, n, c.KVHeads*c.HeadDim), view(d.v, n, c.KVHeads*c.HeadDim)
	attn, gate, up := view(d.attn, n, c.Heads*c.HeadDim), view(d.gate, n, c.FFN), view(d.up, n, c.FFN)

	norm := device.RMSNormArgs{X: x, Out: h, Weight: w.attnNorm}
	if l > 0 {
		norm.Add = y
	}
	if err := d.blockNorm(l, lora.InputNorm, norm); err != nil {
		return err
	}
	if l > 0 {
		d.see("layer", x)
	}
	if err := d.linear(l, h,
		part{w.q, w.qBias, q, lora.QProj}, part{w.k, w.kBias, k, lora.KProj}, part{w.v, w.vBias, v,
			lora.VProj}); err != nil {
		return err
	}
	if c.QKNorm {
		if err := d.blockNorm(l, lora.QNorm, device.RMSNormArgs{X: q, Out: q, Weight: w.qNorm,
			Parts: c.Heads}); err != nil {
			return err
		}
		if err := d.blockNorm(l, lora.KNorm, device.RMSNormArgs{X: k, Out: k, Weight: w.kNorm,
			Parts: c.KVHeads}); err != nil {
			return err
		}
	}
	rope := c.RopeOf[l]
	if err := dev.RoPE(device.RoPEArgs{
		Q: q, K: k, V: v, HeadDim: c.HeadDim, Rot: c.Ropes[rope].Rot, Table: d.ropes[rope].buf, TableRows: d.rows[rope],
		Cache: cache, Layer: l, Slots: d.slots,
	}); err != nil {
		return err
	}
	if err := dev.Attention(device.AttentionArgs{
		Q: q, Out: attn, HeadDim: c.HeadDim, Cache: cache, Layer: l, Indptr: b.Indptr, Positions: b.Positions,
		PageTables: b.PageTables,
		Scale:      c.AttnScale, Softcap: c.AttnSoftcap, Window: c.Windows[l],
	}); err != nil {
		return err
	}
	if err := d.linear(l, attn, part{w.o, w.oBias, y, lora.OProj}); err != nil {
		return err
	}
	beforeMLP := lora.PostAttentionNorm
	if c.SandwichNorm {
		beforeMLP = lora.PreMLPNorm
		if err := d.blockNorm(l, lora.PostAttentionNorm, device.RMSNormArgs{X: y, Out: y,
			Weight: w.postAttn}); err != nil {
			return err
		}
	}
	if err := d.blockNorm(l, beforeMLP, device.RMSNormArgs{X: x, Add: y, Out: h, Weight: w.mlpNorm}); err != nil {
		return err
	}
	if err := d.linear(l, h, part{w.gate, w.gateBias, gate, lora.GateProj},
		part{w.up, w.upBias, up, lora.UpProj}); err != nil {
		return err
	}
	if err := dev.GLU(device.GLUArgs{Gate: gate, Up: up, Out: gate, Act: c.Act}); err != nil {
		return err
	}
	if err := d.linear(l, gate, part{w.down, w.downBias, y, lora.DownProj}); err != nil {
		return err
	}
	if !c.SandwichNorm {
		return nil
	}
	return d.blockNorm(l, lora.PostMLPNorm, device.RMSNormArgs{X: y, Out: y, Weight: w.postMLP})
}

// part is one product of a linear layer and its target module.
type part struct {
	w      device.Weight
	bias   device.Buffer
	out    device.View
	target lora.Target
}

// linear computes the parts over x and adds the LoRA changes of the batch's adapters.
func (d *decoder) linear(l int, x device.View, parts ...part) error {
	d.parts = d.parts[:0]
	for _, p := range parts {
		d.parts = append(d.parts, device.LinearPart{W: p.w, Bias: p.bias, Out: p.out})
	}
	if err := d.dev.Linear(device.LinearArgs{X: x, Parts: d.parts}); err != nil {
		return err
	}
	return d.adapt(l, x, parts)
}

// Logits runs what Forward recorded and the head for rows.
func (d *decoder) Logits(rows []int32) ([]float32, error) {
	c, n := d.cfg, len(rows)
	if n > d.opt.MaxLogitRows {
		return nil, fmt.Errorf("%w: logits of %d rows, the limit is %d", device.ErrShape, n, d.opt.MaxLogitRows)
	}
	if n == 0 {
		return nil, d.dev.Sync()
	}
	last, logits := view(d.last, n, c.Hidden), view(d.logits, n, c.Vocab)
	if err := d.lastNorm(rows, last); err != nil {
		return nil, err
	}
	d.see("norm", last)
	if err := d.logitsOf(rows, last, logits); err != nil {
		return nil, err
	}
	if c.FinalSoftcap > 0 {
		if err := d.dev.Softcap(device.SoftcapArgs{X: logits, Cap: c.FinalSoftcap}); err != nil {
			return nil, err
		}
	}
	if err := d.dev.Sync(); err != nil {
		return nil, err
	}
	return d.host(n * c.Vocab)
}

// host returns the first n logits: the device's own memory where the host can address it, else a copy.
func (d *decoder) host(n int) ([]float32, error) {
	if b := d.logits.Host(); b != nil {
		return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)[:n], nil
	}
	raw := make([]byte, 4*n)
	if err := d.logits.Read(0, raw); err != nil {
		return nil, err
	}
	d.out = d.out[:0]
	for i := range n {
		d.out = append(d.out, math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
	}
	return d.out, nil
}
