#pragma GCC target("avx2,fma,f16c")
#include "vec_avx2.h"
#include "linear_body.h"
#include "families.h"

enum { AHEAD = 1536 };

// Keeps the instructions of one token together: interleaved with those of the next token they would need more registers
// than there are.
#define KEEP(v) __asm__ volatile("" : "+x"(v))

ALWAYS __m256i quad(const int8_t *q) {
	int32_t v;
	memcpy(&v, q, 4);
	return _mm256_set1_epi32(v);
}

ALWAYS void load_scales(const weight *w, const uint8_t *g, int side, __m256 *scale, __m256 *min) {
	*min = _mm256_setzero_ps();
	if (w->scale_bytes == 32) {
		*scale = _mm256_cvtph_ps(load8((const uint16_t *)g + side));
		if (w->has_mins) {
			*min = _mm256_cvtph_ps(load8((const uint16_t *)(g + 32) + side));
		}
		return;
	}
	*scale = _mm256_loadu_ps((const float *)g + side);
	if (w->has_mins) {
		*min = _mm256_loadu_ps((const float *)(g + 64) + side);
	}
}

// Adds one group's exact sum to acc (8 outputs of one token).
ALWAYS void fold(__m256i sum, __m256 scale, __m256 min, int has_mins, float ascale, float asum, float *acc) {
	__m256 a = _mm256_load_ps(acc);
	a = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scale, _mm256_set1_ps(ascale)), a);
	if (has_mins) {
		a = _mm256_fmadd_ps(min, _mm256_set1_ps(asum), a);
	}
	_mm256_store_ps(acc, a);
}

// One side (8 of 16 outputs) of one unit of 4-bit codes. Eight products of 15*127 at most and their neighbours fit in
// 16 bits.
ALWAYS void int4_side(const weight *w, const uint8_t *codes, const uint8_t *group, int8_block b, const int T,
	const int halves, int side, float *acc) {
	const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
	__m256i c[8];
	for (int j = 0; j < 4; j++) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(codes + 64 * j + 4 * side));
		c[j] = _mm256_and_si256(v, low);
		c[j + 4] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
	}
	__m256 scale[2], min[2];
	for (int h = 0; h < halves; h++) {
		load_scales(w, group + h * w->group_bytes, side, scale + h, min + h);
	}
	for (int t = 0; t < T; t++) {
		__m256i first = _mm256_maddubs_epi16(c[0], quad(b.q + 32 * t)),
				second = _mm256_maddubs_epi16(c[4], quad(b.q + 32 * t + 16));
		for (int j = 1; j < 4; j++) {
			first = _mm256_add_epi16(first, _mm256_maddubs_epi16(c[j], quad(b.q + 32 * t + 4 * j)));
			second = _mm256_add_epi16(second, _mm256_maddubs_epi16(c[j + 4], quad(b.q + 32 * t + 16 + 4 * j)));
		}
		if (halves == 1) {
			__m256i sum = _mm256_madd_epi16(_mm256_add_epi16(first, second), ones);
			sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(w->zero * b.isums[t]));
			fold(sum, scale[0], min[0], w->has_mins, b.scale[t], b.sums[t], acc + 16 * t + side);
			continue;
		}
		__m256i s = _mm256_sub_epi32(_mm256_madd_epi16(first, ones), _mm256_set1_epi32(w->zero * b.isums[T + t]));
		fold(s, scale[0], min[0], w->has_mins, b.scale[t], b.sums[T + t], acc + 16 * t + side);
		s = _mm256_sub_epi32(_mm256_madd_epi16(second, ones), _mm256_set1_epi32(w->zero * b.isums[2 * T + t]));
		fold(s, scale[1], min[1], w->has_mins, b.scale[t], b.sums[2 * T + t], acc + 16 * t + side);
	}
}

// |c| as the unsigned min(c, -c): vpabsb and vpsignb share two pipes with the multiplications, subtraction and minimum
// have four.
ALWAYS __m256i size_of(__m256i c) { return _mm256_min_epu8(c, _mm256_sub_epi8(_mm256_setzero_si256(), c)); }

// Columns [4*from, 4*to) of one unit of signed 8-bit codes: |c| * (q with the sign of c); a pair of products is at most
// 128*128*2 and fits in 16 bits. With few tokens both sides are computed at once, to share the broadcasts of q.
ALWAYS void int8_few(const weight *w, const uint8_t *codes, const uint8_t *group, int8_block b, const int T,
	const int from, const int to, int which, float *acc) {
	const __m256i ones = _mm256_set1_epi16(1);
	__m256i sum[2][FEW_TOKENS];
	for (int j = from; j < to; j++) {
		for (int s = 0; s < 2; s++) {
			__m256i c = _mm256_loadu_si256((const __m256i *)(codes + 64 * j) + s), size = size_of(c);
			for (int t = 0; t < T; t++) {
				__m256i q = _mm256_sign_epi8(quad(b.q + 32 * t + 4 * j), c);
				q = _mm256_madd_epi16(_mm256_maddubs_epi16(size, q), ones);
				sum[s][t] = j == from ? q : _mm256_add_epi32(sum[s][t], q);
			}
		}
	}
	for (int s = 0; s < 2; s++) {
		__m256 scale, min;
		load_scales(w, group, 8 * s, &scale, &min);
		for (int t = 0; t < T; t++) {
			fold(sum[s][t], scale, min, w->has_mins, b.scale[t], b.sums[which * T + t], acc + 16 * t + 8 * s);
		}
	}
}

// The same for one side and many tokens. Where c is negative q is negated as ~q, which is -q - 1: the ones are
// corrected once for all tokens.
ALWAYS void int8_side(const weight *w, const uint8_t *codes, const uint8_t *group, int8_block b, const int T,
	const int from, const int to, int which, int side, float *acc) {
	const __m256i ones = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
	__m256 scale, min;
	load_scales(w, group, side, &scale, &min);
	__m256i sum[TILE_MAX], extra = zero;
	for (int t = 0; t < T; t++) {
		sum[t] = zero;
	}
#pragma GCC unroll 1
	for (int j = from; j < to; j++) {
		__m256i c = _mm256_loadu_si256((const __m256i *)(codes + 64 * j + 4 * side)), size = size_of(c),
				minus = _mm256_cmpgt_epi8(zero, c);
		extra = _mm256_sub_epi32(extra, _mm256_madd_epi16(_mm256_maddubs_epi16(size, minus), ones));
		for (int t = 0; t < T; t++) {
			__m256i q = _mm256_xor_si256(quad(b.q + 32 * t + 4 * j), minus);
			sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(_mm256_maddubs_epi16(size, q), ones));
			KEEP(sum[t]);
		}
	}
	for (int t = 0; t < T; t++) {
		sum[t] = _mm256_add_epi32(sum[t], extra);
		KEEP(sum[t]);
		fold(sum[t], scale, min, w->has_mins, b.scale[t], b.sums[which * T + t], acc + 16 * t + side);
	}
}

ALWAYS void int8_unit(const weight *w, const uint8_t *codes, const uint8_t *group, int8_block b, const int T,
	const int from, const int to, int which, float *acc) {
	if (T <= FEW_TOKENS) {
		int8_few(w, codes, group, b, T, from, to, which, acc);
		return;
	}
#pragma GCC unroll 1
	for (int side = 0; side < 16; side += 8) {
		int8_side(w, codes, group, b, T, from, to, which, side, acc);
	}
}

ALWAYS void int8_tile(const weight *w, const uint8_t *panel, const uint8_t *x, const int T, const int bits,
	const int halves, float *acc) {
	int64_t since = 0;
	const uint8_t *codes = panel, *group = panel + w->scale_off;
	int unit_scales = halves == 2 ? 1 : w->group_len / UNIT;
	for (int64_t u = 0; u < w->units; u++, codes += w->code_stride, x += 64 * T) {
		int8_block b = block_of(x, T);
		if (T <= 4) {
			for (int i = 0; i < w->code_stride; i += 64) {
				_mm_prefetch((const char *)codes + AHEAD + i, _MM_HINT_T0);
			}
		}
		if (bits == 4) {
			int4_side(w, codes, group, b, T, halves, 0, acc);
			int4_side(w, codes, group, b, T, halves, 8, acc);
		} else if (halves == 1) {
			int8_unit(w, codes, group, b, T, 0, 8, 0, acc);
		} else {
			int8_unit(w, codes, group, b, T, 0, 4, 1, acc);
			int8_unit(w, codes, group + w->group_bytes, b, T, 4, 8, 2, acc);
		}
		if (++since == unit_scales) {
			since = 0;
			group += w->scale_stride;
		}
	}
}

#define TILES(CALL) \
	switch (l->o->tile) { \
	case 1: CALL(1); break; \
	case 2: CALL(2); break; \
	case 3: CALL(3); break; \
	case 4: CALL(4); break; \
	case 6: CALL(6); break; \
	case 8: CALL(8); break; \
	default: CALL(12); break; \
	}

static void int8_product(const linear_work *l, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[TILE_MAX * 16] __attribute__((aligned(64))) = {0};
	const weight *w = l->p->w;
	const uint8_t *at = w->data + panel * w->panel_bytes;
#define INT4(T) int8_tile(w, at, tile, T, 4, 1, acc)
#define INT8(T) int8_tile(w, at, tile, T, 8, 1, acc)
#define INT4_HALVES(T) int8_tile(w, at, tile, T, 4, 2, acc)
#define INT8_HALVES(T) int8_tile(w, at, tile, T, 8, 2, acc)
	if (w->layout == LAYOUT_INT4 && w->unit_groups == 1) {
		TILES(INT4)
	} else if (w->layout == LAYOUT_INT4) {
		TILES(INT4_HALVES)
	} else if (w->unit_groups == 1) {
		TILES(INT8)
	} else {
		TILES(INT8_HALVES)
	}
	store_tile(l->p, panel, first, count, acc);
}

static void product_int8(const linear_work *l) { each_product(l, int8_product); }

void linear_avx2(kernel_table *k) {
	k->prepare[PREP_FLOAT] = prepare_float_avx2;
	k->prepare[PREP_INT8] = prepare_int8_avx2;
	k->product[PREP_FLOAT] = product_float_avx2;
	k->product[PREP_INT8] = product_int8;
}
