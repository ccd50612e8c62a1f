/* The first convolution: of pixels, with weights of several bits. */

#ifndef MODEL_STEM_H
#define MODEL_STEM_H

#include "quantize.h"
#include "rescale.h"
#include "sse2.h"

/* The stem reads pixels as int16, two at a time: two channels side by side, or two columns of the last channel where
   their number is odd. They lie in the order [pair][row % down][column][row / down][byte][2], with columns counted
   from the first one that the pixels of the byte see. */
typedef struct {
    const int16_t *weights; /* [out][pitch]: [count][2], then zeros */
    const int16_t *mean;    /* [channels] */
    const uint32_t *taps;   /* [count]: pairs of pixels from the first one to the one that a pair of weights is for */
    size_t height, width, channels;
    size_t down, right, top, left; /* how far the kernel moves; rows and columns of border */
    size_t pairs, count, pitch;    /* pairs of channels, pairs of weights of an output, numbers of its weights */
    size_t rows, columns;          /* that the kernel sees: of one remainder of down, and of the pixels of a byte */
    size_t part;                   /* pairs of one column */
    size_t out, out_row, plane;    /* outputs, bytes of a row and of a plane */
    size_t sums;                   /* numbers from the sums of one output to those of the next */
} model_stem;

/* So many outputs are computed at once, and pixels read once for all of them; */
#if MODEL_VECTOR >= 64
#define MODEL_STEM_OUTPUTS 8u /* as there are twice as many registers */
#elif defined(MODEL_LANES)
#define MODEL_STEM_OUTPUTS 4u
#else
#define MODEL_STEM_OUTPUTS 16u
#define MODEL_STEM_PIXELS 16u /* and so many pixels */
#endif

/* 2 * pixel - mean, with zeros around the image, in the order of model_stem. A pixel is copied for every byte of a row
   from which the kernel sees it. */
MODEL_FUNCTION void model_stem_pixels(const model_stem *s, const uint8_t *image, model_int16 *pixels)
{
    const size_t wide = 8 * s->right, pair = 2 * s->down * s->columns * s->part;
    size_t y, x, c;
    memset(pixels, 0, s->pairs * pair * sizeof *pixels);
    for (y = 0; y < s->height && (s->top + y) / s->down < s->rows; y++) {
        const size_t row = s->top + y;
        model_int16 *to = pixels + 2 * (row % s->down * s->columns * s->part) + 2 * (row / s->down * s->out_row);
        size_t column = s->left % wide, byte = s->left / wide;
        for (x = 0; x < s->width; x++, image += s->channels) {
            size_t f = column, k = byte;
            for (; f < s->columns; f += wide, k--) {
                model_int16 *place = to + 2 * (f * s->part + k);
                if (k < s->out_row) {
                    for (c = 0; c < s->channels; c++)
                        place[c / 2 * pair + c % 2] = (int16_t)(2 * image[c] - s->mean[c]);
                    if (c % 2 && f > 0)
                        (place - 2 * s->part)[c / 2 * pair + 1] = place[c / 2 * pair];
                }
                if (k == 0)
                    break;
            }
            if (++column == wide) {
                column = 0;
                byte++;
            }
        }
    }
}

#ifdef MODEL_LANES
/* Adds what the pixels count for output o. */
#define MODEL_STEM_STEP(o, first, second)         \
    do {                                          \
        int32_t number;                           \
        model_lanes weight;                       \
        memcpy(&number, weights[o] + 2 * t, 4);   \
        weight = MODEL_LANES(set1_epi32)(number); \
        first = model_dot(first, pixel, weight);  \
        second = model_dot(second, more, weight); \
    } while (0)
#define MODEL_STEM_STORE(o, first, second)               \
    do {                                                 \
        memcpy(sums[o] + k, &first, sizeof first);       \
        memcpy(sums[o] + k + n, &second, sizeof second); \
    } while (0)
#define MODEL_STEM_BEGIN(o, first, second) model_lanes first = zero, second = zero

/* Does something for each output and its two vectors. These have names, as GCC would copy an array in each step. */
#define MODEL_STEM_FOUR(f) \
    f(0, a, b);            \
    f(1, c, d);            \
    f(2, e, g);            \
    f(3, h, i)
#if MODEL_STEM_OUTPUTS > 4u
#define MODEL_STEM_EACH(f) \
    MODEL_STEM_FOUR(f);    \
    f(4, j, l);            \
    f(5, m, o);            \
    f(6, p, q);            \
    f(7, r, u)
#else
#define MODEL_STEM_EACH MODEL_STEM_FOUR
#endif
#endif

/* The sums of MODEL_STEM_OUTPUTS outputs for one bit of each byte, [byte of a plane]. */
MODEL_FUNCTION void model_stem_sums(const model_stem *s, const model_int16 *pixels, const int16_t *const *weights,
                                    model_int32 *const *sums)
{
    size_t k, t;
#ifdef MODEL_LANES
    const size_t n = sizeof(model_lanes) / 4;
    for (k = 0; k < s->plane; k += 2 * n) {
        const model_lanes zero = MODEL_LANES(set1_epi32)(0);
        model_lanes pixel, more;
        MODEL_STEM_EACH(MODEL_STEM_BEGIN);
        for (t = 0; t < s->count; t++) {
            const model_int16 *from = pixels + 2 * (s->taps[t] + k);
            memcpy(&pixel, from, sizeof pixel);
            memcpy(&more, from + 2 * n, sizeof more);
            MODEL_STEM_EACH(MODEL_STEM_STEP);
        }
        MODEL_STEM_EACH(MODEL_STEM_STORE);
    }
#else
    /* All that one sum needs is put side by side, as compilers know how to add up the products of two rows of numbers;
       for several pixels, so that a load does not wait for the small stores just before it. */
    model_int16 *const seen = (model_int16 *)(sums[0] + MODEL_STEM_OUTPUTS * s->sums);
    size_t n, i, o;
    for (k = 0; k < s->plane; k += n) {
        n = s->plane - k < MODEL_STEM_PIXELS ? s->plane - k : MODEL_STEM_PIXELS;
        for (i = 0; i < n; i++)
            for (t = 0; t < s->count; t++)
                memcpy(seen + i * s->pitch + 2 * t, pixels + 2 * (s->taps[t] + k + i), 4);
        for (i = 0; i < n; i++) {
            int32_t found[MODEL_STEM_OUTPUTS];
            for (o = 0; o < MODEL_STEM_OUTPUTS; o++) {
                found[o] = 0;
                for (t = 0; t < s->pitch; t++)
                    found[o] += (int32_t)seen[i * s->pitch + t] * weights[o][t];
            }
            for (o = 0; o < MODEL_STEM_OUTPUTS; o++)
                sums[o][k + i] = found[o];
        }
    }
#endif
}

/* The sums of the outputs from o on, the last one again where there are fewer. `first` has space for all of them. */
MODEL_INLINE void model_stem_part(const model_stem *s, size_t o, size_t bit, const model_int16 *pixels,
                                  model_int32 *first, model_int32 **sums)
{
    const int16_t *weights[MODEL_STEM_OUTPUTS];
    size_t i;
    for (i = 0; i < MODEL_STEM_OUTPUTS; i++) {
        weights[i] = s->weights + s->pitch * (o + i < s->out ? o + i : s->out - 1);
        sums[i] = first + i * s->sums;
    }
    model_stem_sums(s, pixels + 2 * bit * s->right * s->part, weights, sums);
}

/* A stem whose sums become levels. */
MODEL_FUNCTION void model_stem_levels(const model_stem *s, const model_quantizer *q, const model_int16 *pixels,
                                      model_int32 *first, uint8_t *levels)
{
    model_int32 *sums[MODEL_STEM_OUTPUTS];
    size_t o, bit, i;
    for (o = 0; o < s->out; o += MODEL_STEM_OUTPUTS)
        for (bit = 0; bit < 8; bit++) {
            model_stem_part(s, o, bit, pixels, first, sums);
            for (i = 0; i < MODEL_STEM_OUTPUTS && o + i < s->out; i++)
                model_quantize_sums(q, o + i, bit, sums[i], levels);
        }
}

/* A stem whose sums become a stream, as in model_write. */
MODEL_FUNCTION void model_stem_stream(const model_stem *s, const model_requantize *r, const model_int16 *pixels,
                                      model_int32 *first, const model_int16 *addend, int relu, model_int16 *stream)
{
    model_int32 *sums[MODEL_STEM_OUTPUTS];
    size_t o, bit, k, i;
    for (o = 0; o < s->out; o += MODEL_STEM_OUTPUTS)
        for (bit = 0; bit < 8; bit++) {
            model_stem_part(s, o, bit, pixels, first, sums);
            for (i = 0; i < MODEL_STEM_OUTPUTS && o + i < s->out; i++)
                for (k = 0; k < s->plane; k += MODEL_BLOCK) {
                    const size_t place = (8 * (o + i) + bit) * s->plane + k;
                    const size_t left = s->plane - k, n = left < MODEL_BLOCK ? left : MODEL_BLOCK;
                    int16_t scaled[MODEL_BLOCK];
                    model_rescale(r, o + i, sums[i] + k, n, scaled);
                    model_write(scaled, addend ? addend + place : NULL, relu, n, stream + place);
                }
        }
}

#endif
