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

/* Sums of a mean's numbers, which are below 2^16. The export takes 64 bits if one is of more than 2^15 pixels. */
#ifndef MODEL_MEAN_BITS
#define MODEL_MEAN_BITS 32
#endif
#if MODEL_MEAN_BITS == 32
typedef uint32_t model_sum;
#else
typedef uint64_t model_sum;
#endif

/* A window that moves over an image. Its taps are its pixels, row by row. */
typedef struct {
    size_t height, width; /* of the image */
    size_t rows, columns; /* of the window */
    uint16_t down, right; /* how far it moves */
    uint16_t top, left;   /* rows and columns of border */
} model_window;

/* The stem, which reads pixels. */
typedef struct {
    const int16_t *weights; /* [out][tap][in] */
    const int16_t *mean;    /* [in]: twice the mean of a channel's pixels */
    size_t in, out;
    model_window window;
} model_stem_conv;

/* A binary convolution. Bit c of a row of signs is that of input channel c and of the row's output in the group of c. */
typedef struct {
    const model_word *signs; /* [out][tap][words]: bits are 1 for +1 and 0 for -1 */
    size_t words, planes;    /* of a pixel of the input */
    size_t in, out;          /* channels of a group */
    model_window window;     /* last, as then GCC, with -O3, compiles the function again for each convolution's numbers */
} model_binary_conv;

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
    const uint8_t *shift;
    const int32_t *offset;
    const int64_t *wide_offset; /* in place of offset if 32 bits do not hold it, else NULL */
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

#define MODEL_BORDER ((size_t)-1)

/* The pixel that tap (i, j) of a window sees for output pixel (y, x), or MODEL_BORDER. */
MODEL_FUNCTION size_t model_seen(const model_window *window, size_t y, size_t x, size_t i, size_t j)
{
    /* Above the image and left of it these wrap around to large numbers. */
    const size_t row = y * window->down + i - window->top, column = x * window->right + j - window->left;
    return row < window->height && column < window->width ? row * window->width + column : MODEL_BORDER;
}

/* acc[out] = the sum of (2 * pixel - mean) * weight, for output pixel (y, x). */
MODEL_FUNCTION void model_stem(const model_stem_conv *conv, const uint8_t *image, size_t y, size_t x, model_int32 *acc)
{
    const size_t rows = conv->window.rows, columns = conv->window.columns;
    size_t i, j, o, c;
    for (o = 0; o < conv->out; o++)
        acc[o] = 0;
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++) {
            const size_t seen = model_seen(&conv->window, y, x, i, j);
            const int16_t *weight = conv->weights + (i * columns + j) * conv->in;
            const uint8_t *pixel;
            if (seen == MODEL_BORDER)
                continue;
            pixel = image + seen * conv->in;
            for (o = 0; o < conv->out; o++, weight += rows * columns * conv->in)
                for (c = 0; c < conv->in; c++)
                    acc[o] += (2 * (int32_t)pixel[c] - conv->mean[c]) * weight[c];
        }
}

/* acc[out] = the sum of level * sign, for output pixel (y, x): twice the levels that meet a +1, less all levels. */
MODEL_FUNCTION void model_binary(const model_binary_conv *conv, const model_word *levels, size_t y, size_t x,
                                 model_int32 *acc)
{
    const size_t taps = conv->window.rows * conv->window.columns, words = conv->words;
    int32_t all = 0;
    size_t i, j, o, k, b;
    for (o = 0; o < conv->out; o++)
        acc[o] = 0;
    for (i = 0; i < conv->window.rows; i++) {
        /* This is `model_seen` in two parts, which leaves more registers to the loops inside. */
        const size_t row = y * conv->window.down + i - conv->window.top;
        if (row >= conv->window.height)
            continue;
        for (j = 0; j < conv->window.columns; j++) {
            const size_t column = x * conv->window.right + j - conv->window.left;
            const model_word *sign = conv->signs + (i * conv->window.columns + j) * words;
            const model_word *pixel;
            if (column >= conv->window.width)
                continue;
            pixel = levels + (row * conv->window.width + column) * conv->planes * words;
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

/* The bits of channels first .. end - 1 in word k. */
MODEL_FUNCTION model_word model_mask(size_t k, size_t first, size_t end)
{
    const model_word ones = (model_word)-1;
    const size_t before = k * MODEL_WORD_BITS, after = before + MODEL_WORD_BITS;
    const model_word from = (model_word)((uint32_t)ones << (first > before ? first - before : 0));
    return (model_word)(from & ones >> (end < after ? after - end : 0));
}

/* Adds what the outputs of a group get from a pixel of the input, where `first` is the first channel of the group. */
MODEL_FUNCTION void model_add_group(const model_binary_conv *conv, const model_word *pixel, const model_word *signs,
                                    size_t first, model_int32 *acc)
{
    const size_t pitch = conv->window.rows * conv->window.columns * conv->words, end = first + conv->in;
    size_t k, b, o;
    for (k = first / MODEL_WORD_BITS; k * MODEL_WORD_BITS < end; k++) {
        const model_word mask = model_mask(k, first, end);
        for (b = 0; b < conv->planes; b++) {
            const model_word part = (model_word)(pixel[b * conv->words + k] & mask);
            const uint32_t all = model_count(part) << b;
            for (o = 0; o < conv->out; o++) {
                const uint32_t plus = model_count((model_word)(part & signs[o * pitch + k])) << b;
                acc[o] += 2 * (int32_t)plus - (int32_t)all;
            }
        }
    }
}

/* The same as `model_binary` for a convolution with groups: acc[groups][out]. */
MODEL_FUNCTION void model_grouped(const model_binary_conv *conv, size_t groups, const model_word *levels, size_t y,
                                  size_t x, model_int32 *acc)
{
    const size_t rows = conv->window.rows, columns = conv->window.columns;
    size_t i, j, g;
    for (g = 0; g < groups * conv->out; g++)
        acc[g] = 0;
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++) {
            const size_t seen = model_seen(&conv->window, y, x, i, j);
            const model_word *signs = conv->signs + (i * columns + j) * conv->words;
            if (seen != MODEL_BORDER)
                for (g = 0; g < groups; g++)
                    model_add_group(conv, levels + seen * conv->planes * conv->words, signs, g * conv->in,
                                    acc + g * conv->out);
        }
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

/* The largest numbers of a stream that a window sees, for output pixel (y, x). */
MODEL_FUNCTION void model_max_stream(const model_window *window, const model_int16 *stream, size_t y, size_t x,
                                     size_t channels, model_int16 *largest)
{
    size_t i, j, c;
    for (c = 0; c < channels; c++)
        largest[c] = -32768;
    for (i = 0; i < window->rows; i++)
        for (j = 0; j < window->columns; j++) {
            const size_t seen = model_seen(window, y, x, i, j);
            if (seen != MODEL_BORDER)
                for (c = 0; c < channels; c++)
                    if (stream[seen * channels + c] > largest[c])
                        largest[c] = stream[seen * channels + c];
        }
}

/* The same of levels. Bit planes are compared from the highest one down, all channels of a word at once. */
MODEL_FUNCTION void model_max_levels(const model_window *window, const model_word *levels, size_t y, size_t x,
                                     size_t planes, size_t words, model_word *largest)
{
    size_t i, j, k, b;
    for (k = 0; k < planes * words; k++)
        largest[k] = 0;
    for (i = 0; i < window->rows; i++)
        for (j = 0; j < window->columns; j++) {
            const size_t seen = model_seen(window, y, x, i, j);
            if (seen == MODEL_BORDER)
                continue;
            for (k = 0; k < words; k++) {
                model_word more = 0, less = 0; /* the channels whose levels are known to be more or less than before */
                for (b = planes; b-- > 0;) {
                    const model_word level = levels[(seen * planes + b) * words + k], before = largest[b * words + k];
                    more |= (model_word)(level & ~before & ~less);
                    less |= (model_word)(before & ~level & ~more);
                    largest[b * words + k] = (model_word)((level & more) | (before & ~more));
                }
            }
        }
}

/* The means of what a window without a border sees, for output pixel (y, x), with halves rounded up. */
MODEL_FUNCTION void model_mean_pool(const model_window *window, const model_int16 *stream, size_t y, size_t x,
                                    size_t channels, model_int16 *mean)
{
    const model_int16 *first = stream + (y * window->down * window->width + x * window->right) * channels;
    const model_sum count = (model_sum)window->rows * (model_sum)window->columns;
    size_t i, j, c;
    for (c = 0; c < channels; c++) {
        /* Of x + 32768, which is not negative, so that division rounds down. */
        model_sum sum = 0;
        for (i = 0; i < window->rows; i++)
            for (j = 0; j < window->columns; j++)
                sum += (model_sum)(first[(i * window->width + j) * channels + c] + (int32_t)32768);
        mean[c] = (int16_t)((int32_t)((2 * sum + count) / (2 * count)) - 32768);
    }
}

#endif
