#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")
#include <immintrin.h>
#include "peak.h"

#define FLOAT_PRODUCT(c, a, b) _mm512_fmadd_ps(a, b, c)
#define BF16_PRODUCT(c, a, b) _mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b))
PEAK(peak_float, __m512, _mm512_setzero_ps(), FLOAT_PRODUCT, 2 * 16)
PEAK(peak_int8, __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32, 2 * 64)
PEAK(peak_bf16, __m512, _mm512_setzero_ps(), BF16_PRODUCT, 2 * 32)

void peak_avx512(kernel_table *k) {
	k->peak[PREP_FLOAT] = peak_float;
	k->peak[PREP_INT8] = peak_int8;
	k->peak[PREP_BF16] = peak_bf16;
}
