// Off-heap memory: zeroed, 64-byte aligned; large pieces are mapped and offered to huge pages.
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "kernels.h"

enum { HUGE_BYTES = 2 << 20 };

static int64_t rounded(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

void *mem_alloc(int64_t bytes) {
	if (bytes < HUGE_BYTES) {
		size_t n = (size_t)rounded(bytes > 0 ? bytes : 1, 64);
		void *p = aligned_alloc(64, n);
		if (p != NULL) {
			memset(p, 0, n);
		}
		return p;
	}
	// map one huge page more than needed and unmap what is outside the aligned part
	size_t want = (size_t)rounded(bytes, HUGE_BYTES), all = want + HUGE_BYTES;
	uint8_t *base = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED) {
		return NULL;
	}
	uint8_t *p = (uint8_t *)(((uintptr_t)base + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
	if (p > base) {
		munmap(base, (size_t)(p - base));
	}
	if (base + all > p + want) {
		munmap(p + want, (size_t)(base + all - (p + want)));
	}
#ifdef MADV_HUGEPAGE
	madvise(p, want, MADV_HUGEPAGE);
#endif
	return p;
}

void mem_free(void *p, int64_t bytes) {
	if (bytes < HUGE_BYTES) {
		free(p);
	} else {
		munmap(p, (size_t)rounded(bytes, HUGE_BYTES));
	}
}

void mem_release(void *p, int64_t bytes) {
	uintptr_t unit = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t begin = ((uintptr_t)p + unit - 1) / unit * unit, end = ((uintptr_t)p + (uintptr_t)bytes) / unit * unit;
	if (begin < end) {
		madvise((void *)begin, end - begin, MADV_DONTNEED);
	}
}
