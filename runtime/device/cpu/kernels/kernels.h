// Records of operations and the table of kernels. Lengths are element counts (int64_t or int32_t), and byte counts only
// where a name ends in _bytes. A panel has 16 output rows; a unit has 32 columns. See doc.go for the packed layouts.
#ifndef WEFT_KERNELS_H
#define WEFT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define ALWAYS static inline __attribute__((always_inline))

enum { PANEL = 16, UNIT = 32, TILE_MAX = 12, QUERIES_MAX = 16, KEY_BLOCK = 256 };

enum layout { LAYOUT_F32, LAYOUT_F16, LAYOUT_BF16, LAYOUT_INT8, LAYOUT_INT4, LAYOUT_LOOKUP4 };
enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512 };
// The form in which Linear prepares its activations: tiles of float32 columns, int8 groups, or bf16 pairs.
enum prep { PREP_FLOAT, PREP_INT8, PREP_BF16 };
enum activation { ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF };

enum op_kind {
	OP_EMBED, OP_RMSNORM, OP_LINEAR, OP_LORA, OP_ROPE, OP_ATTENTION, OP_GLU, OP_ADD, OP_SOFTCAP, OP_LOGSOFTMAX,
	OP_PRODUCT, OP_RMSNORM_GRAD, OP_ROTATE, OP_GLU_GRAD, OP_CROSS_ENTROPY, OP_EMBED_GRAD, OP_SAMPLES,
	OP_SAMPLES_GRAD, OP_KINDS
};

// A packed matrix. The scales of group g of a panel are at scale_off + g/unit_groups*scale_stride +
// g%unit_groups*group_bytes: 16 scales, then 16 mins where there are any.
typedef struct {
	const uint8_t *data;
	int64_t panel_bytes;
	int64_t scale_off, scale_stride;
	int32_t rows, cols, layout, units;
	int32_t code_stride;    // bytes from the codes of one unit to those of the next
	int32_t group_len;      // columns of a scale
	int32_t unit_groups;    // 2 for groups of 16, else 1
	int32_t group_bytes, scale_bytes; // scale_bytes: 32 (binary16) or 64 for 16 scales
	int32_t has_mins, zero;
	int32_t flip;           // 0x80 where int8 codes are stored plus 128
	int32_t integer;        // the integer kernels support it
	float codes[16];
} weight;

typedef struct op {
	struct op *next;
	int32_t kind;
	int32_t split; // set when the op is planned: rows, panels or columns of one chunk
	int64_t ns;    // duration, if the pool measures
} op;

typedef struct {
	const weight *w;
	const float *bias; // or NULL
	float *out;
	int64_t out_stride;
	int64_t first_panel; // panels of the parts before this one
} linear_part;

typedef struct {
	op head;
	const float *x;
	int64_t x_stride;
	uint8_t **shared;     // the prepared tiles for all workers, or NULL: each worker prepares its own copy
	int64_t tile_bytes;
	int64_t panels;       // of all parts
	int32_t rows, cols, prep, tile, tiles, parts, macro_tiles, panel_chunks;
	linear_part *part;
} linear_op;

// A segment of one part. See device.LoRAMatrices for the layouts.
typedef struct {
	const uint8_t *a, *b;     // a NULL: x is the product with A
	const float *gain, *bias; // or NULL
	float *out;
	int64_t out_stride;
	int64_t y;     // offset in y of the segment's [end-begin, rank] products
	int64_t first; // blocks of the segments before this one
	int32_t a_dtype, b_dtype, begin, end, rank, n;
	float scale, shift; // of the product, of the bias
} lora_segment;

typedef struct {
	op head;
	const float *x;
	float **y;     // the products with A, or NULL: one chunk computes A and B for a block of rows
	int64_t x_stride;
	int64_t blocks; // of at most block rows, over all segments
	int32_t in, segments, block, splits;
	lora_segment *segment;
} lora_op;

// What the next operation will read and this one, limited by integer arithmetic, may prefetch into the caches: the LoRA
// matrices of segments [segment, last), lines of 64 bytes at each step.
typedef struct {
	const uint8_t *at, *end; // of the current matrix; equal: nothing is left
	const lora_segment *segment, *last;
	int64_t in;
	int32_t lines, second; // second: the current matrix is B
} ahead;

void ahead_next(ahead *a);

ALWAYS void ahead_step(ahead *a) {
	if (a->at < a->end) {
		for (int i = 0; i < a->lines; i++) {
			__builtin_prefetch(a->at + 64 * i, 0, 2);
		}
		a->at += 64 * a->lines;
		if (a->at >= a->end) {
			ahead_next(a);
		}
	}
}

// Panels [begin, end) of a part times the prepared tiles [first, last), tile_bytes apart.
typedef struct {
	const linear_op *o;
	const linear_part *p;
	int64_t begin, end;
	const uint8_t *tiles;
	int64_t first, last;
	ahead *ahead;
} linear_work;

ALWAYS int tokens_of(const linear_op *o, int64_t tile) {
	int64_t left = o->rows - tile * o->tile;
	return (int)(left < o->tile ? left : o->tile);
}

typedef struct {
	op head;
	const int32_t *ids;
	const weight *table;
	float *out;
	int64_t out_stride;
	int32_t rows;
	float scale;
} embed_op;

typedef struct {
	op head;
	float *x;
	const float *add; // or NULL
	float *out;
	const float *weight;
	const int32_t *index; // or NULL
	int64_t x_stride, add_stride, out_stride;
	int32_t rows, parts, width;
	float eps;
} rmsnorm_op;

// A cache's keys and values of one layer: K [page][Hkv][PageLen/16][D][16], V [page][Hkv][PageLen][D].
typedef struct {
	uint8_t *k, *v;
	int64_t page_elems; // Hkv*PageLen*D
	int32_t kv_heads, head_dim, page_len, dtype;
} kv_layer;

typedef struct {
	op head;
	kv_layer kv;
	float *q, *k, *v;
	const float *table;
	const int32_t *table_rows, *slots;
	int64_t q_stride, k_stride, v_stride;
	int32_t rows, q_heads, rot;
} rope_op;

typedef struct {
	const int32_t *pages;
	int32_t row, rows, position; // first row, its position
	int32_t kv_head, head, heads; // query heads [head, head+heads)
	int32_t key_block, key_blocks; // blocks of KEY_BLOCK absolute positions, [key_block, key_block+key_blocks)
	// index of its first part, one per key block and query; -1: it has all key blocks and writes the output
	int64_t part;
} attention_item;

typedef struct {
	op head;
	kv_layer kv;
	const float *q;
	float *out;
	int64_t q_stride, out_stride;
	const attention_item *item, *merge; // merge: queries whose key blocks several items share
	int32_t items, merges, window;
	float scale, softcap;
	float **parts; // the parts
} attention_op;

typedef struct {
	op head;
	const float *gate, *up;
	float *out;
	int64_t gate_stride, up_stride, out_stride;
	int32_t rows, cols, act;
	float cap;
} rows_op; // GLU, Add (out += up), Softcap and LogSoftmax (gate to out)

#include "training.h"

typedef struct {
	// One tile of tokens [first, first+count) of x to dst (tile_bytes).
	void (*prepare[3])(const linear_op *o, int64_t first, int count, uint8_t *dst);
	void (*product[3])(const linear_work *l);
	void (*rmsnorm)(const rmsnorm_op *o, int64_t begin, int64_t end);
	void (*rope)(const rope_op *o, int64_t begin, int64_t end);
	void (*attention)(const attention_op *o, const attention_item *it, float *scratch);
	void (*attention_merge)(const attention_op *o, const attention_item *it, float *scratch);
	void (*glu)(const rows_op *o, int64_t row, int64_t begin, int64_t end);
	void (*add)(const rows_op *o, int64_t row, int64_t begin, int64_t end);
	void (*softcap)(const rows_op *o, int64_t row, int64_t begin, int64_t end);
	void (*logsoftmax)(const rows_op *o, int64_t row);
	void (*lora_shrink)(
		const lora_op *o, const lora_segment *s, int64_t row, int64_t rows, int64_t begin, int64_t end, float *y);
	void (*lora_expand)(
		const lora_segment *s, int64_t row, int64_t rows, int64_t begin, int64_t end, const float *y, int64_t y_stride);
	void (*products)(const product_op *o, int64_t tile, int64_t tiles, int64_t pair, int64_t pairs, float *scratch);
	void (*rmsnorm_stats)(const rmsnorm_grad_op *o, int64_t begin, int64_t end);
	void (*rmsnorm_dweight)(const rmsnorm_grad_op *o, int64_t begin, int64_t end); // columns
	void (*rmsnorm_grad)(const rmsnorm_grad_op *o, int64_t begin, int64_t end);
	void (*rotate)(const rotate_op *o, int64_t begin, int64_t end);
	void (*glu_grad)(const rows_op *o, int64_t row, int64_t begin, int64_t end);
	void (*cross_entropy)(const cross_entropy_op *o, int64_t begin, int64_t end);
	void (*embed_grad)(const embed_grad_op *o, int64_t begin, int64_t end); // columns
	void (*samples)(const samples_op *o, const sample_item *it, float *scratch);
	void (*samples_delta)(const samples_op *o, int64_t begin, int64_t end);
	void (*samples_grad)(const samples_op *o, const sample_item *it, float *scratch);
	// The highest rate of a preparation's products: rounds of them in registers only. Returns the number of
	// multiplications and additions.
	int64_t (*peak[3])(int64_t rounds);
	// Reads bytes, a multiple of 512, and returns a value that depends on all of them.
	uint64_t (*read)(const uint8_t *p, int64_t bytes);
	uint8_t halves; // products multiplies bf16
	uint8_t flip; // added to int8 codes for the integer kernel
} kernel_table;

const kernel_table *kernels_for(int isa);
int64_t peak_of(int isa, int prep, int64_t rounds);
uint64_t read_by(int isa, const void *p, int64_t off, int64_t bytes);

// The int8 form of a tile: for each unit a block of 64*tile bytes.
typedef struct {
	const int8_t *q;      // [tile][32]
	const float *scale;   // [tile]
	const float *sums;    // [3][tile]: scale * sum of q: of all 32 columns, of the first and of the last 16
	const int32_t *isums; // [3][tile]: sum of q
	const int32_t *shift; // [tile]: -128 * sum of all q, the excess of codes stored plus 128
} int8_block;

ALWAYS int8_block block_of(const uint8_t *base, int tile) {
	int8_block b;
	b.q = (const int8_t *)base;
	b.scale = (const float *)(base + 32 * tile);
	b.sums = b.scale + tile;
	b.isums = (const int32_t *)(b.sums + 3 * tile);
	b.shift = b.isums + 3 * tile;
	return b;
}

ALWAYS const uint8_t *group_at(const weight *w, const uint8_t *panel, int64_t g) {
	return panel + w->scale_off + g / w->unit_groups * w->scale_stride + g % w->unit_groups * w->group_bytes;
}

// pool.c
typedef struct pool pool;
pool *pool_new(int threads, const kernel_table *k);
int pool_threads(const pool *p);
void pool_run(pool *p, op *first, uint8_t *scratch, int64_t scratch_bytes, int measure);
void pool_free(pool *p);

// plan.c: an op is one or more phases of independent chunks.
int64_t op_chunks(op *o, int phase, int threads); // 0: the op has no such phase
void op_run(const op *o, int phase, int64_t chunk, const kernel_table *k, uint8_t *scratch, int fresh);

// pack.c
void pack_shape(
	weight *w, int32_t layout, int32_t rows, int32_t cols, int32_t group_len, int32_t has_mins, int32_t scales_f16);
void pack(weight *w, const uint8_t *data, const float *scales, const float *mins);
void embed_rows(const embed_op *o, int64_t begin, int64_t end);

// mem.c
void *mem_alloc(int64_t bytes);
void mem_free(void *p, int64_t bytes);
// mem_release returns the whole system pages within [p, p + bytes) to the system; they read as zero.
void mem_release(void *p, int64_t bytes);

#endif
