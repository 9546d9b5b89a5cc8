#pragma once
// Packed weights as float32, over v16.

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
			v_store(to + 16 * k + 16, i_as_float(i_and(pair, -0x10000)));
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

// The values of columns [from, from+n) of a panel, in to[k][16] or in place; from is a multiple of UNIT.
ALWAYS const float *columns(const weight *w, const uint8_t *panel, int64_t from, int n, float *to) {
	const uint8_t *codes = panel + from / UNIT * w->code_stride;
	if (w->layout == LAYOUT_F32) {
		return (const float *)codes;
	}
	for (int i = 0; i < n; i += UNIT) {
		FN(expand)(w, panel, (from + i) / UNIT, n - i < UNIT ? n - i : UNIT, to + 16 * i);
	}
	return to;
}
