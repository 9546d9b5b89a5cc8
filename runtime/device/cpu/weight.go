//go:build cgo

package cpu

/*
#include "kernels/kernels.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"weft/quant"
	"weft/runtime/device"
)

// matrix is a packed weight. Its description is in C memory in front of the panels.
type matrix struct {
	owned
	w      *C.weight
	rows   int
	cols   int
	layout quant.Layout
}

func (m *matrix) Rows() int            { return m.rows }
func (m *matrix) Cols() int            { return m.cols }
func (m *matrix) Layout() quant.Layout { return m.layout }

// weightHeader is the space of a C.weight in front of its panels.
const weightHeader = (int64(unsafe.Sizeof(C.weight{})) + 63) &^ 63

func (d *cpuDevice) LoadMatrix(p device.Purpose, m *quant.Matrix) (device.Weight, error) {
	if d.closed.Load() {
		return nil, fmt.Errorf("load matrix: %w", device.ErrClosed)
	}
	if err := device.CheckMatrix(p, m); err != nil {
		return nil, err
	}
	const most = 1<<31 - 64
	if m.Rows > most || m.Cols > most {
		return nil, fmt.Errorf("load matrix: %w: [%d, %d] has a side above %d", device.ErrShape, m.Rows, m.Cols, most)
	}
	var w C.weight
	C.pack_shape(&w, C.int32_t(m.Layout), C.int32_t(m.Rows), C.int32_t(m.Cols), C.int32_t(min(m.GroupLen, most)),
		flag(m.Mins != nil), flag(m.ScalesF16))
	w.zero, w.integer = C.int32_t(m.Zero), flag(Integer(m))
	if m.Layout == quant.Int8 {
		w.flip = C.int32_t(C.kernels_for(C.int(d.isa)).flip)
	}
	for i := range w.codes {
		if m.Codes != nil {
			w.codes[i] = C.float(m.Codes[i])
		}
	}
	panels := (int64(m.Rows) + C.PANEL - 1) / C.PANEL
	mem, err := d.memory.obtain(p, weightHeader+panels*int64(w.panel_bytes))
	if err != nil {
		return nil, fmt.Errorf("load matrix [%d, %d] of %v: %w", m.Rows, m.Cols, m.Layout, err)
	}
	out := &matrix{owned: owned{dev: d, purpose: p, mem: mem}, w: (*C.weight)(mem.ptr), rows: m.Rows, cols: m.Cols,
		layout: m.Layout}
	*out.w = w
	out.w.data = (*C.uint8_t)(unsafe.Add(mem.ptr, weightHeader))
	C.pack(out.w, (*C.uint8_t)(unsafe.SliceData(m.Data)), (*C.float)(unsafe.SliceData(m.Scales)),
		(*C.float)(unsafe.SliceData(m.Mins)))
	return out, nil
}

func flag(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

// cache is a paged KV cache: for each layer the keys of all pages, then the values of all pages; see C.kv_layer.
type cache struct {
	owned
	config device.KVConfig
}

func (c *cache) Config() device.KVConfig { return c.config }

func (d *cpuDevice) NewKVCache(c device.KVConfig) (device.KVCache, error) {
	if d.closed.Load() {
		return nil, fmt.Errorf("new kv cache: %w", device.ErrClosed)
	}
	if err := device.CheckKVConfig(c); err != nil {
		return nil, err
	}
	m, err := d.memory.obtain(device.KV, c.PageBytes()*int64(c.NumPages))
	if err != nil {
		return nil, fmt.Errorf("new kv cache: %w", err)
	}
	return &cache{owned{dev: d, purpose: device.KV, mem: m}, c}, nil
}

// side returns the keys (0) or values (1) of a layer, and the bytes of one page in them.
func (c *cache) side(layer, which int) (unsafe.Pointer, int64) {
	page := c.config.PageBytes() / int64(2*c.config.Layers)
	return unsafe.Add(c.mem.ptr, int64(2*layer+which)*page*int64(c.config.NumPages)), page
}

// ReleasePages implements device.PageReleaser: the keys and the values of a layer are two arrays of pages.
func (d *cpuDevice) ReleasePages(k device.KVCache, begin, end int) error {
	if d.closed.Load() {
		return fmt.Errorf("release pages: %w", device.ErrClosed)
	}
	c, err := d.ownCache("release pages", k)
	if err != nil {
		return err
	}
	if begin < 0 || end < begin || end > c.config.NumPages {
		return fmt.Errorf("release pages: %w: [%d, %d) of %d", device.ErrShape, begin, end, c.config.NumPages)
	}
	for layer := range c.config.Layers {
		for which := range 2 {
			base, page := c.side(layer, which)
			C.mem_release(unsafe.Add(base, int64(begin)*page), C.int64_t(int64(end-begin)*page))
		}
	}
	return nil
}

func (c *cache) layer(layer int) C.kv_layer {
	k, _ := c.side(layer, 0)
	v, _ := c.side(layer, 1)
	return C.kv_layer{
		k: (*C.uint8_t)(k), v: (*C.uint8_t)(v),
		page_elems: C.int64_t(c.config.KVHeads) * C.int64_t(c.config.PageLen) * C.int64_t(c.config.HeadDim),
		kv_heads:   C.int32_t(c.config.KVHeads), head_dim: C.int32_t(c.config.HeadDim),
		page_len: C.int32_t(c.config.PageLen), dtype: elementType(c.config.DType),
	}
}

func (d *cpuDevice) ownCache(op string, kv device.KVCache) (*cache, error) {
	c, ok := kv.(*cache)
	if !ok || c.dev != d || c.gone.Load() {
		return nil, foreign(op, "the kv cache")
	}
	return c, nil
}

func (d *cpuDevice) CopyPages(kv device.KVCache, dst, src []int32) error {
	if d.closed.Load() {
		return fmt.Errorf("copy pages: %w", device.ErrClosed)
	}
	c, err := d.ownCache("copy pages", kv)
	if err != nil {
		return err
	}
	if err := device.CheckCopyPages(c.config, dst, src); err != nil {
		return err
	}
	d.run()
	for i := range dst {
		for side := range 2 * c.config.Layers {
			base, page := c.side(side/2, side%2)
			all := unsafe.Slice((*byte)(base), page*int64(c.config.NumPages))
			copy(all[int64(dst[i])*page:][:page], all[int64(src[i])*page:][:page])
		}
	}
	return nil
}
