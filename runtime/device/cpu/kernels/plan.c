// How each operation is divided into phases of independent chunks. Chunks divide outputs, heads and rows, never a sum.
#include "kernels.h"

enum { CHUNKS_MAX = 1 << 16, MACRO_BYTES = 384 << 10 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Pieces of at least per elements' work out of total, not too many; sets o->split to the elements of one piece.
static int64_t pieces(op *o, int64_t total, int64_t per) {
	if (per < 1) {
		per = 1;
	}
	if (ceil_div(total, per) > CHUNKS_MAX) {
		per = ceil_div(total, CHUNKS_MAX);
	}
	o->split = (int32_t)per;
	return ceil_div(total, per);
}

static int64_t plan_linear(linear_op *o, int phase, int threads) {
	if (o->shared != NULL && phase == 0) {
		return pieces(&o->head, o->tiles, 1);
	}
	if (phase != (o->shared != NULL)) {
		return 0;
	}
	int64_t macro = MACRO_BYTES / o->tile_bytes;
	o->macro_tiles = (int32_t)(macro < 1 ? 1 : macro > o->tiles ? o->tiles : macro);
	int64_t macros = ceil_div(o->tiles, o->macro_tiles);
	int64_t per = threads == 1 ? o->panels : ceil_div(o->panels, threads * (macros > 2 ? 2 : 6));
	o->head.split = (int32_t)per;
	o->panel_chunks = (int32_t)ceil_div(o->panels, per);
	return macros * o->panel_chunks;
}

// Rows of cols columns with about work elements a chunk: whole rows (split > 0) or runs of -split columns of one row.
static int64_t plan_rows(rows_op *o, int64_t work) {
	if (o->cols >= 2 * work) {
		int64_t per = ceil_div(o->cols, ceil_div(o->cols, work));
		per = ceil_div(per, 16) * 16;
		int64_t blocks = ceil_div(o->cols, per);
		if (blocks * o->rows <= CHUNKS_MAX) {
			o->head.split = (int32_t)-per;
			return blocks * o->rows;
		}
	}
	return pieces(&o->head, o->rows, o->cols ? work / o->cols : o->rows);
}

// One phase over blocks of rows; or, where few rows read large matrices, segments times splits of the rank (A), then
// segments times splits of the outputs (B).
static int64_t plan_lora(lora_op *o, int phase, int threads) {
	if (o->y == NULL) {
		return phase == 0 ? pieces(&o->head, o->blocks, o->blocks / (8 * threads)) : 0;
	}
	return phase < 2 ? (int64_t)o->segments * o->splits : 0;
}

// Columns in runs of 64.
static int64_t plan_columns(op *o, int64_t cols) {
	int64_t n = pieces(o, ceil_div(cols, 64), 1);
	o->split *= 64;
	return n;
}

// Without the weight's gradient one phase; with it the rows' sums, then the weight's gradient by columns, then that of
// the input, which may be stored in place of the gradient of the output.
static int64_t plan_rmsnorm_grad(rmsnorm_grad_op *o, int phase) {
	if (phase > (o->dweight ? 2 : 0)) {
		return 0;
	}
	if (o->dweight && phase == 1) {
		return plan_columns(&o->head, o->width);
	}
	return pieces(&o->head, o->rows, 8192 / ((int64_t)o->parts * o->width + 1));
}

int64_t op_chunks(op *o, int phase, int threads) {
	switch (o->kind) {
	case OP_LINEAR: return plan_linear((linear_op *)o, phase, threads);
	case OP_LORA: return plan_lora((lora_op *)o, phase, threads);
	case OP_ATTENTION: {
		attention_op *a = (attention_op *)o;
		return phase == 0 ? pieces(o, a->items, 1) : phase == 1 ? pieces(o, a->merges, 1) : 0;
	}
	case OP_RMSNORM_GRAD: return plan_rmsnorm_grad((rmsnorm_grad_op *)o, phase);
	case OP_SAMPLES_GRAD: {
		samples_op *d = (samples_op *)o;
		return phase == 0 ? pieces(o, d->rows, 16384 / ((int64_t)d->heads * d->head_dim + 1))
			: phase == 1  ? pieces(o, d->items, 1)
						  : 0;
	}
	}
	if (phase > 0) {
		return 0;
	}
	switch (o->kind) {
	case OP_EMBED: {
		embed_op *e = (embed_op *)o;
		return pieces(o, e->rows, 2048 / (e->table->cols + 1));
	}
	case OP_RMSNORM: {
		rmsnorm_op *r = (rmsnorm_op *)o;
		return pieces(o, r->rows, 8192 / ((int64_t)r->parts * r->width + 1));
	}
	case OP_ROPE: {
		rope_op *r = (rope_op *)o;
		return pieces(o, r->rows, 4096 / ((int64_t)(r->q_heads + 2 * r->kv.kv_heads) * r->kv.head_dim + 1));
	}
	case OP_GLU: return plan_rows((rows_op *)o, 2048);
	case OP_ADD: return plan_rows((rows_op *)o, 16384);
	case OP_SOFTCAP: return plan_rows((rows_op *)o, 4096);
	case OP_LOGSOFTMAX: return pieces(o, ((rows_op *)o)->rows, 1);
	case OP_PRODUCT: {
		product_op *p = (product_op *)o;
		return pieces(o, ceil_div(p->tiles, p->block_tiles) * ceil_div(p->pairs, p->block_pairs), 1);
	}
	case OP_ROTATE: {
		rotate_op *r = (rotate_op *)o;
		return pieces(o, r->rows, 8192 / ((int64_t)r->heads * r->head_dim + 1));
	}
	case OP_GLU_GRAD: return plan_rows((rows_op *)o, 2048);
	case OP_CROSS_ENTROPY:
		return pieces(o, ((cross_entropy_op *)o)->rows, 2048 / ((int64_t)((cross_entropy_op *)o)->cols + 1));
	case OP_EMBED_GRAD: return plan_columns(o, ((embed_grad_op *)o)->cols);
	case OP_SAMPLES: return pieces(o, ((samples_op *)o)->items, 1);
	}
	return 0;
}

static int64_t matrix_bytes(int64_t rows, int64_t cols, int32_t dtype) {
	return rows * cols * (dtype == DTYPE_F32 ? 4 : 2);
}

// Advances to the next LoRA matrix that is present.
void ahead_next(ahead *a) {
	a->at = a->end = NULL;
	for (; a->segment < a->last && a->at == a->end; a->second = !a->second) {
		const lora_segment *s = a->segment;
		a->at = a->second ? s->b : s->a;
		a->end = a->at == NULL
			? NULL
			: a->at + (a->second ? matrix_bytes(s->rank, s->n, s->b_dtype) : matrix_bytes(s->rank, a->in, s->a_dtype));
		a->segment += a->second;
	}
}

// The part that a chunk of o prefetches of what the next LoRA operation reads. The adapters of many requests exceed the
// caches, and integer products of several tokens leave memory bandwidth unused. Kernels that do not prefetch ignore it.
static void look_ahead(const linear_op *o, int64_t chunk, ahead *a) {
	const lora_op *next = (const lora_op *)o->head.next;
	if (next == NULL || next->head.kind != OP_LORA || next->y != NULL || o->prep != PREP_INT8) {
		return;
	}
	int64_t chunks = ceil_div(o->tiles, o->macro_tiles) * o->panel_chunks, bytes = 0;
	a->segment = next->segment + next->segments * chunk / chunks;
	a->last = next->segment + next->segments * (chunk + 1) / chunks;
	a->in = next->in;
	for (const lora_segment *s = a->segment; s < a->last; s++) {
		bytes += matrix_bytes(s->rank, a->in, s->a_dtype) + matrix_bytes(s->rank, s->n, s->b_dtype);
	}
	int64_t steps = o->head.split * ceil_div(o->cols, UNIT) * o->macro_tiles;
	a->lines = (int32_t)(bytes / 64 / steps + 1);
	ahead_next(a);
}

static void run_linear(
	const linear_op *o, int phase, int64_t chunk, const kernel_table *k, uint8_t *scratch, int fresh) {
	if (o->shared == NULL) {
		for (int64_t i = 0; fresh && i < o->tiles; i++) {
			k->prepare[o->prep](o, i * o->tile, tokens_of(o, i), scratch + i * o->tile_bytes);
		}
	} else if (phase == 0) {
		for (int64_t i = chunk * o->head.split; i < (chunk + 1) * o->head.split && i < o->tiles; i++) {
			k->prepare[o->prep](o, i * o->tile, tokens_of(o, i), *o->shared + i * o->tile_bytes);
		}
		return;
	} else {
		scratch = *o->shared;
	}
	int64_t first = chunk / o->panel_chunks * o->macro_tiles, last = first + o->macro_tiles;
	last = last < o->tiles ? last : o->tiles;
	int64_t begin = chunk % o->panel_chunks * o->head.split, end = begin + o->head.split;
	end = end < o->panels ? end : o->panels;
	ahead a = {0};
	look_ahead(o, chunk, &a);
	for (int i = 0; i < o->parts; i++) {
		int64_t base = o->part[i].first_panel, stop = i + 1 < o->parts ? o->part[i + 1].first_panel : o->panels;
		int64_t from = begin > base ? begin : base, to = end < stop ? end : stop;
		if (from < to) {
			k->product[o->prep](&(linear_work){o, &o->part[i], from - base, to - base, scratch, first, last, &a});
		}
	}
}

static void lora_block(const lora_op *o, const lora_segment *s, int64_t row, const kernel_table *k, float *y) {
	int64_t rows = s->end - s->begin - row;
	rows = rows < o->block ? rows : o->block;
	if (s->a != NULL) {
		k->lora_shrink(o, s, row, rows, 0, s->rank, y);
		k->lora_expand(s, row, rows, 0, ceil_div(s->n, PANEL), y, s->rank);
	} else {
		k->lora_expand(s, row, rows, 0, ceil_div(s->n, PANEL), o->x + (s->begin + row) * o->x_stride, o->x_stride);
	}
}

static void run_lora(const lora_op *o, int phase, int64_t chunk, const kernel_table *k, uint8_t *scratch) {
	if (o->y == NULL) {
		int64_t i = chunk * o->head.split, end = i + o->head.split < o->blocks ? i + o->head.split : o->blocks;
		for (int s = 0; i < end; i++) {
			while (s + 1 < o->segments && i >= o->segment[s + 1].first) {
				s++;
			}
			lora_block(o, &o->segment[s], (i - o->segment[s].first) * o->block, k, (float *)scratch);
		}
		return;
	}
	const lora_segment *s = &o->segment[chunk / o->splits];
	int64_t piece = chunk % o->splits, rows = s->end - s->begin, panels = ceil_div(s->n, PANEL);
	float *y = *o->y + s->y;
	if (phase == 0) {
		k->lora_shrink(o, s, 0, rows, s->rank * piece / o->splits, s->rank * (piece + 1) / o->splits, y);
	} else {
		k->lora_expand(s, 0, rows, panels * piece / o->splits, panels * (piece + 1) / o->splits, y, s->rank);
	}
}

static void run_rows(const rows_op *o, int64_t chunk, void (*f)(const rows_op *, int64_t, int64_t, int64_t)) {
	if (o->head.split < 0) {
		int64_t per = -o->head.split, blocks = ceil_div(o->cols, per);
		int64_t begin = chunk % blocks * per, end = begin + per < o->cols ? begin + per : o->cols;
		f(o, chunk / blocks, begin, end);
		return;
	}
	int64_t end = (chunk + 1) * o->head.split;
	for (int64_t row = chunk * o->head.split; row < end && row < o->rows; row++) {
		f(o, row, 0, o->cols);
	}
}

// Blocks of the output: pairs of panels within the same tiles, then the next tiles.
static void run_product(const product_op *o, int64_t begin, int64_t end, const kernel_table *k, float *scratch) {
	int64_t across = ceil_div(o->pairs, o->block_pairs), all = ceil_div(o->tiles, o->block_tiles) * across;
	for (int64_t i = begin; i < end && i < all; i++) {
		int64_t tile = i / across * o->block_tiles, pair = i % across * o->block_pairs, tiles = o->tiles - tile,
				pairs = o->pairs - pair;
		k->products(o, tile, tiles < o->block_tiles ? tiles : o->block_tiles, pair,
			pairs < o->block_pairs ? pairs : o->block_pairs, scratch);
	}
}

static void run_rmsnorm_grad(const rmsnorm_grad_op *o, int phase, int64_t begin, int64_t end, const kernel_table *k) {
	int columns = o->dweight && phase == 1, limit = columns ? o->width : o->rows;
	end = end < limit ? end : limit;
	if (columns) {
		k->rmsnorm_dweight(o, begin, end);
	} else if (o->dweight && phase == 0) {
		k->rmsnorm_stats(o, begin, end);
	} else {
		k->rmsnorm_grad(o, begin, end);
	}
}

void op_run(const op *o, int phase, int64_t chunk, const kernel_table *k, uint8_t *scratch, int fresh) {
	int64_t begin = chunk * o->split, end = begin + o->split;
#define UNTIL(n) (end < (n) ? end : (n))
	switch (o->kind) {
	case OP_LINEAR: run_linear((const linear_op *)o, phase, chunk, k, scratch, fresh); break;
	case OP_LORA: run_lora((const lora_op *)o, phase, chunk, k, scratch); break;
	case OP_EMBED: embed_rows((const embed_op *)o, begin, UNTIL(((const embed_op *)o)->rows)); break;
	case OP_RMSNORM: k->rmsnorm((const rmsnorm_op *)o, begin, UNTIL(((const rmsnorm_op *)o)->rows)); break;
	case OP_ROPE: k->rope((const rope_op *)o, begin, UNTIL(((const rope_op *)o)->rows)); break;
	case OP_ATTENTION: {
		const attention_op *a = (const attention_op *)o;
		for (int64_t i = begin; i < UNTIL(phase ? a->merges : a->items); i++) {
			if (phase == 0) {
				k->attention(a, &a->item[i], (float *)scratch);
			} else {
				k->attention_merge(a, &a->merge[i], (float *)scratch);
			}
		}
		break;
	}
	case OP_GLU: run_rows((const rows_op *)o, chunk, k->glu); break;
	case OP_ADD: run_rows((const rows_op *)o, chunk, k->add); break;
	case OP_SOFTCAP: run_rows((const rows_op *)o, chunk, k->softcap); break;
	case OP_LOGSOFTMAX:
		for (int64_t row = begin; row < UNTIL(((const rows_op *)o)->rows); row++) {
			k->logsoftmax((const rows_op *)o, row);
		}
		break;
	case OP_PRODUCT: run_product((const product_op *)o, begin, end, k, (float *)scratch); break;
	case OP_RMSNORM_GRAD: run_rmsnorm_grad((const rmsnorm_grad_op *)o, phase, begin, end, k); break;
	case OP_ROTATE: k->rotate((const rotate_op *)o, begin, UNTIL(((const rotate_op *)o)->rows)); break;
	case OP_GLU_GRAD: run_rows((const rows_op *)o, chunk, k->glu_grad); break;
	case OP_CROSS_ENTROPY:
		k->cross_entropy((const cross_entropy_op *)o, begin, UNTIL(((const cross_entropy_op *)o)->rows));
		break;
	case OP_EMBED_GRAD: k->embed_grad((const embed_grad_op *)o, begin, UNTIL(((const embed_grad_op *)o)->cols)); break;
	case OP_SAMPLES:
	case OP_SAMPLES_GRAD: {
		const samples_op *d = (const samples_op *)o;
		if (o->kind == OP_SAMPLES_GRAD && phase == 0) {
			k->samples_delta(d, begin, UNTIL(d->rows));
			break;
		}
		for (int64_t i = begin; i < UNTIL(d->items); i++) {
			(o->kind == OP_SAMPLES ? k->samples : k->samples_grad)(d, &d->item[i], (float *)scratch);
		}
		break;
	}
	}
}
