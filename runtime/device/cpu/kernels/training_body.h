// Gradients over rows, the rotation without a cache and cross-entropy, written once over v16. Sums over a row are
// computed as in rows_body.h; sums over rows in the order of the rows.
#include "math_body.h"
#include "columns.h"

// r = (mean(x^2) + eps)^-1/2 and r^3/D * sum of dy*w*x of one part.
ALWAYS void norm_stats(const float *x, const float *dy, const float *w, int64_t d, float eps, float *stats) {
	v16 square = v_set1(0), inner = v_set1(0);
	COLUMNS(0, d) {
		v16 v = take(x + c, n);
		square = v_fma(v, v, square);
		inner = v_fma(v_mul(take(dy + c, n), take(w + c, n)), v, inner);
	}
	float r = 1 / sqrtf(v_hsum(square) / (float)d + eps);
	stats[0] = r;
	stats[1] = r * r * r / (float)d * v_hsum(inner);
}

static void FN(rmsnorm_stats)(const rmsnorm_grad_op *o, int64_t begin, int64_t end) {
	for (int64_t i = begin; i < end; i++) {
		for (int64_t p = 0; p < o->parts; p++) {
			norm_stats(o->x + i * o->x_stride + p * o->width, o->dy + i * o->dy_stride + p * o->width, o->weight,
				o->width, o->eps, *o->stats + 2 * (i * o->parts + p));
		}
	}
}

static void FN(rmsnorm_dweight)(const rmsnorm_grad_op *o, int64_t begin, int64_t end) {
	COLUMNS(begin, end) {
		v16 sum = take(o->dweight + c, n);
		for (int64_t i = 0; i < o->rows; i++) {
			for (int64_t p = 0; p < o->parts; p++) {
				v16 r = v_set1((*o->stats)[2 * (i * o->parts + p)]),
					x = take(o->x + i * o->x_stride + p * o->width + c, n);
				sum = v_fma(take(o->dy + i * o->dy_stride + p * o->width + c, n), v_mul(x, r), sum);
			}
		}
		put(o->dweight + c, sum, n);
	}
}

static void FN(rmsnorm_grad)(const rmsnorm_grad_op *o, int64_t begin, int64_t end) {
	int64_t d = o->width;
	for (int64_t i = begin; i < end; i++) {
		for (int64_t p = 0; p < o->parts; p++) {
			const float *x = o->x + i * o->x_stride + p * d, *dy = o->dy + i * o->dy_stride + p * d;
			float *dx = o->dx + i * o->dx_stride + p * d, own[2], *stats = own;
			if (o->dweight) {
				stats = *o->stats + 2 * (i * o->parts + p);
			} else {
				norm_stats(x, dy, o->weight, d, o->eps, own);
			}
			v16 r = v_set1(stats[0]), s = v_set1(stats[1]);
			COLUMNS(0, d) {
				v16 v = v_fnma(take(x + c, n), s, v_mul(r, v_mul(take(dy + c, n), take(o->weight + c, n))));
				put(dx + c, o->accumulate ? v_add(v, take(dx + c, n)) : v, n);
			}
		}
	}
}

static void FN(rotate_rows)(const rotate_op *o, int64_t begin, int64_t end) {
	int half = o->rot / 2;
	for (int64_t t = begin; t < end; t++) {
		if (o->table_rows[t] < 0) {
			continue;
		}
		const float *table = o->table + (int64_t)o->table_rows[t] * o->rot;
		for (int h = 0; h < o->heads; h++) {
			float *x = o->x + t * o->x_stride + (int64_t)h * o->head_dim;
			if (!o->inverse) {
				rotate(x, table, half);
				continue;
			}
			COLUMNS(0, half) {
				v16 a = take(x + c, n), b = take(x + half + c, n), cs = take(table + c, n),
					sn = take(table + half + c, n);
				put(x + c, v_fma(b, sn, v_mul(a, cs)), n);
				put(x + half + c, v_fnma(a, sn, v_mul(b, cs)), n);
			}
		}
	}
}

// act(x) / x and act'(x). With s = sigmoid(u(x)) the first is s and the slope s + x s (1-s) u'(x); for the exact GELU
// it is Phi(x) and Phi(x) + x phi(x).
ALWAYS void gate_of(v16 x, const int act, v16 *share, v16 *slope) {
	v16 one = v_set1(1);
	if (act == ACT_GELU_ERF) {
		v16 size = v_abs(x);
		v16 tail = v_mul(v_set1(0.5f), v_erfc_half(size)),
			phi = v_mul(v_set1(0.3989422804f), v_exp(v_mul(v_set1(-0.5f), v_mul(x, x))));
		*share = v_less(x, v_set1(0), tail, v_sub(one, tail));
		*slope = v_fma(x, phi, *share);
		return;
	}
	v16 u = x, du = one;
	if (act == ACT_GELU_TANH) {
		v16 square = v_min(v_mul(x, x), v_set1(1e4f)),
			c = v_set1(1.5957691216f); // past 100 the sigmoid is 0 or 1 anyhow
		u = v_mul(c, v_fma(v_mul(v_mul(square, x), v_set1(0.044715f)), one, x));
		du = v_mul(c, v_fma(square, v_set1(3 * 0.044715f), one));
	}
	// the smaller of the sigmoid and 1 minus it comes from a division: neither cancels
	v16 e = v_exp(v_sub(v_set1(0), v_abs(u))), small = v_div(e, v_add(one, e)), large = v_div(one, v_add(one, e));
	*share = v_less(u, v_set1(0), small, large);
	*slope = v_fma(v_mul(x, v_mul(small, large)), du, *share);
}

ALWAYS void glu_grad_rows(const glu_grad_op *o, int64_t row, int64_t begin, int64_t end, const int act) {
	const float *gate = o->rows.gate + row * o->rows.gate_stride, *up = o->rows.up + row * o->rows.up_stride,
				*dout = o->dout + row * o->dout_stride;
	float *dgate = o->rows.out + row * o->rows.out_stride, *dup = o->dup + row * o->dup_stride;
	COLUMNS(begin, end) {
		v16 g = take(gate + c, n), u = take(up + c, n), d = take(dout + c, n), share, slope;
		gate_of(g, act, &share, &slope);
		put(dgate + c, v_mul(v_mul(d, u), slope), n);
		put(dup + c, v_mul(d, v_mul(g, share)), n);
	}
}

static void FN(glu_grad)(const rows_op *o, int64_t row, int64_t begin, int64_t end) {
	const glu_grad_op *g = (const glu_grad_op *)o;
	switch (o->act) {
	case ACT_SILU: glu_grad_rows(g, row, begin, end, ACT_SILU); break;
	case ACT_GELU_TANH: glu_grad_rows(g, row, begin, end, ACT_GELU_TANH); break;
	default: glu_grad_rows(g, row, begin, end, ACT_GELU_ERF); break;
	}
}

// The largest value, then exp(x - largest) and its sum in blocks of 1024 columns, then the gradient. The exponentials
// stay in the row, but with a softcap, whose slope needs the logits: then they are computed twice.
static void FN(cross_entropy)(const cross_entropy_op *o, int64_t begin, int64_t end) {
	int64_t cols = o->cols;
	for (int64_t t = begin; t < end; t++) {
		float *x = o->logits + t * o->logits_stride, *loss = o->loss + t * o->loss_stride;
		int64_t label = o->labels[t];
		if (label < 0) {
			memset(x, 0, (size_t)cols * 4);
			*loss = 0;
			continue;
		}
		v16 m = v_set1(-INFINITY);
		COLUMNS(0, cols) {
			v16 v = take(x + c, n);
			m = v_max(m, n == 16 ? v : v_keep(v, 0, (int)n, -INFINITY));
		}
		float own = x[label];
		v16 top = v_set1(v_hmax(m)), total = v_set1(0), scale = v_set1(o->scale);
		for (int64_t b = 0; b < cols; b += 1024) {
			v16 sum = v_set1(0);
			COLUMNS(b, b + 1024 < cols ? b + 1024 : cols) {
				v16 e = v_exp(v_sub(take(x + c, n), top));
				sum = v_add(sum, n == 16 ? e : v_keep(e, 0, (int)n, 0));
				if (o->softcap == 0) {
					put(x + c, e, n);
				}
			}
			total = v_add(total, sum);
		}
		float sum = v_hsum(total);
		*loss = logf(sum) + (v_hmax(m) - own);
		v16 share = v_set1(o->scale / sum), inverse = v_set1(o->softcap > 0 ? 1 / o->softcap : 0), one = v_set1(1);
		if (o->softcap == 0) {
			COLUMNS(0, cols) {
				put(x + c, v_mul(take(x + c, n), share), n);
			}
			x[label] -= o->scale;
			continue;
		}
		COLUMNS(0, cols) {
			v16 v = take(x + c, n), p = v_mul(v_exp(v_sub(v, top)), share), h = v_mul(v, inverse);
			if (label >= c && label < c + n) {
				v16 less = v_keep(scale, (int)(label - c), (int)(label - c) + 1, 0);
				p = v_sub(p, less);
			}
			put(x + c, v_mul(p, v_fnma(h, h, one)), n);
		}
	}
}

static void FN(embed_grad)(const embed_grad_op *o, int64_t begin, int64_t end) {
	v16 scale = v_set1(o->scale);
	for (int64_t t = 0; t < o->rows; t++) {
		const float *dy = o->dy + t * o->dy_stride;
		float *to = o->table + o->ids[t] * o->table_stride;
		COLUMNS(begin, end) {
			put(to + c, v_fma(scale, take(dy + c, n), take(to + c, n)), n);
		}
	}
}

void FN(training)(kernel_table *k) {
	k->rmsnorm_stats = FN(rmsnorm_stats);
	k->rmsnorm_dweight = FN(rmsnorm_dweight);
	k->rmsnorm_grad = FN(rmsnorm_grad);
	k->rotate = FN(rotate_rows);
	k->glu_grad = FN(glu_grad);
	k->cross_entropy = FN(cross_entropy);
	k->embed_grad = FN(embed_grad);
}
