// Loops of independent products in registers, and of loads: the upper bounds of a matrix product. per is the number of
// multiplications and additions of one product.
#include "kernels.h"
#include "families.h"

// Ten chains hide the latency of any product; the barriers keep the compiler from taking products out of the loop.
#define CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9)

#define PEAK(name, vector, zero, product, per) \
	static int64_t name(int64_t rounds) { \
		vector a = zero, b = zero, acc0 = zero, acc1 = zero, acc2 = zero, acc3 = zero, acc4 = zero, acc5 = zero, \
			acc6 = zero, acc7 = zero, acc8 = zero, acc9 = zero; \
		for (int64_t r = 0; r < rounds; r++) { \
			PEAK_BARRIER(a); \
			CHAINS(PEAK_ROUND_##product) \
		} \
		return rounds * 10 * (per); \
	}

#if defined(__x86_64__)
#define PEAK_BARRIER(x) __asm__ volatile("" : "+v"(x))
#else
#define PEAK_BARRIER(x) __asm__ volatile("" : "+m"(x))
#endif
