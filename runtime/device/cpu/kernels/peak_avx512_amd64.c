#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")
#include <immintrin.h>
#include "peak.h"

#define PEAK_ROUND_FLOAT(i) acc##i = _mm512_fmadd_ps(a, b, acc##i); PEAK_BARRIER(acc##i);
#define PEAK_ROUND_BF16(i) acc##i = _mm512_dpbf16_ps(acc##i, (__m512bh)a, (__m512bh)b); PEAK_BARRIER(acc##i);
#define PEAK_ROUND_INT8(i) acc##i = _mm512_dpbusd_epi32(acc##i, a, b); PEAK_BARRIER(acc##i);
PEAK(peak_float, __m512, _mm512_setzero_ps(), FLOAT, 2 * 16)
PEAK(peak_int8, __m512i, _mm512_setzero_si512(), INT8, 2 * 64)
PEAK(peak_bf16, __m512, _mm512_setzero_ps(), BF16, 2 * 32)

static uint64_t read_bytes(const uint8_t *p, int64_t bytes) {
	__m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
	for (int64_t i = 0; i < bytes; i += 256) {
		_mm_prefetch((const char *)p + i + 2048, _MM_HINT_T0);
		_mm_prefetch((const char *)p + i + 2112, _MM_HINT_T0);
		_mm_prefetch((const char *)p + i + 2176, _MM_HINT_T0);
		_mm_prefetch((const char *)p + i + 2240, _MM_HINT_T0);
		a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
		b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
		c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
		d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
	}
	a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
	return (uint64_t)_mm512_reduce_add_epi64(a);
}

void peak_avx512(kernel_table *k) {
	k->peak[PREP_FLOAT] = peak_float;
	k->peak[PREP_INT8] = peak_int8;
	k->peak[PREP_BF16] = peak_bf16;
	k->read = read_bytes;
}
