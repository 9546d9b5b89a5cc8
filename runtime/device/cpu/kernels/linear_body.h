// Linear with float32 products, written once over v16. acc = fma(x[k], w[k], acc) for ascending k, one chain per
// output.
#include "expand.h"

// acc[t] += sum over k < n of x[k][t] * w[k], for T of the tile's tokens.
ALWAYS void float_block(const float *w, const float *x, int n, const int tile, const int T, float *acc) {
	v16 a[FLOAT_TOKENS];
	for (int t = 0; t < T; t++) {
		a[t] = v_load(acc + 16 * t);
	}
	for (int k = 0; k < n; k++) {
		v16 v = v_load(w + 16 * k);
		for (int t = 0; t < T; t++) {
			a[t] = v_fma(v_set1(x[k * tile + t]), v, a[t]);
		}
	}
	for (int t = 0; t < T; t++) {
		v_store(acc + 16 * t, a[t]);
	}
}

ALWAYS void store_tile(const linear_part *p, int64_t panel, int64_t first, int count, const float *acc) {
	int64_t n = p->w->rows - panel * PANEL;
	int lanes = n < PANEL ? (int)n : PANEL;
	v16 bias = p->bias ? v_load_part(p->bias + panel * PANEL, lanes) : v_set1(0);
	for (int t = 0; t < count; t++) {
		float *out = p->out + (first + t) * p->out_stride + panel * PANEL;
		v16 v = v_load(acc + 16 * t);
		v = p->bias ? v_add(v, bias) : v;
		if (lanes == PANEL) {
			v_store(out, v);
		} else {
			v_store_part(out, v, lanes);
		}
	}
}

enum { COLUMNS = 128, TILES_AT_ONCE = 16, FEW_TOKENS = 4, FEW_AHEAD = 2048 };

// One panel times the tiles [first, last), TILES_AT_ONCE at most: COLUMNS columns at a time are dequantized, then
// multiplied with all tiles.
ALWAYS void float_panel(const linear_work *l, int64_t panel, int64_t first, int64_t last, const int tile) {
	float values[COLUMNS * 16] __attribute__((aligned(64))),
		acc[TILES_AT_ONCE * TILE_MAX * 16] __attribute__((aligned(64)));
	const weight *w = l->p->w;
	memset(acc, 0, (size_t)((last - first) * tile * 16) * sizeof(float));
	for (int64_t from = 0; from < w->cols; from += COLUMNS) {
		int n = (int)(w->cols - from < COLUMNS ? w->cols - from : COLUMNS);
		const float *v = columns(w, w->data + panel * w->panel_bytes, from, n, values);
		for (int64_t i = first; i < last; i++) {
			const float *x = (const float *)(l->tiles + i * l->o->tile_bytes) + from * tile;
			float *to = acc + (i - first) * tile * 16;
			int t = 0;
			for (; t + FLOAT_TOKENS <= tile; t += FLOAT_TOKENS) {
				float_block(v, x + t, n, tile, FLOAT_TOKENS, to + 16 * t);
			}
			if (tile % FLOAT_TOKENS) {
				float_block(v, x + t, n, tile, tile % FLOAT_TOKENS, to + 16 * t);
			}
		}
	}
	for (int64_t i = first; i < last; i++) {
		store_tile(l->p, panel, i * tile, tokens_of(l->o, i), acc + (i - first) * tile * 16);
	}
}

// Column k of a panel of plain values; odd is k % 2.
ALWAYS v16 column(const uint8_t *panel, int64_t k, const int odd, const int layout) {
	if (layout == LAYOUT_BF16) {
		i16v pair = i_load(panel + 32 * (k - odd));
		return i_as_float(odd ? i_and(pair, -0x10000) : i_shl(pair, 16));
	}
	return layout == LAYOUT_F16 ? v_load_f16((const uint16_t *)panel + 16 * k) : v_load((const float *)panel + 16 * k);
}

// One panel of plain values times one tile of few tokens, from the panel to the sums without intermediate memory.
ALWAYS void few_tokens(const linear_work *l, int64_t panel, const int T, const int layout) {
	const weight *w = l->p->w;
	const uint8_t *at = w->data + panel * w->panel_bytes;
	const float *x = (const float *)(l->tiles + l->first * l->o->tile_bytes);
	float acc[FLOAT_TOKENS * 16] __attribute__((aligned(64)));
	v16 a[FLOAT_TOKENS];
	for (int t = 0; t < T; t++) {
		a[t] = v_set1(0);
	}
	int64_t k = 0;
	for (; k + 2 <= w->cols; k += 2) {
		__builtin_prefetch(at + (layout == LAYOUT_F32 ? 64 : 32) * k + FEW_AHEAD);
		for (int odd = 0; odd < 2; odd++) {
			v16 v = column(at, k + odd, odd, layout);
			for (int t = 0; t < T; t++) {
				a[t] = v_fma(v_set1(x[(k + odd) * T + t]), v, a[t]);
			}
		}
	}
	if (k < w->cols) {
		v16 v = column(at, k, 0, layout);
		for (int t = 0; t < T; t++) {
			a[t] = v_fma(v_set1(x[k * T + t]), v, a[t]);
		}
	}
	for (int t = 0; t < T; t++) {
		v_store(acc + 16 * t, a[t]);
	}
	store_tile(l->p, panel, l->first * T, tokens_of(l->o, l->first), acc);
}

ALWAYS void float_panels(const linear_work *l, const int tile) {
	int layout = l->p->w->layout;
	int few = tile <= FEW_TOKENS && l->last - l->first == 1;
	for (int64_t panel = l->begin; panel < l->end; panel++) {
		if (few && layout == LAYOUT_BF16) {
			few_tokens(l, panel, tile, LAYOUT_BF16);
		} else if (few && layout == LAYOUT_F16) {
			few_tokens(l, panel, tile, LAYOUT_F16);
		} else if (few && layout == LAYOUT_F32) {
			few_tokens(l, panel, tile, LAYOUT_F32);
		} else {
			for (int64_t i = l->first; i < l->last; i += TILES_AT_ONCE) {
				float_panel(l, panel, i, i + TILES_AT_ONCE < l->last ? i + TILES_AT_ONCE : l->last, tile);
			}
		}
	}
}

static void FN(product_float)(const linear_work *l) {
	switch (l->o->tile) {
	case 1: float_panels(l, 1); break;
	case 2: float_panels(l, 2); break;
	case 3: float_panels(l, 3); break;
	case 4: float_panels(l, 4); break;
	case 6: float_panels(l, 6); break;
	case 8: float_panels(l, 8); break;
	default: float_panels(l, 12); break;
	}
}

// Calls f for every panel and tile of the work.
ALWAYS void each_product(const linear_work *l,
	void (*f)(const linear_work *l, int64_t panel, const uint8_t *tile, int64_t first, int count)) {
	for (int64_t panel = l->begin; panel < l->end; panel++) {
		for (int64_t i = l->first; i < l->last; i++) {
			f(l, panel, l->tiles + i * l->o->tile_bytes, i * l->o->tile, tokens_of(l->o, i));
		}
	}
}

// x [tokens, cols] to [cols][tile], missing tokens zero.
static void FN(prepare_float)(const linear_op *o, int64_t first, int count, uint8_t *dst) {
	float *to = (float *)dst;
	const float *x = o->x + first * o->x_stride;
	int tile = o->tile;
	if (tile == 1) {
		memcpy(to, x, (size_t)o->cols * sizeof(float));
		return;
	}
	for (int64_t k = 0; k < o->cols; k += 16) {
		int n = (int)(o->cols - k < 16 ? o->cols - k : 16);
		for (int t = 0; t < tile; t++) {
			for (int i = 0; i < n; i++) {
				to[(k + i) * tile + t] = t < count ? x[t * o->x_stride + k + i] : 0;
			}
		}
	}
}

// Eight blocks of four columns quantized by the rule of quant.QuantizeActs.
static void FN(prepare_int8)(const linear_op *o, int64_t first, int count, uint8_t *dst) {
	int tile = o->tile;
	int64_t units = (o->cols + UNIT - 1) / UNIT;
	for (int64_t u = 0; u < units; u++) {
		uint8_t *base = dst + u * 64 * tile;
		int n = (int)(o->cols - u * UNIT < UNIT ? o->cols - u * UNIT : UNIT);
		int8_t *codes = (int8_t *)base;
		float *scale = (float *)(base + 32 * tile), *sums = scale + tile;
		int32_t *isums = (int32_t *)(sums + 3 * tile), *shift = isums + 3 * tile;
		for (int t = 0; t < tile; t++) {
			int8_t *q = codes + 32 * t;
			int32_t half[2] = {0, 0};
			float s = 0;
			if (t < count) {
				const float *x = o->x + (first + t) * o->x_stride + u * UNIT;
				v16 a = v_load_part(x, n < 16 ? n : 16), b = v_load_part(x + 16, n > 16 ? n - 16 : 0);
				v16 bits = v_max(v_abs(a), v_abs(b));
				// v_max(a, b) propagates a NaN in b only: NaN and infinity are detected by x - x
				v16 odd = v_add(v_sub(a, a), v_sub(b, b));
				float absmax = v_hmax(bits), strange = v_hsum(odd);
				if (strange != strange) {
					s = NAN;
				} else if (absmax >= 0x1p-121f) {
					v16 inverse = v_set1(127 / absmax), top = v_set1(127), bottom = v_set1(-127);
					s = absmax / 127;
					a = v_max(v_min(v_round(v_mul(a, inverse)), top), bottom);
					b = v_max(v_min(v_round(v_mul(b, inverse)), top), bottom);
					i_store_bytes(q, v_to_int(a));
					i_store_bytes(q + 16, v_to_int(b));
					half[0] = (int32_t)v_hsum(a); // exact: small integers
					half[1] = (int32_t)v_hsum(b);
				}
				if (s == 0 || s != s) {
					memset(q, 0, 32);
				}
			} else {
				memset(q, 0, 32);
			}
			scale[t] = s;
			isums[t] = half[0] + half[1];
			shift[t] = -128 * isums[t];
			isums[tile + t] = half[0];
			isums[2 * tile + t] = half[1];
			for (int i = 0; i < 3; i++) {
				sums[i * tile + t] = s * (float)isums[i * tile + t];
			}
		}
	}
}
