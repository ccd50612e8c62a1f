/* The profile `small`: little code and little memory, one pixel after the other.

   The channels of a pixel lie side by side. Those of levels lie in words, one bit plane after the other: bit b of the
   level of channel c is bit c % MODEL_WORD_BITS of word c / MODEL_WORD_BITS of plane b. */

#ifndef MODEL_SMALL_H
#define MODEL_SMALL_H

#include "../common.h"

/* The export takes the widest words that waste little on channels that do not fill them. */
#ifndef MODEL_WORD_BITS
#define MODEL_WORD_BITS 32
#endif
#if MODEL_WORD_BITS == 32
typedef uint32_t MODEL_ALIAS model_word;
#elif MODEL_WORD_BITS == 16
typedef uint16_t MODEL_ALIAS model_word;
#else
typedef uint8_t MODEL_ALIAS model_word;
#endif

/* A binary convolution, or the stem, which reads pixels. */
typedef struct {
    const model_word *signs; /* [out][tap][words]: bits are 1 for +1 and 0 for -1. The stem has instead */
    const int16_t *weights;  /* [out][tap][in] and */
    const int16_t *mean;     /* [in]: twice the mean of a channel's pixels */
    size_t height, width;    /* of the input */
    size_t in, words, planes;
    size_t out, kernel_height, kernel_width, stride;
} model_conv;

/* Thresholds of int16 or of int32, [channels][steps], or [1][steps] if all channels have the same. */
typedef struct {
    const int16_t *narrow;
    const int32_t *wide;
    const int8_t *direction; /* [rows]: -1 if levels rise as numbers fall, else 1 */
    const int16_t *levels;   /* [steps + 1] */
    size_t rows, steps, words, planes;
} model_thresholds;

/* The constants of each channel for (x * multiplier + offset) >> shift, saturated to int16. */
typedef struct {
    const int32_t *multiplier;
    const int32_t *offset;
    const int64_t *wide_offset; /* in place of offset if 32 bits do not hold it, else NULL */
    const uint8_t *shift;
} model_requantize;

/* The number of ones in a word. */
MODEL_FUNCTION uint32_t model_count(model_word word)
{
    uint32_t x = word;
    x -= (x >> 1) & 0x55555555u;
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (x * 0x01010101u) >> 24;
}

/* acc[out] = the sum of (2 * pixel - mean) * weight, for output pixel (y, x). */
MODEL_FUNCTION void model_stem(const model_conv *conv, const uint8_t *image, size_t y, size_t x, model_int32 *acc)
{
    const size_t taps = conv->kernel_height * conv->kernel_width;
    size_t i, j, o, c;
    for (o = 0; o < conv->out; o++)
        acc[o] = 0;
    for (i = 0; i < conv->kernel_height; i++) {
        /* Above the image this wraps around to a large number. */
        const size_t row = y * conv->stride + i - conv->kernel_height / 2;
        if (row >= conv->height)
            continue;
        for (j = 0; j < conv->kernel_width; j++) {
            const size_t column = x * conv->stride + j - conv->kernel_width / 2;
            const int16_t *weight = conv->weights + (i * conv->kernel_width + j) * conv->in;
            const uint8_t *pixel;
            if (column >= conv->width)
                continue;
            pixel = image + (row * conv->width + column) * conv->in;
            for (o = 0; o < conv->out; o++, weight += taps * conv->in)
                for (c = 0; c < conv->in; c++)
                    acc[o] += (2 * (int32_t)pixel[c] - conv->mean[c]) * weight[c];
        }
    }
}

/* acc[out] = the sum of level * sign, for output pixel (y, x): twice the levels that meet a +1, less all levels. */
MODEL_FUNCTION void model_binary(const model_conv *conv, const model_word *levels, size_t y, size_t x, model_int32 *acc)
{
    const size_t taps = conv->kernel_height * conv->kernel_width, words = conv->words;
    int32_t all = 0;
    size_t i, j, o, k, b;
    for (o = 0; o < conv->out; o++)
        acc[o] = 0;
    for (i = 0; i < conv->kernel_height; i++) {
        /* Above the image this wraps around to a large number. */
        const size_t row = y * conv->stride + i - conv->kernel_height / 2;
        if (row >= conv->height)
            continue;
        for (j = 0; j < conv->kernel_width; j++) {
            const size_t column = x * conv->stride + j - conv->kernel_width / 2;
            const model_word *sign = conv->signs + (i * conv->kernel_width + j) * words;
            const model_word *pixel;
            if (column >= conv->width)
                continue;
            pixel = levels + (row * conv->width + column) * conv->planes * words;
            for (b = 0; b < conv->planes; b++)
                for (k = 0; k < words; k++)
                    all += (int32_t)(model_count(pixel[b * words + k]) << b);
            for (o = 0; o < conv->out; o++, sign += taps * words) {
                uint32_t sum = 0;
                for (b = 0; b < conv->planes; b++)
                    for (k = 0; k < words; k++)
                        sum += model_count((model_word)(pixel[b * words + k] & sign[k])) << b;
                acc[o] += (int32_t)sum;
            }
        }
    }
    for (o = 0; o < conv->out; o++)
        acc[o] = 2 * acc[o] - all;
}

/* The levels of the channels of one pixel. */
MODEL_FUNCTION void model_quantize(const model_thresholds *t, const model_int32 *x, size_t channels, model_word *levels)
{
    size_t c, b, i;
    for (b = 0; b < t->planes * t->words; b++)
        levels[b] = 0;
    for (c = 0; c < channels; c++) {
        const size_t row = t->rows == 1 ? 0 : c;
        const int32_t value = t->direction[row] * x[c];
        size_t passed = 0;
        uint32_t level;
        for (i = row * t->steps; i < (row + 1) * t->steps; i++)
            if (value >= (t->narrow ? t->narrow[i] : t->wide[i]))
                passed++;
        level = (uint32_t)t->levels[passed];
        for (b = 0; b < t->planes; b++)
            levels[b * t->words + c / MODEL_WORD_BITS] |=
                (model_word)((model_word)(level >> b & 1u) << (c % MODEL_WORD_BITS));
    }
}

/* Rescales the channels of one pixel in place. */
MODEL_FUNCTION void model_rescale(const model_requantize *r, model_int32 *x, size_t channels)
{
    size_t c;
    for (c = 0; c < channels; c++) {
        const int64_t offset = r->wide_offset ? r->wide_offset[c] : r->offset[c];
        const int64_t value = (int64_t)x[c] * r->multiplier[c] + offset;
        /* C does not define right shifts of negative numbers, so 2^63 is added before and taken out afterwards. */
        const uint64_t zero = (uint64_t)1 << (63 - r->shift[c]);
        const uint64_t shifted = ((uint64_t)value + ((uint64_t)1 << 63)) >> r->shift[c];
        if (shifted < zero - 32768)
            x[c] = -32768;
        else if (shifted > zero + 32767)
            x[c] = 32767;
        else
            x[c] = (int32_t)(shifted + 32768 - zero) - 32768;
    }
}

/* stream = x + addend, saturated, or its positive part if `relu`. `addend` may be NULL, or `stream` itself. */
MODEL_FUNCTION void model_write(const model_int32 *x, const model_int16 *addend, int relu, size_t channels,
                                model_int16 *stream)
{
    size_t c;
    for (c = 0; c < channels; c++) {
        int32_t sum = x[c] + (addend ? addend[c] : 0);
        if (sum > 32767)
            sum = 32767;
        if (sum < (relu ? 0 : -32768))
            sum = relu ? 0 : -32768;
        stream[c] = (int16_t)sum;
    }
}

/* x = the channels of one pixel of a stream. */
MODEL_FUNCTION void model_read(const model_int16 *stream, size_t channels, model_int32 *x)
{
    size_t c;
    for (c = 0; c < channels; c++)
        x[c] = stream[c];
}

/* The largest of 3 x 3 neighbours at stride 2. */
MODEL_FUNCTION void model_max_pool(const model_int16 *x, size_t height, size_t width, size_t channels, model_int16 *out)
{
    size_t y0, x0, y, z, c;
    for (y0 = 0; y0 < height; y0 += 2)
        for (x0 = 0; x0 < width; x0 += 2, out += channels)
            for (c = 0; c < channels; c++) {
                int16_t largest = x[(y0 * width + x0) * channels + c];
                for (y = y0 ? y0 - 1 : 0; y < height && y <= y0 + 1; y++)
                    for (z = x0 ? x0 - 1 : 0; z < width && z <= x0 + 1; z++)
                        if (x[(y * width + z) * channels + c] > largest)
                            largest = x[(y * width + z) * channels + c];
                out[c] = largest;
            }
}

/* The mean over all pixels, with halves rounded up. */
MODEL_FUNCTION void model_mean_pool(const model_int16 *x, size_t pixels, size_t channels, model_int16 *mean)
{
    size_t p, c;
    for (c = 0; c < channels; c++) {
        /* Of x + 32768, which is not negative, so that division rounds down. */
        uint64_t sum = 0;
        for (p = 0; p < pixels; p++)
            sum += (uint64_t)((int32_t)x[p * channels + c] + 32768);
        mean[c] = (int16_t)((int32_t)((2 * sum + pixels) / (2 * (uint64_t)pixels)) - 32768);
    }
}

#endif
