// Attention over pages, written once over v16. A query row takes the keys in blocks of 16 absolute positions in ascending order: scores
// of a block (lane = key, a chain over the head's columns), running maximum and sum of exponentials, and acc = acc*correction, then
// + p[j]*V[j] for ascending j. A masked key adds nothing, not even a product with zero, so that what lies in its page is never seen.
#include "math_body.h"

typedef struct {
	const float *q;
	float *acc; // [head_dim rounded up to 16]
	float p[16];
	float top, sum, correction;
	int32_t position, lo, hi; // visible lanes of the current block
} query;

ALWAYS v16 load_kv(const void *p, int64_t i, const int dtype) {
	if (dtype == DTYPE_F32) {
		return v_load((const float *)p + i);
	}
	return dtype == DTYPE_F16 ? v_load_f16((const uint16_t *)p + i) : v_load_bf16((const uint16_t *)p + i);
}

ALWAYS v16 load_kv_part(const void *p, int64_t i, int n, const int dtype) {
	if (n == 16) {
		return load_kv(p, i, dtype);
	}
	if (dtype == DTYPE_F32) {
		return v_load_part((const float *)p + i, n);
	}
	uint16_t t[16] = {0};
	memcpy(t, (const uint16_t *)p + i, 2 * (size_t)n);
	return load_kv(t, 0, dtype);
}

// Scores of nq queries with the 16 keys at k.
ALWAYS void score_block(const void *k, int d, const int dtype, query *const *qs, const int nq, v16 *s) {
	const float *q[QUERIES_MAX];
	v16 a[QUERIES_MAX];
	for (int i = 0; i < nq; i++) {
		q[i] = qs[i]->q;
		a[i] = v_set1(0);
	}
	for (int c = 0; c < d; c++) {
		v16 key = load_kv(k, 16 * (int64_t)c, dtype);
		for (int i = 0; i < nq; i++) {
			a[i] = v_fma(v_set1(q[i][c]), key, a[i]);
		}
	}
	for (int i = 0; i < nq; i++) {
		s[i] = a[i];
	}
}

ALWAYS void soften(const attention_op *o, query *q, v16 s) {
	s = v_mul(s, v_set1(o->scale));
	if (o->softcap > 0) {
		v16 cap = v_set1(o->softcap);
		s = v_mul(cap, v_tanh(v_div(s, cap)));
	}
	if (q->lo > 0 || q->hi < 16) {
		s = v_keep(s, q->lo, q->hi, -INFINITY);
	}
	float top = v_hmax(s);
	top = q->top > top ? q->top : top;
	if (top == -INFINITY) { // only scores of -inf so far: they weigh nothing
		q->correction = 1;
		v_store(q->p, v_set1(0));
		return;
	}
	v16 p = v_exp(v_sub(s, v_set1(top)));
	if (q->lo > 0 || q->hi < 16) {
		p = v_keep(p, q->lo, q->hi, 0);
	}
	float e[16];
	v_store(e, v_exp(v_set1(q->top - top)));
	q->correction = q->top == top ? 1 : e[0];
	q->sum = q->sum * q->correction + v_hsum(p);
	q->top = top;
	v_store(q->p, p);
}

// acc = acc*correction + p[lo..hi) V for nq queries that see the same lanes, columns [c, c+cols*16).
ALWAYS void value_block(const void *v, int d, int c, const int cols, int tail, const int dtype, query *const *qs, const int nq, int lo, int hi) {
	v16 a[QUERIES_MAX];
	for (int i = 0; i < nq; i++) {
		v16 r = v_set1(qs[i]->correction);
		for (int b = 0; b < cols; b++) {
			a[i * cols + b] = v_mul(v_load(qs[i]->acc + c + 16 * b), r);
		}
	}
	for (int j = lo; j < hi; j++) {
		v16 row[4];
		for (int b = 0; b < cols; b++) {
			row[b] = b == cols - 1 ? load_kv_part(v, (int64_t)j * d + c + 16 * b, tail, dtype) : load_kv(v, (int64_t)j * d + c + 16 * b, dtype);
		}
		for (int i = 0; i < nq; i++) {
			v16 p = v_set1(qs[i]->p[j]);
			for (int b = 0; b < cols; b++) {
				a[i * cols + b] = v_fma(p, row[b], a[i * cols + b]);
			}
		}
	}
	for (int i = 0; i < nq; i++) {
		for (int b = 0; b < cols; b++) {
			v_store(qs[i]->acc + c + 16 * b, a[i * cols + b]);
		}
	}
}

ALWAYS void value_all(const void *v, int d, const int dtype, query *const *qs, const int nq) {
	int c = 0, lo = qs[0]->lo, hi = qs[0]->hi;
	for (; c + 16 * ATTENTION_COLS <= d; c += 16 * ATTENTION_COLS) {
		value_block(v, d, c, ATTENTION_COLS, 16, dtype, qs, nq, lo, hi);
	}
	for (; c < d; c += 16) {
		value_block(v, d, c, 1, d - c < 16 ? d - c : 16, dtype, qs, nq, lo, hi);
	}
}

ALWAYS void take_block(const attention_op *o, const void *k, const void *v, const int dtype, query *const *qs, const int nq) {
	v16 s[QUERIES_MAX];
	int d = o->kv.head_dim, same = 1;
	score_block(k, d, dtype, qs, nq, s);
	for (int i = 0; i < nq; i++) {
		soften(o, qs[i], s[i]);
		same &= qs[i]->lo == qs[0]->lo && qs[i]->hi == qs[0]->hi;
	}
	if (same) {
		value_all(v, d, dtype, qs, nq);
		return;
	}
	for (int i = 0; i < nq; i++) {
		value_all(v, d, dtype, qs + i, 1);
	}
}

ALWAYS void take_blocks(const attention_op *o, const void *k, const void *v, const int dtype, query *const *qs, int n) {
	for (; n >= ATTENTION_QUERIES; n -= ATTENTION_QUERIES, qs += ATTENTION_QUERIES) {
		take_block(o, k, v, dtype, qs, ATTENTION_QUERIES);
	}
	if (n == 3 && ATTENTION_QUERIES > 3) {
		take_block(o, k, v, dtype, qs, 3);
	} else if (n == 2) {
		take_block(o, k, v, dtype, qs, 2);
	} else if (n == 1) {
		take_block(o, k, v, dtype, qs, 1);
	}
}

static void FN(attend)(const attention_op *o, const void *k, const void *v, query *const *qs, int n) {
	if (o->kv.dtype == DTYPE_F16) {
		take_blocks(o, k, v, DTYPE_F16, qs, n);
	} else if (o->kv.dtype == DTYPE_BF16) {
		take_blocks(o, k, v, DTYPE_BF16, qs, n);
	} else {
		take_blocks(o, k, v, DTYPE_F32, qs, n);
	}
}

// At most QUERIES_MAX queries: rows times heads of one KV head. scratch holds QUERIES_MAX accumulators.
static void FN(attention)(const attention_op *o, const attention_item *it, float *scratch) {
	const kv_layer *kv = &o->kv;
	query all[QUERIES_MAX], *live[QUERIES_MAX];
	int d = kv->head_dim, n = 0;
	int64_t padded = (d + 15) / 16 * 16, elem = kv->dtype == DTYPE_F32 ? 4 : 2;
	for (int r = 0; r < it->rows; r++) {
		for (int h = 0; h < it->heads; h++) {
			query *q = &all[n];
			q->q = o->q + (it->row + r) * o->q_stride + (int64_t)(it->head + h) * d;
			q->acc = scratch + n * padded;
			memset(q->acc, 0, (size_t)padded * 4);
			q->top = -INFINITY;
			q->sum = 0;
			q->position = it->position + r;
			n++;
		}
	}
	int64_t last = it->position + it->rows - 1, first = 0;
	if (o->window > 0 && it->position - (int64_t)o->window + 1 > 0) {
		first = it->position - (int64_t)o->window + 1;
	}
	for (int64_t block = first / 16 * 16; block <= last; block += 16) {
		int64_t page = it->pages[block / kv->page_len], at = block % kv->page_len;
		int64_t base = page * kv->page_elems + (int64_t)it->kv_head * kv->page_len * d + at * d;
		int seen = 0;
		for (int i = 0; i < n; i++) {
			query *q = &all[i];
			int64_t lo = o->window > 0 ? q->position - (int64_t)o->window + 1 - block : 0, hi = q->position + 1 - block;
			q->lo = lo < 0 ? 0 : lo > 16 ? 16 : (int32_t)lo;
			q->hi = hi < 0 ? 0 : hi > 16 ? 16 : (int32_t)hi;
			if (q->lo < q->hi) {
				live[seen++] = q;
			}
		}
		if (seen > 0) {
			FN(attend)(o, kv->k + base * elem, kv->v + base * elem, live, seen);
		}
	}
	for (int i = 0; i < n; i++) {
		float *out = o->out + (it->row + i / it->heads) * o->out_stride + (int64_t)(it->head + i % it->heads) * d;
		v16 sum = v_set1(all[i].sum);
		for (int c = 0; c < d; c += 16) {
			v16 v = v_div(v_load(all[i].acc + c), sum);
			v_store_part(out + c, v, d - c < 16 ? d - c : 16);
		}
	}
}

void FN(attention_table)(kernel_table *k) { k->attention = FN(attention); }
