//go:build cgo

package cpu

/*
#include "kernels/kernels.h"
*/
import "C"

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"weft/runtime/device"
)

// block is a piece of C memory; the zero block is empty.
type block struct {
	ptr  unsafe.Pointer
	size int64
	slab *slab // the slab that it was cut from, or nil
}

// slab is a mapping of huge pages from which the matrices of a model are cut: a mapping per matrix would use small
// pages, which makes a decoding step up to a tenth slower. It is unmapped with its last piece.
type slab struct {
	ptr  unsafe.Pointer
	used int64
	live int // number of pieces, plus one while new pieces are cut from it
}

const (
	slabBytes = 16 << 20
	slabPiece = slabBytes / 4 // larger pieces get a mapping of their own
)

// memory counts bytes per purpose and keeps their sum below a limit. Safe for concurrent use.
type memory struct {
	limit int64
	total atomic.Int64
	used  [device.NumPurposes]atomic.Int64

	mu   sync.Mutex
	open *slab // from which the next pieces are cut
}

// obtain returns zeroed, 64-byte aligned memory.
func (m *memory) obtain(p device.Purpose, size int64) (block, error) {
	total := m.total.Add(size)
	if m.limit > 0 && (total > m.limit || total < 0) {
		m.total.Add(-size)
		return block{},
			fmt.Errorf("%w: %d bytes for %s, %d of %d in use; raise the memory limit or use less",
				device.ErrOutOfMemory, size, p, total-size, m.limit)
	}
	b := block{size: size}
	if p == device.Weights && size <= slabPiece {
		b.ptr, b.slab = m.cut(size)
	} else {
		b.ptr = C.mem_alloc(C.int64_t(size))
	}
	if b.ptr == nil {
		m.total.Add(-size)
		return block{}, fmt.Errorf("%w: the system has no %d bytes for %s; %d are in use", device.ErrOutOfMemory, size,
			p, total-size)
	}
	m.used[p].Add(size)
	return b, nil
}

// cut returns a piece of the open slab, which is replaced when it is full; nil without memory. The unused rest of a
// slab is not counted.
func (m *memory) cut(size int64) (unsafe.Pointer, *slab) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size = (size + 63) &^ 63
	if m.open == nil || m.open.used+size > slabBytes {
		ptr := C.mem_alloc(slabBytes)
		if ptr == nil {
			return nil, nil
		}
		m.drop(m.open)
		m.open = &slab{ptr: ptr, live: 1}
	}
	s := m.open
	p := unsafe.Add(s.ptr, s.used)
	s.used += size
	s.live++
	return p, s
}

// drop removes one reference to s, that of a piece or of the cutting. The caller holds mu.
func (m *memory) drop(s *slab) {
	if s == nil {
		return
	}
	if s.live--; s.live == 0 {
		C.mem_free(s.ptr, slabBytes)
	}
}

// seal ends the cutting from the open slab.
func (m *memory) seal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(m.open)
	m.open = nil
}

func (m *memory) release(p device.Purpose, b block) {
	if b.ptr == nil {
		return
	}
	if b.slab != nil {
		m.mu.Lock()
		m.drop(b.slab)
		m.mu.Unlock()
	} else {
		C.mem_free(b.ptr, C.int64_t(b.size))
	}
	m.used[p].Add(-b.size)
	m.total.Add(-b.size)
}

// owned is device memory that is freed once; further calls of Free do nothing.
type owned struct {
	dev     *cpuDevice
	purpose device.Purpose
	mem     block
	gone    atomic.Bool
}

func (o *owned) Bytes() int64 { return o.mem.size }

func (o *owned) Free() {
	if !o.gone.Swap(true) {
		o.dev.memory.release(o.purpose, o.mem)
	}
}

type buffer struct{ owned }

func (d *cpuDevice) Alloc(p device.Purpose, bytes int64) (device.Buffer, error) {
	if d.closed.Load() {
		return nil, fmt.Errorf("alloc: %w", device.ErrClosed)
	}
	if err := device.CheckAlloc(p, bytes); err != nil {
		return nil, err
	}
	m, err := d.memory.obtain(p, bytes)
	if err != nil {
		return nil, fmt.Errorf("alloc: %w", err)
	}
	return &buffer{owned{dev: d, purpose: p, mem: m}}, nil
}

// Host returns the memory itself; results of recorded operations are in it after Sync.
func (b *buffer) Host() []byte {
	if b.gone.Load() {
		return nil
	}
	return unsafe.Slice((*byte)(b.mem.ptr), b.mem.size)
}

func (b *buffer) Write(off int64, p []byte) error {
	if err := b.ready("write", off, len(p)); err != nil {
		return err
	}
	copy(b.Host()[off:], p)
	return nil
}

func (b *buffer) Read(off int64, p []byte) error {
	if err := b.ready("read", off, len(p)); err != nil {
		return err
	}
	copy(p, b.Host()[off:])
	return nil
}

func (b *buffer) ready(op string, off int64, n int) error {
	if b.gone.Load() {
		return fmt.Errorf("%s: %w: the buffer is freed", op, device.ErrClosed)
	}
	if err := device.CheckRange(op, off, n, b.mem.size); err != nil {
		return err
	}
	return b.dev.Sync()
}

// Bounds of the memory of records: one block, and how much may be recorded before it is run.
const (
	arenaBlock = 256 << 10
	arenaLimit = 32 << 20
)

// arena is C memory for records and the slices in them. It is reused after each run.
type arena struct {
	memory *memory
	blocks []block
	start  int64 // bytes that keep retains in the first block
	at     int   // current block
	off    int64 // in it
	used   int64 // bytes given out since reset
}

// bytes returns n zeroed bytes, 64-byte aligned, valid until reset.
func (a *arena) bytes(n int64) (unsafe.Pointer, error) {
	n = (n + 63) &^ 63
	for a.at < len(a.blocks) && a.off+n > a.blocks[a.at].size {
		a.at++
		a.off = 0
	}
	if a.at == len(a.blocks) {
		b, err := a.memory.obtain(device.Scratch, max(n, arenaBlock))
		if err != nil {
			return nil, err
		}
		a.blocks = append(a.blocks, b)
		a.off = 0
	}
	p := unsafe.Add(a.blocks[a.at].ptr, a.off)
	clear(unsafe.Slice((*byte)(p), n))
	a.off += n
	a.used += n
	return p, nil
}

func (a *arena) keep() { a.start = a.off }

func (a *arena) reset() { a.at, a.off, a.used = 0, a.start, 0 }

func (a *arena) free() {
	for _, b := range a.blocks {
		a.memory.release(device.Scratch, b)
	}
	a.blocks = nil
}

// zeroed returns a zeroed array of n T in the arena.
func zeroed[T any](a *arena, n int) ([]T, error) {
	var t T
	p, err := a.bytes(int64(unsafe.Sizeof(t)) * int64(n))
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(p), n), nil
}

// ints copies s into the arena; nil stays nil.
func (a *arena) ints(s []int32) (*C.int32_t, error) {
	if len(s) == 0 {
		return nil, nil
	}
	p, err := zeroed[int32](a, len(s))
	if err != nil {
		return nil, err
	}
	copy(p, s)
	return (*C.int32_t)(unsafe.Pointer(unsafe.SliceData(p))), nil
}
