#include "peak.h"

#define PEAK_ROUND_FLOAT(i) acc##i += a * b; PEAK_BARRIER(acc##i);
PEAK(peak_float, float, 0, FLOAT, 2)

static uint64_t read_bytes(const uint8_t *p, int64_t bytes) {
	uint64_t sum[8] = {0};
	for (const uint64_t *v = (const uint64_t *)p, *end = v + bytes / 8; v < end; v += 8) {
		__builtin_prefetch(v + 256);
		for (int i = 0; i < 8; i++) {
			sum[i] ^= v[i];
		}
	}
	return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

void peak_scalar(kernel_table *k) {
	for (int i = 0; i < 3; i++) {
		k->peak[i] = peak_float;
	}
	k->read = read_bytes;
}
