// Sixteen float lanes in the compiler's vector types, for any processor. The other vec_*.h give the same names with
// intrinsics and the same bits.
#ifdef __SANITIZE_ADDRESS__
#pragma GCC optimize("O1") // the sanitizer takes minutes over unrolled lanes
#endif
#include <math.h>
#include "half.h"
#include "kernels.h"

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));

#define FN(name) name##_scalar
#define FLOAT_TOKENS 4
#define LORA_TOKENS 2
#define LORA_RANKS 2
#define ATTENTION_QUERIES 2
#define ATTENTION_CHAINS 2
#define ATTENTION_COLS 1
#define PRODUCT_PANELS 1
#define BLOCK_COLS 1
#define LANES for (int l = 0; l < 16; l++)

ALWAYS v16 v_set1(float x) { return x - (v16){0}; } // x - 0 is x, signed zeros included
ALWAYS v16 v_load(const float *p) { v16 r; memcpy(&r, p, 64); return r; }
ALWAYS void v_store(float *p, v16 v) { memcpy(p, &v, 64); }
ALWAYS v16 v_load_part(const float *p, int n) { v16 r = {0}; memcpy(&r, p, (size_t)n * 4); return r; }
ALWAYS void v_store_part(float *p, v16 v, int n) { memcpy(p, &v, (size_t)n * 4); }
ALWAYS v16 v_add(v16 a, v16 b) { return a + b; }
ALWAYS v16 v_sub(v16 a, v16 b) { return a - b; }
ALWAYS v16 v_mul(v16 a, v16 b) { return a * b; }
ALWAYS v16 v_div(v16 a, v16 b) { return a / b; }
ALWAYS v16 v_pick(i16v mask, v16 yes, v16 no) { return (v16)(((i16v)yes & mask) | ((i16v)no & ~mask)); }
ALWAYS v16 v_max(v16 a, v16 b) { return v_pick(a > b, a, b); }
ALWAYS v16 v_min(v16 a, v16 b) { return v_pick(a < b, a, b); }
ALWAYS v16 v_less(v16 a, v16 b, v16 yes, v16 no) { return v_pick(a < b, yes, no); }
ALWAYS v16 v_fma(v16 a, v16 b, v16 c) { LANES c[l] = fmaf(a[l], b[l], c[l]); return c; }
ALWAYS v16 v_fnma(v16 a, v16 b, v16 c) { LANES c[l] = fmaf(-a[l], b[l], c[l]); return c; }
ALWAYS v16 v_abs(v16 a) { return (v16)((i16v)a & 0x7fffffff); }
ALWAYS v16 v_round(v16 a) { LANES a[l] = rintf(a[l]); return a; }
// a * 2^n for integral n in [-252, 252]
ALWAYS v16 v_ldexp(v16 a, v16 n) {
	i16v e = {0};
	LANES e[l] = n[l] == n[l] ? (int32_t)n[l] : 0;
	i16v h = e >> 1;
	return a * (v16)((h + 127) << 23) * (v16)((e - h + 127) << 23);
}
ALWAYS v16 v_keep(v16 a, int lo, int hi, float fill) {
	const i16v at = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	return v_pick((at >= lo) & (at < hi), a, v_set1(fill));
}
ALWAYS float v_hsum(v16 a) {
	for (int w = 8; w; w >>= 1) {
		for (int l = 0; l < w; l++) a[l] += a[l + w];
	}
	return a[0];
}
ALWAYS float v_hmax(v16 a) {
	for (int w = 8; w; w >>= 1) {
		for (int l = 0; l < w; l++) a[l] = a[l] > a[l + w] ? a[l] : a[l + w];
	}
	return a[0];
}
ALWAYS v16 v_load_f16(const uint16_t *p) { v16 r = {0}; LANES r[l] = f16_to_f32(p[l]); return r; }
ALWAYS v16 v_load_bf16(const uint16_t *p) { v16 r = {0}; LANES r[l] = bf16_to_f32(p[l]); return r; }
ALWAYS i16v i_load(const void *p) { i16v r; memcpy(&r, p, 64); return r; }
typedef uint32_t u16v __attribute__((vector_size(64)));
ALWAYS i16v i_field(i16v a, int shift, int mask) { return (i16v)((u16v)a >> (uint32_t)shift) & mask; }
ALWAYS i16v i_shl(i16v a, int n) { return (i16v)((u16v)a << (uint32_t)n); }
ALWAYS i16v i_and(i16v a, int mask) { return a & mask; }
ALWAYS i16v i_xor(i16v a, int x) { return a ^ x; }
ALWAYS v16 i_to_float(i16v a) { return __builtin_convertvector(a, v16); }
ALWAYS v16 i_as_float(i16v a) { return (v16)a; }
ALWAYS v16 v_lookup(const float *table, i16v index) { v16 r = {0}; LANES r[l] = table[index[l] & 15]; return r; }
ALWAYS i16v v_to_int(v16 a) { return __builtin_convertvector(a, i16v); } // of integral values
ALWAYS void i_store_bytes(int8_t *p, i16v a) { LANES p[l] = (int8_t)a[l]; }
ALWAYS void v_store_f16(uint16_t *p, v16 a) { LANES p[l] = f32_to_f16(a[l]); }
// The transpose of 16 vectors.
ALWAYS void v_transpose(v16 *r) {
	float t[16][16];
	for (int i = 0; i < 16; i++) {
		LANES t[l][i] = r[i][l];
	}
	memcpy(r, t, sizeof t);
}
