#pragma GCC target("avx2,fma,f16c")
// The kernels whose source is the same for every instruction set, over the vectors of avx2.
#include "vec_avx2.h"
#include "families.h"
#include "attention_body.h"
#include "samples_body.h"
#include "lora_body.h"
#include "product_body.h"
#include "rows_body.h"
#include "training_body.h"
