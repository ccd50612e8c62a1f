/* Vectors of 8, 16, 32 and 64 bytes, model_vec8 to model_vec64, whatever the machine has.

   Code for vectors is written once, for MODEL_BYTES bytes, in the headers of of_width/. They have no include guards, as
   they are included once for each width: names such as model_vec are then model_vec8, model_vec16 and so on. */

#ifndef MODEL_VECTORS_H
#define MODEL_VECTORS_H

#include "target.h"

#define MODEL_PASTE(name, bytes) model_##name##bytes
#define MODEL_NAME(name, bytes) MODEL_PASTE(name, bytes) /* after `bytes` is replaced by its number */
#define MODEL_OF_WIDTH(name) MODEL_NAME(name, MODEL_BYTES)

#define model_vec MODEL_OF_WIDTH(vec)
#define model_majority_vec MODEL_OF_WIDTH(majority_vec)
#define model_parity_vec MODEL_OF_WIDTH(parity_vec)
#define model_adder_vec MODEL_OF_WIDTH(adder_vec)
#define model_fill_vec MODEL_OF_WIDTH(fill_vec)
#define model_xor_vec MODEL_OF_WIDTH(xor_vec)
#define model_and_vec MODEL_OF_WIDTH(and_vec)
#define model_shift_xor_vec MODEL_OF_WIDTH(shift_xor_vec)
#define model_move_vec MODEL_OF_WIDTH(move_vec)
#define model_load_vec MODEL_OF_WIDTH(load_vec)
#define model_store_vec MODEL_OF_WIDTH(store_vec)

/* Of the machine's widest vectors. Wider ones than those are made of several. */
#define model_base MODEL_NAME(vec, MODEL_VECTOR)
#define model_fill_base MODEL_NAME(fill_vec, MODEL_VECTOR)
#define model_majority_base MODEL_NAME(majority_vec, MODEL_VECTOR)
#define model_parity_base MODEL_NAME(parity_vec, MODEL_VECTOR)
#define model_adder_base MODEL_NAME(adder_vec, MODEL_VECTOR)
#define model_move_base MODEL_NAME(move_vec, MODEL_VECTOR)
#define MODEL_WORDS (MODEL_BYTES / MODEL_VECTOR)

#include "of_width/vector.h"
#undef MODEL_BYTES
#define MODEL_BYTES 16
#include "of_width/vector.h"
#undef MODEL_BYTES
#define MODEL_BYTES 32
#include "of_width/vector.h"
#undef MODEL_BYTES
#define MODEL_BYTES 64
#include "of_width/vector.h"
#undef MODEL_BYTES
#define MODEL_BYTES 8

#endif
