// Products of float32 over many rows, written once over v16: op(A) op(B), Linear over many tokens, and its gradient. A
// chunk takes the rows and columns of one block of the output; for each DEPTH terms of the sums it packs its rows into
// tiles [k][tile] and each pair of panels into [k][16], and adds their products. acc = fma(x, y, acc) for ascending k,
// one chain per output.
#include "expand.h"
#include "columns.h"

// The rows [row, row+count) of x, k in [from, from+n), to [k][T]; missing rows are zero. Writes up to 16 floats past
// the tile.
ALWAYS void pack_tile(const product *p, int64_t row, int count, int64_t from, int n, const int T, float *to) {
	if (p->x_trans) {
		const float *x = p->x + from * p->x_stride + row;
		for (int k = 0; k < n; k++, x += p->x_stride) {
			v_store(to + k * T, v_load_part(x, count));
		}
		return;
	}
	const float *x = p->x + row * p->x_stride + from;
	for (int k = 0; k < n; k += 16) {
		v16 r[16];
		int m = n - k < 16 ? n - k : 16;
		for (int i = 0; i < 16; i++) {
			r[i] = i < count ? take(x + i * p->x_stride + k, m) : v_set1(0);
		}
		v_transpose(r);
		for (int i = 0; i < m; i++) {
			v_store(to + (k + i) * T, r[i]);
		}
	}
}

// 16 columns [column, column+16) of y, k in [from, from+n), to [k][16]; columns past lanes are zero.
ALWAYS void pack_panel(const product *p, int64_t column, int lanes, int64_t from, int n, float *to) {
	if (!p->y_trans) {
		const float *y = p->y + from * p->y_stride + column;
		for (int k = 0; k < n; k++, y += p->y_stride) {
			v_store(to + 16 * k, take(y, lanes));
		}
		return;
	}
	const float *y = p->y + column * p->y_stride + from;
	for (int k = 0; k < n; k += 16) {
		v16 r[16];
		int m = n - k < 16 ? n - k : 16;
		for (int i = 0; i < 16; i++) {
			r[i] = i < lanes ? take(y + i * p->y_stride + k, m) : v_set1(0);
		}
		v_transpose(r);
		for (int i = 0; i < m; i++) {
			v_store(to + 16 * (k + i), r[i]);
		}
	}
}

// The same for both panels of a pair from a weight's rows [from, from+n): 16 rows by 32 columns at a time are
// dequantized, then transposed.
static void FN(pack_rows)(const weight *w, int64_t column, int lanes, int64_t from, int n, float *to, float *values) {
	for (int k = 0; k < n; k += 16) {
		const float *v = columns(w, w->data + (from + k) / PANEL * w->panel_bytes, column, lanes, values);
		int m = n - k < 16 ? n - k : 16;
		for (int h = 0; 16 * h < lanes; h++) {
			v16 r[16];
			for (int i = 0; i < 16; i++) {
				r[i] = 16 * h + i < lanes ? v_load(v + 16 * (16 * h + i)) : v_set1(0);
			}
			v_transpose(r);
			for (int i = 0; i < m; i++) {
				v_store(to + 16 * (h * DEPTH + k + i), r[i]);
			}
		}
	}
}

// Packs both panels of a pair and sets at[0] and at[1] to their addresses; lanes is the number of valid columns, 1 to
// 32.
static void FN(pack_pair)(
	const product *p, int64_t pair, int lanes, int64_t from, int n, float *to, float *values, const float **at) {
	at[0] = to;
	at[1] = to + 16 * DEPTH;
	if (p->w && !p->y_trans) {
		FN(pack_rows)(p->w, pair * PAIR, lanes, from, n, to, values);
		return;
	}
	for (int h = 0; PANEL * h < lanes; h++) {
		if (p->w) {
			at[h] = columns(p->w, p->w->data + (2 * pair + h) * p->w->panel_bytes, from, n, to + 16 * DEPTH * h);
		} else {
			pack_panel(p, pair * PAIR + PANEL * h, lanes - PANEL * h < PANEL ? lanes - PANEL * h : PANEL, from, n,
				to + 16 * DEPTH * h);
		}
	}
}

#ifdef HALVES
// [n][width] floats to [ceil(n/2)][width] pairs of bf16; to may be from.
ALWAYS void halve(const float *from, int n, const int width, float *to) {
	for (int k = 0; k < n; k += 2) {
		i16v pairs = h_pairs(
			v_load_part(from + k * width, width), k + 1 < n ? v_load_part(from + (k + 1) * width, width) : v_set1(0));
		v_store_part(to + k / 2 * width, i_as_float(pairs), width);
	}
}
#define MULTIPLY(x, y, acc) (halves ? h_dot(acc, y, x) : v_fma(x, y, acc))
#else
ALWAYS void halve(const float *from, int n, const int width, float *to) {}
#define MULTIPLY(x, y, acc) v_fma(x, y, acc)
#endif

// acc[h][t] += sum over k < n of x[k][t] y[h][k], float32 values or pairs of bf16, for T of the tile's rows and P
// panels.
ALWAYS void pair_tile(const float *x, const float *const *y, int n, const int tile, const int T, const int P,
	const int halves, float *const *acc) {
	v16 a[PRODUCT_PANELS * FLOAT_TOKENS];
	const float *y0 = y[0], *y1 = y[P - 1];
#pragma GCC unroll 12
	for (int t = 0; t < T; t++) {
		for (int h = 0; h < P; h++) {
			a[h * T + t] = v_load(acc[h] + 16 * t);
		}
	}
#pragma GCC unroll 1
	for (int k = 0; k < n; k++) {
		v16 v0 = v_load(y0 + 16 * k), v1 = P > 1 ? v_load(y1 + 16 * k) : v0;
#pragma GCC unroll 12
		for (int t = 0; t < T; t++) {
			v16 s = v_set1(x[k * tile + t]);
			a[t] = MULTIPLY(s, v0, a[t]);
			if (P > 1) {
				a[T + t] = MULTIPLY(s, v1, a[T + t]);
			}
		}
	}
#pragma GCC unroll 12
	for (int t = 0; t < T; t++) {
		for (int h = 0; h < P; h++) {
			v_store(acc[h] + 16 * t, a[h * T + t]);
		}
	}
}

// One tile times P panels, at most FLOAT_TOKENS of its rows at once.
ALWAYS void tile_rows(
	const float *x, const float *const *y, int n, const int tile, const int P, const int halves, float *const *acc) {
	const int most = tile < FLOAT_TOKENS ? tile : tile % FLOAT_TOKENS ? 4 : FLOAT_TOKENS;
	for (int t = 0; t < tile; t += most) {
		float *to[2] = {acc[0] + 16 * t, acc[P - 1] + 16 * t};
		pair_tile(x + t, y, n, tile, most, P, halves, to);
	}
}

// out of the sums of one tile and one panel, [T][16].
ALWAYS void finish_tile(const product_op *o, int64_t row, int count, int64_t column, int lanes, const float *acc) {
	v16 alpha = v_set1(o->alpha);
	if (o->swapped) {
		v16 r[16];
		for (int t = 0; t < 16; t++) {
			r[t] = t < count ? v_load(acc + 16 * t) : v_set1(0);
		}
		v_transpose(r);
		for (int l = 0; l < lanes; l++) {
			float *out = o->out + (column + l) * o->out_stride + row;
			v_store_part(out, o->accumulate ? v_fma(alpha, r[l], v_load_part(out, count)) : v_mul(alpha, r[l]), count);
		}
		return;
	}
	v16 bias = o->bias ? take(o->bias + column, lanes) : v_set1(0);
	for (int t = 0; t < count; t++) {
		float *out = o->out + (row + t) * o->out_stride + column;
		v16 v = v_load(acc + 16 * t);
		if (o->accumulate) {
			v = v_fma(alpha, v, take(out, lanes));
		} else if (o->bias) {
			v = v_add(v, bias);
		} else {
			v = v_mul(alpha, v);
		}
		put(out, v, lanes);
	}
}

ALWAYS int columns_left(const product_op *o, int64_t pair) {
	int64_t left = o->cols - pair * PAIR;
	return (int)(left < PAIR ? left : PAIR);
}

// scratch: tiles of DEPTH and 16 floats, a pair of panels, 16 by 32 values, then the sums [pairs][2][tiles][T][16].
ALWAYS void block_product(const product_op *o, int64_t tile, int64_t tiles, int64_t pair, int64_t pairs, float *scratch,
	const int T, const int halves) {
	float *xs = scratch, *ys = xs + tiles * T * DEPTH + 16, *values = ys + PAIR * DEPTH, *acc = values + PAIR * PANEL;
	int64_t panel_sums = tiles * T * 16;
	memset(acc, 0, (size_t)(2 * pairs * panel_sums) * sizeof(float));
	for (int i = 0; i < o->products; i++) {
		const product *p = &o->product[i];
		for (int64_t from = 0; from < p->depth; from += DEPTH) {
			int n = (int)(p->depth - from < DEPTH ? p->depth - from : DEPTH);
			for (int64_t t = 0; t < tiles; t++) {
				int64_t row = (tile + t) * T, left = o->rows - row;
				pack_tile(p, row, (int)(left < T ? left : T), from, n, T, xs + t * T * DEPTH);
				if (halves) {
					halve(xs + t * T * DEPTH, n, T, xs + t * T * DEPTH);
				}
			}
			for (int64_t q = 0; q < pairs; q++) {
				const float *y[2];
				int lanes = columns_left(o, pair + q);
				FN(pack_pair)(p, pair + q, lanes, from, n, ys, values, y);
				for (int h = 0; halves && PANEL * h < lanes; h++) {
					halve(y[h], n, PANEL, ys + PANEL * DEPTH * h);
					y[h] = ys + PANEL * DEPTH * h;
				}
				const int steps = halves ? (n + 1) / 2 : n;
				for (int64_t t = 0; t < tiles; t++) {
					float *to[2] = {acc + 2 * q * panel_sums + t * T * 16, acc + (2 * q + 1) * panel_sums + t * T * 16};
					const float *x = xs + t * T * DEPTH;
					if (PRODUCT_PANELS == 2 && lanes > PANEL) {
						tile_rows(x, y, steps, T, PRODUCT_PANELS, halves, to);
						continue;
					}
					tile_rows(x, y, steps, T, 1, halves, to);
					if (lanes > PANEL) {
						tile_rows(x, y + 1, steps, T, 1, halves, to + 1);
					}
				}
			}
		}
	}
	for (int64_t q = 0; q < pairs; q++) {
		int lanes = columns_left(o, pair + q);
		for (int h = 0; PANEL * h < lanes; h++) {
			for (int64_t t = 0; t < tiles; t++) {
				int64_t row = (tile + t) * T, left = o->rows - row;
				finish_tile(o, row, (int)(left < T ? left : T), (pair + q) * PAIR + PANEL * h,
					lanes - PANEL * h < PANEL ? lanes - PANEL * h : PANEL, acc + (2 * q + h) * panel_sums + t * T * 16);
			}
		}
	}
}

ALWAYS void any_product(
	const product_op *o, int64_t tile, int64_t tiles, int64_t pair, int64_t pairs, float *scratch, const int halves) {
	switch (o->tile) {
	case 4: block_product(o, tile, tiles, pair, pairs, scratch, 4, halves); break;
	case 8: block_product(o, tile, tiles, pair, pairs, scratch, 8, halves); break;
	default: block_product(o, tile, tiles, pair, pairs, scratch, 12, halves); break;
	}
}

static void FN(products)(
	const product_op *o, int64_t tile, int64_t tiles, int64_t pair, int64_t pairs, float *scratch) {
#ifdef HALVES
	if (o->halves) {
		any_product(o, tile, tiles, pair, pairs, scratch, 1);
		return;
	}
#endif
	any_product(o, tile, tiles, pair, pairs, scratch, 0);
}

void FN(product_table)(kernel_table *k) {
	k->products = FN(products);
#ifdef HALVES
	k->halves = 1;
#endif
}
