#include "vec_scalar.h"
#include "families.h"
#include "rows_body.h"
