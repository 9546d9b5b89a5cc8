//go:build cgo

package cpu

/*
#cgo CFLAGS: -std=c11 -Wall -Werror -Wno-psabi
#include "kernels/kernels.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"unsafe"

	"weft/runtime/device"
	_ "weft/runtime/device/cpu/kernels" // the C functions
)

// maxThreads bounds Options.Threads.
const maxThreads = 1024

// cpuDevice implements device.Device.
type cpuDevice struct {
	isa         int
	activations Activations
	threads     int
	memory      memory
	pool        *C.pool
	arena       arena
	last        *C.op // the last of the recorded list
	first       *C.op
	shared      **C.uint8_t // cell in C memory: prepared tiles and low-rank products of the running operation
	sharedMem   block
	scratch     block // one worker's part is scratchNeed bytes
	scratchNeed int64
	profile     map[opShape]*OpCost // nil: not measured
	closed      atomic.Bool
}

// New returns a device that runs on the processor with its own pool of o.Threads threads (the goroutine that calls Sync
// is one of them). Errors: device.ErrUnsupported for an unknown or absent instruction set or impossible options,
// device.ErrOutOfMemory.
func New(o Options) (device.Device, error) {
	isa, err := chooseISA(o.ISA)
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	if o.Threads < 0 || o.Threads > maxThreads || o.MemoryLimit < 0 || o.Activations > Fast {
		return nil,
			fmt.Errorf("cpu: %w: %d threads (0..%d), memory limit %d (0 or more), activations %d",
				device.ErrUnsupported, o.Threads, maxThreads, o.MemoryLimit, o.Activations)
	}
	if o.Threads == 0 {
		o.Threads = min(runtime.GOMAXPROCS(0), runtime.NumCPU(), maxThreads)
	}
	d := &cpuDevice{isa: isa, activations: o.Activations, memory: memory{limit: o.MemoryLimit}}
	if o.Profile {
		d.profile = map[opShape]*OpCost{}
	}
	d.arena.memory = &d.memory
	cell, err := d.arena.bytes(64)
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	d.shared = (**C.uint8_t)(cell)
	d.arena.keep()
	d.pool = C.pool_new(C.int(o.Threads), C.kernels_for(C.int(isa)))
	if d.pool == nil {
		d.arena.free()
		return nil, fmt.Errorf("cpu: %w: no memory for the thread pool", device.ErrOutOfMemory)
	}
	d.threads = int(C.pool_threads(d.pool))
	return d, nil
}

func (d *cpuDevice) Name() string { return "cpu" }

func (d *cpuDevice) Describe() string {
	return fmt.Sprintf("cpu %s, %d threads, %s activations", isaNames[d.isa], d.threads, d.activations)
}

func (d *cpuDevice) InUse(p device.Purpose) int64 {
	if p >= device.NumPurposes {
		return 0
	}
	return d.memory.used[p].Load()
}

// Sync runs what is recorded.
func (d *cpuDevice) Sync() error {
	if d.closed.Load() {
		return fmt.Errorf("sync: %w", device.ErrClosed)
	}
	d.run()
	return nil
}

func (d *cpuDevice) run() {
	if d.first == nil {
		return
	}
	C.pool_run(d.pool, d.first, (*C.uint8_t)(d.scratch.ptr), C.int64_t(d.scratchNeed), flag(d.profile != nil))
	if d.profile != nil {
		d.note()
	}
	d.first, d.last = nil, nil
	d.arena.reset()
}

// Close ends the threads and frees the device's own memory; recorded operations that were not run are dropped. Buffers,
// weights and caches that are not freed yet are an error with the bytes of each purpose; their owners may still free
// them. A second Close returns device.ErrClosed.
func (d *cpuDevice) Close() error {
	if d.closed.Swap(true) {
		return fmt.Errorf("close: %w", device.ErrClosed)
	}
	C.pool_free(d.pool)
	d.first, d.last = nil, nil
	d.arena.free()
	d.memory.release(device.Scratch, d.sharedMem)
	d.memory.release(device.Scratch, d.scratch)
	d.memory.seal()
	var alive []string
	for p := range device.NumPurposes {
		if n := d.memory.used[p].Load(); n != 0 {
			alive = append(alive, fmt.Sprintf("%d bytes of %s", n, p))
		}
	}
	if alive != nil {
		return fmt.Errorf("close: still allocated: %s", strings.Join(alive, ", "))
	}
	return nil
}

// needShared makes the memory that all workers share during an operation at least n bytes large.
func (d *cpuDevice) needShared(n int64) error {
	if n <= d.sharedMem.size {
		return nil
	}
	b, err := d.memory.obtain(device.Scratch, n+n/4)
	if err != nil {
		return err
	}
	d.memory.release(device.Scratch, d.sharedMem)
	d.sharedMem = b
	*d.shared = (*C.uint8_t)(b.ptr)
	return nil
}

// needScratch makes each worker's own memory at least n bytes large.
func (d *cpuDevice) needScratch(n int64) error {
	n = (n + 127) &^ 127
	if n <= d.scratchNeed {
		return nil
	}
	b, err := d.memory.obtain(device.Scratch, n*int64(d.threads))
	if err != nil {
		return err
	}
	d.memory.release(device.Scratch, d.scratch)
	d.scratch, d.scratchNeed = b, n
	return nil
}

// push appends the record at o, whose first member is a C.op.
func (d *cpuDevice) push(o unsafe.Pointer, kind C.int32_t) {
	h := (*C.op)(o)
	h.kind = kind
	if d.last == nil {
		d.first = h
	} else {
		d.last.next = h
	}
	d.last = h
	if d.arena.used > arenaLimit {
		d.run()
	}
}
