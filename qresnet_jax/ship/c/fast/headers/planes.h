/* How the data lie in memory: bit planes, streams, and the constants of a binary convolution.

   A level is a number of a few bits. Bit b of all pixels of one channel makes a bit plane: rows begin at whole bytes,
   pixel x of a row is bit x % 8 of its byte x / 8, and the bits that are left over in the last byte are 0. The planes
   of a result lie in the order [b][channel].

   A stream has the same pixels as int16 in the order [channel][x % 8][byte of a plane]: numbers that stand side by side
   belong to the same bit of bytes that stand side by side. */

#ifndef MODEL_PLANES_H
#define MODEL_PLANES_H

#include "target.h"

/* A place among the taps or in a table, in bytes. The export asks for 32 bits where 16 do not hold all of them. */
#ifndef MODEL_OFFSET_BITS
#define MODEL_OFFSET_BITS 16
#endif
#if MODEL_OFFSET_BITS == 16
typedef uint16_t model_offset;
#else
typedef uint32_t model_offset;
#endif

/* The taps of a convolution are copies of its input's bit planes, each shifted by the tap's distance from the middle of
   the kernel. They are made for one chunk of a plane at a time, which fills a vector, so that they stay in the first cache;
   their order is [zeros, then tap][channel][b][byte of the chunk]. At stride 2 they are made from the phases of a plane,
   which are its even or odd rows and columns. */
typedef struct {
    size_t height, row;                   /* rows of an input's plane, bytes of a row */
    size_t out_height, out_row;           /* those of a tap */
    size_t channels, planes, taps, words; /* words: of 8 bytes, of a tap's mask */
    size_t phases, pitch;                 /* phases of a plane (0 at stride 1), bytes from one to the next */
    const uint8_t *parity;                /* [phases][2]: whether a phase has the odd rows, the odd columns */
    const uint8_t *phase;                 /* [taps]: the phase that a tap is made from */
    const int32_t *bytes;                 /* [taps]: how many bytes further on a tap reads, */
    const int8_t *bits;                   /* [taps]: and how many bits, within words of 8 bytes; or, */
    int across;                           /* where rows do not fit such words, 0 to 7 bits from byte to byte */
    const uint8_t *mask;                  /* [taps][8 * words]: which bits come from inside the image */
} model_taps;

/* The inputs that each output of a convolution adds up. With `all` as the sum of all inputs, an output is
   2 * (sum of its inputs) - all, to which 2^(bits - 1) is added so that it is never negative. Two outputs have three lists:
   of the inputs that both add up, of those of the first one, and of those of the second one. If there is a table, each has
   a list, which has a part for each of the distances by which rows of sums are still to be moved. Each group of outputs has
   inputs of its own; this is about the first group, and those of the next ones lie behind. */
typedef struct {
    const model_offset *lists; /* the list of `all`, then the outputs'; offsets as if a chunk had 8 bytes */
    const uint32_t *counts;    /* lengths of the lists, or [1 + out][parts], all multiples of 8 */
    const uint16_t *order;     /* [out]: the outputs in the order of their lists, without a table */
    const int16_t *moves;      /* [parts]: distances, in bits */
    const uint8_t *mask;       /* which bits of a plane are in the image, then zeros */
    size_t out, channels;      /* outputs of a group, and of all groups */
    size_t plane;              /* bytes of a plane */
} model_conv;

/* The thresholds that turn an output's sums into levels, a number for each bit. A search has two rows for its three
   thresholds: the bits of the middle one, then those of the lowest + 2 * those of the highest. For tables, a number has
   the bits of 4 outputs, inverted. */
typedef struct {
    const uint8_t *at_least; /* [out][rows][bits]; for tables [out / 4][steps][bits] */
    size_t rows;             /* 2 for a search, else a row for each step */
    const uint16_t *select;  /* [steps]: the bits of the level that change there */
    const uint8_t *first;    /* [out][planes], for tables [out / 4][planes]: the level's bits below all steps */
} model_thresholds;

/* Sizes of numbers in bit planes. They are constants wherever they are used, so that loops over bits are unrolled. */
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
    unsigned narrow;     /* 1 where int16 holds a sum and 32 bits hold its multiple */
} model_bits;

/* 8 bytes as a word, the first byte in its lowest bits. */
MODEL_INLINE uint64_t model_load(const uint8_t *p)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
#else
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
           (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
#endif
}

/* Copies n parts of `bytes` bytes. From one to the next it is `from_next` and `to_next` bytes. */
MODEL_INLINE void model_copy_parts(const uint8_t *from, size_t from_next, size_t bytes, size_t n,
                                   uint8_t *MODEL_RESTRICT to, size_t to_next)
{
    size_t i;
    for (i = 0; i < n; i++)
        memcpy(to + i * to_next, from + i * from_next, bytes);
}

MODEL_INLINE void model_store(uint8_t *p, uint64_t x)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(p, &x, 8);
#else
    size_t i;
    for (i = 0; i < 8; i++)
        p[i] = (uint8_t)(x >> (8 * i));
#endif
}

#endif
