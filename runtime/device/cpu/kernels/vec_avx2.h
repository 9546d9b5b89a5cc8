// Sixteen float lanes in two AVX2 registers; see vec_scalar.h.
#include <immintrin.h>
#include <math.h>
#include "half.h"
#include "kernels.h"

typedef struct { __m256 a, b; } v16;
typedef struct { __m256i a, b; } i16v;

#define FN(name) name##_avx2
#define FLOAT_TOKENS 6
#define LORA_TOKENS 2
#define LORA_RANKS 2
#define ATTENTION_QUERIES 3
#define ATTENTION_CHAINS 4
#define ATTENTION_COLS 2
#define PRODUCT_PANELS 1
#define BLOCK_COLS 1
#define BOTH(op, x, y) ((v16){op((x).a, (y).a), op((x).b, (y).b)})

static const int32_t lane_mask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

// n in 0..16: the low n of 8; 9..16 select further words.
ALWAYS __m256i low_lanes(int n) { return _mm256_loadu_si256((const __m256i *)(lane_mask + 16 - n)); }
ALWAYS v16 v_set1(float x) { __m256 v = _mm256_set1_ps(x); return (v16){v, v}; }
ALWAYS v16 v_load(const float *p) { return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ALWAYS void v_store(float *p, v16 v) { _mm256_storeu_ps(p, v.a); _mm256_storeu_ps(p + 8, v.b); }
ALWAYS __m256i mask_lo(int n) { return low_lanes(n); }
ALWAYS __m256i mask_hi(int n) { return _mm256_loadu_si256((const __m256i *)(lane_mask + 16 - n + 8)); }
ALWAYS v16 v_load_part(const float *p, int n) {
	return (v16){
		_mm256_maskload_ps(p, mask_lo(n)), n > 8 ? _mm256_maskload_ps(p + 8, mask_hi(n)) : _mm256_setzero_ps()};
}
ALWAYS void v_store_part(float *p, v16 v, int n) {
	_mm256_maskstore_ps(p, mask_lo(n), v.a);
	if (n > 8) {
		_mm256_maskstore_ps(p + 8, mask_hi(n), v.b);
	}
}
ALWAYS v16 v_add(v16 a, v16 b) { return BOTH(_mm256_add_ps, a, b); }
ALWAYS v16 v_sub(v16 a, v16 b) { return BOTH(_mm256_sub_ps, a, b); }
ALWAYS v16 v_mul(v16 a, v16 b) { return BOTH(_mm256_mul_ps, a, b); }
ALWAYS v16 v_div(v16 a, v16 b) { return BOTH(_mm256_div_ps, a, b); }
ALWAYS v16 v_max(v16 a, v16 b) { return BOTH(_mm256_max_ps, a, b); }
ALWAYS v16 v_min(v16 a, v16 b) { return BOTH(_mm256_min_ps, a, b); }
ALWAYS v16 v_fma(v16 a, v16 b, v16 c) { return (v16){_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)}; }
ALWAYS v16 v_fnma(v16 a, v16 b, v16 c) {
	return (v16){_mm256_fnmadd_ps(a.a, b.a, c.a), _mm256_fnmadd_ps(a.b, b.b, c.b)};
}
ALWAYS v16 v_abs(v16 a) {
	__m256 s = _mm256_set1_ps(-0.0f);
	return (v16){_mm256_andnot_ps(s, a.a), _mm256_andnot_ps(s, a.b)};
}
#define ROUND8(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
ALWAYS v16 v_round(v16 a) { return (v16){ROUND8(a.a), ROUND8(a.b)}; }
#define LESS8(x, y, yes, no) _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, y, _CMP_LT_OQ))
ALWAYS v16 v_less(v16 a, v16 b, v16 yes, v16 no) {
	return (v16){LESS8(a.a, b.a, yes.a, no.a), LESS8(a.b, b.b, yes.b, no.b)};
}
ALWAYS __m256 ldexp8(__m256 a, __m256 n) {
	__m256i e = _mm256_cvtps_epi32(_mm256_and_ps(n, _mm256_cmp_ps(n, n, _CMP_ORD_Q))), h = _mm256_srai_epi32(e, 1),
			bias = _mm256_set1_epi32(127);
	__m256i one = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23),
			two = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, h), bias), 23);
	return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(one)), _mm256_castsi256_ps(two));
}
ALWAYS v16 v_ldexp(v16 a, v16 n) { return BOTH(ldexp8, a, n); }
ALWAYS v16 v_keep(v16 a, int lo, int hi, float fill) {
	__m256 f = _mm256_set1_ps(fill);
	__m256i zero = _mm256_setzero_si256(), all = _mm256_cmpeq_epi32(zero, zero);
	__m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), first = _mm256_set1_epi32(lo), last = _mm256_set1_epi32(hi);
	__m256i next = _mm256_add_epi32(at, _mm256_set1_epi32(8));
	__m256i ma = _mm256_and_si256(_mm256_xor_si256(_mm256_cmpgt_epi32(first, at), all), _mm256_cmpgt_epi32(last, at));
	__m256i mb =
		_mm256_and_si256(_mm256_xor_si256(_mm256_cmpgt_epi32(first, next), all), _mm256_cmpgt_epi32(last, next));
	return (v16){_mm256_blendv_ps(f, a.a, _mm256_castsi256_ps(ma)), _mm256_blendv_ps(f, a.b, _mm256_castsi256_ps(mb))};
}
ALWAYS float v_hsum(v16 a) {
	__m256 b = _mm256_add_ps(a.a, a.b);
	__m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
	c = _mm_add_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
ALWAYS float v_hmax(v16 a) {
	__m256 b = _mm256_max_ps(a.a, a.b);
	__m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
	c = _mm_max_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
ALWAYS __m128i load8(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
ALWAYS v16 v_load_f16(const uint16_t *p) { return (v16){_mm256_cvtph_ps(load8(p)), _mm256_cvtph_ps(load8(p + 8))}; }
#define WIDEN_BF16(p) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load8(p)), 16))
ALWAYS v16 v_load_bf16(const uint16_t *p) { return (v16){WIDEN_BF16(p), WIDEN_BF16(p + 8)}; }
ALWAYS i16v i_load(const void *p) {
	return (i16v){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
ALWAYS i16v i_field(i16v v, int shift, int mask) {
	__m256i m = _mm256_set1_epi32(mask);
	return (i16v){
		_mm256_and_si256(_mm256_srli_epi32(v.a, shift), m), _mm256_and_si256(_mm256_srli_epi32(v.b, shift), m)};
}
ALWAYS i16v i_shl(i16v v, int n) { return (i16v){_mm256_slli_epi32(v.a, n), _mm256_slli_epi32(v.b, n)}; }
ALWAYS i16v i_and(i16v v, int mask) {
	__m256i m = _mm256_set1_epi32(mask);
	return (i16v){_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
}
ALWAYS i16v i_xor(i16v v, int x) {
	__m256i m = _mm256_set1_epi32(x);
	return (i16v){_mm256_xor_si256(v.a, m), _mm256_xor_si256(v.b, m)};
}
ALWAYS v16 i_to_float(i16v v) { return (v16){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
ALWAYS v16 i_as_float(i16v v) { return (v16){_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)}; }
ALWAYS __m256 lookup8(__m256 low, __m256 high, __m256i i) {
	__m256 upper = _mm256_castsi256_ps(_mm256_cmpgt_epi32(i, _mm256_set1_epi32(7)));
	return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, i), _mm256_permutevar8x32_ps(high, i), upper);
}
ALWAYS v16 v_lookup(const float *table, i16v i) {
	__m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
	return (v16){lookup8(low, high, i.a), lookup8(low, high, i.b)};
}
ALWAYS i16v v_to_int(v16 v) { return (i16v){_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
ALWAYS void i_store_bytes(int8_t *p, i16v v) {
	__m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
	_mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
#define NARROW_F16(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
ALWAYS void v_store_f16(uint16_t *p, v16 v) {
	_mm_storeu_si128((__m128i *)p, NARROW_F16(v.a));
	_mm_storeu_si128((__m128i *)(p + 8), NARROW_F16(v.b));
}
ALWAYS void transpose8(__m256 *r) {
	__m256 a[8], b[8];
	for (int i = 0; i < 8; i += 2) {
		a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
		a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
	}
	for (int i = 0; i < 8; i += 4) {
		b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
		b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
		b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
		b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
	}
	for (int i = 0; i < 4; i++) {
		r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
		r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
	}
}
ALWAYS void v_transpose(v16 *r) {
	__m256 q[4][8];
	for (int i = 0; i < 8; i++) {
		q[0][i] = r[i].a;
		q[1][i] = r[i].b;
		q[2][i] = r[i + 8].a;
		q[3][i] = r[i + 8].b;
	}
	for (int i = 0; i < 4; i++) {
		transpose8(q[i]);
	}
	for (int i = 0; i < 8; i++) {
		r[i] = (v16){q[0][i], q[2][i]};
		r[i + 8] = (v16){q[1][i], q[3][i]};
	}
}
