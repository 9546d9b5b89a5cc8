#include "peak.h"

static int64_t peak_float(int64_t rounds) {
	float acc[CHAINS] = {0};
	volatile float one = 1;
	float a = one;
	for (int64_t r = 0; r < rounds; r++) {
		for (int i = 0; i < CHAINS; i++) {
			acc[i] += a * acc[i];
		}
	}
	volatile float sink = 0;
	for (int i = 0; i < CHAINS; i++) {
		sink += acc[i];
	}
	return rounds * CHAINS * 2;
}

void peak_scalar(kernel_table *k) {
	for (int i = 0; i < 3; i++) {
		k->peak[i] = peak_float;
	}
}
