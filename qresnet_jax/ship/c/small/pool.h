/* Pools of streams. */

#ifndef MODEL_POOL_H
#define MODEL_POOL_H

#include "words.h"

/* Sums of a mean's numbers, which are below 2^16. The export takes 64 bits if one is of more than 2^15 pixels. */
#ifndef MODEL_MEAN_BITS
#define MODEL_MEAN_BITS 32
#endif
#if MODEL_MEAN_BITS == 32
typedef uint32_t model_total;
#else
typedef uint64_t model_total;
#endif

/* The largest numbers that a window sees. */
MODEL_FUNCTION void model_max_stream(const model_window *w, const model_int16 *stream, size_t channels, model_int16 *largest)
{
    size_t c, y, x, i, j;
    for (c = 0; c < channels; c++, stream += w->height * w->width)
        for (y = 0; y < w->out_height; y++)
            for (x = 0; x < w->out_width; x++) {
                int16_t most = -32768;
                for (i = 0; i < w->rows; i++)
                    for (j = 0; j < w->columns; j++) {
                        const size_t row = y * w->down + i - w->top, column = x * w->right + j - w->left;
                        if (row < w->height && column < w->width && stream[row * w->width + column] > most)
                            most = stream[row * w->width + column];
                    }
                *largest++ = most;
            }
}

/* The means of what a window without a border sees, with halves rounded up. */
MODEL_FUNCTION void model_mean_stream(const model_window *w, const model_int16 *stream, size_t channels, model_int16 *mean)
{
    const model_total count = (model_total)w->rows * (model_total)w->columns;
    size_t c, y, x, i, j;
    for (c = 0; c < channels; c++, stream += w->height * w->width)
        for (y = 0; y < w->out_height; y++)
            for (x = 0; x < w->out_width; x++) {
                const model_int16 *const first = stream + y * w->down * w->width + x * w->right;
                model_total sum = 0; /* of x + 32768, which is not negative, so that division rounds down */
                for (i = 0; i < w->rows; i++)
                    for (j = 0; j < w->columns; j++)
                        sum += (model_total)(first[i * w->width + j] + (int32_t)32768);
                *mean++ = (int16_t)((int32_t)((2 * sum + count) / (2 * count)) - 32768);
            }
}

#endif
