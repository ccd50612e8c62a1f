/* The stem, which reads pixels. */

#ifndef MODEL_STEM_H
#define MODEL_STEM_H

#include "numbers.h"

typedef struct {
    const uint32_t *weights; /* [out][pair]: of two inputs each, in the order [tap][in]; the first one in the low half */
    const uint16_t *bytes;   /* or these, of int8, if there are fewer than eight pixels, so that a weight is used seldom */
    const int16_t *mean;    /* [in]: twice the mean of a channel's pixels */
    size_t in, pairs;
    size_t pitch; /* pixels of a tile, at most 32 */
    model_output output;
    model_window window;
} model_stem_conv;

/* The sum plus the products of two pairs of numbers. */
MODEL_INLINE int32_t model_two_products(int32_t sum, uint32_t a, uint32_t b)
{
#if defined(__ARM_FEATURE_DSP) && (defined(__clang__) || __GNUC__ >= 10)
    return __builtin_arm_smlad((int)a, (int)b, sum);
#else
    return sum + (int16_t)(uint16_t)a * (int16_t)(uint16_t)b + (int16_t)(a >> 16) * (int16_t)(b >> 16);
#endif
}

/* A pair of int16 with the numbers of a pair of int8. */
MODEL_INLINE uint32_t model_widened(uint32_t pair)
{
    const uint32_t first = ((pair & 0xffu) ^ 0x80u) - 0x80u, second = ((pair >> 8) ^ 0x80u) - 0x80u;
    return (first & 0xffffu) | second << 16;
}

/* Copies what the window sees from the pixels of a tile, with the mean subtracted: [pair][pitch]. */
MODEL_APART void model_patches(const model_stem_conv *c, const uint8_t *image, size_t tile, model_word *patches)
{
    const model_window *const w = &c->window;
    size_t y = 32 * tile / w->out_width, x = 32 * tile % w->out_width, i, j, k, p;
    for (p = 0; p < c->pitch; p++, patches++) {
        model_word *to = patches;
        uint32_t first = 0; /* of a pair */
        size_t input = 0;
        for (i = 0; i < w->rows; i++)
            for (j = 0; j < w->columns; j++) {
                const size_t row = y * w->down + i - w->top, column = x * w->right + j - w->left;
                const int is_inside = y < w->out_height && row < w->height && column < w->width;
                const uint8_t *const from = image + (is_inside ? (row * w->width + column) * c->in : 0);
                const uint32_t mask = 0u - (uint32_t)is_inside;
                for (k = 0; k < c->in; k++, input++) {
                    const uint32_t number = (uint32_t)(2 * from[k] - c->mean[k]) & mask;
                    if (input % 2 == 0) {
                        first = number & 0xffffu;
                    } else {
                        *to = first | number << 16;
                        to += c->pitch;
                    }
                }
            }
        if (input % 2 == 1)
            *to = first;
        if (++x == w->out_width) {
            x = 0;
            y++;
        }
    }
}

/* Eight sums at once, for which weights are read once. */
MODEL_INLINE void model_eight_sums(const uint32_t *weights, size_t pairs, const model_word *x, size_t pitch, int32_t *sums)
{
    int32_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    size_t k;
    for (k = 0; k < pairs; k++, x += pitch) {
        const uint32_t pair = weights[k];
        a = model_two_products(a, pair, x[0]);
        b = model_two_products(b, pair, x[1]);
        c = model_two_products(c, pair, x[2]);
        d = model_two_products(d, pair, x[3]);
        e = model_two_products(e, pair, x[4]);
        f = model_two_products(f, pair, x[5]);
        g = model_two_products(g, pair, x[6]);
        h = model_two_products(h, pair, x[7]);
    }
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
    sums[4] = e;
    sums[5] = f;
    sums[6] = g;
    sums[7] = h;
}

/* Computes the stem. `patches` has memory for `pitch` words for each pair. */
MODEL_APART void model_stem(const model_stem_conv *c, const uint8_t *image, const model_int16 *addend, void *result,
                            model_word *patches)
{
    const size_t tiles = model_words(c->output.pixels);
    size_t tile, o, n, p, k;
    for (tile = 0; tile < tiles; tile++) {
        const size_t left = c->output.pixels - 32 * tile, pixels = left < 32 ? left : 32;
        model_patches(c, image, tile, patches);
        for (o = 0; o < c->output.channels; o++) {
            const size_t first = o * c->pairs;
            int32_t sums[32];
            p = 0;
            for (n = pixels / 8; n > 0; n--, p += 8)
                model_eight_sums(c->weights + first, c->pairs, patches + p, c->pitch, sums + p);
            for (n = pixels % 8; n > 0; n--, p++) {
                int32_t sum = 0;
                for (k = 0; k < c->pairs; k++) {
                    const uint32_t pair = c->bytes ? model_widened(c->bytes[first + k]) : c->weights[first + k];
                    sum = model_two_products(sum, pair, patches[k * c->pitch + p]);
                }
                sums[p] = sum;
            }
            model_finish(&c->output, o, tile, sums, addend, result);
        }
    }
}

#endif
