package engine

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"

	"weft/internal/deadline"
	"weft/runtime/device"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
)

const fakeVocab = 61

// fakeModel's logits are a pure function of the tokens that it reads back through the page tables, so a wrong page, a
// stale one or a lost write shows.
type fakeModel struct {
	dev      device.Device
	slots    []int32
	last     []uint64 // hash of the history at each token of the last batch
	ropeAt   int
	maxBatch int
	maxRows  int
	broken   string // how Forward fails from the third call on: "error" or "panic"; "": it does not
	poison   int32  // a sequence that ends with this token gives NaN; 0: none
	nan      []bool
	uses     []lora.Use
	out      []float32
	forwards atomic.Int64
	during   func(*model.Batch) // called by each Forward, may be nil
	returns  func()             // called by each ReleasePages, may be nil
}

// fakeAdapters differ by the rank of their first matrices; combinations also by their order and scales.
var fakeAdapters = map[string][]lora.Use{
	"x": {{Weights: fakeAdapter(1), Scale: 1}}, "y": {{Weights: fakeAdapter(2), Scale: 1}},
	"x+y": {{Weights: fakeAdapter(2), Scale: 0.5}, {Weights: fakeAdapter(1), Scale: 1}},
}

func fakeAdapter(rank int) *lora.Weights {
	w := &lora.Weights{Layers: make([][lora.NumTargets]device.LoRAMatrices, 1)}
	w.Layers[0][0].Rank = rank
	return w
}

// fakeVariant is what the fake's keys and values depend on besides tokens: the RoPE table and the adapters in their
// order. It fits 15 bits.
func fakeVariant(known, ropeAt int, uses []lora.Use) int {
	v := 0
	for _, u := range uses {
		v = 8*v + u.Weights.Layers[0][0].Rank
		if u.Scale == 1 {
			v += 4
		}
	}
	v *= 2
	if ropeAt > 0 && known > ropeAt {
		v++
	}
	return v
}

func newFakeModel(t testing.TB) *fakeModel {
	m := &fakeModel{maxBatch: 64, maxRows: 8}
	m.dev = &fakeDevice{ref.New(ref.Options{}), m}
	return m
}

// fakeDevice overwrites the pages whose memory it releases.
type fakeDevice struct {
	device.Device
	m *fakeModel
}

func (d *fakeDevice) NewKVCache(c device.KVConfig) (device.KVCache, error) {
	d.m.slots = make([]int32, c.NumPages*c.PageLen)
	return d.Device.NewKVCache(c)
}

func (d *fakeDevice) ReleasePages(c device.KVCache, begin, end int) error {
	if d.m.returns != nil {
		d.m.returns()
	}
	n := c.Config().PageLen
	for i := range d.m.slots[begin*n : end*n] {
		d.m.slots[begin*n+i] = -1
	}
	return nil
}

func (m *fakeModel) Config() *model.Config {
	return &model.Config{Layers: 1, Vocab: fakeVocab, MaxContext: 4096}
}
func (m *fakeModel) RopeSwitch() int         { return m.ropeAt }
func (m *fakeModel) MaxBatchTokens() int     { return m.maxBatch }
func (m *fakeModel) MaxLogitRows() int       { return m.maxRows }
func (m *fakeModel) Bytes() map[string]int64 { return nil }
func (m *fakeModel) GatheredBytes() int64    { return 0 }
func (m *fakeModel) Frozen() *model.Frozen   { return nil }
func (m *fakeModel) Close() error            { return nil }

func (m *fakeModel) KVConfig() device.KVConfig {
	return device.KVConfig{Layers: 1, KVHeads: 1, HeadDim: 1}
}

func mixHash(h uint64, v uint64) uint64 {
	h = (h ^ v) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// step is the hash that the fake keeps; variant is the RoPE table in use.
func step(h uint64, token int32, variant int) uint64 {
	return mixHash(h, uint64(token)+1+uint64(variant)<<32)
}

func (m *fakeModel) Forward(b *model.Batch, cache device.KVCache) error {
	n := m.forwards.Add(1)
	if m.during != nil {
		m.during(b)
	}
	if n > 2 && m.broken != "" {
		if m.broken == "panic" {
			panic("the fake model panics")
		}
		return errors.New("the fake model fails")
	}
	c := cache.Config()
	m.last, m.nan = m.last[:0], m.nan[:0]
	for s := range b.Lens {
		m.uses = m.uses[:0]
		for _, seg := range b.LoRA {
			if b0, b1 := int(b.Indptr[s]), int(b.Indptr[s+1]); seg.Begin <= b0 && b1 <= seg.End {
				m.uses = append(m.uses, lora.Use{Weights: seg.Weights, Scale: seg.Scale})
			} else if seg.Begin < b1 && b0 < seg.End {
				return fmt.Errorf("segment [%d,%d) cuts the sequence [%d,%d)", seg.Begin, seg.End, b0, b1)
			}
		}
		variant := fakeVariant(int(b.Lens[s]), m.ropeAt, m.uses)
		slot := func(p int32) int { return int(b.PageTables[s][int(p)/c.PageLen])*c.PageLen + int(p)%c.PageLen }
		for t := b.Indptr[s]; t < b.Indptr[s+1]; t++ {
			if t > b.Indptr[s] && b.Positions[t] != b.Positions[t-1]+1 {
				return fmt.Errorf("positions of sequence %d are not consecutive", s)
			}
			// Stored values include the variant with which they were computed, so that stale RoPE or another adapter is
			// detected.
			m.slots[slot(b.Positions[t])] = b.IDs[t] + int32(variant)<<16
			var h uint64
			for p := int32(0); p <= b.Positions[t]; p++ {
				h = step(h, m.slots[slot(p)]&0xffff, int(m.slots[slot(p)]>>16))
			}
			m.last = append(m.last, h)
			m.nan = append(m.nan, m.poison != 0 && b.IDs[t] == m.poison)
		}
	}
	return nil
}

func fakeLogits(h uint64) []float32 { return appendLogits(nil, h) }

func appendLogits(out []float32, h uint64) []float32 {
	for i := range fakeVocab {
		h = mixHash(h, uint64(i))
		out = append(out, float32(h>>40)/(1<<22))
	}
	return out
}

func (m *fakeModel) Logits(rows []int32) ([]float32, error) {
	if len(rows) > m.maxRows {
		return nil, fmt.Errorf("%d rows, at most %d", len(rows), m.maxRows)
	}
	m.out = m.out[:0]
	for _, r := range rows {
		m.out = appendLogits(m.out, m.last[r])
		if m.nan[r] {
			m.out[len(m.out)-fakeVocab+3] = float32(math.NaN())
		}
	}
	return m.out, nil
}

// config returns small limits for the fake.
func (m *fakeModel) config() Config {
	return Config{Model: m, Device: m.dev, PageLen: 16, NumPages: 64, KVDType: tensor.F32, MaxSeqs: 8, MaxQueued: 64,
		MaxBatchTokens: 32, MaxContext: 512, PrefixCache: true}
}

func start(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var err error
		if !deadline.Call(t, "the engine's Close", func() { err = e.Close() }) {
			return
		}
		if err != nil {
			t.Error(err)
		}
		if n := cfg.Device.InUse(device.KV); n != 0 {
			t.Errorf("%d bytes of KV cache after Close", n)
		}
	})
	return e
}
