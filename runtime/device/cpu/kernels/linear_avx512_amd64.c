#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")
#include "vec_avx512.h"
#include "linear_body.h"
#include "families.h"

enum { AHEAD = 1536 }; // bytes that decoding prefetches

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

// Of P neighbouring panels times T tokens: sums and accumulators are [P][T].

// acc += (sum of codes*q) * (scale*ascale) + min*asum; which selects the sums of the unit or of one of its halves.
ALWAYS void fold(const weight *w, const uint8_t *group, const int8_block *b, const int tile, const int from,
	const int T, const int P, int which, const __m512i *sum, __m512 *acc) {
	for (int p = 0; p < P; p++) {
		__m512 scale, min;
		load_scales(w, group + p * w->panel_bytes, &scale, &min);
		for (int t = 0; t < T; t++) {
			acc[p * T + t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p * T + t]),
				_mm512_mul_ps(scale, _mm512_set1_ps(b->scale[from + t])), acc[p * T + t]);
		}
		if (w->has_mins) {
			for (int t = 0; t < T; t++) {
				acc[p * T + t] = _mm512_fmadd_ps(min, _mm512_set1_ps(b->sums[which * tile + from + t]), acc[p * T + t]);
			}
		}
	}
}

// Initializes the sums with the correction for the zero-point of the codes.
ALWAYS void start(const weight *w, const int8_block *b, const int tile, const int from, const int T, const int P,
	const int bits, int which, __m512i *sum) {
	for (int t = 0; t < T; t++) {
		__m512i s;
		if (bits == 4 && w->zero == 0) {
			s = _mm512_setzero_si512();
		} else if (bits == 8 && which == 0) {
			s = _mm512_set1_epi32(b->shift[from + t]);
		} else if (w->zero == 8 && which == 0) {
			s = _mm512_srai_epi32(_mm512_set1_epi32(b->shift[from + t]), 4); // -8 times the sum
		} else {
			s = _mm512_mullo_epi32(
				_mm512_set1_epi32(b->isums[which * tile + from + t]), _mm512_set1_epi32(bits == 8 ? -128 : -w->zero));
		}
		for (int p = 0; p < P; p++) {
			sum[p * T + t] = s;
		}
	}
}

// sum += the products of 64 bytes of codes of each panel, or of one nibble of each, with four columns of each token.
ALWAYS void multiply(const uint8_t *codes, int64_t panel_bytes, const int nibble, const int8_t *q, const int T,
	const int P, __m512i *sum) {
	const __m512i low = _mm512_set1_epi8(15);
	__m512i c[2];
	for (int p = 0; p < P; p++) {
		c[p] = _mm512_loadu_si512(codes + p * panel_bytes);
		if (nibble >= 0) {
			c[p] = _mm512_and_si512(nibble ? _mm512_srli_epi16(c[p], 4) : c[p], low);
		}
	}
#pragma GCC unroll 12
	for (int t = 0; t < T; t++) {
		__m512i x = quad(q + 32 * t);
		for (int p = 0; p < P; p++) {
			sum[p * T + t] = _mm512_dpbusd_epi32(sum[p * T + t], c[p], x);
		}
	}
}

ALWAYS void join(const int n, __m512i *sum) {
	for (int i = 0; i < n; i++) {
		sum[i] = _mm512_add_epi32(sum[i], sum[n + i]);
		sum[n + i] = _mm512_setzero_si512();
	}
}

// The tokens [from, from+T) of a tile times P panels; out is [P][TILE_MAX][16].
ALWAYS void int8_tile(const weight *w, const uint8_t *panel, const uint8_t *x, const int tile, const int from,
	const int T, const int P, const int bits, const int halves, const int looks, float *out, ahead *next) {
	__m512 acc[TILE_MAX];
	// two sums per token, because one chain of dot products would be bound by latency; integer sums are exact in any
	// order
	const int n = P * T, chains = n <= 3 ? 2 : 1;
	__m512i sum[2 * TILE_MAX];
	for (int i = 0; i < n; i++) {
		acc[i] = _mm512_setzero_ps();
	}
	for (int i = n; i < chains * n; i++) {
		sum[i] = _mm512_setzero_si512();
	}
	int64_t since = 0;
	const uint8_t *codes = panel, *group = panel + w->scale_off;
	int unit_scales = halves == 2 ? 1 : w->group_len / UNIT; // units that share a scale
	for (int64_t u = 0; u < w->units; u++, codes += w->code_stride, x += 64 * tile) {
		int8_block b = block_of(x, tile);
		const int8_t *q = b.q + 32 * from;
		if (P == 1 && T <= 8) { // few tokens: the codes are read from memory
			for (int i = 0; i < w->code_stride; i += 64) {
				_mm_prefetch((const char *)codes + AHEAD + i, _MM_HINT_T0);
			}
		}
		if (looks) {
			ahead_step(next);
		}
		start(w, &b, tile, from, T, P, bits, halves == 2 ? 1 : 0, sum);
#pragma GCC unroll 8
		for (int j = 0; j < 8; j++) {
			if (halves == 2 && j == 4) {
				if (chains == 2) {
					join(n, sum);
				}
				fold(w, group, &b, tile, from, T, P, 1, sum, acc);
				start(w, &b, tile, from, T, P, bits, 2, sum);
			}
			__m512i *to = sum + (chains == 2 && j & 1 ? n : 0);
			if (bits == 8) {
				multiply(codes + 64 * j, w->panel_bytes, -1, q + 4 * j, T, P, to);
			} else if (halves == 2) {
				multiply(codes + 64 * (j & 3), w->panel_bytes, j / 4, q + 4 * j, T, P, to);
			} else { // both nibbles of a byte in turn
				multiply(codes + 64 * (j / 2), w->panel_bytes, j & 1, q + 4 * (j / 2) + 16 * (j & 1), T, P, to);
			}
		}
		if (chains == 2) {
			join(n, sum);
		}
		fold(w, group + (halves - 1) * w->group_bytes, &b, tile, from, T, P, halves == 2 ? 2 : 0, sum, acc);
		if (++since == unit_scales) {
			since = 0;
			group += w->scale_stride;
		}
	}
	for (int p = 0; p < P; p++) {
		for (int t = 0; t < T; t++) {
			_mm512_storeu_ps(out + 16 * (p * TILE_MAX + from + t), acc[p * T + t]);
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

// The layouts of integer codes: CALL(bits, halves).
#define INTEGER(w, CALL) \
	if ((w)->layout == LAYOUT_INT4 && (w)->unit_groups == 1) { \
		CALL(4, 1) \
	} else if ((w)->layout == LAYOUT_INT4) { \
		CALL(4, 2) \
	} else if ((w)->unit_groups == 1) { \
		CALL(8, 1) \
	} else { \
		CALL(8, 2) \
	}

static void int8_product(const linear_work *l, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[TILE_MAX * 16] __attribute__((aligned(64)));
	const weight *w = l->p->w;
	const uint8_t *at = w->data + panel * w->panel_bytes;
#define SINGLE_4_1(T) int8_tile(w, at, tile, T, 0, T, 1, 4, 1, 0, acc, NULL)
#define SINGLE_4_2(T) int8_tile(w, at, tile, T, 0, T, 1, 4, 2, 0, acc, NULL)
#define SINGLE_8_1(T) int8_tile(w, at, tile, T, 0, T, 1, 8, 1, 0, acc, NULL)
#define SINGLE_8_2(T) int8_tile(w, at, tile, T, 0, T, 1, 8, 2, 0, acc, NULL)
#define SINGLE(bits, halves) TILES(SINGLE_##bits##_##halves)
// Decoding steps with tiles of four to eight tokens have spare memory bandwidth to prefetch.
#define LOOKING(bits, halves) \
	switch (l->o->tile) { \
	case 4: int8_tile(w, at, tile, 4, 0, 4, 1, bits, halves, 1, acc, l->ahead); break; \
	case 6: int8_tile(w, at, tile, 6, 0, 6, 1, bits, halves, 1, acc, l->ahead); break; \
	default: int8_tile(w, at, tile, 8, 0, 8, 1, bits, halves, 1, acc, l->ahead); break; \
	}
	if (l->ahead->lines > 0 && l->o->tile >= 4 && l->o->tile <= 8) {
		INTEGER(w, LOOKING)
	} else {
		INTEGER(w, SINGLE)
	}
	store_tile(l->p, panel, first, count, acc);
}

// Two panels, a tile of 12 tokens: six at a time, so that a token's codes are loaded once for both panels.
static void int8_pair(const linear_work *l, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[2 * TILE_MAX * 16] __attribute__((aligned(64)));
	const weight *w = l->p->w;
	const uint8_t *at = w->data + panel * w->panel_bytes;
#define PAIR(bits, halves) \
	int8_tile(w, at, tile, TILE_MAX, 0, 6, 2, bits, halves, 0, acc, NULL); \
	if (count > 6) { \
		int8_tile(w, at, tile, TILE_MAX, 6, 6, 2, bits, halves, 0, acc, NULL); \
	}
	INTEGER(w, PAIR)
	store_tile(l->p, panel, first, count, acc);
	store_tile(l->p, panel + 1, first, count, acc + TILE_MAX * 16);
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

static void bf16_product(const linear_work *l, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[TILE_MAX * 16] __attribute__((aligned(64)));
	const uint8_t *at = l->p->w->data + panel * l->p->w->panel_bytes;
#define BF16(T) bf16_tile(l->p->w, at, tile, T, acc)
	TILES(BF16)
	store_tile(l->p, panel, first, count, acc);
}

static void product_int8(const linear_work *l) {
	linear_work rest = *l;
	for (; l->o->tile == TILE_MAX && rest.begin + 2 <= rest.end; rest.begin += 2) {
		for (int64_t i = l->first; i < l->last; i++) {
			int8_pair(l, rest.begin, l->tiles + i * l->o->tile_bytes, i * TILE_MAX, tokens_of(l->o, i));
		}
	}
	each_product(&rest, int8_product);
}

static void product_bf16(const linear_work *l) { each_product(l, bf16_product); }

void linear_avx512(kernel_table *k) {
	k->prepare[PREP_FLOAT] = prepare_float_avx512;
	k->prepare[PREP_INT8] = prepare_int8_avx512;
	k->prepare[PREP_BF16] = prepare_bf16;
	k->product[PREP_FLOAT] = product_float_avx512;
	k->product[PREP_INT8] = product_int8;
	k->product[PREP_BF16] = product_bf16;
	k->flip = 0x80;
}
