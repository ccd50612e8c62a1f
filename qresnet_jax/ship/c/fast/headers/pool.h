/* Pools of streams, with windows of any kind. */

#ifndef MODEL_POOL_H
#define MODEL_POOL_H

#include "stream.h"
#include "window.h"

/* The largest number, or the mean of the numbers, that the window sees of the image. */
MODEL_FUNCTION void model_pool(const model_window *w, int is_mean, const model_int16 *x, model_int16 *out)
{
    const size_t plane = w->plane, out_plane = w->out_plane;
    size_t c, y0, x0, i, j;
    for (c = 0; c < w->channels; c++, x += 8 * plane, out += 8 * out_plane)
        for (y0 = 0; y0 < w->out_height; y0++)
            for (x0 = 0; x0 < w->out_width; x0++) {
                int16_t largest = -32768;
                uint64_t sum = 0;
                for (i = 0; i < w->rows; i++)
                    for (j = 0; j < w->columns; j++) {
                        /* Above the image and left of it these wrap around to large numbers. */
                        const size_t row = y0 * w->down + i - w->top, column = x0 * w->right + j - w->left;
                        if (row < w->height && column < w->width) {
                            const int16_t value = x[column % 8 * plane + row * w->row + column / 8];
                            largest = value > largest ? value : largest;
                            sum += (uint64_t)(value + 32768);
                        }
                    }
                out[x0 % 8 * out_plane + y0 * w->out_row + x0 / 8] =
                    is_mean ? model_mean(sum, (uint64_t)w->rows * w->columns) : largest;
            }
}

#endif
