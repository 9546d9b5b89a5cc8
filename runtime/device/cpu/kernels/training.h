// Records of the operations of training, and of the blocked products that they share with Linear over many tokens.
// Included by kernels.h.

enum { DEPTH = 128, PAIR = 2 * PANEL, QUERY_BLOCK = 64 };

// One product: sums over k of x(row, k) y(k, column).
typedef struct {
	const float *x; // x(row, k) at x[row*x_stride + k], or at x[k*x_stride + row] where x_trans is set
	const float *y; // y(k, column) at y[k*y_stride + column], or at y[column*y_stride + k] where y_trans is set
	const weight *w; // instead of y: W[k][column], or W[column][k] where y_trans is set
	int64_t x_stride, y_stride;
	int32_t depth, x_trans, y_trans;
} product;

// out(row, column) = alpha * sum + bias(column), or + out(row, column) where accumulate is set. The sum is one chain
// over all products in order, k ascending.
typedef struct {
	op head;
	const product *product;
	const float *bias; // or NULL
	float *out;        // out[row*out_stride + column]; if swapped is set, out[column*out_stride + row]
	int64_t out_stride;
	int32_t products, rows, cols, swapped, accumulate;
	int32_t halves; // operands are rounded to bf16
	float alpha;
	int32_t tile, tiles, pairs;       // rows of a tile; tiles; pairs of panels, 32 columns each
	int32_t block_tiles, block_pairs; // of one chunk
} product_op;

typedef struct {
	op head;
	const float *x, *dy, *weight;
	float *dx, *dweight; // dweight may be NULL
	float **stats;       // [rows*parts][2], if dweight is not NULL
	int64_t x_stride, dy_stride, dx_stride;
	int32_t rows, parts, width, accumulate;
	float eps;
} rmsnorm_grad_op;

typedef struct {
	op head;
	float *x;
	const float *table;
	const int32_t *table_rows;
	int64_t x_stride;
	int32_t rows, heads, head_dim, rot, inverse;
} rotate_op;

typedef struct {
	rows_op rows; // gate, up; out is dgate
	const float *dout;
	float *dup;
	int64_t dout_stride, dup_stride;
} glu_grad_op;

typedef struct {
	op head;
	float *logits, *loss;
	const int32_t *labels;
	int64_t logits_stride, loss_stride;
	int32_t rows, cols;
	float scale, softcap;
} cross_entropy_op;

typedef struct {
	op head;
	const int32_t *ids;
	const float *dy;
	float *table;
	int64_t dy_stride, table_stride;
	int32_t rows, cols;
	float scale;
} embed_grad_op;

// Rows of the other side, in the order in which an item visits them. Row r of them has the position of row r + shift of
// the item's own sample.
typedef struct {
	int32_t begin, end, shift;
} sample_range;

// A block of rows of a sample and one head: queries, or, where keys is set, the rows of one KV head as keys. Query
// items visit the prefix and their own sample; key items visit their own sample and the samples that continue it.
typedef struct {
	const sample_range *other;
	int32_t others, row, rows, head, keys;
} sample_item;

typedef struct {
	op head;
	const float *q, *k, *v, *dout; // dout NULL: the forward pass
	float *out, *lse, *dq, *dk, *dv;
	float **delta; // [rows][heads]: dout times out
	int64_t q_stride, k_stride, v_stride, out_stride, lse_stride, dout_stride, dq_stride, dk_stride, dv_stride;
	const sample_item *item;
	int32_t items, rows, heads, group, head_dim, window;
	float scale, softcap;
} samples_op;
