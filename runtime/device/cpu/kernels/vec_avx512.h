// Sixteen float lanes in one AVX-512 register; see vec_scalar.h.
#include <immintrin.h>
#include <math.h>
#include "half.h"
#include "kernels.h"

typedef __m512 v16;
typedef __m512i i16v;

#define FN(name) name##_avx512
#define FLOAT_TOKENS 12
#define LORA_TOKENS 4
#define LORA_RANKS 4
#define ATTENTION_QUERIES 4
#define ATTENTION_CHAINS 16
#define ATTENTION_COLS 4
#define PRODUCT_PANELS 2
#define BLOCK_COLS 4
#define LOW_LANES(n) ((__mmask16)((1u << (n)) - 1))

ALWAYS v16 v_set1(float x) { return _mm512_set1_ps(x); }
ALWAYS v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
ALWAYS void v_store(float *p, v16 v) { _mm512_storeu_ps(p, v); }
ALWAYS v16 v_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(LOW_LANES(n), p); }
ALWAYS void v_store_part(float *p, v16 v, int n) { _mm512_mask_storeu_ps(p, LOW_LANES(n), v); }
ALWAYS v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
ALWAYS v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
ALWAYS v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
ALWAYS v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
ALWAYS v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
ALWAYS v16 v_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
ALWAYS v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
ALWAYS v16 v_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); }
ALWAYS v16 v_abs(v16 a) { return _mm512_abs_ps(a); }
ALWAYS v16 v_round(v16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
ALWAYS v16 v_less(v16 a, v16 b, v16 yes, v16 no) {
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
ALWAYS v16 v_ldexp(v16 a, v16 n) { return _mm512_scalef_ps(a, n); }
ALWAYS v16 v_keep(v16 a, int lo, int hi, float fill) {
	return _mm512_mask_blend_ps(LOW_LANES(hi) & (__mmask16)~LOW_LANES(lo), _mm512_set1_ps(fill), a);
}
ALWAYS float v_hsum(v16 a) {
	__m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
	__m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
	c = _mm_add_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
ALWAYS float v_hmax(v16 a) {
	__m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
	__m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
	c = _mm_max_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
ALWAYS v16 v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
ALWAYS v16 v_load_bf16(const uint16_t *p) {
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
ALWAYS i16v i_load(const void *p) { return _mm512_loadu_si512(p); }
ALWAYS i16v i_field(i16v a, int shift, int mask) {
	return _mm512_and_si512(_mm512_srli_epi32(a, shift), _mm512_set1_epi32(mask));
}
ALWAYS i16v i_shl(i16v a, int n) { return _mm512_slli_epi32(a, n); }
ALWAYS i16v i_and(i16v a, int mask) { return _mm512_and_si512(a, _mm512_set1_epi32(mask)); }
ALWAYS i16v i_xor(i16v a, int x) { return _mm512_xor_si512(a, _mm512_set1_epi32(x)); }
ALWAYS v16 i_to_float(i16v a) { return _mm512_cvtepi32_ps(a); }
ALWAYS v16 i_as_float(i16v a) { return _mm512_castsi512_ps(a); }
ALWAYS v16 v_lookup(const float *table, i16v index) { return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table)); }
ALWAYS i16v v_to_int(v16 a) { return _mm512_cvtps_epi32(a); }
ALWAYS void i_store_bytes(int8_t *p, i16v a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
ALWAYS void v_store_f16(uint16_t *p, v16 a) {
	_mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
ALWAYS void v_transpose(v16 *r) {
	v16 a[16], b[16];
	for (int i = 0; i < 16; i += 2) {
		a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
		a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
	}
	for (int i = 0; i < 16; i += 4) { // b[4g+c]: columns c, c+4, c+8, c+12 of the rows 4g..4g+3
		b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
		b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
		b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
		b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
	}
	for (int c = 0; c < 4; c++) {
		v16 low = _mm512_shuffle_f32x4(b[c], b[c + 4], 0x44), high = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0x44);
		r[c] = _mm512_shuffle_f32x4(low, high, 0x88);
		r[c + 4] = _mm512_shuffle_f32x4(low, high, 0xdd);
		low = _mm512_shuffle_f32x4(b[c], b[c + 4], 0xee);
		high = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0xee);
		r[c + 8] = _mm512_shuffle_f32x4(low, high, 0x88);
		r[c + 12] = _mm512_shuffle_f32x4(low, high, 0xdd);
	}
}
