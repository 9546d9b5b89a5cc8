#include "vec_scalar.h"
#include "families.h"
#include "product_body.h"
