/* Moves planes of one image to those of several images, which lie one below the other, and back. */

#ifndef MODEL_STACK_H
#define MODEL_STACK_H

#include "planes.h"

/* model_copy_parts, for any planes. */
MODEL_FUNCTION void model_copy(const uint8_t *from, size_t from_next, size_t bytes, size_t n, uint8_t *to,
                               size_t to_next)
{
    if (bytes == 8) /* as constants, for speed */
        model_copy_parts(from, from_next, 8, n, to, to_next);
    else if (bytes == 16)
        model_copy_parts(from, from_next, 16, n, to, to_next);
    else if (bytes == 32)
        model_copy_parts(from, from_next, 32, n, to, to_next);
    else
        model_copy_parts(from, from_next, bytes, n, to, to_next);
}

#endif
