//go:build cgo

package cpu

/*
#include <string.h>
#include "kernels/kernels.h"
*/
import "C"

import (
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MeasureReadBandwidth returns the GB/s (10^9 bytes) at which that many threads together read memory, each its own part
// of a buffer of the given bytes, for about d. 0 if the memory cannot be allocated. The buffer should be much larger
// than the caches.
func MeasureReadBandwidth(threads int, bytes int64, d time.Duration) float64 {
	threads = max(threads, 1)
	part := max(bytes/int64(threads), 1<<20) &^ 4095
	size := part * int64(threads)
	p := C.mem_alloc(C.int64_t(size))
	if p == nil {
		return 0
	}
	defer C.mem_free(p, C.int64_t(size))
	isa, err := chooseISA("")
	if err != nil {
		return 0
	}
	C.memset(p, 1, C.size_t(size)) // pages that were never written would all map to one page of zeros
	var wg sync.WaitGroup
	var total atomic.Int64
	const piece = 1 << 20
	begin := time.Now()
	for i := range threads {
		wg.Go(func() {
			for off := int64(0); time.Since(begin) < d; off = (off + piece) % part {
				n := min(piece, part-off)
				C.read_by(C.int(isa), p, C.int64_t(int64(i)*part+off), C.int64_t(n))
				total.Add(n)
			}
		})
	}
	wg.Wait()
	return float64(total.Load()) / time.Since(begin).Seconds() / 1e9
}

// Peaks are the multiplications and additions per second (10^9) of products in registers, for all threads together.
type Peaks struct{ Float, Int8, BF16 float64 }

// MeasurePeaks runs the products of an instruction set on that many threads for about d each.
func MeasurePeaks(isa string, threads int, d time.Duration) (Peaks, error) {
	at, err := chooseISA(isa)
	if err != nil {
		return Peaks{}, err
	}
	of := func(prep C.int) float64 { return measurePeak(C.int(at), prep, max(threads, 1), d) }
	return Peaks{Float: of(C.PREP_FLOAT), Int8: of(C.PREP_INT8), BF16: of(C.PREP_BF16)}, nil
}

func measurePeak(isa, prep C.int, threads int, d time.Duration) float64 {
	var wg sync.WaitGroup
	var total atomic.Int64
	begin := time.Now()
	for range threads {
		wg.Go(func() {
			for time.Since(begin) < d {
				total.Add(int64(C.peak_of(isa, prep, 10000)))
			}
		})
	}
	wg.Wait()
	return float64(total.Load()) / time.Since(begin).Seconds() / 1e9
}

// HugePages returns how Linux offers transparent huge pages: "always", "madvise", "never" or "unknown". The device uses
// them with "always" and "madvise".
func HugePages() string {
	text, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	_, rest, ok := strings.Cut(string(text), "[")
	mode, _, closed := strings.Cut(rest, "]")
	if err != nil || !ok || !closed {
		return "unknown"
	}
	return mode
}

// peakOps runs that many rounds of float products on the calling thread and returns the multiplications and additions
// made.
func peakOps(isa int, rounds int64) int64 {
	return int64(C.peak_of(C.int(isa), C.PREP_FLOAT, C.int64_t(rounds)))
}
