// Packing of matrices into panels, and rows gathered from them. See doc.go for the layouts.
#include "half.h"
#include "kernels.h"

// Sets the offsets within a panel; rows, cols, group_len and layout are valid (quant.Matrix.Validate).
void pack_shape(
	weight *w, int32_t layout, int32_t rows, int32_t cols, int32_t group_len, int32_t has_mins, int32_t scales_f16) {
	w->layout = layout;
	w->rows = rows;
	w->cols = cols;
	w->units = (int32_t)(((int64_t)cols + UNIT - 1) / UNIT);
	w->has_mins = has_mins;
	w->unit_groups = 1;
	int64_t units = w->units;
	if (layout == LAYOUT_F32 || layout == LAYOUT_F16 || layout == LAYOUT_BF16) {
		int64_t width = layout == LAYOUT_BF16 ? ((int64_t)cols + 1) / 2 * 2 : cols;
		w->code_stride = UNIT * PANEL * (layout == LAYOUT_F32 ? 4 : 2);
		w->panel_bytes = width * PANEL * (layout == LAYOUT_F32 ? 4 : 2);
		return;
	}
	int32_t codes = layout == LAYOUT_INT8 ? UNIT * PANEL : UNIT * PANEL / 2;
	w->scale_bytes = scales_f16 ? 32 : 64;
	w->group_bytes = w->scale_bytes * (has_mins ? 2 : 1);
	if (group_len >= cols) {
		group_len = w->units * UNIT;
	}
	w->group_len = group_len;
	int64_t groups = group_len ? ((int64_t)cols + group_len - 1) / group_len : 0;
	if (group_len == UNIT || group_len == 16) { // scales beside the codes of their unit
		w->unit_groups = UNIT / group_len;
		w->code_stride = codes + w->unit_groups * w->group_bytes;
		w->scale_off = codes;
		w->scale_stride = w->code_stride;
		w->panel_bytes = units * w->code_stride;
	} else { // scales after the codes of the panel
		w->code_stride = codes;
		w->scale_off = units * codes;
		w->scale_stride = w->group_bytes;
		w->panel_bytes = units * codes + groups * w->group_bytes;
	}
}

static void put_scale(const weight *w, uint8_t *to, int lane, float f) {
	if (w->scale_bytes == 32) {
		((uint16_t *)to)[lane] = f32_to_f16(f);
	} else {
		((float *)to)[lane] = f;
	}
}

static void pack_floats(const weight *w, uint8_t *to, const uint8_t *data, int64_t row, int lane) {
	const uint8_t *from = data + row * w->cols * (w->layout == LAYOUT_F32 ? 4 : 2);
	for (int64_t k = 0; k < w->cols; k++) {
		if (w->layout == LAYOUT_F32) {
			memcpy(to + (k * PANEL + lane) * 4, from + 4 * k, 4);
		} else if (w->layout == LAYOUT_F16) {
			memcpy(to + (k * PANEL + lane) * 2, from + 2 * k, 2);
		} else {
			memcpy(to + ((k / 2 * PANEL + lane) * 2 + k % 2) * 2, from + 2 * k, 2);
		}
	}
}

static void pack_codes(const weight *w, uint8_t *to, const uint8_t *from, int lane) {
	for (int64_t u = 0; u < w->units; u++) {
		uint8_t *unit = to + u * w->code_stride + 4 * lane;
		int n = (int)(w->cols - u * UNIT < UNIT ? w->cols - u * UNIT : UNIT);
		for (int k = 0; k < n; k++) {
			uint8_t c = from[u * UNIT + k];
			if (w->layout == LAYOUT_INT8) {
				unit[k / 4 * 64 + k % 4] = c ^ (uint8_t)w->flip;
			} else {
				unit[k / 4 % 4 * 64 + k % 4] |= (uint8_t)(c << k / 16 * 4);
			}
		}
	}
}

// Fills w->data, which is zeroed and has panels*panel_bytes, from row-major values or codes.
void pack(weight *w, const uint8_t *data, const float *scales, const float *mins) {
	int64_t groups = w->group_len ? ((int64_t)w->cols + w->group_len - 1) / w->group_len : 0;
	for (int64_t row = 0; row < w->rows; row++) {
		uint8_t *panel = (uint8_t *)w->data + row / PANEL * w->panel_bytes;
		int lane = (int)(row % PANEL);
		if (w->layout < LAYOUT_INT8) {
			pack_floats(w, panel, data, row, lane);
			continue;
		}
		pack_codes(w, panel, data + row * w->cols, lane);
		for (int64_t g = 0; g < groups; g++) {
			uint8_t *at = (uint8_t *)group_at(w, panel, g);
			put_scale(w, at, lane, scales[row * groups + g]);
			if (w->has_mins) {
				put_scale(w, at + w->scale_bytes, lane, mins[row * groups + g]);
			}
		}
	}
}

static float scale_at(const weight *w, const uint8_t *g, int lane) {
	return w->scale_bytes == 32 ? f16_to_f32(((const uint16_t *)g)[lane]) : ((const float *)g)[lane];
}

static float code_at(const weight *w, const uint8_t *unit, int k, int lane) {
	if (w->layout == LAYOUT_INT8) {
		return (float)(int8_t)(unit[k / 4 * 64 + 4 * lane + k % 4] ^ w->flip);
	}
	int c = unit[k / 4 % 4 * 64 + 4 * lane + k % 4] >> k / 16 * 4 & 15;
	return w->layout == LAYOUT_INT4 ? (float)(c - w->zero) : w->codes[c];
}

static void gather(const weight *w, int64_t row, float scale, float *out) {
	const uint8_t *panel = w->data + row / PANEL * w->panel_bytes;
	int lane = (int)(row % PANEL);
	if (w->layout < LAYOUT_INT8) {
		for (int64_t k = 0; k < w->cols; k++) {
			float v;
			if (w->layout == LAYOUT_F32) {
				v = ((const float *)panel)[k * PANEL + lane];
			} else if (w->layout == LAYOUT_F16) {
				v = f16_to_f32(((const uint16_t *)panel)[k * PANEL + lane]);
			} else {
				v = bf16_to_f32(((const uint16_t *)panel)[(k / 2 * PANEL + lane) * 2 + k % 2]);
			}
			out[k] = v * scale;
		}
		return;
	}
	for (int64_t k = 0; k < w->cols;) {
		const uint8_t *g = group_at(w, panel, k / w->group_len);
		float s = scale_at(w, g, lane), m = w->has_mins ? scale_at(w, g + w->scale_bytes, lane) : 0;
		int64_t end = (k / w->group_len + 1) * w->group_len;
		for (end = end < w->cols ? end : w->cols; k < end; k++) {
			float v = code_at(w, panel + k / UNIT * w->code_stride, (int)(k % UNIT), lane) * s;
			out[k] = (w->has_mins ? v + m : v) * scale;
		}
	}
}

void embed_rows(const embed_op *o, int64_t begin, int64_t end) {
	for (int64_t t = begin; t < end; t++) {
		gather(o->table, o->ids[t], o->scale, o->out + t * o->out_stride);
	}
}
