#pragma once
// Runs of 16 columns, the last shorter, and the rotation of a head, over v16.

#define COLUMNS(begin, end) for (int64_t c = (begin), n; n = (end) - c < 16 ? (end) - c : 16, c < (end); c += 16)
ALWAYS v16 take(const float *p, int64_t n) { return n == 16 ? v_load(p) : v_load_part(p, (int)n); }
ALWAYS void put(float *p, v16 v, int64_t n) {
	if (n == 16) {
		v_store(p, v);
	} else {
		v_store_part(p, v, (int)n);
	}
}

ALWAYS void rotate(float *x, const float *table, int half) {
	const float *cosines = table, *sines = table + half;
	COLUMNS(0, half) {
		v16 a = take(x + c, n), b = take(x + half + c, n), cs = take(cosines + c, n), sn = take(sines + c, n);
		put(x + c, v_fnma(b, sn, v_mul(a, cs)), n);
		put(x + half + c, v_fma(a, sn, v_mul(b, cs)), n);
	}
}
