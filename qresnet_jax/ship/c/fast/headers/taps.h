/* Makes the taps of a convolution from the bit planes of its input, at stride 2 by way of their phases. */

#ifndef MODEL_TAPS_H
#define MODEL_TAPS_H

#include "planes.h"
#include "vectors.h"

#define model_tap_vec MODEL_OF_WIDTH(tap_vec)
#define model_spread_tap_vec MODEL_OF_WIDTH(spread_tap_vec)
#define model_spread_vec MODEL_OF_WIDTH(spread_vec)

#include "of_width/taps.h"
#undef MODEL_BYTES
#define MODEL_BYTES 16
#include "of_width/taps.h"
#undef MODEL_BYTES
#define MODEL_BYTES 32
#include "of_width/taps.h"
#undef MODEL_BYTES
#define MODEL_BYTES 64
#include "of_width/taps.h"
#undef MODEL_BYTES
#define MODEL_BYTES 8

/* The bytes of a chunk: of the vectors that convolutions take for planes of `plane` bytes. */
#define MODEL_CHUNK(plane)                                             \
    ((MODEL_VECTOR >= 64 || MODEL_VECTOR == 8) && (plane) > 32   ? 64u \
     : (MODEL_VECTOR >= 32 || MODEL_VECTOR == 8) && (plane) > 16 ? 32u \
     : (plane) > 8                                               ? 16u \
                                                                 : 8u)

/* The taps of one chunk of `chunk` bytes, from byte `at` of each plane on. */
MODEL_FUNCTION void model_spread(const model_taps *s, const uint8_t *in, size_t at, size_t chunk, uint8_t *out)
{
    if (chunk == 64)
        model_spread_vec64(s, in, at, out);
    else if (chunk == 32)
        model_spread_vec32(s, in, at, out);
    else if (chunk == 16)
        model_spread_vec16(s, in, at, out);
    else
        model_spread_vec8(s, in, at, out);
}

/* Every second bit of x, beginning with the lowest one, side by side. */
MODEL_INLINE uint64_t model_even(uint64_t x)
{
    x &= 0x5555555555555555u;
    x = (x | x >> 1) & 0x3333333333333333u;
    x = (x | x >> 2) & 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (x | x >> 16) & 0xffffffffu;
}

/* The even and the odd columns of 8 bytes. Of each, n bytes are written, at most 4. */
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

/* The same for n words of 8 bytes. */
MODEL_FUNCTION void model_halve_words(const uint8_t *in, size_t n, uint8_t *MODEL_RESTRICT even,
                                      uint8_t *MODEL_RESTRICT odd)
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

/* The even and the odd columns of a plane. Bits beyond the last column of a row are not cleared, as masks do that. */
MODEL_FUNCTION void model_halve(const model_taps *s, const uint8_t *in, uint8_t *MODEL_RESTRICT even,
                                uint8_t *MODEL_RESTRICT odd)
{
    /* Rows of an even number of bytes are as good as one long row. */
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

/* The even rows of a plane whose columns are halved, or from first = 1 on the odd ones. */
MODEL_FUNCTION void model_rows(const model_taps *s, const uint8_t *in, size_t first, uint8_t *MODEL_RESTRICT out)
{
    const size_t rows = (s->height + 1 - first) / 2;
    in += first * s->out_row;
    if (s->out_row == 1) /* as constants, for speed */
        model_copy_parts(in, 2, 1, rows, out, 1);
    else if (s->out_row == 2)
        model_copy_parts(in, 4, 2, rows, out, 2);
    else
        model_copy_parts(in, 2 * s->out_row, s->out_row, rows, out, s->out_row);
    if (rows < s->out_height)
        memset(out + rows * s->out_row, 0, s->out_row);
}

#if MODEL_VECTOR >= 64 && defined(__BMI2__) /* machines with AVX-512 have a quick pext, others need not */
#define MODEL_WORD_PHASES(s) ((s)->row == 1 || (((s)->row == 2 || (s)->row == 4) && (s)->height * (s)->row % 32 == 0))

/* The pixels of a word of 8 bytes that a mask selects. */
MODEL_INLINE uint64_t model_selected(const uint8_t *in, uint64_t mask)
{
    return _pext_u64(model_load(in), mask);
}

/* The phases of a plane with rows of a byte, or of one of n * 32 bytes with rows of 2 or 4 bytes: each has 16 bits of every
   8 bytes. Rows of a byte have 4 of them. */
MODEL_FUNCTION void model_word_phases(const model_taps *s, const uint8_t *in, uint8_t *out)
{
    const uint64_t rows = s->row == 1 ? 0x0055005500550055u : s->row == 2 ? 0x0000555500005555u : 0x0000000055555555u;
    size_t n, k;
    for (k = 0; k < s->phases; k++, out += s->pitch) {
        const uint64_t mask = rows << (8 * s->row * s->parity[2 * k] + s->parity[2 * k + 1]);
        if (s->row == 1)
            for (n = 0; n < s->height; n += 16)
                model_store(out + n / 2, _pdep_u64(model_selected(in + n, mask), 0x0f0f0f0fu) |
                                             _pdep_u64(model_selected(in + n + 8, mask), 0x0f0f0f0f00000000u));
        else
            for (n = 0; n < s->height * s->row; n += 32)
                model_store(out + n / 4, model_selected(in + n, mask) | model_selected(in + n + 8, mask) << 16 |
                                             model_selected(in + n + 16, mask) << 32 |
                                             model_selected(in + n + 24, mask) << 48);
    }
}
#else
#define MODEL_WORD_PHASES(s) 0
#define model_word_phases(s, in, out) ((void)0)
#endif

/* The phases of all planes. `even` and `odd` have space for the columns of one plane. */
MODEL_FUNCTION void model_phases(const model_taps *s, const uint8_t *in, uint8_t *even, uint8_t *odd, uint8_t *out)
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

#endif
