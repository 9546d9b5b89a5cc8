#include "vec_scalar.h"
#include "families.h"
#include "documents_body.h"
