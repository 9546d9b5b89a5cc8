// Linear with float32 products, written once over v16. acc = fma(x[k], w[k], acc) for ascending k, one chain per output.

// The values of one unit (columns [32u, 32u+n)) of a panel, dequantized as quant.Matrix says, to to[k][16].
ALWAYS void scaled(const weight *w, const uint8_t *panel, int64_t column, v16 *scale, v16 *min) {
	const uint8_t *g = group_at(w, panel, column / w->group_len);
	if (w->scale_bytes == 32) {
		*scale = v_load_f16((const uint16_t *)g);
		*min = w->has_mins ? v_load_f16((const uint16_t *)(g + 32)) : v_set1(0);
	} else {
		*scale = v_load((const float *)g);
		*min = w->has_mins ? v_load((const float *)(g + 64)) : v_set1(0);
	}
}

static void FN(expand)(const weight *w, const uint8_t *panel, int64_t unit, int n, float *to) {
	const uint8_t *codes = panel + unit * w->code_stride;
	v16 scale = v_set1(0), min = v_set1(0);
	int has_mins = w->has_mins;
	if (w->layout == LAYOUT_F16) {
		for (int k = 0; k < n; k++) {
			v_store(to + 16 * k, v_load_f16((const uint16_t *)codes + 16 * k));
		}
		return;
	}
	if (w->layout == LAYOUT_BF16) {
		for (int k = 0; k < n; k += 2) {
			i16v pair = i_load(codes + 32 * k);
			v_store(to + 16 * k, i_as_float(i_shl(pair, 16)));
			v_store(to + 16 * k + 16, i_as_float(i_field(pair, 0, -0x10000)));
		}
		return;
	}
	int left = 0; // columns until the next scale
	for (int k = 0; k < n; k++) {
		if (left == 0) {
			int64_t column = unit * UNIT + k;
			scaled(w, panel, column, &scale, &min);
			left = (int)(w->group_len - column % w->group_len);
		}
		left--;
		v16 level;
		int shift = k % 4 * 8;
		if (w->layout == LAYOUT_INT8) {
			i16v q = i_xor(i_field(i_load(codes + k / 4 * 64), shift, 0xff), w->flip ^ 0x80);
			level = v_sub(i_to_float(q), v_set1(128));
		} else {
			i16v q = i_field(i_load(codes + k / 4 % 4 * 64), shift + k / 16 * 4, 15);
			if (w->layout == LAYOUT_INT4) {
				level = v_sub(i_to_float(q), v_set1((float)w->zero));
			} else {
				level = v_lookup(w->codes, q);
			}
		}
		v16 value = v_mul(level, scale);
		v_store(to + 16 * k, has_mins ? v_add(value, min) : value);
	}
}

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

ALWAYS void float_tile(const weight *w, const uint8_t *panel, const float *x, const int tile, float *acc) {
	float values[UNIT * 16] __attribute__((aligned(64)));
	for (int64_t u = 0; u < w->units; u++) {
		int n = (int)(w->cols - u * UNIT < UNIT ? w->cols - u * UNIT : UNIT);
		const float *v = values;
		if (w->layout == LAYOUT_F32) {
			v = (const float *)(panel + u * w->code_stride);
			__builtin_prefetch(v + 1024);
		} else {
			__builtin_prefetch(panel + u * w->code_stride + 2048);
			__builtin_prefetch(panel + u * w->code_stride + 2112);
			FN(expand)(w, panel, u, n, values);
		}
		int t = 0;
		for (; t + FLOAT_TOKENS <= tile; t += FLOAT_TOKENS) {
			float_block(v, x + u * UNIT * tile + t, n, tile, FLOAT_TOKENS, acc + 16 * t);
		}
		if (tile % FLOAT_TOKENS) {
			float_block(v, x + u * UNIT * tile + t, n, tile, tile % FLOAT_TOKENS, acc + 16 * t);
		}
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

static void FN(product_float)(const linear_op *o, const linear_part *p, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	float acc[TILE_MAX * 16] __attribute__((aligned(64))) = {0};
	const weight *w = p->w;
	const uint8_t *at = w->data + panel * w->panel_bytes;
	const float *x = (const float *)tile;
	switch (o->tile) {
	case 1: float_tile(w, at, x, 1, acc); break;
	case 2: float_tile(w, at, x, 2, acc); break;
	case 3: float_tile(w, at, x, 3, acc); break;
	case 4: float_tile(w, at, x, 4, acc); break;
	case 6: float_tile(w, at, x, 6, acc); break;
	case 8: float_tile(w, at, x, 8, acc); break;
	default: float_tile(w, at, x, 12, acc); break;
	}
	store_tile(p, panel, first, count, acc);
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
				// v_max(a, b) passes a NaN in b only: NaN and infinity are looked for in the difference with itself
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
