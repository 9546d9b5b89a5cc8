// The kernels whose source is the same for every instruction set, over the vectors of scalar.
#include "vec_scalar.h"
#include "families.h"
#include "attention_body.h"
#include "samples_body.h"
#include "lora_body.h"
#include "product_body.h"
#include "rows_body.h"
#include "training_body.h"
