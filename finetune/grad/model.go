package grad

import (
	"fmt"

	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// Batch is a micro-batch: ragged samples without padding. Sample d owns the tokens [Indptr[d], Indptr[d+1]) and attends
// only to itself.
type Batch struct {
	IDs []int32
	// Labels[t] is what the token before t should predict; negative: no loss. Not shifted; the first of a sample is
	// never counted
	Labels []int32
	Indptr []int32
}

// Targets returns the number of trained tokens.
func (b *Batch) Targets() int {
	n := 0
	for d := range len(b.Indptr) - 1 {
		for t := b.Indptr[d] + 1; t < b.Indptr[d+1]; t++ {
			if b.Labels[t] >= 0 {
				n++
			}
		}
	}
	return n
}

// Config of a Model.
type Config struct {
	MaxTokens int // of a micro-batch
	MaxSample int // tokens of the longest sample
	// Precision is that of the products with frozen weights, forward and backward: Float32, or BF16 with float32 sums.
	// Own means Float32.
	Precision device.Precision
	// FP16 rounds the inputs of linear layers, and the gradients of their outputs, to float16, so that large values
	// become infinite: scale the loss (optim.Scaler).
	FP16 bool
	// Yield, if set, is called after every few milliseconds of work, when no operation is recorded; a trainer beside a
	// server waits in it while the server uses the device.
	Yield func()
	// keep only each block's input and compute the rest again on the backward pass (Chen et al. 2016, arXiv:1604.06174)
	Checkpoint bool
}

type sizes struct{ hidden, q, kv, ffn int }

// block is a decoder block and the values that it keeps for the backward pass.
type block struct {
	model.Block
	linear [lora.NumTargets]*linear
	// norm weights that are trained, or nil
	attnNorm, mlpNorm, postAttn, postMLP, qNorm, kNorm *Param
	x                                                  device.Buffer // [T, H]: the block's input
	keep                                               *activations
}

// activations of one block; under Checkpoint all blocks use one set. The outputs of norms and gate are cheap to
// recompute: all blocks always use the same h1, h2 and act.
type activations struct {
	att, xm, y1, y2      device.Buffer // [T, H] or [T, Hq*D]
	q, k, v, q0, k0, lse device.Buffer
	gate, up             device.Buffer
	xa, z                [lora.NumTargets]device.Buffer
}

// Model computes loss and gradients. It is used by one goroutine at a time and owns its activations, not the weights or
// parameters.
type Model struct {
	dev     device.Training
	frozen  *model.Frozen
	cfg     *model.Config
	opt     Config
	sizes   sizes
	blocks  []block
	linears []*linear
	params  []*Param
	embed   *Param   // the embedding where it is trained, else nil
	table   *lowRank // LoRA on the embedding, or nil
	head    linear   // its full is embed if all of a tied model is trained
	norm    *Param

	headXA, headZ device.Buffer // of LoRA on the head, for the rows of a chunk

	ropes    *model.RopeTables
	ropeRows [][]int32
	training bool
	seed     uint64

	h1, h2, act                                device.Buffer
	x, y, dx, dh, dq, dk, dv, datt, dgate, dup device.Buffer
	dropBuf, aw                                device.Buffer
	dyb                                        [3]device.Buffer // of the parts with the same input
	rowsX, rowsH, dRowsH, dRowsX, logits, loss device.Buffer
	rowsAtOnce                                 int // rows of logits computed at once
	first                                      int // lowest block with trained parameters; the backward pass ends there
	owned                                      []device.Buffer
}

// logitBytes bounds the logits kept at once: cross-entropy takes its rows in chunks, [T, V] is never allocated.
const logitBytes = 16 << 20

// New returns a Model without trained parameters; attach them, then call Prepare.
func New(dev device.Device, frozen *model.Frozen, opt Config) (*Model, error) {
	t, ok := dev.(device.Training)
	if !ok {
		return nil, fmt.Errorf("%w: %s has no gradients", ErrDevice, dev.Name())
	}
	c := frozen.Config
	if opt.Precision == device.Own {
		opt.Precision = device.Float32
	}
	m := &Model{dev: t, frozen: frozen, cfg: c, opt: opt}
	m.sizes, m.rowsAtOnce = sizesOf(c), rowsAtOnce(c, opt.Yield != nil)
	m.blocks = make([]block, c.Layers)
	for i := range m.blocks {
		b := &m.blocks[i]
		b.Block = frozen.Blocks[i]
		for target, size := range targetsOf(m.sizes) {
			b.linear[target] = &linear{index: len(m.linears), out: size[0], in: size[1], w: b.Linear[target],
				bias: b.Bias[target]}
			m.linears = append(m.linears, b.linear[target])
		}
	}
	m.head = linear{index: len(m.linears), out: c.Vocab, in: c.Hidden, w: frozen.Head}
	m.linears = append(m.linears, &m.head)
	return m, nil
}

// Params returns the trained parameters, in the order of attaching.
func (m *Model) Params() []*Param { return m.params }

// Prepare allocates the activations.
func (m *Model) Prepare() (err error) {
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.ropes, err = model.NewRopeTables(m.dev, m.cfg, m.opt.MaxSample); err != nil {
		return err
	}
	m.ropeRows = make([][]int32, len(m.cfg.Ropes))
	m.first = len(m.blocks)
	for i := range m.blocks {
		for _, l := range m.blocks[i].linear {
			if l.trained() && i < m.first {
				m.first = i
			}
		}
	}
	if m.embedTrained() {
		m.first = 0
	}
	a := m.allocator()
	shared := &activations{}
	for i := range m.blocks {
		b := &m.blocks[i]
		b.keep = shared
		if !m.opt.Checkpoint {
			b.keep = &activations{}
		}
		a.rows(&b.x, m.sizes.hidden)
		a.block(b)
	}
	s := m.sizes
	for _, n := range []struct {
		to   *device.Buffer
		cols int
	}{
		{&m.h1, s.hidden}, {&m.h2, s.hidden}, {&m.act, s.ffn}, {&m.x, s.hidden}, {&m.y, s.hidden}, {&m.dx, s.hidden},
		{&m.dh, max(s.hidden, s.q, s.ffn)}, {&m.dq, s.q}, {&m.dk, s.kv}, {&m.dv, s.kv}, {&m.datt, s.q},
		{&m.dgate, s.ffn}, {&m.dup, s.ffn},
	} {
		a.rows(n.to, n.cols)
	}
	rank, dropout, dora := 0, false, 0
	for _, l := range m.linears {
		if l.lora != nil {
			rank = max(rank, l.lora.A.Rows)
			dropout = dropout || l.lora.Dropout > 0
		}
		if l.dora() {
			dora = max(dora, l.out)
		}
	}
	if rank > 0 {
		for i := range m.dyb {
			a.rows(&m.dyb[i], rank)
		}
	}
	if dropout {
		a.rows(&m.dropBuf, max(s.hidden, s.q, s.ffn))
	}
	if dora > 0 {
		a.take(&m.aw, rank, dora)
	}
	if t := m.table; t != nil {
		a.rows(&t.low, t.A.Rows)
		a.rows(&t.dlow, t.A.Rows)
	}
	if l := m.head.lora; l != nil {
		a.take(&m.headXA, m.rowsAtOnce, l.A.Rows)
		if m.head.dora() {
			a.take(&m.headZ, m.rowsAtOnce, m.cfg.Vocab)
		}
	}
	for _, b := range []*device.Buffer{&m.rowsX, &m.rowsH, &m.dRowsH, &m.dRowsX} {
		a.take(b, m.rowsAtOnce, s.hidden)
	}
	a.take(&m.logits, m.rowsAtOnce, m.cfg.Vocab)
	a.take(&m.loss, m.rowsAtOnce, 1)
	if a.err != nil {
		return fmt.Errorf("activations of %d tokens: %w", m.opt.MaxTokens, a.err)
	}
	return m.Renew()
}

// allocator allocates buffers until one fails.
type allocator struct {
	m   *Model
	err error
}

func (m *Model) allocator() *allocator { return &allocator{m: m} }

func (a *allocator) take(to *device.Buffer, rows, cols int) {
	if a.err != nil || *to != nil {
		return
	}
	b, err := a.m.dev.Alloc(device.Activations, 4*int64(rows)*int64(cols))
	if err == nil && b.Host() == nil {
		b.Free()
		err = ErrDevice
	}
	if err != nil {
		a.err = err
		return
	}
	*to = b
	a.m.owned = append(a.m.owned, b)
}

// rows allocates [MaxTokens, cols].
func (a *allocator) rows(to *device.Buffer, cols int) { a.take(to, a.m.opt.MaxTokens, cols) }

func (a *allocator) block(b *block) {
	k, s := b.keep, a.m.sizes
	for _, n := range []struct {
		to   *device.Buffer
		cols int
		want bool
	}{
		{&k.q, s.q, true}, {&k.k, s.kv, true}, {&k.v, s.kv, true}, {&k.q0, s.q, b.QNorm != nil}, {&k.k0, s.kv,
			b.KNorm != nil},
		{&k.att, s.q, true}, {&k.lse, a.m.cfg.Heads, true}, {&k.y1, s.hidden, b.PostAttn != nil},
		{&k.xm, s.hidden, true},
		{&k.gate, s.ffn, true}, {&k.up, s.ffn, true}, {&k.y2, s.hidden, b.PostMLP != nil},
	} {
		if n.want {
			a.rows(n.to, n.cols)
		}
	}
	for t, l := range b.linear {
		if l.lora != nil {
			a.rows(&k.xa[t], l.lora.A.Rows)
		}
		if l.dora() {
			a.rows(&k.z[t], l.out)
		}
	}
}

// Close frees the activations.
func (m *Model) Close() {
	for _, b := range m.owned {
		b.Free()
	}
	m.owned = nil
	if m.ropes != nil {
		m.ropes.Free()
		m.ropes = nil
	}
}

// ZeroGrad sets the gradients to zero.
func (m *Model) ZeroGrad() {
	for _, p := range m.params {
		clear(p.Grads())
	}
}
