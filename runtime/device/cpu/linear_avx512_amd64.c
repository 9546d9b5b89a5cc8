#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")
#include "vec_avx512.h"
#include "linear_body.h"
#include "families.h"

enum { AHEAD = 1536 }; // bytes that decoding prefetches ahead

ALWAYS __m512i quad(const int8_t *q) {
	int32_t v;
	memcpy(&v, q, 4);
	return _mm512_set1_epi32(v);
}

ALWAYS void load_scales(const weight *w, const uint8_t *g, __m512 *scale, __m512 *min) {
	if (w->scale_bytes == 32) {
		*scale = v_load_f16((const uint16_t *)g);
		*min = w->has_mins ? v_load_f16((const uint16_t *)(g + 32)) : _mm512_setzero_ps();
	} else {
		*scale = v_load((const float *)g);
		*min = w->has_mins ? v_load((const float *)(g + 64)) : _mm512_setzero_ps();
	}
}

// acc += (sum of codes*q) * (scale*ascale) + min*asum, for T tokens; which picks the sums of the unit or of one of its halves.
ALWAYS void fold(const weight *w, const uint8_t *g, const int8_block *b, const int T, int which, const __m512i *sum, __m512 *acc) {
	__m512 scale, min;
	load_scales(w, g, &scale, &min);
	for (int t = 0; t < T; t++) {
		acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), _mm512_mul_ps(scale, _mm512_set1_ps(b->scale[t])), acc[t]);
	}
	if (w->has_mins) {
		for (int t = 0; t < T; t++) {
			acc[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(b->sums[which * T + t]), acc[t]);
		}
	}
}

ALWAYS void start(const int8_block *b, const int T, int which, int zero, __m512i *sum) {
	if (zero == 0) {
		for (int t = 0; t < T; t++) {
			sum[t] = _mm512_setzero_si512();
		}
		return;
	}
	__m512i z = _mm512_set1_epi32(-zero);
	for (int t = 0; t < T; t++) {
		sum[t] = _mm512_mullo_epi32(_mm512_set1_epi32(b->isums[which * T + t]), z);
	}
}

ALWAYS void int8_tile(const weight *w, const uint8_t *panel, const uint8_t *x, const int T, const int bits, const int halves, float *out) {
	__m512 acc[TILE_MAX];
	for (int t = 0; t < T; t++) {
		acc[t] = _mm512_setzero_ps();
	}
	int zero = bits == 8 ? 128 : w->zero;
	const __m512i low = _mm512_set1_epi8(15);
	int64_t since = 0;
	const uint8_t *codes = panel, *group = panel + w->scale_off;
	int unit_scales = halves == 2 ? 1 : w->group_len / UNIT; // units that share a scale
	for (int64_t u = 0; u < w->units; u++, codes += w->code_stride, x += 64 * T) {
		int8_block b = block_of(x, T);
		if (T <= 4) {
			for (int i = 0; i < w->code_stride; i += 64) {
				_mm_prefetch((const char *)codes + AHEAD + i, _MM_HINT_T0);
			}
		}
		// two sums a token where one chain of dot products would wait for itself; integers add up the same
		enum { ONE = 1, TWO = 2 };
		const int chains = T <= 3 ? TWO : ONE;
		__m512i sum[2 * TILE_MAX];
		start(&b, T, halves == 2 ? 1 : 0, zero, sum);
		for (int t = 0; chains == 2 && t < T; t++) {
			sum[T + t] = _mm512_setzero_si512();
		}
		if (bits == 8) {
#pragma GCC unroll 8
			for (int j = 0; j < 8; j++) {
				if (halves == 2 && j == 4) {
					for (int t = 0; chains == 2 && t < T; t++) {
						sum[t] = _mm512_add_epi32(sum[t], sum[T + t]);
						sum[T + t] = _mm512_setzero_si512();
					}
					fold(w, group, &b, T, 1, sum, acc);
					start(&b, T, 2, zero, sum);
				}
				__m512i c = _mm512_loadu_si512(codes + 64 * j);
				__m512i *to = sum + (chains == 2 && j & 1 ? T : 0);
#pragma GCC unroll 12
				for (int t = 0; t < T; t++) {
					to[t] = _mm512_dpbusd_epi32(to[t], c, quad(b.q + 32 * t + 4 * j));
				}
			}
		} else if (halves == 2) {
#pragma GCC unroll 8
			for (int j = 0; j < 8; j++) {
				if (j == 4) {
					for (int t = 0; chains == 2 && t < T; t++) {
						sum[t] = _mm512_add_epi32(sum[t], sum[T + t]);
						sum[T + t] = _mm512_setzero_si512();
					}
					fold(w, group, &b, T, 1, sum, acc);
					start(&b, T, 2, zero, sum);
				}
				__m512i c = _mm512_loadu_si512(codes + 64 * (j & 3));
				c = _mm512_and_si512(j < 4 ? c : _mm512_srli_epi16(c, 4), low);
				__m512i *to = sum + (chains == 2 && j & 1 ? T : 0);
				for (int t = 0; t < T; t++) {
					to[t] = _mm512_dpbusd_epi32(to[t], c, quad(b.q + 32 * t + 4 * j));
				}
			}
		} else {
#pragma GCC unroll 4
			for (int j = 0; j < 4; j++) {
				__m512i c = _mm512_loadu_si512(codes + 64 * j);
				__m512i first = _mm512_and_si512(c, low), second = _mm512_and_si512(_mm512_srli_epi16(c, 4), low);
				__m512i *to = sum + (chains == 2 ? T : 0);
#pragma GCC unroll 12
				for (int t = 0; t < T; t++) {
					sum[t] = _mm512_dpbusd_epi32(sum[t], first, quad(b.q + 32 * t + 4 * j));
				}
#pragma GCC unroll 12
				for (int t = 0; t < T; t++) {
					to[t] = _mm512_dpbusd_epi32(to[t], second, quad(b.q + 32 * t + 16 + 4 * j));
				}
			}
		}
		for (int t = 0; chains == 2 && t < T; t++) {
			sum[t] = _mm512_add_epi32(sum[t], sum[T + t]);
		}
		fold(w, group + (halves - 1) * w->group_bytes, &b, T, halves == 2 ? 2 : 0, sum, acc);
		if (++since == unit_scales) {
			since = 0;
			group += w->scale_stride;
		}
	}
	for (int t = 0; t < T; t++) {
		_mm512_storeu_ps(out + 16 * t, acc[t]);
	}
}

#define TILES(CALL) \
	switch (o->tile) { \
	case 1: CALL(1); break; \
	case 2: CALL(2); break; \
	case 3: CALL(3); break; \
	case 4: CALL(4); break; \
	case 6: CALL(6); break; \
	case 8: CALL(8); break; \
	default: CALL(12); break; \
	}

static void product_int8(const linear_op *o, const linear_part *p, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[TILE_MAX * 16] __attribute__((aligned(64)));
	const weight *w = p->w;
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
	store_tile(p, panel, first, count, acc);
}

// x [tokens, cols] to [cols/2][tile][2] bf16, round to nearest even, missing columns and tokens zero.
static void prepare_bf16(const linear_op *o, int64_t first, int count, uint8_t *dst) {
	uint16_t *to = (uint16_t *)dst;
	int tile = o->tile;
	for (int64_t k = 0; k < o->cols; k += 16) {
		int n = (int)(o->cols - k < 16 ? o->cols - k : 16);
		for (int t = 0; t < tile; t++) {
			__m512 v = t < count ? v_load_part(o->x + (first + t) * o->x_stride + k, n) : _mm512_setzero_ps();
			uint32_t pairs[8];
			_mm256_storeu_si256((__m256i *)pairs, (__m256i)_mm512_cvtneps_pbh(v));
			for (int i = 0; i < (n + 1) / 2; i++) {
				memcpy(to + ((k / 2 + i) * tile + t) * 2, pairs + i, 4);
			}
		}
	}
}

ALWAYS void bf16_tile(const weight *w, const uint8_t *panel, const uint8_t *x, const int T, float *out) {
	__m512 acc[TILE_MAX];
	for (int t = 0; t < T; t++) {
		acc[t] = _mm512_setzero_ps();
	}
	int64_t pairs = (w->cols + 1) / 2;
	for (int64_t k = 0; k < pairs; k++) {
		__m512bh v = (__m512bh)_mm512_loadu_si512(panel + 64 * k);
		if (T <= 4) {
			_mm_prefetch((const char *)panel + 64 * k + AHEAD, _MM_HINT_T0);
		}
#pragma GCC unroll 12
		for (int t = 0; t < T; t++) {
			acc[t] = _mm512_dpbf16_ps(acc[t], v, (__m512bh)quad((const int8_t *)x + 4 * (k * T + t)));
		}
	}
	for (int t = 0; t < T; t++) {
		_mm512_storeu_ps(out + 16 * t, acc[t]);
	}
}

static void product_bf16(const linear_op *o, const linear_part *p, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[TILE_MAX * 16] __attribute__((aligned(64)));
	const uint8_t *at = p->w->data + panel * p->w->panel_bytes;
#define BF16(T) bf16_tile(p->w, at, tile, T, acc)
	TILES(BF16)
	store_tile(p, panel, first, count, acc);
}

void linear_avx512(kernel_table *k) {
	k->prepare[PREP_FLOAT] = prepare_float_avx512;
	k->prepare[PREP_INT8] = prepare_int8_avx512;
	k->prepare[PREP_BF16] = prepare_bf16;
	k->product[PREP_FLOAT] = product_float_avx512;
	k->product[PREP_INT8] = product_int8;
	k->product[PREP_BF16] = product_bf16;
	k->flip = 0x80;
}
