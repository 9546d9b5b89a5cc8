//go:build cgo

package cpu

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/numtest"
	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// step records what a layer of a decode step does.
type step struct {
	d                 *cpuDevice
	x, y, z, norm     device.Buffer
	w, v              device.Weight
	kv                device.KVCache
	positions, slots  []int32
	indptr            []int32
	tables            [][]int32
	parts, back       []device.LinearPart
	rows, hidden, mid int
}

func newStep(t testing.TB, d *cpuDevice, rows int) *step {
	t.Helper()
	r := rand.New(rand.NewPCG(9, 9))
	s := &step{d: d, rows: rows, hidden: 64, mid: 96}
	s.x, s.y, s.z = upload(t, d, random(r, rows*64)), upload(t, d, make([]float32, rows*96)),
		upload(t, d, make([]float32, rows*64))
	s.norm = upload(t, d, random(r, 64))
	s.w, s.v = load(t, d, matrixOf(r, quant.Int4, 96, 64, 32, true, true)),
		load(t, d, matrixOf(r, quant.Int8, 64, 96, 32, false, true))
	kv, err := d.NewKVCache(device.KVConfig{Layers: 1, KVHeads: 2, HeadDim: 16, PageLen: 16, NumPages: 8,
		DType: tensor.F16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kv.Free)
	s.kv = kv
	for i := range rows {
		s.positions, s.slots = append(s.positions, int32(i)), append(s.slots, int32(i))
	}
	s.indptr, s.tables = []int32{0, int32(rows)}, [][]int32{{0, 1, 2, 3, 4, 5, 6, 7}}
	s.parts = []device.LinearPart{{W: s.w, Out: view(s.y, rows, 96)}}
	s.back = []device.LinearPart{{W: s.v, Out: view(s.z, rows, 64)}}
	return s
}

func (s *step) record() error {
	d, h := s.d, view(s.x, s.rows, s.hidden)
	z := view(s.z, s.rows, s.hidden)
	kv := z
	kv.Cols, kv.Stride = 32, 64
	value := kv
	value.Offset = 32
	return errors.Join(
		d.RMSNorm(device.RMSNormArgs{X: h, Out: z, Weight: s.norm, Eps: 1e-6}),
		d.Linear(device.LinearArgs{X: z, Parts: s.parts}),
		d.GLU(device.GLUArgs{Gate: view(s.y, s.rows, s.mid), Up: view(s.y, s.rows, s.mid),
			Out: view(s.y, s.rows, s.mid)}),
		d.Linear(device.LinearArgs{X: view(s.y, s.rows, s.mid), Parts: s.back}),
		d.RoPE(device.RoPEArgs{K: kv, V: value, HeadDim: 16, Cache: s.kv, Slots: s.slots}),
		d.Attention(device.AttentionArgs{Q: z, Out: h, HeadDim: 16, Cache: s.kv, Indptr: s.indptr,
			Positions: s.positions, PageTables: s.tables, Scale: 0.25}),
	)
}

// Many small lists on more threads than processors give the result of one thread every time.
func TestPoolManyLists(t *testing.T) {
	var want []float32
	for _, threads := range []int{1, 2, 3, 16} {
		d := open(t, Options{Threads: threads, Activations: Fast})
		s := newStep(t, d, 33)
		for i := range 300 {
			if err := s.record(); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if i == 5 && threads == 16 {
				time.Sleep(20 * time.Millisecond) // let the workers fall asleep
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = append(want, host(s.x)...)
		}
		numtest.Equal(t, d.Describe(), host(s.x), want)
	}
}

// Several devices at once, as tests of other packages use them.
func TestPoolsSideBySide(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		d := open(t, Options{Threads: 3})
		s := newStep(t, d, 5)
		wg.Go(func() {
			for range 100 {
				if err := errors.Join(s.record(), d.Sync()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCloseIdle(t *testing.T) {
	for range 50 {
		d, err := New(Options{Threads: 4})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); !errors.Is(err, device.ErrClosed) {
			t.Fatalf("a second Close returned %v", err)
		}
		if err := d.Sync(); !errors.Is(err, device.ErrClosed) {
			t.Fatalf("Sync after Close returned %v", err)
		}
	}
}

func TestStepAllocatesNothing(t *testing.T) {
	if sanitized {
		t.Skip("the sanitizer makes allocations of its own")
	}
	d := open(t, Options{Threads: 2, Activations: Fast})
	s := newStep(t, d, 4)
	run := func() {
		if err := s.record(); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	run()
	before := d.InUse(device.Scratch)
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("a step allocates %v times", n)
	}
	if after := d.InUse(device.Scratch); after != before {
		t.Errorf("scratch grew from %d to %d bytes", before, after)
	}
}

func TestMemory(t *testing.T) {
	dev, err := New(Options{Threads: 1, MemoryLimit: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b, err := dev.Alloc(device.KV, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	if n := dev.InUse(device.KV); n != 3<<20 || b.Bytes() != n {
		t.Errorf("%d bytes in use", n)
	}
	for _, x := range b.Host() {
		if x != 0 {
			t.Fatal("memory is not zeroed")
		}
	}
	if _, err := dev.Alloc(device.Weights, 6<<20); !errors.Is(err, device.ErrOutOfMemory) ||
		!strings.Contains(err.Error(), "8388608") {
		t.Errorf("an allocation above the limit returned %v", err)
	}
	if err := dev.Close(); err == nil || !strings.Contains(err.Error(), "3145728 bytes of kv") {
		t.Errorf("Close with a live buffer returned %v", err)
	}
	b.Free()
	b.Free()
	if n := dev.InUse(device.KV); n != 0 {
		t.Errorf("%d bytes in use after Free", n)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{{ISA: "sse9"}, {Threads: -1}, {Threads: 1 << 20}, {MemoryLimit: -1}, {Activations: 7}} {
		if _, err := New(o); !errors.Is(err, device.ErrUnsupported) {
			t.Errorf("New(%+v) returned %v", o, err)
		}
	}
	t.Setenv("WEFT_ISA", "scalar")
	d := open(t, Options{})
	if !strings.Contains(d.Describe(), "scalar") {
		t.Errorf("WEFT_ISA=scalar gave %s", d.Describe())
	}
}

// A buffer of another device is refused.
func TestForeignBuffer(t *testing.T) {
	one, two := open(t, Options{Threads: 1}), open(t, Options{Threads: 1})
	x, y := upload(t, one, make([]float32, 4)), upload(t, two, make([]float32, 4))
	if err := one.Add(device.AddArgs{X: view(x, 1, 4), Y: view(y, 1, 4)}); !errors.Is(err, device.ErrShape) {
		t.Errorf("got %v", err)
	}
}
