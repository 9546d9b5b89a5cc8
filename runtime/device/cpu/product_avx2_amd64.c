#pragma GCC target("avx2,fma,f16c")
#include "vec_avx2.h"
#include "families.h"
#include "product_body.h"
