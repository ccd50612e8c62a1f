/* A binary layer whose outputs are single pixels and see the whole image. It counts the bits of its inputs. */

#ifndef MODEL_DENSE_H
#define MODEL_DENSE_H

#include "numbers.h"

typedef struct {
    const uint32_t *signs; /* [out][words]: a bit for each [channel][pixel] of the input, 1 for +1, and then zeros */
    size_t channels, pixels, planes; /* of the input */
    model_output output;
} model_dense;

/* How many bits are set. */
MODEL_INLINE int32_t model_count(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (int32_t)(x * 0x01010101u >> 24);
}

/* Computes the layer. `work` has memory for the inputs' bits: [plane][words]. */
MODEL_FUNCTION void model_dense_layer(const model_dense *d, const model_word *levels, const model_int16 *addend,
                                      void *result, model_word *work)
{
    const size_t inputs = d->channels * d->pixels, words = model_words(inputs), plane = model_words(d->pixels);
    int32_t all = 0;
    size_t o, b, i;
    memset(work, 0, d->planes * words * sizeof *work);
    for (b = 0; b < d->planes; b++)
        for (i = 0; i < inputs; i++) {
            const size_t channel = i / d->pixels, pixel = i % d->pixels;
            const model_word bit = levels[(channel * d->planes + b) * plane + pixel / 32] >> pixel % 32 & 1u;
            work[b * words + i / 32] |= bit << i % 32;
            all += (int32_t)(bit << b);
        }
    for (o = 0; o < d->output.channels; o++) {
        const uint32_t *const signs = d->signs + o * words;
        int32_t plus = 0, sum;
        for (b = 0; b < d->planes; b++) {
            int32_t count = 0;
            for (i = 0; i < words; i++)
                count += model_count(work[b * words + i] & signs[i]);
            plus += count << b;
        }
        sum = 2 * plus - all;
        model_finish(&d->output, o, 0, &sum, addend, result);
    }
}

#endif
