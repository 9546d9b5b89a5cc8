// Attention over pages, written once over v16. The keys of a query fall into key blocks of KEY_BLOCK absolute
// positions, which are made of blocks of 16 keys. Within a key block: scores (lane = key, a chain over the head's
// columns), their maximum, exponentials, their sum (lane = position % 16, blocks ascending, a fixed tree), and the
// values in ascending order. The key blocks that contain a visible key are then merged in ascending order. So the
// result of a query does not depend on how its keys are divided among threads, and a masked key adds nothing, not even
// a product with zero.
#include "math_body.h"

enum { BLOCKS = KEY_BLOCK / 16 };

typedef struct {
	const float *q;
	float *score;  // [KEY_BLOCK] scores, then exponentials
	float *acc;    // [head_dim rounded up to 16] of the key block
	float top, sum; // of the key block; sum 0: no key was visible
	int64_t position;
	int32_t lo, hi; // visible keys of the key block
} query;

// Addresses of the blocks of 16 keys and of their values in a key block, and of the keys of the next key block.
typedef struct {
	const void *k[BLOCKS], *v[BLOCKS], *next[BLOCKS];
	int block_bytes; // of 16 keys
	int fetch;       // this group is the first to read the key block: it prefetches the values, then the next keys
} key_block_data;

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

// Scores of nq queries with the nb blocks from block b on: as many independent chains as fit the registers.
ALWAYS void score_blocks(
	const key_block_data *at, int b, int d, const int dtype, query *const *qs, const int nq, const int nb) {
	v16 a[ATTENTION_CHAINS];
	for (int i = 0; i < nq * nb; i++) {
		a[i] = v_set1(0);
	}
	for (int c = 0; c < d; c++) {
		v16 key[ATTENTION_CHAINS];
		for (int j = 0; j < nb; j++) {
			key[j] = load_kv(at->k[b + j], 16 * (int64_t)c, dtype);
			if (at->fetch) {
				__builtin_prefetch((const char *)at->v[b + j] + 16 * (dtype == DTYPE_F32 ? 4 : 2) * c, 0, 2);
			}
		}
		for (int i = 0; i < nq; i++) {
			v16 q = v_set1(qs[i]->q[c]);
			for (int j = 0; j < nb; j++) {
				a[i * nb + j] = v_fma(q, key[j], a[i * nb + j]);
			}
		}
	}
	for (int i = 0; i < nq; i++) {
		for (int j = 0; j < nb; j++) {
			v_store(qs[i]->score + 16 * (b + j), a[i * nb + j]);
		}
	}
}

ALWAYS void score_all(
	const key_block_data *at, int first, int last, int d, const int dtype, query *const *qs, const int nq) {
	const int nb = ATTENTION_CHAINS / nq < 4 ? ATTENTION_CHAINS / nq : 4;
	int b = first;
	for (; b + nb <= last; b += nb) {
		score_blocks(at, b, d, dtype, qs, nq, nb);
	}
	for (; b < last; b++) {
		score_blocks(at, b, d, dtype, qs, nq, 1);
	}
}

ALWAYS v16 soften(const attention_op *o, v16 s) {
	s = v_mul(s, v_set1(o->scale));
	if (o->softcap > 0) {
		v16 cap = v_set1(o->softcap);
		s = v_mul(cap, v_tanh(v_div(s, cap)));
	}
	return s;
}

// The lanes of block b that q sees: *lo to *hi.
ALWAYS int lanes_of(const query *q, int b, int *lo, int *hi) {
	*lo = q->lo - 16 * b < 0 ? 0 : q->lo - 16 * b;
	*hi = q->hi - 16 * b > 16 ? 16 : q->hi - 16 * b;
	return *lo == 0 && *hi == 16;
}

// Turns the scores of q into exponentials, with their maximum and sum.
ALWAYS void exponentials(const attention_op *o, query *q) {
	v16 m = v_set1(-INFINITY), sum = v_set1(0);
	int lo, hi, first = q->lo / 16, last = (q->hi + 15) / 16;
	for (int b = first; b < last; b++) {
		v16 s = soften(o, v_load(q->score + 16 * b));
		if (!lanes_of(q, b, &lo, &hi)) {
			s = v_keep(s, lo, hi, -INFINITY);
		}
		v_store(q->score + 16 * b, s);
		m = v_max(m, s);
	}
	q->top = v_hmax(m);
	q->sum = 0;
	if (q->top == -INFINITY) { // all scores are -inf: their weights are zero
		return;
	}
	v16 top = v_set1(q->top);
	for (int b = first; b < last; b++) {
		v16 p = v_exp(v_sub(v_load(q->score + 16 * b), top));
		if (!lanes_of(q, b, &lo, &hi)) {
			p = v_keep(p, lo, hi, 0);
		}
		v_store(q->score + 16 * b, p);
		sum = v_add(sum, p);
	}
	q->sum = v_hsum(sum);
}

// acc += p[j] V[j] of nq queries for the keys [lo, hi) of the key block, columns [c, c+cols*16).
ALWAYS void value_cols(const key_block_data *at, int d, int c, const int cols, int tail, const int dtype,
	query *const *qs, const int nq, int lo, int hi) {
	v16 a[ATTENTION_QUERIES * ATTENTION_COLS];
	for (int i = 0; i < nq; i++) {
		for (int b = 0; b < cols; b++) {
			a[i * cols + b] = v_load(qs[i]->acc + c + 16 * b);
		}
	}
	for (int j = lo; j < hi; j++) {
		const void *v = at->v[j / 16];
		if (at->fetch && c == 0) {
			for (int64_t from = at->block_bytes / 16 * (j % 16), end = from + at->block_bytes / 16; from < end;
				from += 64) {
				__builtin_prefetch((const char *)at->next[j / 16] + from, 0, 2);
			}
		}
		int64_t from = (int64_t)(j % 16) * d + c;
		v16 row[ATTENTION_COLS];
		for (int b = 0; b < cols; b++) {
			row[b] = b == cols - 1 ? load_kv_part(v, from + 16 * b, tail, dtype) : load_kv(v, from + 16 * b, dtype);
		}
		for (int i = 0; i < nq; i++) {
			v16 p = v_set1(qs[i]->score[j]);
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

ALWAYS void value_range(
	const key_block_data *at, int d, const int dtype, query *const *qs, const int nq, int lo, int hi) {
	int c = 0;
	if (lo >= hi) {
		return;
	}
	for (; c + 16 * ATTENTION_COLS <= d; c += 16 * ATTENTION_COLS) {
		value_cols(at, d, c, ATTENTION_COLS, 16, dtype, qs, nq, lo, hi);
	}
	for (; c < d; c += 16) {
		value_cols(at, d, c, 1, d - c < 16 ? d - c : 16, dtype, qs, nq, lo, hi);
	}
}

// The key block for nq queries: together for keys that all of them see, one query at a time for the keys before and
// after.
ALWAYS void attend_group(
	const attention_op *o, const key_block_data *at, const int dtype, query *const *qs, const int nq) {
	int d = o->kv.head_dim, lo = KEY_BLOCK, hi = 0, from = 0,
		to = KEY_BLOCK; // [lo, hi): visible to any; [from, to): to all
	for (int i = 0; i < nq; i++) {
		lo = qs[i]->lo < lo ? qs[i]->lo : lo;
		hi = qs[i]->hi > hi ? qs[i]->hi : hi;
		from = qs[i]->lo > from ? qs[i]->lo : from;
		to = qs[i]->hi < to ? qs[i]->hi : to;
	}
	score_all(at, lo / 16, (hi + 15) / 16, d, dtype, qs, nq);
	for (int i = 0; i < nq; i++) {
		exponentials(o, qs[i]);
		memset(qs[i]->acc, 0, (size_t)((d + 15) / 16) * 64);
	}
	if (nq == 1 || from >= to) {
		for (int i = 0; i < nq; i++) {
			value_range(at, d, dtype, qs + i, 1, qs[i]->lo, qs[i]->hi);
		}
		return;
	}
	for (int i = 0; i < nq; i++) {
		value_range(at, d, dtype, qs + i, 1, qs[i]->lo, from);
	}
	value_range(at, d, dtype, qs, nq, from, to);
	for (int i = 0; i < nq; i++) {
		value_range(at, d, dtype, qs + i, 1, to, qs[i]->hi);
	}
}

ALWAYS void attend_all(const attention_op *o, key_block_data *at, const int dtype, query *const *qs, int n) {
	for (; n >= ATTENTION_QUERIES; n -= ATTENTION_QUERIES, qs += ATTENTION_QUERIES) {
		attend_group(o, at, dtype, qs, ATTENTION_QUERIES);
		at->fetch = 0;
	}
	if (n == 3 && ATTENTION_QUERIES > 3) {
		attend_group(o, at, dtype, qs, 3);
	} else if (n == 2) {
		attend_group(o, at, dtype, qs, 2);
	} else if (n == 1) {
		attend_group(o, at, dtype, qs, 1);
	}
}

static void FN(attend)(const attention_op *o, key_block_data *at, query *const *qs, int n) {
	if (o->kv.dtype == DTYPE_F16) {
		attend_all(o, at, DTYPE_F16, qs, n);
	} else if (o->kv.dtype == DTYPE_BF16) {
		attend_all(o, at, DTYPE_BF16, qs, n);
	} else {
		attend_all(o, at, DTYPE_F32, qs, n);
	}
}

// total += part, both [top, sum, padding to 16, acc]: the sums of a query over its key blocks so far, and over the next
// one.
static void merge(float *total, const float *part, int64_t padded) {
	if (part[1] == 0) {
		return;
	}
	if (total[1] == 0) {
		memcpy(total, part, (size_t)(16 + padded) * 4);
		return;
	}
	float top = total[0] > part[0] ? total[0] : part[0], weight[2][16];
	v_store(weight[0], v_exp(v_set1(total[0] - top)));
	v_store(weight[1], v_exp(v_set1(part[0] - top)));
	v16 old = v_set1(weight[0][0]), new = v_set1(weight[1][0]);
	total[0] = top;
	total[1] = total[1] * weight[0][0] + part[1] * weight[1][0];
	for (int64_t c = 16; c < 16 + padded; c += 16) {
		v_store(total + c, v_fma(v_load(total + c), old, v_mul(v_load(part + c), new)));
	}
}

static void finish(const float *total, float *out, int d) {
	v16 sum = v_set1(total[1]);
	for (int c = 0; c < d; c += 16) {
		v_store_part(out + c, v_div(v_load(total + 16 + c), sum), d - c < 16 ? d - c : 16);
	}
}

static float *out_of(const attention_op *o, const attention_item *it, int i) {
	return o->out + (it->row + i / it->heads) * o->out_stride + (int64_t)(it->head + i % it->heads) * o->kv.head_dim;
}

// The offset, in elements, of the block of 16 keys at a position.
ALWAYS int64_t block_at(const kv_layer *kv, const attention_item *it, int64_t position) {
	int64_t head = it->kv_head * (int64_t)kv->page_len * kv->head_dim;
	return it->pages[position / kv->page_len] * kv->page_elems + head + position % kv->page_len * kv->head_dim;
}

// An item: at most QUERIES_MAX queries, rows times heads of one KV head, over key blocks. An item with all key blocks
// of its queries writes their output; the others write a part for each key block and query. scratch: QUERIES_MAX times
// scores, the part of a key block and a total.
static void FN(attention)(const attention_op *o, const attention_item *it, float *scratch) {
	const kv_layer *kv = &o->kv;
	query all[QUERIES_MAX], *live[QUERIES_MAX];
	int d = kv->head_dim, n = it->rows * it->heads;
	int64_t padded = (d + 15) / 16 * 16, size = 16 + padded, elem = kv->dtype == DTYPE_F32 ? 4 : 2;
	float *scores = scratch, *part = scores + QUERIES_MAX * KEY_BLOCK, *total = part + QUERIES_MAX * size;
	for (int i = 0; i < n; i++) {
		all[i].q = o->q + (it->row + i / it->heads) * o->q_stride + (int64_t)(it->head + i % it->heads) * d;
		all[i].score = scores + i * KEY_BLOCK;
		all[i].position = it->position + i / it->heads;
	}
	memset(total, 0, (size_t)(n * size) * 4);
	for (int64_t s = it->key_block; s < it->key_block + it->key_blocks; s++) {
		int64_t base = s * KEY_BLOCK;
		key_block_data at;
		int seen = 0;
		float *parts = it->part < 0 ? part : *o->parts + (it->part + (s - it->key_block) * n) * size;
		for (int i = 0; i < n; i++) {
			query *q = &all[i];
			int64_t lo = o->window > 0 ? q->position - (int64_t)o->window + 1 - base : 0, hi = q->position + 1 - base;
			q->lo = lo < 0 ? 0 : lo > KEY_BLOCK ? KEY_BLOCK : (int32_t)lo;
			q->hi = hi < 0 ? 0 : hi > KEY_BLOCK ? KEY_BLOCK : (int32_t)hi;
			q->acc = parts + i * size + 16;
			parts[i * size + 1] = 0;
			if (q->lo < q->hi) {
				live[seen++] = q;
			}
		}
		if (seen == 0) {
			continue;
		}
		// the first and the last visible key of a later row are never earlier
		at.fetch = 1;
		at.block_bytes = (int)(16 * d * elem);
		for (int b = live[0]->lo / 16; b < (live[seen - 1]->hi + 15) / 16; b++) {
			int64_t from = block_at(kv, it, base + 16 * b) * elem, next = base + KEY_BLOCK + 16 * b;
			at.k[b] = kv->k + from;
			at.v[b] = kv->v + from;
			at.next[b] = next < (it->key_block + it->key_blocks) * KEY_BLOCK && next <= live[seen - 1]->position
				? kv->k + block_at(kv, it, next) * elem
				: at.k[b];
		}
		FN(attend)(o, &at, live, seen);
		for (int i = 0; i < seen; i++) {
			float *head = live[i]->acc - 16;
			head[0] = live[i]->top;
			head[1] = live[i]->sum;
		}
		for (int i = 0; it->part < 0 && i < n; i++) {
			merge(total + i * size, parts + i * size, padded);
		}
	}
	for (int i = 0; it->part < 0 && i < n; i++) {
		finish(total + i * size, out_of(o, it, i), d);
	}
}

// Merges the parts of the items that share the queries of the item it, which names all their key blocks.
static void FN(attention_merge)(const attention_op *o, const attention_item *it, float *scratch) {
	int d = o->kv.head_dim, n = it->rows * it->heads;
	int64_t padded = (d + 15) / 16 * 16, size = 16 + padded;
	for (int i = 0; i < n; i++) {
		memset(scratch, 0, (size_t)size * 4);
		for (int64_t s = 0; s < it->key_blocks; s++) {
			merge(scratch, *o->parts + (it->part + s * n + i) * size, padded);
		}
		finish(scratch, out_of(o, it, i), d);
	}
}

void FN(attention_table)(kernel_table *k) {
	k->attention = FN(attention);
	k->attention_merge = FN(attention_merge);
}
