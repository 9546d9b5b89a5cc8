// Sixteen float lanes in plain C. The other vec_*.h give the same names with intrinsics and the same bits.
#include <math.h>
#include "half.h"
#include "kernels.h"

typedef struct { float f[16]; } v16;
typedef struct { int32_t i[16]; } i16v;

#define FN(name) name##_scalar
#define FLOAT_TOKENS 4
#define ATTENTION_QUERIES 4
#define ATTENTION_COLS 1
#define LANES for (int l = 0; l < 16; l++)

ALWAYS v16 v_set1(float x) { v16 r; LANES r.f[l] = x; return r; }
ALWAYS v16 v_load(const float *p) { v16 r; LANES r.f[l] = p[l]; return r; }
ALWAYS void v_store(float *p, v16 v) { LANES p[l] = v.f[l]; }
ALWAYS v16 v_load_part(const float *p, int n) { v16 r; LANES r.f[l] = l < n ? p[l] : 0; return r; }
ALWAYS void v_store_part(float *p, v16 v, int n) { for (int l = 0; l < n; l++) p[l] = v.f[l]; }
ALWAYS v16 v_add(v16 a, v16 b) { LANES a.f[l] += b.f[l]; return a; }
ALWAYS v16 v_sub(v16 a, v16 b) { LANES a.f[l] -= b.f[l]; return a; }
ALWAYS v16 v_mul(v16 a, v16 b) { LANES a.f[l] *= b.f[l]; return a; }
ALWAYS v16 v_div(v16 a, v16 b) { LANES a.f[l] /= b.f[l]; return a; }
ALWAYS v16 v_max(v16 a, v16 b) { LANES a.f[l] = a.f[l] > b.f[l] ? a.f[l] : b.f[l]; return a; }
ALWAYS v16 v_min(v16 a, v16 b) { LANES a.f[l] = a.f[l] < b.f[l] ? a.f[l] : b.f[l]; return a; }
ALWAYS v16 v_fma(v16 a, v16 b, v16 c) { LANES c.f[l] = fmaf(a.f[l], b.f[l], c.f[l]); return c; }
ALWAYS v16 v_fnma(v16 a, v16 b, v16 c) { LANES c.f[l] = fmaf(-a.f[l], b.f[l], c.f[l]); return c; }
ALWAYS v16 v_abs(v16 a) { LANES a.f[l] = fabsf(a.f[l]); return a; }
ALWAYS v16 v_round(v16 a) { LANES a.f[l] = rintf(a.f[l]); return a; }
ALWAYS v16 v_less(v16 a, v16 b, v16 yes, v16 no) { LANES no.f[l] = a.f[l] < b.f[l] ? yes.f[l] : no.f[l]; return no; }
// a * 2^n for integral n in [-252, 252]
ALWAYS v16 v_ldexp(v16 a, v16 n) {
	LANES {
		int32_t e = n.f[l] == n.f[l] ? (int32_t)n.f[l] : 0, h = e >> 1;
		a.f[l] = a.f[l] * float_of((uint32_t)(h + 127) << 23) * float_of((uint32_t)(e - h + 127) << 23);
	}
	return a;
}
ALWAYS v16 v_keep(v16 a, int lo, int hi, float fill) { LANES a.f[l] = l >= lo && l < hi ? a.f[l] : fill; return a; }
ALWAYS float v_hsum(v16 a) {
	for (int w = 8; w; w >>= 1) for (int l = 0; l < w; l++) a.f[l] += a.f[l + w];
	return a.f[0];
}
ALWAYS float v_hmax(v16 a) {
	for (int w = 8; w; w >>= 1) for (int l = 0; l < w; l++) a.f[l] = a.f[l] > a.f[l + w] ? a.f[l] : a.f[l + w];
	return a.f[0];
}
ALWAYS v16 v_load_f16(const uint16_t *p) { v16 r; LANES r.f[l] = f16_to_f32(p[l]); return r; }
ALWAYS v16 v_load_bf16(const uint16_t *p) { v16 r; LANES r.f[l] = bf16_to_f32(p[l]); return r; }
ALWAYS i16v i_load(const void *p) { i16v r; memcpy(&r, p, 64); return r; }
ALWAYS i16v i_field(i16v a, int shift, int mask) { LANES a.i[l] = (int32_t)((uint32_t)a.i[l] >> shift) & mask; return a; }
ALWAYS i16v i_shl(i16v a, int n) { LANES a.i[l] = (int32_t)((uint32_t)a.i[l] << n); return a; }
ALWAYS i16v i_xor(i16v a, int x) { LANES a.i[l] ^= x; return a; }
ALWAYS v16 i_to_float(i16v a) { v16 r; LANES r.f[l] = (float)a.i[l]; return r; }
ALWAYS v16 i_as_float(i16v a) { v16 r; LANES r.f[l] = float_of((uint32_t)a.i[l]); return r; }
ALWAYS v16 v_lookup(const float *table, i16v index) { v16 r; LANES r.f[l] = table[index.i[l] & 15]; return r; }
ALWAYS i16v v_to_int(v16 a) { i16v r; LANES r.i[l] = (int32_t)a.f[l]; return r; } // of integral values
ALWAYS void i_store_bytes(int8_t *p, i16v a) { LANES p[l] = (int8_t)a.i[l]; }
ALWAYS void v_store_f16(uint16_t *p, v16 a) { LANES p[l] = f32_to_f16(a.f[l]); }
