// What each file of kernels puts into a table.
void linear_scalar(kernel_table *k);
void linear_avx2(kernel_table *k);
void linear_avx512(kernel_table *k);
void rows_scalar(kernel_table *k);
void rows_avx2(kernel_table *k);
void rows_avx512(kernel_table *k);
void lora_scalar(kernel_table *k);
void lora_avx2(kernel_table *k);
void lora_avx512(kernel_table *k);
void attention_table_scalar(kernel_table *k);
void attention_table_avx2(kernel_table *k);
void attention_table_avx512(kernel_table *k);
void peak_scalar(kernel_table *k);
void peak_avx2(kernel_table *k);
void peak_avx512(kernel_table *k);
