/// types
/* Bytes of the widest vectors. Define it to take narrower ones; 8 is plain C. */
#ifndef MODEL_VECTOR
#if !defined(__GNUC__)
#define MODEL_VECTOR 8
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define MODEL_VECTOR 64
#elif defined(__AVX2__)
#define MODEL_VECTOR 32
#elif defined(__SSE2__) || (defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN))
#define MODEL_VECTOR 16
#else
#define MODEL_VECTOR 8
#endif
#endif

#ifdef __GNUC__
#define MODEL_INLINE static inline __attribute__((always_inline, unused))
#else
#define MODEL_INLINE static inline
#endif

#if MODEL_VECTOR > 8 && defined(__SSE2__)
#include <immintrin.h>
#endif

/* A level is a number of `planes` bits; bit b of all pixels of one channel is a bit plane. Its rows begin at whole
   bytes, pixel x of a row is bit x % 8 of byte x / 8, and what is left of the last byte is 0. Planes lie in the
   order [b][channel]. A stream has the same pixels as int16, [channel][row][8 * bytes of a row]. */

/* Copies of bit planes, one for each column of a kernel, shifted by its distance from the middle; at stride 2 only
   every second row and column. Order [b][zeros, then parity of rows][column of the kernel][channel], with rows of
   zeros between. */
typedef struct {
    size_t height, row;         /* rows of a plane and bytes of a row: before */
    size_t out_height, out_row; /* and after */
    size_t channels, planes, stride, columns;
    size_t pitch, group;  /* bytes from one copy to the next, and from one bit to the next */
    const int8_t *parity; /* of rows, 0 or 1, or -1 for none: [2] */
    const uint8_t *odd;   /* [columns], of columns at stride 2 */
    const int16_t *shift; /* [columns], pixel x becomes x - shift */
    const uint8_t *mask;  /* [columns][words of 8 bytes]: the bits that are in the image */
} model_spread;

/* acc = all - 2 * sum of an output's list, plus 2^(bits - 1) to be positive. */
typedef struct {
    const model_offset *lists; /* copies of planes that count, in bytes; first those of `all`, then of each output */
    const uint32_t *counts;    /* their lengths, [1 + out], multiples of 8 */
    const uint8_t *mask;       /* the bits of a plane that are in the image, then zeros */
    size_t out, group, plane;
} model_conv;

typedef struct {
    const uint32_t *at_least; /* [out][steps] */
    const uint16_t *select;   /* [steps], bits of the level that change there */
    const uint16_t *first;    /* [out], level before all of them */
} model_thresholds;

/* Thresholds of numbers, [channels][steps] or [1][steps] for all channels alike. */
typedef struct {
    const int32_t *above; /* passed by larger numbers */
    const uint16_t *select;
    const uint16_t *first; /* [rows] */
    const uint8_t *mask;
    size_t rows, steps, planes, channels, plane;
} model_quantizer;

/* (x * multiplier + offset) >> shift - zero, where the offset makes all positive. Three ways, by what is given. */
typedef struct {
    const int32_t *multiplier;
    const uint8_t *shift;
    const uint32_t *offset;      /* where 32 bits hold everything; zero is 2^31 >> shift */
    const uint64_t *wide_offset; /* else; zero is 2^63 >> shift, unless these are given: */
    const int32_t *low, *high;   /* numbers beyond these saturate as these do, whose results 32 bits hold; then x is */
    const int32_t *zero;         /* taken as x - low, or as high - x with a multiplier below 0 */
} model_requantize;

/* Pixels as int16, two channels side by side: [pair][parity of columns][row][pitch][2]. */
typedef struct {
    const int16_t *weights; /* [out][kernel_height][kernel_width][pairs][2] */
    const int16_t *mean;    /* [channels] */
    const uint32_t *taps;   /* where each pair of weights reads, [kernel_height * kernel_width * pairs] */
    size_t height, width, channels, kernel_height, kernel_width, stride;
    size_t rows, pitch, out, out_height, out_row;
} model_stem;

/* No result of a loop is longer. */
#define MODEL_BLOCK 512u

/* Sizes of numbers in bit planes; constants wherever they are used, so that loops over bits are unrolled. */
typedef struct {
    unsigned scale;      /* bytes that a unit of the lists stands for */
    unsigned planes;     /* of what they point to: of an input's level, or of an entry of a table */
    unsigned all_bits;   /* of the number of all inputs */
    unsigned count_bits; /* of the number of inputs in a list */
    unsigned bits;       /* of the sum of all levels, and a sign */
    unsigned sum_bits;   /* of the sum of a list */
    unsigned steps;      /* thresholds */
    unsigned out_planes; /* of the result's level */
    unsigned narrow;     /* 1 where a sum fits int16, and 32 bits hold its multiple */
} model_bits;

/// words
/* 8 bytes, the first in the lowest bits. */
static inline uint64_t model_load(const uint8_t *p)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
#else
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
#endif
}

static inline void model_store(uint8_t *p, uint64_t x)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(p, &x, 8);
#else
    size_t i;
    for (i = 0; i < 8; i++)
        p[i] = (uint8_t)(x >> (8 * i));
#endif
}

/// spread_planes
/* 64 pixels that lie `shift` pixels further on. */
MODEL_INLINE uint64_t model_shifted(const uint8_t *in, ptrdiff_t shift)
{
    const size_t distance = (size_t)(shift < 0 ? -shift : shift);
    const unsigned bits = (unsigned)(distance % 8);
    if (shift < 0) {
        in -= distance / 8;
        return model_load(in) << bits | model_load(in - 1) >> (8 - bits);
    }
    in += distance / 8;
    return model_load(in) >> bits | model_load(in + 1) << (8 - bits);
}

/* out[pixel] = in[pixel + shift] & mask; reads as far as the shift, and a word, beyond both ends. */
MODEL_INLINE void model_shift_bytes(const uint8_t *in, ptrdiff_t shift, const uint8_t *mask, size_t bytes,
                                     uint8_t *restrict out)
{
    size_t i = 0, k;
    if (shift < 0)
        for (; i + 8 <= bytes; i += 8)
            model_store(out + i, model_shifted(in + i, shift) & model_load(mask + i));
    else
        for (; i + 8 <= bytes; i += 8)
            model_store(out + i, model_shifted(in + i, shift) & model_load(mask + i));
    if (i < bytes) {
        const uint64_t word = model_shifted(in + i, shift) & model_load(mask + i);
        for (k = 0; i + k < bytes; k++)
            out[i + k] = (uint8_t)(word >> (8 * k));
    }
}

MODEL_INLINE void model_shift(const uint8_t *in, ptrdiff_t shift, const uint8_t *mask, size_t bytes, uint8_t *out)
{
    if (bytes == 8) /* as a constant, for speed */
        model_shift_bytes(in, shift, mask, 8, out);
    else
        model_shift_bytes(in, shift, mask, bytes, out);
}

/* Every second bit, beginning with the lowest, in the lower half. */
MODEL_INLINE uint64_t model_even(uint64_t x)
{
    x &= 0x5555555555555555u;
    x = (x | x >> 1) & 0x3333333333333333u;
    x = (x | x >> 2) & 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (x | x >> 16) & 0xffffffffu;
}

/* Even and odd columns of 8 bytes; n bytes of each are written, up to 4. */
MODEL_INLINE void model_halve_word(const uint8_t *in, size_t n, uint8_t *even, uint8_t *odd)
{
    const uint64_t x = model_load(in);
    const uint64_t low = model_even(x), high = model_even(x >> 1);
    size_t k;
    for (k = 0; k < n; k++) {
        even[k] = (uint8_t)(low >> (8 * k));
        odd[k] = (uint8_t)(high >> (8 * k));
    }
}

/* Even and odd columns of a plane; what lies beyond the last column of a row is not cleared. */
static void model_halve(const model_spread *s, const uint8_t *in, uint8_t *restrict even, uint8_t *restrict odd)
{
    /* Rows of an even number of bytes can be taken as one long row. */
    const size_t rows = s->row % 2 ? s->height : 1, row = s->row % 2 ? s->row : s->height * s->row;
    size_t y, i;
    for (y = 0; y < rows; y++, in += row) {
        const size_t half = (row + 1) / 2;
        for (i = 0; i + 4 <= half; i += 4)
            model_halve_word(in + 2 * i, 4, even + i, odd + i);
        if (i < half)
            model_halve_word(in + 2 * i, half - i, even + i, odd + i);
        even += half;
        odd += half;
    }
}

/* Every second row, of a halved plane. */
MODEL_INLINE void model_every_second(const uint8_t *in, size_t row, size_t rows, uint8_t *restrict out)
{
    size_t y;
    for (y = 0; y < rows; y++)
        memcpy(out + y * row, in + 2 * y * row, row);
}

static void model_rows(const model_spread *s, const uint8_t *in, size_t first, uint8_t *restrict out)
{
    const size_t rows = (s->height + 1 - first) / 2;
    in += first * s->out_row;
    if (s->out_row == 1) /* as constants, for speed */
        model_every_second(in, 1, rows, out);
    else if (s->out_row == 2)
        model_every_second(in, 2, rows, out);
    else
        model_every_second(in, s->out_row, rows, out);
    if (rows < s->out_height)
        memset(out + rows * s->out_row, 0, s->out_row);
}

static void model_spread_planes(const model_spread *s, const uint8_t *in, uint8_t *columns[2], uint8_t *rows[2],
                                uint8_t *out)
{
    const size_t plane = s->out_height * s->out_row, words = (plane + 7) / 8 * 8;
    size_t b, p, j, c;
    memset(out, 0, s->planes * s->group);
    for (b = 0; b < s->planes; b++, out += s->group)
        for (c = 0; c < s->channels; c++, in += s->height * s->row) {
            uint8_t *to = out + (1 + c) * s->pitch;
            if (s->stride == 1) {
                for (j = 0; j < s->columns; j++, to += s->channels * s->pitch)
                    model_shift(in, s->shift[j], s->mask + j * words, plane, to);
                continue;
            }
            model_halve(s, in, columns[0], columns[1]);
            for (p = 0; p < 2 && s->parity[p] >= 0; p++) {
                model_rows(s, columns[0], (size_t)s->parity[p], rows[0]);
                if (s->columns > 1)
                    model_rows(s, columns[1], (size_t)s->parity[p], rows[1]);
                for (j = 0; j < s->columns; j++, to += s->channels * s->pitch)
                    model_shift(rows[s->odd[j]], s->shift[j], s->mask + j * words, plane, to);
            }
        }
}

/// subsets
typedef struct {
    const model_offset *inputs; /* of the kernel's rows without a shift */
    const uint8_t *source;      /* [rows], the row that one with a shift is made from */
    const int16_t *shift;       /* [rows], in bits */
    const uint8_t *mask;        /* the bits of a plane that are in the image */
    size_t rows, groups, group; /* groups of a row */
    unsigned choose, planes;
} model_subset;

/* Sums of all subsets of `choose` inputs, in 4 bit planes of 8 bytes each, so that an input channel's tap becomes an
   entry for several of them: entry m of a group has the sum of the inputs i with bit i in m. */
MODEL_INLINE void model_subsets(const uint8_t *from, const model_offset *inputs, size_t groups, unsigned choose,
                                 unsigned planes, size_t group, uint64_t mask, uint8_t *table)
{
    size_t g;
    for (g = 0; g < groups; g++, table += 32u << choose) {
        uint64_t sums[16][4];
        unsigned i, m, b;
        for (b = 0; b < 4; b++)
            sums[0][b] = 0;
        for (i = 0; i < choose; i++, inputs++) {
            uint64_t x[4] = {0, 0, 0, 0};
            for (b = 0; b < planes; b++) {
                memcpy(&x[b], from + b * group + *inputs, 8);
                x[b] &= mask;
            }
            for (m = 0; m < 1u << i; m++) {
                uint64_t carry = 0;
                for (b = 0; b < 4; b++) {
                    const uint64_t y = sums[m][b] ^ x[b];
                    sums[m + (1u << i)][b] = y ^ carry;
                    carry = (sums[m][b] & x[b]) | (carry & y);
                }
            }
        }
        memcpy(table, sums, 32u << choose);
    }
}

/* Moves whole rows in tables: to the end of the planes, or to the beginning. */
static void model_move(const uint8_t *from, size_t words, unsigned bits, int to_end, uint8_t *restrict to)
{
    const uint16_t one = 1;
    uint64_t x;
    uint8_t lowest;
    size_t i;
    memcpy(&lowest, &one, 1);
    if (bits > 63)
        memset(to, 0, 8 * words);
    else if (to_end == (lowest == 1))
        for (i = 0; i < 8 * words; i += 8) {
            memcpy(&x, from + i, 8);
            x <<= bits;
            memcpy(to + i, &x, 8);
        }
    else
        for (i = 0; i < 8 * words; i += 8) {
            memcpy(&x, from + i, 8);
            x >>= bits;
            memcpy(to + i, &x, 8);
        }
}

/* Tables of all rows of a kernel. Only rows in the middle are added up; the others are those, moved. */
static void model_table(const uint8_t *from, const model_subset *s, uint8_t *table)
{
    const size_t row = s->groups * (32u << s->choose);
    const model_offset *inputs = s->inputs;
    uint64_t mask;
    size_t i;
    memcpy(&mask, s->mask, 8);
    for (i = 0; i < s->rows; i++)
        if (s->shift[i] == 0) {
            if (s->choose == 4 && s->planes == 2) /* as constants, for speed */
                model_subsets(from, inputs, s->groups, 4, 2, s->group, mask, table + i * row);
            else
                model_subsets(from, inputs, s->groups, s->choose, s->planes, s->group, mask, table + i * row);
            inputs += s->groups * s->choose;
        }
    for (i = 0; i < s->rows; i++)
        if (s->shift[i])
            model_move(table + s->source[i] * row, row / 8, (unsigned)(s->shift[i] < 0 ? -s->shift[i] : s->shift[i]),
                       s->shift[i] < 0, table + i * row);
}
