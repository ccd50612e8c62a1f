/* Counts taps, in vectors of each width. */

#ifndef MODEL_COUNT_H
#define MODEL_COUNT_H

#include "planes.h"
#include "vectors.h"

#define model_two_vec MODEL_OF_WIDTH(two_vec)
#define model_two_base MODEL_NAME(two_vec, MODEL_VECTOR)
#define model_tap_two_vec MODEL_OF_WIDTH(tap_two_vec)
#define model_adder_two_vec MODEL_OF_WIDTH(adder_two_vec)
#define model_eight_vec MODEL_OF_WIDTH(eight_vec)
#define model_eight_base MODEL_NAME(eight_vec, MODEL_VECTOR)
#define model_sixteen_vec MODEL_OF_WIDTH(sixteen_vec)
#define model_ripple_vec MODEL_OF_WIDTH(ripple_vec)
#define model_count_two_vec MODEL_OF_WIDTH(count_two_vec)
#define model_count_vec MODEL_OF_WIDTH(count_vec)

#include "of_width/count.h"
#undef MODEL_BYTES
#define MODEL_BYTES 16
#include "of_width/count.h"
#undef MODEL_BYTES
#define MODEL_BYTES 32
#include "of_width/count.h"
#undef MODEL_BYTES
#define MODEL_BYTES 64
#include "of_width/count.h"
#undef MODEL_BYTES
#define MODEL_BYTES 8

#endif
