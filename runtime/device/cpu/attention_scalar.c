#include "vec_scalar.h"
#include "families.h"
#include "attention_body.h"
