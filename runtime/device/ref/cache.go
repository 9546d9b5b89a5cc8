package ref

import (
	"fmt"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// cache stores keys and values as [2][Layers][KVHeads][slots][HeadDim], rounded to the element type when written.
type cache struct {
	dev *Device
	cfg device.KVConfig
	f   []float32 // F32
	h   []uint16  // F16, BF16
}

// NewKVCache allocates a zeroed cache.
func (d *Device) NewKVCache(c device.KVConfig) (device.KVCache, error) {
	if err := device.CheckKVConfig(c); err != nil {
		return nil, err
	}
	out := &cache{dev: d, cfg: c}
	if err := d.charge(device.KV, out.Bytes()); err != nil {
		return nil, err
	}
	n := out.Bytes() / int64(c.DType.Size())
	if c.DType == tensor.F32 {
		out.f = make([]float32, n)
	} else {
		out.h = make([]uint16, n)
	}
	return out, nil
}

func (c *cache) Config() device.KVConfig { return c.cfg }
func (c *cache) Bytes() int64            { return int64(c.cfg.NumPages) * c.cfg.PageBytes() }

func (c *cache) Free() {
	if c.dev == nil {
		panic("ref: cache freed twice")
	}
	c.dev.release(device.KV, c.Bytes())
	c.dev, c.f, c.h = nil, nil, nil
}

// own returns a cache of this device.
func (d *Device) own(op string, k device.KVCache) (*cache, error) {
	c, ok := k.(*cache)
	if !ok || c.dev != d {
		return nil, fmt.Errorf("%s: %w: the kv cache belongs to another device or is freed", op, device.ErrShape)
	}
	return c, nil
}

// at returns the index of a value; kind is 0 for keys, 1 for values.
func (c *cache) at(kind, layer, head int, slot int32, i int) int {
	slots := c.cfg.NumPages * c.cfg.PageLen
	return (((kind*c.cfg.Layers+layer)*c.cfg.KVHeads+head)*slots+int(slot))*c.cfg.HeadDim + i
}

func (c *cache) set(kind, layer, head int, slot int32, i int, v float32) {
	at := c.at(kind, layer, head, slot, i)
	switch c.cfg.DType {
	case tensor.F16:
		c.h[at] = quant.F32ToF16(v)
	case tensor.BF16:
		c.h[at] = quant.F32ToBF16(v)
	default:
		c.f[at] = v
	}
}

func (c *cache) get(kind, layer, head int, slot int32, i int) float64 {
	at := c.at(kind, layer, head, slot, i)
	switch c.cfg.DType {
	case tensor.F16:
		return float64(quant.F16ToF32(c.h[at]))
	case tensor.BF16:
		return float64(quant.BF16ToF32(c.h[at]))
	default:
		return float64(c.f[at])
	}
}

// CopyPages copies whole pages of all layers, in order.
func (d *Device) CopyPages(k device.KVCache, dst, src []int32) error {
	if err := d.ready("copy pages"); err != nil {
		return err
	}
	c, err := d.own("copy pages", k)
	if err != nil {
		return err
	}
	if err := device.CheckCopyPages(c.cfg, dst, src); err != nil {
		return err
	}
	n := c.cfg.PageLen * c.cfg.HeadDim
	for p := range dst {
		for kind := range 2 {
			for l := range c.cfg.Layers {
				for h := range c.cfg.KVHeads {
					to, from := c.at(kind, l, h, dst[p]*int32(c.cfg.PageLen), 0),
						c.at(kind, l, h, src[p]*int32(c.cfg.PageLen), 0)
					if c.f != nil {
						copy(c.f[to:to+n], c.f[from:from+n])
					} else {
						copy(c.h[to:to+n], c.h[from:from+n])
					}
				}
			}
		}
	}
	return nil
}
