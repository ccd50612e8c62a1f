/* What is done with the numbers of one channel of one tile: they become levels, or numbers of a stream. */

#ifndef MODEL_NUMBERS_H
#define MODEL_NUMBERS_H

#include "words.h"

/* Thresholds of int16 or of int32, [channels][steps], or [1][steps] if all channels have the same. A level begins as
   `first`, and each threshold that is reached changes the bits of its `change`. */
typedef struct {
    const int16_t *narrow; /* these or those */
    const int32_t *wide;
    const uint16_t *first;  /* [rows] */
    const uint16_t *change; /* [steps] */
    size_t rows, steps, planes;
} model_thresholds;

/* Constants of (x * multiplier + offset) >> shift, [channels]. */
typedef struct {
    const int32_t *multiplier;
    const uint8_t *shift;
    const int32_t *narrow; /* offsets if 32 bits hold all that is computed, and no shift is 0 */
    const int64_t *wide;   /* or else if 32 bits hold what is left after the shift */
    const int64_t *large;  /* or else */
} model_requantize;

/* What happens to the numbers of all channels of an image. */
typedef struct {
    const model_thresholds *thresholds; /* for levels; else numbers of a stream */
    const model_requantize *requantize; /* or NULL */
    size_t channels, pixels;
    int relu;
} model_output;

/* Threshold `step` of a channel. */
MODEL_INLINE int32_t model_threshold(const model_thresholds *t, size_t channel, size_t step)
{
    const size_t i = (t->rows == 1 ? 0 : channel) * t->steps + step;
    return t->narrow ? t->narrow[i] : t->wide[i];
}

/* Begins the levels of a tile, which are `words` words apart. */
MODEL_FUNCTION void model_begin(const model_thresholds *t, size_t channel, model_word *levels, size_t words)
{
    const uint32_t first = t->first[t->rows == 1 ? 0 : channel];
    size_t b;
    for (b = 0; b < t->planes; b++)
        levels[b * words] = (model_word)0 - (first >> b & 1u);
}

/* Changes the levels of the pixels that reach a threshold. */
MODEL_INLINE void model_change(const model_thresholds *t, size_t step, model_word reached, model_word *levels,
                               size_t words)
{
    uint32_t change = t->change[step];
    for (; change != 0; change >>= 1, levels += words)
        if (change & 1u)
            *levels ^= reached;
}

/* Shifts into words, at the top, whether a number reaches three thresholds, which is the sign of a difference. */
MODEL_INLINE void model_reach(uint32_t x, const uint32_t *below, model_word *reached)
{
    const uint32_t sign = 0x80000000u;
    reached[0] = reached[0] >> 1 | ((below[0] - x) & sign);
    reached[1] = reached[1] >> 1 | ((below[1] - x) & sign);
    reached[2] = reached[2] >> 1 | ((below[2] - x) & sign);
}

/* Makes levels of the numbers of a stream or of others, and takes three thresholds at a time,
   as many as two bits have. */
MODEL_INLINE void model_quantize(const model_thresholds *t, size_t channel, const model_int16 *stream, const int32_t *others,
                                 size_t pixels, model_word *levels, size_t words)
{
    size_t step, last, p, k;
    model_begin(t, channel, levels, words);
    for (step = 0; step < t->steps; step = last) {
        model_word reached[3] = {0, 0, 0};
        uint32_t below[3] = {0, 0, 0};
        last = t->steps - step < 3 ? t->steps : step + 3;
        for (k = step; k < last; k++)
            below[k - step] = (uint32_t)model_threshold(t, channel, k) - 1;
        if (stream)
            for (p = 0; p < pixels; p++)
                model_reach((uint32_t)stream[p], below, reached);
        else
            for (p = 0; p < pixels; p++)
                model_reach((uint32_t)others[p], below, reached);
        for (k = step; k < last; k++)
            model_change(t, k, reached[k - step] >> (32 - pixels), levels, words);
    }
}

/* The nearest number of a stream. */
MODEL_INLINE int32_t model_saturated(int32_t x)
{
#if defined(__ARM_FEATURE_SAT) && (defined(__clang__) || __GNUC__ >= 10)
    return (int32_t)__builtin_arm_ssat(x, 16);
#else
    return x < -32768 ? -32768 : x > 32767 ? 32767 : x;
#endif
}

/* The nearest number of a stream that is not negative. */
MODEL_INLINE int32_t model_positive(int32_t x)
{
#if defined(__ARM_FEATURE_SAT) && (defined(__clang__) || __GNUC__ >= 10)
    return (int32_t)__builtin_arm_usat(x, 15);
#else
    return x < 0 ? 0 : x > 32767 ? 32767 : x;
#endif
}

/* Rescales numbers in place, however large they become. */
MODEL_FUNCTION void model_rescale(const model_requantize *r, size_t channel, int32_t *x, size_t pixels)
{
    const unsigned shift = r->shift[channel];
    /* C does not define right shifts of negative numbers, so 2^63 is added before and taken out afterwards. */
    const uint64_t offset = (uint64_t)r->large[channel] + ((uint64_t)1 << 63), zero = (uint64_t)1 << (63 - shift);
    size_t p;
    for (p = 0; p < pixels; p++) {
        const uint64_t y = ((uint64_t)((int64_t)x[p] * r->multiplier[channel]) + offset) >> shift;
        if (y < zero - 32768)
            x[p] = -32768;
        else if (y > zero + 32767)
            x[p] = 32767;
        else
            x[p] = (int32_t)(y + 32768 - zero) - 32768;
    }
}

/* stream = x + addend, saturated, or its positive part if `relu`. Before, x is rescaled with numbers of 32 or 64 bits, or not
   at all if `bits` is 0. `addend` may be NULL, or `stream` itself. */
MODEL_INLINE void model_sum(const model_requantize *r, int bits, size_t channel, const int32_t *x, const model_int16 *addend,
                            int relu, size_t pixels, model_int16 *stream)
{
    const int32_t multiplier = bits ? r->multiplier[channel] : 0;
    const unsigned shift = bits ? r->shift[channel] : 0;
    const uint32_t narrow = bits == 32 ? (uint32_t)r->narrow[channel] + 0x80000000u : 0; /* see `model_rescale` */
    const int32_t zero = bits == 32 ? (int32_t)(0x80000000u >> shift) : 0;
    const int64_t wide = bits == 64 ? r->wide[channel] : 0;
    size_t p;
    for (p = 0; p < pixels; p++) {
        int32_t y = x[p];
        if (bits == 32)
            y = model_saturated((int32_t)(((uint32_t)y * (uint32_t)multiplier + narrow) >> shift) - zero);
        else if (bits == 64)
            y = model_saturated((int32_t)(uint32_t)((uint64_t)((int64_t)y * multiplier + wide) >> shift));
        if (addend)
            y += addend[p];
        stream[p] = (int16_t)(relu ? model_positive(y) : model_saturated(y));
    }
}

/* The same. What it does, is decided before the loop over the pixels. */
MODEL_INLINE void model_choose(const model_requantize *r, int bits, size_t channel, const int32_t *x,
                               const model_int16 *addend, int relu, size_t pixels, model_int16 *stream)
{
    if (addend && relu)
        model_sum(r, bits, channel, x, addend, 1, pixels, stream);
    else if (addend)
        model_sum(r, bits, channel, x, addend, 0, pixels, stream);
    else if (relu)
        model_sum(r, bits, channel, x, NULL, 1, pixels, stream);
    else
        model_sum(r, bits, channel, x, NULL, 0, pixels, stream);
}

/* Writes numbers, which it may change, to a stream. `r` may be NULL. */
MODEL_FUNCTION void model_write(const model_requantize *r, size_t channel, int32_t *x, const model_int16 *addend, int relu,
                                size_t pixels, model_int16 *stream)
{
    if (r && r->narrow) {
        model_choose(r, 32, channel, x, addend, relu, pixels, stream);
    } else if (r && r->wide) {
        model_choose(r, 64, channel, x, addend, relu, pixels, stream);
    } else {
        if (r)
            model_rescale(r, channel, x, pixels);
        model_sum(NULL, 0, channel, x, addend, relu, pixels, stream);
    }
}

/* Finishes the numbers of a tile, which it may change.

   addend: of a stream, or NULL
   result: levels or a stream */
MODEL_FUNCTION void model_finish(const model_output *o, size_t channel, size_t tile, int32_t *x, const model_int16 *addend,
                                 void *result)
{
    const size_t at = channel * o->pixels + 32 * tile, left = o->pixels - 32 * tile, pixels = left < 32 ? left : 32;
    if (o->thresholds) {
        const size_t words = model_words(o->pixels);
        model_word *const levels = (model_word *)result + channel * o->thresholds->planes * words + tile;
        model_quantize(o->thresholds, channel, NULL, x, pixels, levels, words);
    } else {
        model_write(o->requantize, channel, x, addend ? addend + at : NULL, o->relu, pixels, (model_int16 *)result + at);
    }
}

/* Finishes the numbers of a stream. */
MODEL_FUNCTION void model_stream(const model_output *o, const model_int16 *stream, const model_int16 *addend, void *result)
{
    const size_t words = model_words(o->pixels);
    size_t channel, tile, p;
    for (channel = 0; channel < o->channels; channel++)
        for (tile = 0; tile < words; tile++) {
            const size_t left = o->pixels - 32 * tile, pixels = left < 32 ? left : 32;
            const model_int16 *const from = stream + channel * o->pixels + 32 * tile;
            if (o->thresholds) {
                model_word *const levels = (model_word *)result + channel * o->thresholds->planes * words + tile;
                model_quantize(o->thresholds, channel, from, NULL, pixels, levels, words);
            } else {
                int32_t x[32];
                for (p = 0; p < pixels; p++)
                    x[p] = from[p];
                model_finish(o, channel, tile, x, addend, result);
            }
        }
}

#endif
