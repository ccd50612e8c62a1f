/* Binary convolutions, with vectors of the width that fits a plane best. */

#ifndef MODEL_CONV_H
#define MODEL_CONV_H

#include "count.h"
#include "planes.h"
#include "rescale.h"
#include "vectors.h"

#define model_add_vec MODEL_OF_WIDTH(add_vec)
#define model_count_planes_vec MODEL_OF_WIDTH(count_planes_vec)
#define model_sum_vec MODEL_OF_WIDTH(sum_vec)
#define model_shared_vec MODEL_OF_WIDTH(shared_vec)
#define model_output_vec MODEL_OF_WIDTH(output_vec)
#define model_invert_vec MODEL_OF_WIDTH(invert_vec)
#define model_subtract_vec MODEL_OF_WIDTH(subtract_vec)
#define model_at_least_vec MODEL_OF_WIDTH(at_least_vec)
#define model_compare_vec MODEL_OF_WIDTH(compare_vec)
#define model_conv_levels_vec MODEL_OF_WIDTH(conv_levels_vec)
#define model_swap_vec MODEL_OF_WIDTH(swap_vec)
#define model_transpose_vec MODEL_OF_WIDTH(transpose_vec)
#define model_bytes_vec MODEL_OF_WIDTH(bytes_vec)
#define model_conv_stream_vec MODEL_OF_WIDTH(conv_stream_vec)

#include "of_width/conv.h"
#undef MODEL_BYTES
#define MODEL_BYTES 16
#include "of_width/conv.h"
#undef MODEL_BYTES
#define MODEL_BYTES 32
#include "of_width/conv.h"
#undef MODEL_BYTES
#define MODEL_BYTES 64
#include "of_width/conv.h"
#undef MODEL_BYTES
#define MODEL_BYTES 8

#endif
