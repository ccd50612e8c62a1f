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

/* With -Os functions are not copied to where they are called with other constants. */
#if defined(__GNUC__) && !defined(__OPTIMIZE_SIZE__)
#define MODEL_INLINE static inline __attribute__((always_inline, unused))
#elif defined(__GNUC__)
#define MODEL_INLINE static inline __attribute__((unused))
#else
#define MODEL_INLINE static inline
#endif

#if MODEL_VECTOR > 8 && defined(__SSE2__)
#include <immintrin.h>
#endif

/* A level is a number of `planes` bits; bit b of all pixels of one channel is a bit plane. Its rows begin at whole
   bytes, pixel x of a row is bit x % 8 of byte x / 8, and what is left of the last byte is 0. Planes lie in the
   order [b][channel]. A stream has the same pixels as int16 in the order [channel][x % 8][byte of a plane]: numbers
   that stand beside each other belong to the same bit of bytes beside each other. */

/* Bytes of the planes that a convolution takes at once, from the bytes of a plane. Wider ones than the vectors are
   made of several of these. */
#define MODEL_CHUNK(plane)                                                    \
    ((MODEL_VECTOR >= 64 || MODEL_VECTOR == 8) && (plane) > 32   ? 64u \
     : (MODEL_VECTOR >= 32 || MODEL_VECTOR == 8) && (plane) > 16 ? 32u \
     : (plane) > 8                                                ? 16u \
                                                                 : 8u)

/* The taps of a convolution: copies of bit planes, shifted by their distances from the middle of the kernel. Order
   [chunk][zeros, then tap][channel][b][byte of the chunk]. At stride 2 they are made from the phases of a plane: one
   with the even, one with the odd rows and columns. */
typedef struct {
    size_t height, row;         /* rows of a plane and bytes of a row: before */
    size_t out_height, out_row; /* and after */
    size_t channels, planes, taps, words; /* words of 8 bytes of a tap's mask */
    size_t phases, pitch;       /* phases of a plane, or 0, and bytes from one to the next */
    const uint8_t *parity;      /* [phases][2], of rows and of columns */
    const uint8_t *phase;       /* [taps] */
    const int32_t *bytes;       /* [taps]: a tap reads so many bytes further on */
    const int8_t *bits;         /* [taps]: and bits. Rows lie within words of 8 bytes, unless: */
    int across;                 /* bits are 0 to 7 and move from byte to byte */
    const uint8_t *mask;        /* [taps][words of 8 bytes]: the bits that are in the image */
} model_taps;

/* acc = 2 * sum of an output's list - all, plus 2^(bits - 1) to be positive. A list has a part for each distance
   between rows that is still to be moved. */
typedef struct {
    const model_offset *lists; /* taps that count, in bytes if a chunk were 8; first those of `all`, then each output's */
    const uint32_t *counts;    /* lengths of the parts, [1 + out][parts], multiples of 8 */
    const int16_t *moves;      /* [parts], bits */
    const uint8_t *mask;       /* the bits of a plane that are in the image, then zeros */
    size_t out, plane, chunk;  /* outputs, bytes of a plane, bytes of all taps of a chunk if a chunk were 8 */
} model_conv;

typedef struct {
    const uint8_t *at_least; /* [out][rows][bits], bits of thresholds; where bits.search, those of the middle one, then */
    size_t rows;             /* those of the lowest + 2 * those of the highest. For tables [out / 4][steps][bits], inverse */
    const uint16_t *select;  /* bits of 4 outputs. select is [steps], bits of the level that change there */
    const uint8_t *first;    /* [out][planes], bits of the level before all steps; for tables [out / 4][planes] */
} model_thresholds;

/* Thresholds of numbers, [channels][steps] or [1][steps] for all channels alike. */
typedef struct {
    const int32_t *above; /* passed by larger numbers */
    const uint16_t *select;
    const uint16_t *first; /* [rows] */
    const uint8_t *mask;
    size_t rows, steps, planes, channels, plane;
} model_quantizer;

/* (x * multiplier + offset) >> shift. Two ways, by what is given. */
typedef struct {
    const int32_t *multiplier;
    const uint8_t *shift;
    int saturates;               /* 0 where int16 holds all results then */
    const int32_t *offset;       /* as it is, where 32 bits hold everything */
    const uint64_t *wide_offset; /* 64 bits, with 2^63 to make all positive */
} model_requantize;

/* Pixels as int16, two channels or two columns of the last one side by side: [pair][parity of rows][column of 8 * stride][row][byte][2]. */
typedef struct {
    const int16_t *weights; /* [out][pitch], of [taps][2], then zeros */
    const int16_t *mean;    /* [channels] */
    const uint32_t *taps;   /* of each pair of weights: pairs of pixels to what it reads */
    size_t height, width, channels, kernel_height, kernel_width, stride;
    size_t pairs, count, pitch; /* of channels, of taps; numbers of one output's weights */
    size_t columns, rows, part; /* of all that a kernel sees; numbers of one column */
    size_t out, out_row, plane; /* outputs, bytes of a row and of a plane */
    size_t sums;                /* numbers from the sums of one output to those of the next */
} model_stem;

/* No result of a loop is longer. */
#define MODEL_BLOCK 512u

/* Sizes of numbers in bit planes; constants wherever they are used, so that loops over bits are unrolled. */
typedef struct {
    unsigned planes;     /* of what the lists point to: of an input's level, or of an entry of a table */
    unsigned parts;      /* of a list */
    unsigned all_bits;   /* of the number of all inputs */
    unsigned count_bits; /* of the number of inputs in a list */
    unsigned bits;       /* of the sum of all levels, and a sign */
    unsigned sum_bits;   /* of the sum of a list */
    unsigned steps;      /* thresholds */
    unsigned out_planes; /* of the result's level */
    unsigned search;     /* 1 for levels 0 to 3 */
    unsigned narrow;     /* 1 where a sum fits int16, and 32 bits hold its multiple */
} model_bits;

/// phases
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

/* The same of n whole words. */
static void model_halve_words(const uint8_t *in, size_t n, uint8_t *restrict even, uint8_t *restrict odd)
{
    size_t i;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (i = 0; i < n; i++) {
        const uint64_t x = model_load(in + 8 * i);
        const uint32_t low = (uint32_t)model_even(x), high = (uint32_t)model_even(x >> 1);
        memcpy(even + 4 * i, &low, 4);
        memcpy(odd + 4 * i, &high, 4);
    }
#else
    for (i = 0; i < n; i++)
        model_halve_word(in + 8 * i, 4, even + 4 * i, odd + 4 * i);
#endif
}

/* Even and odd columns of a plane; what lies beyond the last column of a row is not cleared. */
static void model_halve(const model_taps *s, const uint8_t *in, uint8_t *restrict even, uint8_t *restrict odd)
{
    /* Rows of an even number of bytes can be taken as one long row. */
    const size_t rows = s->row % 2 ? s->height : 1, row = s->row % 2 ? s->row : s->height * s->row;
    const size_t half = (row + 1) / 2, whole = half / 4;
    size_t y;
    for (y = 0; y < rows; y++, in += row) {
        model_halve_words(in, whole, even, odd);
        if (half % 4)
            model_halve_word(in + 8 * whole, half % 4, even + 4 * whole, odd + 4 * whole);
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

static void model_rows(const model_taps *s, const uint8_t *in, size_t first, uint8_t *restrict out)
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

#if MODEL_VECTOR >= 64 && defined(__BMI2__) /* with AVX-512, so that it is quick */
#define MODEL_WORD_PHASES(s) (((s)->row == 2 || (s)->row == 4) && (s)->height * (s)->row % 32 == 0)

/* The phases of a plane of whole 32 bytes, with rows of 2 or 4: each has 16 bits of every 8 bytes. */
static void model_word_phases(const model_taps *s, const uint8_t *in, uint8_t *out)
{
    size_t n, k;
    for (k = 0; k < s->phases; k++, out += s->pitch) {
        const unsigned first = 8 * (unsigned)s->row * s->parity[2 * k] + s->parity[2 * k + 1];
        const uint64_t mask = (s->row == 2 ? 0x0000555500005555u : 0x0000000055555555u) << first;
        for (n = 0; n < s->height * s->row; n += 32)
            model_store(out + n / 4, _pext_u64(model_load(in + n), mask) | _pext_u64(model_load(in + n + 8), mask) << 16 |
                                         _pext_u64(model_load(in + n + 16), mask) << 32 |
                                         _pext_u64(model_load(in + n + 24), mask) << 48);
    }
}
#else
#define MODEL_WORD_PHASES(s) 0
#define model_word_phases(s, in, out) ((void)0)
#endif

/* The phases of all planes; `even` and `odd` are for columns of one. */
static void model_phases(const model_taps *s, const uint8_t *in, uint8_t *even, uint8_t *odd, uint8_t *out)
{
    size_t i, k;
    for (i = 0; i < s->planes * s->channels; i++, in += s->height * s->row, out += s->phases * s->pitch) {
        if (MODEL_WORD_PHASES(s)) {
            model_word_phases(s, in, out);
            continue;
        }
        model_halve(s, in, even, odd);
        for (k = 0; k < s->phases; k++)
            model_rows(s, s->parity[2 * k + 1] ? odd : even, s->parity[2 * k], out + k * s->pitch);
    }
}

/// taps
/* What a tap sees of one plane: out[pixel] = in[pixel + bits] & mask. */
MODEL_INLINE void model_tap_vec(const uint8_t *in, int across, int bits, const uint8_t *mask, uint8_t *restrict out)
{
    size_t i;
#if MODEL_VECTOR > 8
    if (!across) {
        const model_vec zeros = model_fill_vec(0), x = model_load_vec(in);
        const model_vec moved = bits < 0 ? model_shift_xor_vec(zeros, 0, x, (unsigned)-bits)
                                         : model_shift_xor_vec(x, (unsigned)bits, zeros, 0);
        const model_vec kept = model_and_vec(moved, model_load_vec(mask));
        memcpy(out, &kept, sizeof kept);
        return;
    }
#endif
    for (i = 0; i < sizeof(model_vec); i += 8) {
        uint64_t x = model_load(in + i);
        if (across)
            x = x >> bits | model_load(in + i + 1) << (8 - bits);
        else
            x = bits < 0 ? x << -bits : x >> bits;
        model_store(out + i, x & model_load(mask + i));
    }
}

/* One tap of one chunk of all planes. */
MODEL_INLINE void model_spread_tap_vec(const model_taps *s, int across, int bits, const uint8_t *in,
                                       const uint8_t *mask, uint8_t *restrict out)
{
    const size_t pitch = s->phases ? s->phases * s->pitch : s->out_height * s->out_row, next = s->channels * pitch;
    size_t c, b;
    for (c = 0; c < s->channels; c++, in += pitch)
        if (s->planes == 2) /* as a constant, for speed */
            for (b = 0; b < 2; b++, out += sizeof(model_vec))
                model_tap_vec(in + b * next, across, bits, mask, out);
        else
            for (b = 0; b < s->planes; b++, out += sizeof(model_vec))
                model_tap_vec(in + b * next, across, bits, mask, out);
}

MODEL_INLINE void model_spread_vec(const model_taps *s, const uint8_t *in, uint8_t *out)
{
    const size_t entry = s->planes * sizeof(model_vec);
    size_t at, t;
    for (at = 0; at < 8 * s->words; at += sizeof(model_vec), in += sizeof(model_vec)) {
        memset(out, 0, entry);
        out += entry;
        for (t = 0; t < s->taps; t++, out += s->channels * entry) {
            const uint8_t *from = in + (s->phases ? s->phase[t] * s->pitch : 0) + s->bytes[t];
            const uint8_t *mask = s->mask + 8 * t * s->words + at;
            if (s->across)
                model_spread_tap_vec(s, 1, s->bits[t], from, mask, out);
            else if (s->bits[t] < 0)
                model_spread_tap_vec(s, 0, s->bits[t], from, mask, out);
            else
                model_spread_tap_vec(s, 0, s->bits[t], from, mask, out);
        }
    }
}

/// spread
static void model_spread(const model_taps *s, const uint8_t *in, size_t chunk, uint8_t *out)
{
    if (chunk == 64)
        model_spread_vec64(s, in, out);
    else if (chunk == 32)
        model_spread_vec32(s, in, out);
    else if (chunk == 16)
        model_spread_vec16(s, in, out);
    else
        model_spread_vec8(s, in, out);
}
