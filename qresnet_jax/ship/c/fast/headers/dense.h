/* Dense layers: convolutions whose window has only one place, from which it sees the whole image. */

#ifndef MODEL_DENSE_H
#define MODEL_DENSE_H

#include "planes.h"
#include "quantize.h"
#include "rescale.h"

/* A dense layer of levels. The bits of each plane of its input are put side by side, without those beyond the image. */
typedef struct {
    const uint64_t *plus;           /* [out][words]: the inputs with the sign +1, in the order channel, row, column */
    size_t channels, height, width; /* of the input */
    size_t plane;                   /* bytes of its bit planes */
    size_t planes, words, out;      /* words of 8 bytes for the bits of a plane of all channels */
} model_dense;

/* A dense layer of pixels. */
typedef struct {
    const int16_t *weights; /* [out][inputs] */
    const int16_t *mean;    /* [channels] */
    size_t inputs, channels, out;
} model_dense_stem;

/* How many bits are set. Compilers know this form, and take instructions that count bits where there are some. */
MODEL_INLINE uint64_t model_ones(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return x * 0x0101010101010101u >> 56;
}

/* Puts the bits of each plane of all channels side by side, in the order [plane][word]. */
MODEL_FUNCTION void model_dense_bits(const model_dense *d, const uint8_t *levels, uint8_t *MODEL_RESTRICT bits)
{
    const size_t bytes = d->height * ((d->width + 7) / 8);
    size_t b, c, i, x;
    for (b = 0; b < d->planes; b++) {
        uint64_t word = 0;
        size_t filled = 0;
        for (c = 0; c < d->channels; c++, levels += d->plane)
            for (i = 0, x = 0; i < bytes; i++, x = x + 8 < d->width ? x + 8 : 0) {
                const size_t n = d->width - x < 8 ? d->width - x : 8;
                word |= (uint64_t)levels[i] << filled;
                filled += n;
                if (filled >= 64) {
                    model_store(bits, word);
                    bits += 8;
                    filled -= 64;
                    word = (uint64_t)levels[i] >> (n - filled);
                }
            }
        if (filled) {
            model_store(bits, word);
            bits += 8;
        }
    }
}

/* The sum of each output: twice the levels of the inputs with the sign +1, less all levels. */
MODEL_FUNCTION void model_dense_sums(const model_dense *d, const uint8_t *bits, model_int32 *MODEL_RESTRICT sums)
{
    uint64_t all = 0;
    size_t o, b, k;
    for (b = 0; b < d->planes; b++)
        for (k = 0; k < d->words; k++)
            all += model_ones(model_load(bits + 8 * (b * d->words + k))) << b;
    for (o = 0; o < d->out; o++) {
        const uint64_t *plus = d->plus + o * d->words;
        uint64_t sum = 0;
        for (b = 0; b < d->planes; b++) {
            const uint8_t *plane = bits + 8 * b * d->words;
            uint64_t count = 0;
            for (k = 0; k < d->words; k++)
                count += model_ones(model_load(plane + 8 * k) & plus[k]);
            sum += count << b;
        }
        sums[o] = (int32_t)(2 * sum) - (int32_t)all;
    }
}

/* The sums of a dense layer of pixels. `pixels` has space for all of them. */
MODEL_FUNCTION void model_dense_stem_sums(const model_dense_stem *s, const uint8_t *image, model_int16 *MODEL_RESTRICT pixels,
                                          model_int32 *MODEL_RESTRICT sums)
{
    size_t o, i, c;
    for (i = 0; i < s->inputs; i += s->channels)
        for (c = 0; c < s->channels; c++)
            pixels[i + c] = (int16_t)(2 * image[i + c] - s->mean[c]);
    for (o = 0; o < s->out; o++) {
        const int16_t *weights = s->weights + o * s->inputs;
        int32_t sum = 0;
        for (i = 0; i < s->inputs; i++)
            sum += (int32_t)pixels[i] * weights[i];
        sums[o] = sum;
    }
}

/* The levels of the sums, of one pixel each. */
MODEL_FUNCTION void model_dense_levels(const model_quantizer *q, const model_int32 *sums, uint8_t *levels)
{
    size_t o;
    for (o = 0; o < q->channels; o++)
        model_quantize_sums(q, o, 0, sums + o, levels);
}

/* A stream of n sums, of one pixel each, as in model_write. */
MODEL_FUNCTION void model_dense_stream(const model_requantize *r, const model_int32 *sums, size_t n,
                                       const model_int16 *addend, int relu, model_int16 *stream)
{
    size_t o;
    for (o = 0; o < n; o++) {
        int16_t scaled;
        model_rescale(r, o, sums + o, 1, &scaled);
        model_write(&scaled, addend ? addend + 8 * o : NULL, relu, 1, stream + 8 * o);
    }
}

#endif
