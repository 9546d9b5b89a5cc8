// Attention within samples and its gradient, written once over v16 (FlashAttention 2, arXiv:2307.08691). An item owns a
// block of rows: queries, or keys where it computes their gradients. It visits the rows of the other side in blocks at
// fixed positions of their sample: scores are products of its rows with a transposed block, the weighted rows are added
// up in ascending order of the other side's rows. Masked pairs have weight zero.
#include "math_body.h"
#include "columns.h"

enum { ROWS_AT_ONCE = 4 };

// to[row][0..16*cols) += sum over k < n of x[row][k] y[k][0..16*cols), ascending, for ROWS_AT_ONCE rows; fresh: to is
// overwritten.
ALWAYS void block_step(const float *x, int64_t xs, const float *y, int64_t ys, int64_t n, float *to, int64_t ts,
	const int cols, const int fresh) {
	v16 a[ROWS_AT_ONCE * BLOCK_COLS];
	for (int r = 0; r < ROWS_AT_ONCE; r++) {
		for (int c = 0; c < cols; c++) {
			a[r * cols + c] = fresh ? v_set1(0) : v_load(to + r * ts + 16 * c);
		}
	}
#pragma GCC unroll 1
	for (int64_t k = 0; k < n; k++) {
		v16 v[BLOCK_COLS];
		for (int c = 0; c < cols; c++) {
			v[c] = v_load(y + k * ys + 16 * c);
		}
		for (int r = 0; r < ROWS_AT_ONCE; r++) {
			v16 s = v_set1(x[r * xs + k]);
			for (int c = 0; c < cols; c++) {
				a[r * cols + c] = v_fma(s, v[c], a[r * cols + c]);
			}
		}
	}
	for (int r = 0; r < ROWS_AT_ONCE; r++) {
		for (int c = 0; c < cols; c++) {
			v_store(to + r * ts + 16 * c, a[r * cols + c]);
		}
	}
}

// The same for the columns [c, end), multiples of 16.
ALWAYS void block_columns(const float *x, int64_t xs, const float *y, int64_t ys, int64_t n, float *to, int64_t ts,
	int64_t c, int64_t end, const int fresh) {
	for (; c + 16 * BLOCK_COLS <= end; c += 16 * BLOCK_COLS) {
		block_step(x, xs, y + c, ys, n, to + c, ts, BLOCK_COLS, fresh);
	}
	for (; c < end; c += 16) {
		block_step(x, xs, y + c, ys, n, to + c, ts, 1, fresh);
	}
}

static void FN(block_scores)(
	const float *x, int64_t xs, const float *y, int64_t depth, float *scores, int64_t c, int64_t end) {
	block_columns(x, xs, y, QUERY_BLOCK, depth, scores, QUERY_BLOCK, c, end, 1);
}

static void FN(block_add)(const float *weights, const float *y, int64_t ys, int64_t n, int64_t width, float *to) {
	block_columns(weights, QUERY_BLOCK, y, ys, n, to, width, 0, width, 0);
}

// rows of width values to [QUERY_BLOCK][padded], the rest zero.
static void FN(copy_rows)(const float *from, int64_t stride, int64_t rows, int64_t width, float *to, int64_t padded) {
	for (int64_t r = 0; r < QUERY_BLOCK; r++) {
		COLUMNS(0, width) {
			v_store(to + r * padded + c, r < rows ? take(from + r * stride + c, n) : v_set1(0));
		}
	}
}

// rows of width values to [padded][QUERY_BLOCK], what is missing zero; columns of which all 16 rows are missing stay as
// they are.
static void FN(turn)(const float *from, int64_t stride, int64_t rows, int64_t width, float *to) {
	for (int64_t r = 0; r < rows; r += 16) {
		COLUMNS(0, width) {
			v16 v[16];
			for (int i = 0; i < 16; i++) {
				v[i] = r + i < rows ? take(from + (r + i) * stride + c, n) : v_set1(0);
			}
			v_transpose(v);
			for (int i = 0; i < 16; i++) {
				v_store(to + (c + i) * QUERY_BLOCK + r, v[i]);
			}
		}
	}
}

// Rows of the other side: in place if their width is whole vectors, else a copy in the buffer copy.
typedef struct {
	const float *at;
	int64_t stride;
} FN(far_rows);

static FN(far_rows) FN(far)(
	const float *from, int64_t stride, int64_t rows, int64_t width, float *copy, int64_t padded) {
	if (width == padded) {
		return (FN(far_rows)){from, stride};
	}
	FN(copy_rows)(from, stride, rows, width, copy, padded);
	return (FN(far_rows)){copy, padded};
}

// The score after scale and softcap, and its slope.
ALWAYS v16 score_of(const samples_op *o, v16 s, v16 *slope) {
	s = v_mul(s, v_set1(o->scale));
	*slope = v_set1(o->scale);
	if (o->softcap > 0) {
		v16 cap = v_set1(o->softcap), h = v_tanh(v_div(s, cap));
		s = v_mul(cap, h);
		*slope = v_mul(*slope, v_fnma(h, h, v_set1(1)));
	}
	return s;
}

// Of the n rows of the other side from other on (on the item's own scale), those that see row own, or that it sees, are
// [*lo, *hi).
ALWAYS void visible(const samples_op *o, int keys, int64_t own, int64_t other, int64_t n, int64_t *lo, int64_t *hi) {
	int64_t first = keys ? own : o->window > 0 ? own - o->window + 1 : 0;
	int64_t end = !keys ? own + 1 : o->window > 0 ? own + o->window : INT64_MAX;
	*lo = first <= other ? 0 : first - other < n ? first - other : n;
	*hi = end <= other ? 0 : end - other < n ? end - other : n;
}

ALWAYS v16 keep_visible(v16 v, int64_t at, int64_t lo, int64_t hi, float fill) {
	if (lo <= at && hi >= at + 16) {
		return v;
	}
	int from = (int)(lo <= at ? 0 : lo - at < 16 ? lo - at : 16);
	int to = (int)(hi <= at ? 0 : hi - at < 16 ? hi - at : 16);
	return v_keep(v, from, to, fill);
}

// The range [lo, hi) of a block that ROWS_AT_ONCE rows of an item from its row r on see, or are seen by, and the whole
// vectors around it.
typedef struct {
	int64_t lo, hi, first, end;
} FN(seen);

ALWAYS FN(seen) seen_of(const samples_op *o, const sample_item *it, int64_t r, int64_t other, int64_t n) {
	int64_t last = r + ROWS_AT_ONCE - 1 < it->rows ? r + ROWS_AT_ONCE - 1 : it->rows - 1, unused;
	FN(seen) s;
	visible(o, it->keys, it->row + r, other, n, &s.lo, &unused);
	visible(o, it->keys, it->row + last, other, n, &unused, &s.hi);
	s.first = s.lo / 16 * 16;
	s.end = (s.hi + 15) / 16 * 16;
	return s;
}

// Replaces the scores of rows [r, end) of an item by weights exp(score - largest so far); rescales the row's sum and
// values to the new largest.
static void FN(soften_rows)(const samples_op *o, const sample_item *it, int64_t other, int64_t n, const FN(seen) *seen,
	int64_t r, int64_t end, float *scores, float *largest, float *sums, float *acc, int64_t padded) {
	for (; r < end; r++) {
		float *s = scores + r * QUERY_BLOCK, lane[16];
		int64_t lo, hi;
		visible(o, 0, it->row + r, other, n, &lo, &hi);
		v16 m = v_set1(-INFINITY), slope, sum = v_set1(0);
		for (int64_t c = seen->first; c < seen->end; c += 16) {
			v16 v = keep_visible(score_of(o, v_load(s + c), &slope), c, lo, hi, -INFINITY);
			v_store(s + c, v);
			m = v_max(m, v);
		}
		float top = v_hmax(m) > largest[r] ? v_hmax(m) : largest[r];
		if (top == -INFINITY) { // no visible key so far
			memset(s + seen->first, 0, (size_t)(seen->end - seen->first) * sizeof(float));
			continue;
		}
		for (int64_t c = seen->first; c < seen->end; c += 16) {
			v16 p = keep_visible(v_exp(v_sub(v_load(s + c), v_set1(top))), c, lo, hi, 0);
			v_store(s + c, p);
			sum = v_add(sum, p);
		}
		if (top > largest[r]) {
			v_store(lane, v_exp(v_set1(largest[r] - top)));
			v16 shrink = v_set1(lane[0]);
			for (int64_t c = 0; c < padded; c += 16) {
				v_store(acc + r * padded + c, v_mul(v_load(acc + r * padded + c), shrink));
			}
			sums[r] *= lane[0];
			largest[r] = top;
		}
		sums[r] += v_hsum(sum);
	}
}

// The part of a range to visit: it starts at a whole block.
ALWAYS int64_t first_block(const samples_op *o, const sample_item *it, const sample_range *other) {
	int64_t begin = other->begin, own = it->row - (int64_t)other->shift;
	int64_t first = it->keys ? own : o->window > 0 ? own - o->window + 1 : begin;
	return first <= begin ? begin : begin + (first - begin) / QUERY_BLOCK * QUERY_BLOCK;
}

ALWAYS int64_t end_of(const samples_op *o, const sample_item *it, const sample_range *other) {
	int64_t last = it->row + it->rows - (int64_t)other->shift;
	int64_t end = !it->keys ? last : o->window > 0 ? last - 1 + o->window : INT64_MAX;
	return end < other->end ? end : other->end;
}

ALWAYS int64_t block_rows(int64_t from, int64_t end) { return end - from < QUERY_BLOCK ? end - from : QUERY_BLOCK; }

// scratch: queries, values, transposed keys and the output, each QUERY_BLOCK*padded; scores; two rows of QUERY_BLOCK.
static void FN(samples)(const samples_op *o, const sample_item *it, float *scratch) {
	int64_t d = o->head_dim, padded = (d + 15) / 16 * 16, size = padded * QUERY_BLOCK, kv = it->head / o->group * d;
	float *q = scratch, *v = q + size, *turned = v + size, *acc = turned + size, *scores = acc + size,
		  *largest = scores + QUERY_BLOCK * QUERY_BLOCK, *sums = largest + QUERY_BLOCK;
	FN(copy_rows)(o->q + it->row * o->q_stride + it->head * d, o->q_stride, it->rows, d, q, padded);
	memset(acc, 0, (size_t)size * sizeof(float));
	for (int i = 0; i < QUERY_BLOCK; i++) {
		largest[i] = -INFINITY;
		sums[i] = 0;
	}
	for (const sample_range *other = it->other; other < it->other + it->others; other++) {
		int64_t end = end_of(o, it, other);
		for (int64_t at = first_block(o, it, other); at < end; at += QUERY_BLOCK) {
			int64_t n = block_rows(at, end);
			FN(turn)(o->k + at * o->k_stride + kv, o->k_stride, n, d, turned);
			FN(far_rows) values = FN(far)(o->v + at * o->v_stride + kv, o->v_stride, n, d, v, padded);
			for (int64_t r = 0; r < it->rows; r += ROWS_AT_ONCE) {
				FN(seen) see = seen_of(o, it, r, at + other->shift, n);
				if (see.lo >= see.hi) {
					continue;
				}
				float *s = scores + r * QUERY_BLOCK;
				FN(block_scores)(q + r * padded, padded, turned, d, s, see.first, see.end);
				FN(soften_rows)(o, it, at + other->shift, n, &see, r,
					r + ROWS_AT_ONCE < it->rows ? r + ROWS_AT_ONCE : it->rows, scores, largest, sums, acc, padded);
				FN(block_add)(s + see.lo, values.at + see.lo * values.stride, values.stride, see.hi - see.lo, padded,
					acc + r * padded);
			}
		}
	}
	for (int64_t r = 0; r < it->rows; r++) {
		v16 sum = v_set1(sums[r]);
		float *out = o->out + (it->row + r) * o->out_stride + it->head * d;
		COLUMNS(0, d) {
			put(out + c, v_div(v_load(acc + r * padded + c), sum), n);
		}
		o->lse[(it->row + r) * o->lse_stride + it->head] = largest[r] + logf(sums[r]);
	}
}

static void FN(samples_delta)(const samples_op *o, int64_t begin, int64_t end) {
	for (int64_t t = begin; t < end; t++) {
		for (int64_t h = 0; h < o->heads; h++) {
			const float *x = o->out + t * o->out_stride + h * o->head_dim,
						*g = o->dout + t * o->dout_stride + h * o->head_dim;
			v16 sum = v_set1(0);
			COLUMNS(0, o->head_dim) {
				sum = v_fma(take(x + c, n), take(g + c, n), sum);
			}
			(*o->delta)[t * o->heads + h] = v_hsum(sum);
		}
	}
}

// Replaces scores and dout*v of rows [r, end) by weights p and ds = p (dout*v - delta) slope. lse and delta belong to
// the queries: to the rows, or where keys own the block to its columns.
static void FN(weigh_rows)(const samples_op *o, const sample_item *it, int64_t other, int64_t n, const FN(seen) *seen,
	int64_t r, int64_t end, float *scores, float *dp, const float *lse, const float *delta) {
	for (; r < end; r++) {
		float *s = scores + r * QUERY_BLOCK, *g = dp + r * QUERY_BLOCK;
		int64_t lo, hi;
		visible(o, it->keys, it->row + r, other, n, &lo, &hi);
		for (int64_t c = seen->first; c < seen->end; c += 16) {
			v16 slope, v = score_of(o, v_load(s + c), &slope), l = it->keys ? v_load(lse + c) : v_set1(lse[r]),
					   e = it->keys ? v_load(delta + c) : v_set1(delta[r]);
			v16 p = keep_visible(v_exp(v_sub(v, l)), c, lo, hi, 0);
			v_store(s + c, p);
			v_store(g + c, keep_visible(v_mul(v_mul(p, v_sub(v_load(g + c), e)), slope), c, lo, hi, 0));
		}
	}
}

ALWAYS void load_stats(const samples_op *o, int64_t row, int64_t rows, int64_t head, float *lse, float *delta) {
	for (int64_t i = 0; i < QUERY_BLOCK; i++) {
		lse[i] = i < rows ? o->lse[(row + i) * o->lse_stride + head] : 0;
		delta[i] = i < rows ? (*o->delta)[(row + i) * o->heads + head] : 0;
	}
}

ALWAYS void put_rows(float *to, int64_t stride, int64_t rows, int64_t width, const float *from, int64_t padded) {
	for (int64_t r = 0; r < rows; r++) {
		COLUMNS(0, width) {
			put(to + r * stride + c, v_load(from + r * padded + c), n);
		}
	}
}

// One item of the gradient. Queries: dq += ds k over the keys. Keys: dk += ds q and dv += p dout over the queries of
// all query heads of the head, one after the other. scratch: eight times QUERY_BLOCK*padded: the item's rows of both
// operands, copies of the other side's if needed, these transposed, two sums; scores and dp; two rows of QUERY_BLOCK.
static void FN(samples_grad)(const samples_op *o, const sample_item *it, float *scratch) {
	int64_t d = o->head_dim, padded = (d + 15) / 16 * 16, size = padded * QUERY_BLOCK,
			block = QUERY_BLOCK * QUERY_BLOCK;
	float *own = scratch, *own2 = own + size, *far = own2 + size, *far2 = far + size, *turned = far2 + size,
		  *turned2 = turned + size, *acc = turned2 + size, *acc2 = acc + size, *scores = acc2 + size,
		  *dp = scores + block, *lse = dp + block, *delta = lse + QUERY_BLOCK;
	int64_t first = it->keys ? it->head * (int64_t)o->group : it->head, heads = it->keys ? o->group : 1,
			kv = (it->keys ? it->head : it->head / o->group) * d;
	if (it->keys) {
		FN(copy_rows)(o->k + it->row * o->k_stride + kv, o->k_stride, it->rows, d, own, padded);
		FN(copy_rows)(o->v + it->row * o->v_stride + kv, o->v_stride, it->rows, d, own2, padded);
	} else {
		FN(copy_rows)(o->q + it->row * o->q_stride + first * d, o->q_stride, it->rows, d, own, padded);
		FN(copy_rows)(o->dout + it->row * o->dout_stride + first * d, o->dout_stride, it->rows, d, own2, padded);
		load_stats(o, it->row, it->rows, first, lse, delta);
	}
	memset(acc, 0, (size_t)(2 * size) * sizeof(float));
	for (int64_t h = first; h < first + heads; h++) {
		for (const sample_range *other = it->other; other < it->other + it->others; other++) {
			int64_t end = end_of(o, it, other);
			for (int64_t at = first_block(o, it, other); at < end; at += QUERY_BLOCK) {
				int64_t n = block_rows(at, end);
				FN(far_rows) x, y; // queries and dout, or keys and values
				if (it->keys) {
					x = FN(far)(o->q + at * o->q_stride + h * d, o->q_stride, n, d, far, padded);
					y = FN(far)(o->dout + at * o->dout_stride + h * d, o->dout_stride, n, d, far2, padded);
					load_stats(o, at, n, h, lse, delta);
				} else {
					x = FN(far)(o->k + at * o->k_stride + kv, o->k_stride, n, d, far, padded);
					y = FN(far)(o->v + at * o->v_stride + kv, o->v_stride, n, d, far2, padded);
				}
				FN(turn)(x.at, x.stride, n, d, turned);
				FN(turn)(y.at, y.stride, n, d, turned2);
				for (int64_t r = 0; r < it->rows; r += ROWS_AT_ONCE) {
					FN(seen) see = seen_of(o, it, r, at + other->shift, n);
					if (see.lo >= see.hi) {
						continue;
					}
					float *s = scores + r * QUERY_BLOCK, *g = dp + r * QUERY_BLOCK;
					FN(block_scores)(own + r * padded, padded, turned, d, s, see.first, see.end);
					FN(block_scores)(own2 + r * padded, padded, turned2, d, g, see.first, see.end);
					FN(weigh_rows)(o, it, at + other->shift, n, &see, r,
						r + ROWS_AT_ONCE < it->rows ? r + ROWS_AT_ONCE : it->rows, scores, dp, lse, delta);
					FN(block_add)(
						g + see.lo, x.at + see.lo * x.stride, x.stride, see.hi - see.lo, padded, acc + r * padded);
					if (it->keys) {
						FN(block_add)(
							s + see.lo, y.at + see.lo * y.stride, y.stride, see.hi - see.lo, padded, acc2 + r * padded);
					}
				}
			}
		}
	}
	if (it->keys) {
		put_rows(o->dk + it->row * o->dk_stride + kv, o->dk_stride, it->rows, d, acc, padded);
		put_rows(o->dv + it->row * o->dv_stride + kv, o->dv_stride, it->rows, d, acc2, padded);
	} else {
		put_rows(o->dq + it->row * o->dq_stride + first * d, o->dq_stride, it->rows, d, acc, padded);
	}
}

void FN(samples_table)(kernel_table *k) {
	k->samples = FN(samples);
	k->samples_delta = FN(samples_delta);
	k->samples_grad = FN(samples_grad);
}
