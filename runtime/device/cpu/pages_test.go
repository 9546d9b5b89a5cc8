//go:build cgo

package cpu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"weft/runtime/device"
	"weft/runtime/tensor"
)

// resident returns the resident bytes of this process.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestReleasePages: memory of the given pages and of no other is released, whatever the boundaries; it can be used
// again.
func TestReleasePages(t *testing.T) {
	d := open(t, Options{Threads: 1})
	for _, c := range []device.KVConfig{
		{Layers: 2, KVHeads: 3, HeadDim: 64, PageLen: 16, NumPages: 4000, DType: tensor.F16}, // mapped
		// pages far smaller than the system's
		{Layers: 3, KVHeads: 1, HeadDim: 8, PageLen: 16, NumPages: 50, DType: tensor.F16},
	} {
		kv, err := d.NewKVCache(c)
		if err != nil {
			t.Fatal(err)
		}
		k := kv.(*cache)
		all := buffer{owned{mem: k.mem}}
		for i := range all.Host() {
			all.Host()[i] = 0xa5
		}
		begin, end := c.NumPages/2+1, c.NumPages-1
		before := resident(t)
		if err := d.ReleasePages(kv, begin, end); err != nil {
			t.Fatal(err)
		}
		given, size := before-resident(t), int64(end-begin)*c.PageBytes()
		if size > 8<<20 && given < size*9/10 {
			t.Errorf("%+v: %d bytes came back of %d", c, given, size)
		}
		for layer := range c.Layers {
			for which := range 2 {
				base, page := k.side(layer, which)
				side := (&buffer{owned{mem: block{ptr: base, size: page * int64(c.NumPages)}}}).Host()
				for _, kept := range [][]byte{side[:int64(begin)*page], side[int64(end)*page:]} {
					if bytes.Count(kept, []byte{0xa5}) != len(kept) {
						t.Fatalf("%+v: layer %d: a page outside of [%d, %d) changed", c, layer, begin, end)
					}
				}
			}
		}
		copy(all.Host(), bytes.Repeat([]byte{7}, len(all.Host())))
		if bytes.Count(all.Host(), []byte{7}) != len(all.Host()) {
			t.Error("what was released cannot be used again")
		}
		for _, r := range [][2]int{{-1, 2}, {3, 2}, {0, c.NumPages + 1}} {
			if err := d.ReleasePages(kv, r[0], r[1]); !errors.Is(err, device.ErrShape) {
				t.Errorf("[%d, %d): %v", r[0], r[1], err)
			}
		}
		kv.Free()
		if err := d.ReleasePages(kv, 0, 1); err == nil {
			t.Error("a freed cache was accepted")
		}
	}
}
