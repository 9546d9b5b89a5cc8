// A loop of independent products in registers: what bounds a matrix product from above. per is the multiplications and additions of one product.
#include "kernels.h"
#include "families.h"

enum { CHAINS = 10 };

#define PEAK(name, vector, zero, product, per) \
	static int64_t name(int64_t rounds) { \
		vector acc[CHAINS], a = zero, b = zero; \
		__asm__ volatile("" : "+v"(a), "+v"(b)); \
		for (int i = 0; i < CHAINS; i++) { \
			acc[i] = zero; \
		} \
		for (int64_t r = 0; r < rounds; r++) { \
			_Pragma("GCC unroll 10") for (int i = 0; i < CHAINS; i++) { \
				acc[i] = product(acc[i], a, b); \
				__asm__ volatile("" : "+v"(acc[i])); \
			} \
		} \
		return rounds * CHAINS * (per); \
	}
