/* Quantizers by thresholds, for values that are not in bit planes: a stream, or the sums of the stem. */

#ifndef MODEL_QUANTIZE_H
#define MODEL_QUANTIZE_H

#include "sse2.h"

/* Thresholds, [channels][steps], or [1][steps] if all channels have the same. */
typedef struct {
    const int32_t *above;   /* larger numbers are above the step */
    const uint16_t *select; /* [steps]: the bits of the level that change there */
    const uint16_t *first;  /* [rows]: the level of a number that is above none */
    const uint8_t *mask;    /* which bits of a plane are in the image */
    size_t rows, steps, planes, channels, plane;
} model_quantizer;

#if MODEL_VECTOR < 64
#define MODEL_ABOVE(j) (x[(j)*plane + i] > threshold ? (uint16_t)(1u << (j)) : (uint16_t)0)

/* Which of n numbers of eight rows are above a threshold: bit i of byte k for number k of row i. */
MODEL_INLINE void model_above(const model_int16 *x, int16_t threshold, size_t plane, size_t n, uint8_t *MODEL_RESTRICT bits)
{
    uint16_t words[32];
    size_t k = 0, i;
#if MODEL_VECTOR >= 32 && defined(__AVX2__)
    for (; k + 16 <= n; k += 16) {
        __m256i found = _mm256_setzero_si256(), numbers;
        __m128i half;
        for (i = 8; i-- > 0;) { /* what is above is -1 */
            memcpy(&numbers, x + i * plane + k, 32);
            numbers = _mm256_cmpgt_epi16(numbers, _mm256_set1_epi16(threshold));
            found = _mm256_sub_epi16(_mm256_add_epi16(found, found), numbers);
        }
        half = _mm_packus_epi16(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
        memcpy(bits + k, &half, 16);
    }
#endif
#if defined(MODEL_SSE2)
    for (; k + 8 <= n; k += 8) {
        __m128i found = _mm_setzero_si128(), numbers;
        for (i = 8; i-- > 0;) {
            memcpy(&numbers, x + i * plane + k, 16);
            numbers = _mm_cmpgt_epi16(numbers, _mm_set1_epi16(threshold));
            found = _mm_sub_epi16(_mm_add_epi16(found, found), numbers);
        }
        found = _mm_packus_epi16(found, found);
        memcpy(bits + k, &found, 8);
    }
#endif
    for (i = k; i < n; i++) {
        const uint16_t low = (uint16_t)(MODEL_ABOVE(0) | MODEL_ABOVE(1) | MODEL_ABOVE(2) | MODEL_ABOVE(3));
        const uint16_t high = (uint16_t)(MODEL_ABOVE(4) | MODEL_ABOVE(5) | MODEL_ABOVE(6) | MODEL_ABOVE(7));
        words[i] = (uint16_t)(low | high);
    }
    for (i = k; i < n; i++) /* a loop of its own, so that the one above has vectors of 8 numbers */
        bits[i] = (uint8_t)words[i];
}

/* The levels of n numbers of eight rows. `levels` is in the first bit plane; the next one lies `next` bytes on. */
MODEL_INLINE void model_quantize_rows(const model_quantizer *q, size_t row, size_t steps, size_t planes,
                                      const model_int16 *x, const uint8_t *mask, size_t n, size_t next, uint8_t *levels)
{
    uint8_t level[16][32];
    size_t i, b, k;
    for (b = 0; b < planes; b++)
        for (k = 0; k < n; k++)
            level[b][k] = q->first[row] >> b & 1 ? 255 : 0;
    for (i = 0; i < steps; i++) {
        uint8_t bits[32];
        model_above(x, (int16_t)q->above[row * steps + i], q->plane, n, bits);
        for (b = 0; b < planes; b++)
            if (q->select[i] >> b & 1)
                for (k = 0; k < n; k++)
                    level[b][k] ^= bits[k];
    }
    for (b = 0; b < planes; b++)
        for (k = 0; k < n; k++)
            levels[b * next + k] = level[b][k] & mask[k];
}

MODEL_INLINE void model_quantize_steps(const model_quantizer *q, size_t steps, size_t planes, const model_int16 *x,
                                       uint8_t *levels)
{
    const size_t plane = q->plane, next = q->channels * plane;
    size_t c, at, left;
    for (c = 0; c < q->channels; c++, x += 8 * plane, levels += plane) {
        const size_t row = q->rows == 1 ? 0 : c;
        for (at = 0; at + 32 <= plane; at += 32)
            model_quantize_rows(q, row, steps, planes, x + at, q->mask + at, 32, next, levels + at);
        for (; at + 8 <= plane; at += 8)
            model_quantize_rows(q, row, steps, planes, x + at, q->mask + at, 8, next, levels + at);
        for (left = plane % 8; left > 0; left--, at++) /* at < plane, in such a form that GCC sees how few they are */
            model_quantize_rows(q, row, steps, planes, x + at, q->mask + at, 1, next, levels + at);
    }
}
#else
MODEL_INLINE void model_quantize_steps(const model_quantizer *q, size_t steps, size_t planes, const model_int16 *x,
                                       uint8_t *levels)
{
    const size_t plane = q->plane, next = q->channels * plane;
    size_t c, at, i, j, b;
    for (c = 0; c < q->channels; c++, x += 8 * plane, levels += plane)
        for (at = 0; at < plane; at += 32) {
            const size_t row = q->rows == 1 ? 0 : c;
            const __mmask32 part = plane - at < 32 ? (__mmask32)(((uint32_t)1 << (plane - at)) - 1u) : ~(__mmask32)0;
            const __m256i mask = _mm256_maskz_loadu_epi8(part, q->mask + at);
            __m512i level[16];
            for (b = 0; b < planes; b++)
                level[b] = _mm512_set1_epi16((short)-(q->first[row] >> b & 1));
            for (i = 0; i < steps; i++) {
                const __m512i threshold = _mm512_set1_epi16((short)q->above[row * steps + i]);
                __m512i bits = _mm512_setzero_si512();
                for (j = 0; j < 8; j++) {
                    const __m512i numbers = _mm512_maskz_loadu_epi16(part, x + j * plane + at);
                    const __mmask32 above = _mm512_cmpgt_epi16_mask(numbers, threshold);
                    bits = _mm512_mask_add_epi16(bits, above, bits, _mm512_set1_epi16((short)(1 << j)));
                }
                for (b = 0; b < planes; b++)
                    if (q->select[i] >> b & 1)
                        level[b] = _mm512_xor_si512(level[b], bits);
            }
            for (b = 0; b < planes; b++)
                _mm256_mask_storeu_epi8(levels + b * next + at, part,
                                        _mm256_and_si256(_mm512_cvtepi16_epi8(level[b]), mask));
        }
}
#endif

/* The levels of a stream. */
MODEL_FUNCTION void model_quantize(const model_quantizer *q, const model_int16 *x, uint8_t *levels)
{
    if (q->steps == 3 && q->planes == 2) /* as constants, for speed */
        model_quantize_steps(q, 3, 2, x, levels);
    else
        model_quantize_steps(q, q->steps, q->planes, x, levels);
}

/* The levels of the sums of one channel, [byte of a plane], for one bit of each byte. Bit 0 has to come first. */
MODEL_FUNCTION void model_quantize_sums(const model_quantizer *q, size_t channel, size_t bit, const model_int32 *x,
                                        uint8_t *levels)
{
    const size_t row = q->rows == 1 ? 0 : channel;
    size_t k, i, b;
    for (b = 0; b < q->planes && bit == 0; b++)
        memset(levels + (b * q->channels + channel) * q->plane, 0, q->plane);
    for (k = 0; k < q->plane; k++) {
        unsigned level = q->first[row];
        for (i = 0; i < q->steps; i++)
            if (x[k] > q->above[row * q->steps + i])
                level ^= q->select[i];
        for (b = 0; b < q->planes; b++)
            levels[(b * q->channels + channel) * q->plane + k] |= (uint8_t)((level >> b & 1u) << bit & q->mask[k]);
    }
}

#endif
