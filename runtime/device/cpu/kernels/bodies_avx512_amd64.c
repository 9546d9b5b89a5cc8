#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
// The kernels whose source is the same for every instruction set, over the vectors of avx512.
#include "vec_avx512.h"
#include "families.h"
#include "attention_body.h"
#include "samples_body.h"
#include "lora_body.h"
#include "rows_body.h"
#include "training_body.h"
