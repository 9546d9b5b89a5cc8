#include "vec_scalar.h"
#include "linear_body.h"
#include "families.h"

// The sum of products of codes [begin, end) of a unit with 16 outputs; exact.
static void dot(const weight *w, const uint8_t *codes, const int8_t *q, int begin, int end, int32_t *sum) {
	for (int k = begin; k < end; k++) {
		for (int r = 0; r < PANEL; r++) {
			int32_t c;
			if (w->layout == LAYOUT_INT8) {
				c = (int8_t)(codes[k / 4 * 64 + r * 4 + k % 4] ^ w->flip);
			} else {
				c = (codes[k / 4 % 4 * 64 + r * 4 + k % 4] >> k / 16 * 4 & 15) - w->zero;
			}
			sum[r] += c * q[k];
		}
	}
}

static void int8_product(const linear_work *l, int64_t panel, const uint8_t *tile, int64_t first, int count) {
	const weight *w = l->p->w;
	const uint8_t *at = w->data + panel * w->panel_bytes;
	float acc[TILE_MAX * PANEL] = {0};
	int halves = w->unit_groups;
	for (int64_t u = 0; u < w->units; u++) {
		int8_block b = block_of(tile + u * 64 * l->o->tile, l->o->tile);
		for (int h = 0; h < halves; h++) {
			v16 scale, min;
			scaled(w, at, u * UNIT + h * 16, &scale, &min);
			for (int t = 0; t < count; t++) {
				int32_t sum[16] = {0};
				dot(w, at + u * w->code_stride, b.q + 32 * t, halves == 2 ? 16 * h : 0, halves == 2 ? 16 * h + 16 : 32,
					sum);
				v16 a = v_load(acc + 16 * t);
				a = v_fma(i_to_float(i_load(sum)), v_mul(scale, v_set1(b.scale[t])), a);
				if (w->has_mins) {
					a = v_fma(min, v_set1(b.sums[(halves == 2 ? 1 + h : 0) * l->o->tile + t]), a);
				}
				v_store(acc + 16 * t, a);
			}
		}
	}
	store_tile(l->p, panel, first, count, acc);
}

static void product_int8(const linear_work *l) { each_product(l, int8_product); }

void linear_scalar(kernel_table *k) {
	k->prepare[PREP_FLOAT] = prepare_float_scalar;
	k->prepare[PREP_INT8] = prepare_int8_scalar;
	k->product[PREP_FLOAT] = product_float_scalar;
	k->product[PREP_INT8] = product_int8;
}
