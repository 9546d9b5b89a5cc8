// Scalar conversions of binary16 and bfloat16, round to nearest even, the same bits as the F16C instructions give.
#ifndef WEFT_HALF_H
#define WEFT_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float f) {
	uint32_t u;
	memcpy(&u, &f, 4);
	return u;
}

static inline float float_of(uint32_t u) {
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static inline float f16_to_f32(uint16_t h) {
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 0x3ff;
	if (exp == 0) {
		return float_of(bits_of((float)frac * 0x1p-24f) | sign);
	}
	if (exp == 31) {
		return float_of(sign | 0x7f800000u | frac << 13 | (frac ? 0x400000u : 0));
	}
	return float_of(sign | (exp + 112) << 23 | frac << 13);
}

static inline uint16_t f32_to_f16(float f) {
	uint32_t b = bits_of(f), sign = b >> 16 & 0x8000;
	b &= 0x7fffffff;
	if (b > 0x7f800000) {
		return (uint16_t)(sign | 0x7e00 | (b >> 13 & 0x3ff));
	}
	if (b >= 0x477ff000) {
		return (uint16_t)(sign | 0x7c00);
	}
	if (b < 0x38800000) {
		return (uint16_t)(sign | (bits_of(float_of(b) + 0.5f) - 0x3f000000));
	}
	b += 0xfff + (b >> 13 & 1);
	return (uint16_t)(sign | (b - (112u << 23)) >> 13);
}

static inline float bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }

static inline uint16_t f32_to_bf16(float f) {
	uint32_t b = bits_of(f);
	if ((b & 0x7fffffff) > 0x7f800000) {
		return (uint16_t)(b >> 16 | 0x40);
	}
	return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

#endif
