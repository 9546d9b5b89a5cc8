#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")
#include "vec_avx512.h"
#include "families.h"

// Products of bf16: the roundings of a and b as pairs, and acc plus those of 16 pairs with one.
#define HALVES 1
ALWAYS i16v h_pairs(v16 a, v16 b) {
	const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
		21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
	return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
ALWAYS v16 h_dot(v16 acc, v16 pairs, v16 pair) {
	return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_castps_si512(pairs), (__m512bh)_mm512_castps_si512(pair));
}

#include "product_body.h"
