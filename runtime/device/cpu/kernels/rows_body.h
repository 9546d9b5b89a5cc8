// Operations over rows, written once over v16. A sum over a row is 16 partial sums (lane = column % 16) and a fixed
// tree.
#include "math_body.h"
#include "columns.h"

static void FN(rmsnorm)(const rmsnorm_op *o, int64_t begin, int64_t end) {
	int64_t d = o->width;
	for (int64_t i = begin; i < end; i++) {
		float *x = o->x + (o->index ? o->index[i] : i) * o->x_stride;
		for (int part = 0; part < o->parts; part++, x += d) {
			v16 sum = v_set1(0);
			if (o->add) {
				const float *add = o->add + i * o->add_stride + part * d;
				COLUMNS(0, d) {
					v16 v = v_add(take(x + c, n), take(add + c, n));
					put(x + c, v, n);
					sum = v_fma(v, v, sum);
				}
			} else {
				COLUMNS(0, d) {
					v16 v = take(x + c, n);
					sum = v_fma(v, v, sum);
				}
			}
			v16 inverse = v_set1(1 / sqrtf(v_hsum(sum) / (float)d + o->eps));
			float *out = o->out + i * o->out_stride + part * d;
			COLUMNS(0, d) {
				put(out + c, v_mul(v_mul(take(x + c, n), inverse), take(o->weight + c, n)), n);
			}
		}
	}
}

static void FN(glu)(const rows_op *o, int64_t row, int64_t begin, int64_t end) {
	const float *gate = o->gate + row * o->gate_stride, *up = o->up + row * o->up_stride;
	float *out = o->out + row * o->out_stride;
	int act = o->act;
	COLUMNS(begin, end) {
		v16 g = take(gate + c, n);
		if (act == ACT_SILU) {
			g = v_swish(g, g);
		} else if (act == ACT_GELU_TANH) {
			g = v_gelu_tanh(g);
		} else {
			g = v_gelu_erf(g);
		}
		put(out + c, v_mul(g, take(up + c, n)), n);
	}
}

static void FN(add)(const rows_op *o, int64_t row, int64_t begin, int64_t end) {
	const float *y = o->up + row * o->up_stride;
	float *x = o->out + row * o->out_stride;
	COLUMNS(begin, end) {
		put(x + c, v_add(take(x + c, n), take(y + c, n)), n);
	}
}

static void FN(softcap)(const rows_op *o, int64_t row, int64_t begin, int64_t end) {
	float *x = o->out + row * o->out_stride;
	v16 cap = v_set1(o->cap);
	COLUMNS(begin, end) {
		put(x + c, v_mul(cap, v_tanh(v_div(take(x + c, n), cap))), n);
	}
}

// x - max - log(sum of exp(x - max)); the sum runs in blocks of 1024 columns.
static void FN(logsoftmax)(const rows_op *o, int64_t row) {
	const float *x = o->gate + row * o->gate_stride;
	float *out = o->out + row * o->out_stride;
	int64_t cols = o->cols;
	v16 m = v_set1(-INFINITY);
	COLUMNS(0, cols) {
		v16 v = take(x + c, n);
		m = v_max(m, n == 16 ? v : v_keep(v, 0, (int)n, -INFINITY));
	}
	v16 top = v_set1(v_hmax(m)), total = v_set1(0);
	for (int64_t b = 0; b < cols; b += 1024) {
		v16 sum = v_set1(0);
		COLUMNS(b, b + 1024 < cols ? b + 1024 : cols) {
			v16 e = v_exp(v_sub(take(x + c, n), top));
			sum = v_add(sum, n == 16 ? e : v_keep(e, 0, (int)n, 0));
		}
		total = v_add(total, sum);
	}
	v16 shift = v_set1(logf(v_hsum(total)));
	COLUMNS(0, cols) {
		put(out + c, v_sub(v_sub(take(x + c, n), top), shift), n);
	}
}

ALWAYS void write_kv(uint8_t *to, int64_t i, int dtype, float f) {
	if (dtype == DTYPE_F32) {
		((float *)to)[i] = f;
	} else if (dtype == DTYPE_F16) {
		((uint16_t *)to)[i] = f32_to_f16(f);
	} else {
		((uint16_t *)to)[i] = f32_to_bf16(f);
	}
}

static void FN(rope)(const rope_op *o, int64_t begin, int64_t end) {
	const kv_layer *kv = &o->kv;
	int64_t d = kv->head_dim, head_elems = d * kv->page_len;
	for (int64_t t = begin; t < end; t++) {
		float *k = o->k + t * o->k_stride;
		const float *v = o->v + t * o->v_stride;
		if (o->rot > 0 && o->table_rows[t] >= 0) {
			const float *table = o->table + (int64_t)o->table_rows[t] * o->rot;
			for (int h = 0; h < o->q_heads; h++) {
				rotate(o->q + t * o->q_stride + h * d, table, o->rot / 2);
			}
			for (int h = 0; h < kv->kv_heads; h++) {
				rotate(k + h * d, table, o->rot / 2);
			}
		}
		int64_t page = o->slots[t] / kv->page_len, at = o->slots[t] % kv->page_len;
		for (int h = 0; h < kv->kv_heads; h++) {
			int64_t base = page * kv->page_elems + h * head_elems, lane = base + at / 16 * 16 * d + at % 16,
					row = base + at * d;
			int64_t done = 0;
			for (; kv->dtype == DTYPE_F16 && done + 16 <= d; done += 16) {
				uint16_t half[16], *to = (uint16_t *)kv->k + lane + 16 * done;
				v_store_f16(half, v_load(k + h * d + done));
				for (int i = 0; i < 16; i++) {
					to[16 * i] = half[i];
				}
			}
			for (; done < d; done++) {
				write_kv(kv->k, lane + 16 * done, kv->dtype, k[h * d + done]);
			}
			if (kv->dtype == DTYPE_F32) {
				memcpy((float *)kv->v + row, v + h * d, (size_t)d * 4);
				continue;
			}
			int64_t i = 0;
			for (; kv->dtype == DTYPE_F16 && i + 16 <= d; i += 16) {
				v_store_f16((uint16_t *)kv->v + row + i, v_load(v + h * d + i));
			}
			for (; i < d; i++) {
				write_kv(kv->v, row + i, kv->dtype, v[h * d + i]);
			}
		}
	}
}

void FN(rows)(kernel_table *k) {
	k->rmsnorm = FN(rmsnorm);
	k->rope = FN(rope);
	k->glu = FN(glu);
	k->add = FN(add);
	k->softcap = FN(softcap);
	k->logsoftmax = FN(logsoftmax);
}
