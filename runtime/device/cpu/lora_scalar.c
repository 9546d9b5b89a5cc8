#include "vec_scalar.h"
#include "families.h"
#include "lora_body.h"
