#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>
#include "peak.h"

// Integers: pairs of products added up in 16 bits, as the 4-bit kernel does; the widening to 32 bits is left out.
#define PEAK_ROUND_FLOAT(i) acc##i = _mm256_fmadd_ps(a, b, acc##i); PEAK_BARRIER(acc##i);
#define PEAK_ROUND_INT8(i)                                                                                             \
	{                                                                                                                  \
		__m256i pairs = _mm256_maddubs_epi16(a, b);                                                                    \
		PEAK_BARRIER(pairs);                                                                                           \
		acc##i = _mm256_add_epi16(acc##i, pairs);                                                                      \
		PEAK_BARRIER(acc##i);                                                                                          \
	}
PEAK(peak_float, __m256, _mm256_setzero_ps(), FLOAT, 2 * 8)
PEAK(peak_int8, __m256i, _mm256_setzero_si256(), INT8, 2 * 32)

static uint64_t read_bytes(const uint8_t *p, int64_t bytes) {
	__m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
	for (int64_t i = 0; i < bytes; i += 128) {
		_mm_prefetch((const char *)p + i + 2048, _MM_HINT_T0);
		_mm_prefetch((const char *)p + i + 2112, _MM_HINT_T0);
		a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + i)));
		b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
		c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(p + i + 64)));
		d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(p + i + 96)));
	}
	a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
	return (uint64_t)_mm256_extract_epi64(a, 0);
}

void peak_avx2(kernel_table *k) {
	k->peak[PREP_FLOAT] = peak_float;
	k->peak[PREP_INT8] = peak_int8;
	k->peak[PREP_BF16] = peak_float;
	k->read = read_bytes;
}
