#pragma once
// exp, tanh and the gates over v16: one formula for every ISA.

// exp(x) = 2^n * e^r with |r| <= ln2/2 and e^r by its Taylor polynomial of degree 7 (remainder 5e-9). 0 at -inf, inf at
// +inf, NaN at NaN.
ALWAYS v16 v_exp(v16 x) {
	x = v_max(v_set1(-110.0f), v_min(v_set1(110.0f), x));
	v16 n = v_round(v_mul(x, v_set1(0x1.715476p+0f)));
	// ln2 in two parts: the first has 9 trailing zero bits, so that n*part is exact
	v16 r = v_fnma(n, v_set1(0x1.62e400p-1f), x);
	r = v_fnma(n, v_set1(0x1.7f7d1cp-20f), r);
	v16 p = v_set1(1.0f / 5040);
	p = v_fma(p, r, v_set1(1.0f / 720));
	p = v_fma(p, r, v_set1(1.0f / 120));
	p = v_fma(p, r, v_set1(1.0f / 24));
	p = v_fma(p, r, v_set1(1.0f / 6));
	p = v_fma(p, r, v_set1(0.5f));
	p = v_fma(p, r, v_set1(1.0f));
	p = v_fma(p, r, v_set1(1.0f));
	return v_ldexp(p, n);
}

// tanh: below 0.7 an odd polynomial (least squares on [0, 0.7], 8e-10), above 1 - 2/(e^2|x| + 1) with x's sign.
ALWAYS v16 v_tanh(v16 x) {
	v16 a = v_abs(x), z = v_mul(x, x), one = v_set1(1);
	v16 p = v_set1(0.0019109115f);
	p = v_fma(p, z, v_set1(-0.007905988f));
	p = v_fma(p, z, v_set1(0.021583717f));
	p = v_fma(p, z, v_set1(-0.053924202f));
	p = v_fma(p, z, v_set1(0.13333021f));
	p = v_fma(p, z, v_set1(-0.33333326f));
	v16 small = v_fma(v_mul(p, z), x, x);
	v16 big = v_sub(one, v_div(v_set1(2), v_add(v_exp(v_add(a, a)), one)));
	big = v_less(x, v_set1(0), v_sub(v_set1(0), big), big);
	return v_less(a, v_set1(0.7f), small, big);
}

// x * sigmoid(y)
ALWAYS v16 v_swish(v16 x, v16 y) { return v_div(x, v_add(v_set1(1), v_exp(v_sub(v_set1(0), y)))); }

// The tanh approximation of GELU: 0.5x(1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
ALWAYS v16 v_gelu_tanh(v16 x) {
	v16 cubic = v_fma(v_mul(v_mul(x, x), v_set1(0.044715f)), x, x);
	return v_swish(x, v_mul(cubic, v_set1(1.5957691216f)));
}

// erfc(y/sqrt2) of y >= 0: with z = y/sqrt2 and t = 1/(1 + 0.3275z) it is e^-z^2 t P(t) (least squares, 1.7e-7 of the
// value).
ALWAYS v16 v_erfc_half(v16 y) {
	y = v_mul(y, v_set1(0.70710678f));
	v16 t = v_div(v_set1(1), v_fma(y, v_set1(0.3275f), v_set1(1)));
	v16 p = v_set1(-0.1420181f);
	p = v_fma(p, t, v_set1(0.50057012f));
	p = v_fma(p, t, v_set1(-0.41169356f));
	p = v_fma(p, t, v_set1(0.45773414f));
	p = v_fma(p, t, v_set1(0.023489061f));
	p = v_fma(p, t, v_set1(0.20628259f));
	p = v_fma(p, t, v_set1(0.18063292f));
	p = v_fma(p, t, v_set1(0.18500281f));
	return v_mul(v_mul(p, t), v_exp(v_sub(v_set1(0), v_mul(y, y))));
}

// The exact GELU x*Phi(x).
ALWAYS v16 v_gelu_erf(v16 x) {
	v16 half = v_mul(v_mul(v_set1(0.5f), x), v_erfc_half(v_abs(x)));
	return v_less(x, v_set1(0), half, v_sub(x, half));
}
