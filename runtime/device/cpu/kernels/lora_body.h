// LoRA, written once over v16. A product with A is 16 partial sums (lane = column % 16) and a fixed tree; one with B is
// a chain over the rank, ascending. A and B are widened to float32 when they are loaded into registers. The result of a
// row depends on that row only.

enum { EXPAND_TOKENS = 2 * LORA_TOKENS, EXPAND_AHEAD = 1024 };

// Sixteen elements from index at on; n < 16: the rest are zeros.
ALWAYS v16 elements(const uint8_t *p, int64_t at, const int dtype) {
	if (dtype == DTYPE_F32) {
		return v_load((const float *)p + at);
	}
	return dtype == DTYPE_F16 ? v_load_f16((const uint16_t *)p + at) : v_load_bf16((const uint16_t *)p + at);
}

ALWAYS v16 elements_part(const uint8_t *p, int64_t at, int n, const int dtype) {
	uint16_t some[16] = {0};
	if (dtype == DTYPE_F32) {
		return v_load_part((const float *)p + at, n);
	}
	memcpy(some, (const uint16_t *)p + at, (size_t)n * 2);
	return dtype == DTYPE_F16 ? v_load_f16(some) : v_load_bf16(some);
}

// y[t][r] = x[t] · a[r] for t < T, r < R.
ALWAYS void shrink_block(const float *x, int64_t x_stride, const uint8_t *a, int64_t in, float *y, int64_t y_stride,
	const int T, const int R, const int dtype) {
	v16 sum[LORA_TOKENS * LORA_RANKS];
	for (int i = 0; i < T * R; i++) {
		sum[i] = v_set1(0);
	}
	const int size = dtype == DTYPE_F32 ? 4 : 2;
	int64_t c = 0;
	for (; c + 16 <= in; c += 16) {
		for (int r = 0; r < R; r++) {
			if (T == 1) { // the next block, or the memory after A
				__builtin_prefetch(a + ((r + R) * in + c) * size);
			}
			v16 w = elements(a, r * in + c, dtype);
			for (int t = 0; t < T; t++) {
				sum[t * R + r] = v_fma(v_load(x + t * x_stride + c), w, sum[t * R + r]);
			}
		}
	}
	if (c < in) {
		int n = (int)(in - c);
		for (int r = 0; r < R; r++) {
			v16 w = elements_part(a, r * in + c, n, dtype);
			for (int t = 0; t < T; t++) {
				sum[t * R + r] = v_fma(v_load_part(x + t * x_stride + c, n), w, sum[t * R + r]);
			}
		}
	}
	for (int t = 0; t < T; t++) {
		for (int r = 0; r < R; r++) {
			y[t * y_stride + r] = v_hsum(sum[t * R + r]);
		}
	}
}

ALWAYS void shrink_ranks(const float *x, int64_t x_stride, int64_t rows, const uint8_t *a, int64_t in, float *y,
	int64_t y_stride, const int R, const int dtype) {
	int64_t t = 0;
	for (; t + LORA_TOKENS <= rows; t += LORA_TOKENS) {
		shrink_block(x + t * x_stride, x_stride, a, in, y + t * y_stride, y_stride, LORA_TOKENS, R, dtype);
	}
	for (; t < rows; t++) {
		shrink_block(x + t * x_stride, x_stride, a, in, y + t * y_stride, y_stride, 1, R, dtype);
	}
}

ALWAYS void shrink(const lora_op *o, const lora_segment *s, int64_t row, int64_t rows, int64_t begin, int64_t end,
	float *y, const int dtype) {
	const float *x = o->x + (s->begin + row) * o->x_stride;
	const int size = dtype == DTYPE_F32 ? 4 : 2;
	int64_t r = begin;
	for (; r + LORA_RANKS <= end; r += LORA_RANKS) {
		shrink_ranks(x, o->x_stride, rows, s->a + r * o->in * size, o->in, y + r, s->rank, LORA_RANKS, dtype);
	}
	for (; r < end; r++) {
		shrink_ranks(x, o->x_stride, rows, s->a + r * o->in * size, o->in, y + r, s->rank, 1, dtype);
	}
}

// y[t][r] for the rows [row, row+rows) of the segment and the rank indices [begin, end). y is [rows][rank].
static void FN(lora_shrink)(
	const lora_op *o, const lora_segment *s, int64_t row, int64_t rows, int64_t begin, int64_t end, float *y) {
	switch (s->a_dtype) {
	case DTYPE_F32: shrink(o, s, row, rows, begin, end, y, DTYPE_F32); break;
	case DTYPE_F16: shrink(o, s, row, rows, begin, end, y, DTYPE_F16); break;
	default: shrink(o, s, row, rows, begin, end, y, DTYPE_BF16); break;
	}
}

// out[t] = gain ⊙ (out[t] + scale · b y[t]) + shift · bias for t < T and one panel of outputs.
ALWAYS void expand_block(
	const lora_segment *s, float *out, int64_t panel, const float *y, int64_t y_stride, const int T, const int dtype) {
	const int64_t rank = s->rank, left = s->n - panel * PANEL;
	const int lanes = left < PANEL ? (int)left : PANEL, size = dtype == DTYPE_F32 ? 4 : 2;
	const uint8_t *b = s->b + panel * PANEL * rank * size;
	v16 sum[EXPAND_TOKENS];
	for (int t = 0; t < T; t++) {
		sum[t] = v_set1(0);
	}
	for (int64_t r = 0; r < rank; r++) {
		if (T == 1) {
			__builtin_prefetch(b + r * PANEL * size + EXPAND_AHEAD);
		}
		v16 w = elements(b, r * PANEL, dtype);
		for (int t = 0; t < T; t++) {
			sum[t] = v_fma(v_set1(y[t * y_stride + r]), w, sum[t]);
		}
	}
	out += panel * PANEL;
	for (int t = 0; t < T; t++, out += s->out_stride) {
		v16 v = lanes == PANEL ? v_load(out) : v_load_part(out, lanes);
		if (rank > 0) {
			v = v_fma(v_set1(s->scale), sum[t], v);
		}
		if (s->gain) {
			v = v_mul(v, v_load_part(s->gain + panel * PANEL, lanes));
		}
		if (s->bias) {
			v = v_fma(v_set1(s->shift), v_load_part(s->bias + panel * PANEL, lanes), v);
		}
		if (lanes == PANEL) {
			v_store(out, v);
		} else {
			v_store_part(out, v, lanes);
		}
	}
}

ALWAYS void expand_rows(const lora_segment *s, int64_t row, int64_t rows, int64_t begin, int64_t end, const float *y,
	int64_t y_stride, const int dtype) {
	float *out = s->out + (s->begin + row) * s->out_stride;
	for (int64_t panel = begin; panel < end; panel++) {
		int64_t t = 0;
		for (; t + EXPAND_TOKENS <= rows; t += EXPAND_TOKENS) {
			expand_block(s, out + t * s->out_stride, panel, y + t * y_stride, y_stride, EXPAND_TOKENS, dtype);
		}
		for (; t < rows; t++) {
			expand_block(s, out + t * s->out_stride, panel, y + t * y_stride, y_stride, 1, dtype);
		}
	}
}

// The rows [row, row+rows) of the segment and the panels [begin, end) of its outputs; y has the rows' products with A,
// y_stride apart.
static void FN(lora_expand)(
	const lora_segment *s, int64_t row, int64_t rows, int64_t begin, int64_t end, const float *y, int64_t y_stride) {
	switch (s->b_dtype) {
	case DTYPE_F32: expand_rows(s, row, rows, begin, end, y, y_stride, DTYPE_F32); break;
	case DTYPE_F16: expand_rows(s, row, rows, begin, end, y, y_stride, DTYPE_F16); break;
	default: expand_rows(s, row, rows, begin, end, y, y_stride, DTYPE_BF16); break;
	}
}

void FN(lora)(kernel_table *k) {
	k->lora_shrink = FN(lora_shrink);
	k->lora_expand = FN(lora_expand);
}
