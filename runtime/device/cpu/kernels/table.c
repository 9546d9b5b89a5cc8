#include "kernels.h"
#include "families.h"

static kernel_table tables[3];

// Each table starts as the scalar one, so that a family without kernels for an instruction set uses the scalar ones.
static void __attribute__((constructor)) fill(void) {
	for (int i = 0; i < 3; i++) {
		linear_scalar(&tables[i]);
		rows_scalar(&tables[i]);
		lora_scalar(&tables[i]);
		attention_table_scalar(&tables[i]);
		peak_scalar(&tables[i]);
		product_table_scalar(&tables[i]);
		training_scalar(&tables[i]);
		samples_table_scalar(&tables[i]);
	}
#ifdef __x86_64__
	linear_avx2(&tables[ISA_AVX2]);
	rows_avx2(&tables[ISA_AVX2]);
	lora_avx2(&tables[ISA_AVX2]);
	attention_table_avx2(&tables[ISA_AVX2]);
	peak_avx2(&tables[ISA_AVX2]);
	product_table_avx2(&tables[ISA_AVX2]);
	training_avx2(&tables[ISA_AVX2]);
	samples_table_avx2(&tables[ISA_AVX2]);
	linear_avx512(&tables[ISA_AVX512]);
	rows_avx512(&tables[ISA_AVX512]);
	lora_avx512(&tables[ISA_AVX512]);
	attention_table_avx512(&tables[ISA_AVX512]);
	peak_avx512(&tables[ISA_AVX512]);
	product_table_avx512(&tables[ISA_AVX512]);
	training_avx512(&tables[ISA_AVX512]);
	samples_table_avx512(&tables[ISA_AVX512]);
#endif
}

const kernel_table *kernels_for(int isa) { return &tables[isa]; }

int64_t peak_of(int isa, int prep, int64_t rounds) { return tables[isa].peak[prep](rounds); }

uint64_t read_by(int isa, const void *p, int64_t off, int64_t bytes) {
	return tables[isa].read((const uint8_t *)p + off, bytes);
}
