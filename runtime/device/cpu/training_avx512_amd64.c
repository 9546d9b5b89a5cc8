#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#include "vec_avx512.h"
#include "families.h"
#include "training_body.h"
