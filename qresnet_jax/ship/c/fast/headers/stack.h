/* Moves planes of one image to those of several images, which lie one below the other, and back. */

#ifndef MODEL_STACK_H
#define MODEL_STACK_H

#include "target.h"

MODEL_INLINE void model_copy_parts(const uint8_t *from, size_t from_next, size_t bytes, size_t n,
                                   uint8_t *MODEL_RESTRICT to, size_t to_next)
{
    size_t i;
    for (i = 0; i < n; i++)
        memcpy(to + i * to_next, from + i * from_next, bytes);
}

/* Copies n parts of `bytes` bytes. From one to the next it is `from_next` and `to_next` bytes. */
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
