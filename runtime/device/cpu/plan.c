// How each operation falls into phases of independent chunks. Chunks divide outputs, heads and rows; no sum is ever divided.
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

// Blocks of rows from A to B; or, where few rows have much to read, segments times splits of the rank, then of the outputs.
static int64_t plan_lora(lora_op *o, int phase, int threads) {
	if (o->y == NULL) {
		return phase == 0 ? pieces(&o->head, o->blocks, o->blocks / (8 * threads)) : 0;
	}
	return phase < 2 ? (int64_t)o->segments * o->splits : 0;
}

int64_t op_chunks(op *o, int phase, int threads) {
	switch (o->kind) {
	case OP_LINEAR: return plan_linear((linear_op *)o, phase, threads);
	case OP_LORA: return plan_lora((lora_op *)o, phase, threads);
	case OP_ATTENTION: {
		attention_op *a = (attention_op *)o;
		return phase == 0 ? pieces(o, a->items, 1) : phase == 1 ? pieces(o, a->merges, 1) : 0;
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
	}
	return 0;
}

static void run_linear(const linear_op *o, int phase, int64_t chunk, const kernel_table *k, uint8_t *scratch, int fresh) {
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
	for (int i = 0; i < o->parts; i++) {
		int64_t base = o->part[i].first_panel, stop = i + 1 < o->parts ? o->part[i + 1].first_panel : o->panels;
		int64_t from = begin > base ? begin : base, to = end < stop ? end : stop;
		if (from < to) {
			k->product[o->prep](&(linear_work){o, &o->part[i], from - base, to - base, scratch, first, last});
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
	}
}
