package lora

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/device/ref"
	"weft/runtime/tensor"
)

// devices are ref and, in builds with cgo, cpu, with a limit of memory; each is closed, and checked for leaks, with its
// test.
func devices(t *testing.T, limit int64) map[string]device.Device {
	t.Helper()
	out := map[string]device.Device{"ref": ref.New(ref.Options{MemoryLimit: limit})}
	if len(cpu.ISAs()) > 0 {
		d, err := cpu.New(cpu.Options{Threads: 1, MemoryLimit: limit})
		if err != nil {
			t.Fatal(err)
		}
		out["cpu"] = d
	}
	for _, d := range out {
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return out
}

func matrix(r *rand.Rand, dtype tensor.DType, rows, cols int) Matrix {
	f := Matrix{DType: dtype, Rows: rows, Cols: cols, Data: make([]byte, rows*cols*dtype.Size())}
	for i := range f.Data {
		f.Data[i] = byte(r.Uint32())
	}
	return f
}

// sample is an adapter with everything that there is.
func sample() *Adapter {
	r := rand.New(rand.NewPCG(1, 2))
	a := &Adapter{Layers: make([][NumTargets]Module, 2)}
	for l := range a.Layers {
		for t := range a.Layers[l] {
			if (l+t)%3 == 0 {
				continue
			}
			dtype := []tensor.DType{tensor.F32, tensor.F16, tensor.BF16}[t%3]
			a.Layers[l][t] = Module{A: matrix(r, dtype, 1+t, 37), B: matrix(r, dtype, 21+l, 1+t), Scale: float32(t)}
		}
	}
	a.Layers[0][1].Bias = []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}
	a.Layers[1][0] = Module{Bias: []float32{1, -1}}
	a.Embed = Module{A: matrix(r, tensor.F16, 3, 50), B: matrix(r, tensor.F16, 37, 3), Scale: 2}
	a.Head = Module{A: matrix(r, tensor.BF16, 2, 37), B: matrix(r, tensor.F32, 50, 2), Scale: 3}
	return a
}

// Every LoRA matrix is on the device as in the file, A unchanged and B in panels; its size is known beforehand, and
// Free releases it.
func TestLoad(t *testing.T) {
	for name, dev := range devices(t, 0) {
		t.Run(name, func(t *testing.T) {
			a := sample()
			w, err := Load(dev, a)
			if err != nil {
				t.Fatal(err)
			}
			if got := dev.InUse(device.Adapters); got != w.Bytes() || got > DeviceBytes(a) ||
				DeviceBytes(a) > got+got/2+2*tableHeader {
				t.Errorf("in use %d, Bytes %d, DeviceBytes %d", got, w.Bytes(), DeviceBytes(a))
			}
			for l := range a.Layers {
				for target := range a.Layers[l] {
					same(t, &a.Layers[l][target], &w.Layers[l][target])
				}
			}
			same(t, &a.Head, &w.Head)
			if w.Embed.Table == nil || w.Embed.Table.Rows() != 50 || w.Embed.Table.Cols() != 3 ||
				w.Embed.M.A.Buf != nil {
				t.Errorf("embedding %+v", w.Embed)
			}
			if err := w.Combinable(); err != nil {
				t.Error(err)
			}
			w.Free()
			w.Free()
			if n := dev.InUse(device.Adapters); n != 0 {
				t.Errorf("%d bytes after Free", n)
			}
		})
	}
}

func same(t *testing.T, m *Module, d *device.LoRAMatrices) {
	t.Helper()
	if d.Empty() != m.Empty() || d.Rank != m.Rank() || d.Scale != m.Scale {
		t.Fatalf("%+v became %+v", m, d)
	}
	if m.Rank() > 0 {
		if !bytes.Equal(d.A.Buf.Host()[d.A.Offset:][:len(m.A.Data)], m.A.Data) || d.A.Offset%64 != 0 ||
			d.B.Offset%64 != 0 || d.A.DType != m.A.DType || d.B.DType != m.B.DType {
			t.Error("A has changed, or is not aligned to cache lines")
		}
		size := m.B.DType.Size()
		b := d.B.Buf.Host()[d.B.Offset:]
		for o := range m.B.Rows {
			for r := range m.B.Cols {
				at := (o/16*16*m.B.Cols + r*16 + o%16) * size
				if !bytes.Equal(b[at:][:size], m.B.Data[(o*m.B.Cols+r)*size:][:size]) {
					t.Fatalf("B[%d, %d] is not as it was", o, r)
				}
			}
		}
	}
	if (m.Bias == nil) != (d.Bias.Buf == nil) || (m.Gain == nil) != (d.Gain.Buf == nil) {
		t.Error("a gain or bias came or went")
	}
}

// An adapter that only replaces tables, and one that does nothing.
func TestLoadTables(t *testing.T) {
	for name, dev := range devices(t, 0) {
		t.Run(name, func(t *testing.T) {
			table := &quant.Matrix{Layout: quant.BF16, Rows: 50, Cols: 37, Data: make([]byte, 2*50*37)}
			for _, a := range []*Adapter{{HeadTable: table}, {EmbedTable: table}, {}} {
				w, err := Load(dev, a)
				if err != nil {
					t.Fatal(err)
				}
				err = w.Combinable()
				if replaces := a.HeadTable != nil || a.EmbedTable != nil; replaces != errors.Is(err,
					ErrNotCombinable) ||
					w.Bytes() > DeviceBytes(a) || (w.Bytes() > 0) != replaces {
					t.Errorf("Combinable: %v; %d bytes, %d expected", err, w.Bytes(), DeviceBytes(a))
				}
				w.Free()
			}
		})
	}
}

// Without memory for all of it nothing stays.
func TestLoadOutOfMemory(t *testing.T) {
	a := sample()
	a.HeadTable = &quant.Matrix{Layout: quant.F32, Rows: 500, Cols: 500, Data: make([]byte, 4*500*500)}
	for name, dev := range devices(t, 1<<20) {
		t.Run(name, func(t *testing.T) {
			fill, err := dev.Alloc(device.Scratch, 200<<10)
			if err != nil {
				t.Fatal(err)
			}
			defer fill.Free()
			if w, err := Load(dev, a); !errors.Is(err, device.ErrOutOfMemory) || w != nil {
				t.Errorf("%v, %v", w, err)
			}
			if n := dev.InUse(device.Adapters); n != 0 {
				t.Errorf("%d bytes stay", n)
			}
		})
	}
}

// A and B matrices that do not match are refused.
func TestLoadRefuses(t *testing.T) {
	dev := devices(t, 0)["ref"]
	for name, c := range map[string]struct {
		spoil func(m *Module)
		say   string
	}{
		"data":       {func(m *Module) { m.A.Data = m.A.Data[1:] }, "bytes"},
		"no type":    {func(m *Module) { m.B.DType = tensor.Invalid }, "bytes"},
		"type":       {func(m *Module) { m.B.DType = tensor.F64 }, "F64"},
		"ranks":      {func(m *Module) { m.B.Rows, m.B.Cols = m.B.Cols, m.B.Rows }, "want [R, in] and [out, R]"},
		"no B":       {func(m *Module) { m.B = Matrix{} }, "want [R, in] and [out, R]"},
		"no A":       {func(m *Module) { m.A = Matrix{} }, "want [R, in] and [out, R]"},
		"long bias":  {func(m *Module) { m.Bias = make([]float32, 100) }, "biases"},
		"short gain": {func(m *Module) { m.Gain = make([]float32, 1) }, "gains"},
		"negative":   {func(m *Module) { m.A.Rows, m.A.Cols = -m.A.Rows, -m.A.Cols }, "a LoRA matrix"},
		"huge":       {func(m *Module) { m.A.Rows, m.A.Cols = 1<<31-1, 1<<31-1 }, "a LoRA matrix"},
	} {
		for where, at := range map[string]func(a *Adapter) *Module{
			"layer 1, target module 4": func(a *Adapter) *Module { return &a.Layers[1][4] },
			"embedding":                func(a *Adapter) *Module { return &a.Embed },
			"head":                     func(a *Adapter) *Module { return &a.Head },
		} {
			a := sample()
			c.spoil(at(a))
			if _, err := Load(dev, a); !errors.Is(err, ErrAdapter) || !strings.Contains(err.Error(), c.say) ||
				!strings.Contains(err.Error(), where) {
				t.Errorf("%s: %v, want %q of %q", name, err, c.say, where)
			}
		}
	}
}

// Adapters are loaded and freed on many goroutines while the device runs.
func TestLoadConcurrently(t *testing.T) {
	for name, dev := range devices(t, 0) {
		t.Run(name, func(t *testing.T) {
			x, err := dev.Alloc(device.Activations, 4096)
			if err != nil {
				t.Fatal(err)
			}
			defer x.Free()
			v := device.View{Buf: x, Rows: 1, Cols: 1024, Stride: 1024, DType: tensor.F32}
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					for range 20 {
						w, err := Load(dev, sample())
						if err != nil {
							t.Error(err)
							return
						}
						w.Free()
					}
				})
			}
			for range 100 {
				if err := errors.Join(dev.Softcap(device.SoftcapArgs{X: v, Cap: 1}), dev.Sync()); err != nil {
					t.Error(err)
				}
			}
			group.Wait()
		})
	}
}
