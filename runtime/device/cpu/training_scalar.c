#include "vec_scalar.h"
#include "families.h"
#include "training_body.h"
