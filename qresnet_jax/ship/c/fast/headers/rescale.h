/* Requantization: of sums or of a stream to a stream, with an addend and ReLU. */

#ifndef MODEL_RESCALE_H
#define MODEL_RESCALE_H

#include "sse2.h"

/* The constants of each channel for (x * multiplier + offset) >> shift, saturated to int16. The offset is given in one of
   two ways. */
typedef struct {
    const int32_t *multiplier;
    const uint8_t *shift;
    int saturates;         /* 0 where int16 holds all results anyway */
    unsigned split;        /* where 32 bits hold everything: int16 holds x << split and multiplier >> split, and */
    const int32_t *offset; /* this is the offset; or it is given */
    const uint64_t *wide_offset; /* in 64 bits, with 2^63 added so that nothing is negative */
} model_requantize;

/* The most numbers that functions take at once. */
#define MODEL_BLOCK 512u

/* The widest vectors of int16, and how bytes are loaded into them. */
#if MODEL_VECTOR >= 64
#define MODEL_LANES(f) _mm512_##f
#define MODEL_BYTES_TO_WORDS _mm512_cvtepu8_epi16
typedef __m512i model_lanes, model_shift;
typedef __m256i model_half;
#elif MODEL_VECTOR >= 32
#define MODEL_LANES(f) _mm256_##f
#define MODEL_BYTES_TO_WORDS _mm256_cvtepu8_epi16
typedef __m256i model_lanes, model_shift;
typedef __m128i model_half;
#elif defined(MODEL_SSE2)
#define MODEL_LANES(f) _mm_##f
#ifdef __SSE2__
#define MODEL_BYTES_TO_WORDS(x) _mm_unpacklo_epi8(_mm_cvtsi64_si128((int64_t)(x)), _mm_setzero_si128())
#else
#define MODEL_BYTES_TO_WORDS(x) wasm_u16x8_extend_low_u8x16(wasm_i64x2_make((int64_t)(x), 0))
#endif
typedef __m128i model_lanes, model_shift;
typedef uint64_t model_half;
#endif

/* Shifts by a number in a register. Vectors that can shift each number by another one are quicker at that. */
#if MODEL_VECTOR >= 32
#define MODEL_SHIFT(n) MODEL_LANES(set1_epi32)(n)
#define MODEL_SHIFTED(x, shift) MODEL_LANES(srav_epi32)(x, shift)
#else
#define MODEL_SHIFT(n) _mm_cvtsi32_si128(n)
#define MODEL_SHIFTED(x, shift) _mm_sra_epi32(x, shift)
#endif

#ifdef MODEL_LANES
/* sum + x[0] * y[0] + x[1] * y[1], for pairs of int16, in int32 */
MODEL_INLINE model_lanes model_dot(model_lanes sum, model_lanes x, model_lanes y)
{
#if MODEL_VECTOR >= 64 && defined(__AVX512VNNI__)
    /* As _mm512_dpwssd_epi32, for which GCC copies the sum twice. */
    __asm__("{vpdpwssd %2, %1, %0|vpdpwssd %0, %1, %2}" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
#else
    return MODEL_LANES(add_epi32)(sum, MODEL_LANES(madd_epi16)(x, y));
#endif
}
#endif

/* Puts numbers together from their bytes, [byte of a number, the lowest first][n]. */
MODEL_FUNCTION void model_join(const uint8_t *bytes, unsigned bits, size_t n, int32_t *MODEL_RESTRICT x)
{
    size_t i;
    unsigned b;
    for (i = 0; i < n; i++)
        x[i] = bytes[i];
    for (b = 8; b < bits; b += 8) {
        bytes += n;
        for (i = 0; i < n; i++)
            x[i] |= (int32_t)((uint32_t)bytes[i] << b);
    }
}

#if MODEL_VECTOR >= 64
/* (x * multiplier + offset) >> shift for 16 numbers, as int32. */
MODEL_INLINE __m512i model_rescale_sixteen(__m512i x, __m512i multiplier, __m512i offset, __m512i shift, int saturate)
{
    const __m512i low = _mm512_set1_epi64(-32768), high = _mm512_set1_epi64(32767);
    __m512i even = _mm512_mul_epi32(x, multiplier), odd = _mm512_mul_epi32(_mm512_srli_epi64(x, 32), multiplier);
    even = _mm512_srav_epi64(_mm512_add_epi64(even, offset), shift);
    odd = _mm512_srav_epi64(_mm512_add_epi64(odd, offset), shift);
    if (saturate) {
        even = _mm512_max_epi64(_mm512_min_epi64(even, high), low);
        odd = _mm512_max_epi64(_mm512_min_epi64(odd, high), low);
    }
    return _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}

/* Rescales n numbers of one channel, a multiple of 32, with wide_offset. */
MODEL_INLINE void model_rescale_vectors(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                                        int saturate, int16_t *MODEL_RESTRICT out)
{
    const __m512i multiplier = _mm512_set1_epi64(r->multiplier[channel]), shift = _mm512_set1_epi64(r->shift[channel]);
    const __m512i offset = _mm512_set1_epi64((int64_t)(r->wide_offset[channel] ^ (uint64_t)1 << 63));
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    size_t i;
    for (i = 0; i < n; i += 32) {
        const __m512i a = model_rescale_sixteen(_mm512_loadu_si512(x + i), multiplier, offset, shift, saturate);
        const __m512i b = model_rescale_sixteen(_mm512_loadu_si512(x + i + 16), multiplier, offset, shift, saturate);
        _mm512_storeu_si512(out + i, _mm512_permutexvar_epi64(order, _mm512_packs_epi32(a, b)));
    }
}
#endif

/* Rescales n numbers of one channel, with wide_offset. */
MODEL_INLINE void model_rescale_any(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                                    int saturate, int16_t *MODEL_RESTRICT out)
{
    /* The numbers are unsigned, because only for those vectors have products of 64 bits. */
    const int32_t multiplier = r->multiplier[channel];
    const uint32_t size = multiplier < 0 ? 0u - (uint32_t)multiplier : (uint32_t)multiplier;
    const uint64_t flip = multiplier < 0 ? ~(uint64_t)0 : 0; /* -product = ~product + 1 */
    const uint64_t offset = r->wide_offset[channel] - (((uint64_t)size << 31) ^ flip);
    const unsigned shift = r->shift[channel];
    const uint64_t zero = ((uint64_t)1 << 63) >> shift, low = zero - 32768, high = zero + 32767;
    size_t i = 0;
#if MODEL_VECTOR >= 64
    i = n / 32 * 32;
    model_rescale_vectors(r, channel, x, i, saturate, out);
#endif
    for (; i < n; i++) {
        const uint64_t product = (uint64_t)((uint32_t)x[i] + 0x80000000u) * size;
        uint64_t value = ((product ^ flip) + offset) >> shift;
        if (saturate) {
            value = value < low ? low : value;
            value = value > high ? high : value;
        }
        out[i] = (int16_t)((int32_t)((uint32_t)(value - low)) - 32768);
    }
}

MODEL_FUNCTION void model_rescale(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                                  int16_t *MODEL_RESTRICT out)
{
    if (r->saturates)
        model_rescale_any(r, channel, x, n, 1, out);
    else
        model_rescale_any(r, channel, x, n, 0, out);
}

/* stream = x + addend, saturated, or its positive part if `relu`. `addend` may be NULL, or `stream` itself. */
static inline void model_write(const int16_t *MODEL_RESTRICT x, const model_int16 *addend, int relu, size_t n,
                               model_int16 *MODEL_RESTRICT stream)
{
    const int16_t lowest = relu ? 0 : -32768;
    size_t i;
    if (addend == NULL)
        memset(stream, 0, n * sizeof *stream);
    else if (addend != stream)
        memcpy(stream, addend, n * sizeof *stream);
    i = 0;
#ifdef MODEL_LANES
    for (; i + sizeof(model_half) <= n; i += sizeof(model_half)) {
        model_lanes a, b;
        memcpy(&a, x + i, sizeof a);
        memcpy(&b, stream + i, sizeof b);
        a = MODEL_LANES(max_epi16)(MODEL_LANES(adds_epi16)(a, b), MODEL_LANES(set1_epi16)(lowest));
        memcpy(stream + i, &a, sizeof a);
    }
#endif
    for (; i < n; i++) { /* in 16 bits, of which compilers can make vectors of 8 numbers */
        const int16_t more = stream[i], up = more > 0 ? more : 0;
        const int16_t most = (int16_t)(32767 - up), least = (int16_t)(-32768 - (more - up));
        int16_t sum = x[i] < most ? x[i] : most;
        sum = sum > least ? sum : least;
        sum = (int16_t)(sum + more);
        stream[i] = sum > lowest ? sum : lowest;
    }
}

#ifdef MODEL_LANES
/* The constants of a channel, in vectors. */
typedef struct {
    model_lanes multiplier, offset, lowest, power; /* power: 2^split */
    model_shift shift;
} model_scale;

MODEL_INLINE model_scale model_scale_of(const model_requantize *r, size_t channel, int relu)
{
    const uint32_t multiplier = (uint32_t)r->multiplier[channel];
    const uint32_t low = multiplier & (((uint32_t)1 << r->split) - 1u);
    model_scale s;
    s.multiplier = MODEL_LANES(set1_epi32)((int32_t)((multiplier - low) << (16 - r->split) | low));
    s.offset = MODEL_LANES(set1_epi32)(r->offset[channel]);
    s.lowest = MODEL_LANES(set1_epi16)(relu ? 0 : -32768);
    s.shift = MODEL_SHIFT(r->shift[channel]);
    s.power = MODEL_LANES(set1_epi16)((int16_t)(uint16_t)((uint32_t)1 << r->split));
    return s;
}

/* model_rescale_narrow for one vector. */
MODEL_INLINE void model_rescale_lanes(model_scale s, const int16_t *all, const uint8_t *bytes, unsigned bits, size_t n,
                                      const model_int16 *addend, model_int16 *stream)
{
    model_half part;
    model_lanes x, sum, more, low, high;
    memcpy(&part, bytes, sizeof part);
    x = MODEL_BYTES_TO_WORDS(part);
    if (bits > 8) {
        memcpy(&part, bytes + n, sizeof part);
        x = MODEL_LANES(add_epi16)(x, MODEL_LANES(slli_epi16)(MODEL_BYTES_TO_WORDS(part), 8));
    }
    memcpy(&sum, all, sizeof sum);
    x = MODEL_LANES(sub_epi16)(MODEL_LANES(add_epi16)(x, x), sum);
    /* multiplier * x = its low bits * x + its high bits * (x << split) */
    more = MODEL_LANES(mullo_epi16)(x, s.power);
    low = MODEL_SHIFTED(model_dot(s.offset, MODEL_LANES(unpacklo_epi16)(x, more), s.multiplier), s.shift);
    high = MODEL_SHIFTED(model_dot(s.offset, MODEL_LANES(unpackhi_epi16)(x, more), s.multiplier), s.shift);
    x = MODEL_LANES(packs_epi32)(low, high);
    if (addend) {
        memcpy(&sum, addend, sizeof sum);
        x = MODEL_LANES(adds_epi16)(x, sum);
    }
    x = MODEL_LANES(max_epi16)(x, s.lowest);
    memcpy(stream, &x, sizeof x);
}
#endif

/* The same for n numbers, without addend and ReLU. */
MODEL_INLINE void model_rescale_numbers(const model_requantize *r, size_t channel, const int16_t *all,
                                        const uint8_t *bytes, unsigned bits, size_t n, int saturate,
                                        int16_t *MODEL_RESTRICT out)
{
    const uint32_t offset = (uint32_t)r->offset[channel] + 0x80000000u;
    const int16_t low = (int16_t)((uint32_t)r->multiplier[channel] & (((uint32_t)1 << r->split) - 1u));
    const int16_t high = (int16_t)((r->multiplier[channel] - low) / ((int32_t)1 << r->split));
    const unsigned shift = r->shift[channel];
    const int32_t zero = (int32_t)(0x80000000u >> shift);
    size_t i;
    for (i = 0; i < n; i++) {
        const int16_t number = (int16_t)(bits > 8 ? bytes[i] | bytes[n + i] << 8 : bytes[i]);
        const int16_t x = (int16_t)(2 * number - all[i]);
        /* Two products of 16 bits are quicker than one of 32. */
        const uint32_t product = ((uint32_t)(x * (int32_t)high) << r->split) + (uint32_t)(x * (int32_t)low);
        int32_t value = (int32_t)((product + offset) >> shift) - zero;
        if (saturate) {
            value = value < -32768 ? -32768 : value;
            value = value > 32767 ? 32767 : value;
        }
        out[i] = (int16_t)value;
    }
}

/* Rescales 2 * x - all, for n sums x of one channel that int16 holds, and writes a stream as model_write does. The
   bytes of x lie in the order [byte of a number, the lowest first][n]. Each row of `row` numbers, of which the first
   `part` count, has its place `next` numbers further on in the stream and in the addend than the row before. */
MODEL_INLINE void model_rescale_narrow(const model_requantize *r, size_t channel, const int16_t *all,
                                       const uint8_t *bytes, unsigned bits, size_t n, size_t row, size_t part,
                                       size_t next, const model_int16 *addend, int relu, model_int16 *stream)
{
    int16_t scaled[MODEL_BLOCK];
    size_t at, i;
#ifdef MODEL_LANES
    if (part == row && row % sizeof(model_half) == 0) {
        const model_scale s = model_scale_of(r, channel, relu);
        for (at = 0; at < n; at += row, stream += next, addend = addend ? addend + next : NULL)
            for (i = 0; i < row; i += sizeof(model_half))
                model_rescale_lanes(s, all + at + i, bytes + at + i, bits, n, addend ? addend + i : NULL, stream + i);
        return;
    }
#endif
    (void)i;
    if (r->saturates)
        model_rescale_numbers(r, channel, all, bytes, bits, n, 1, scaled);
    else
        model_rescale_numbers(r, channel, all, bytes, bits, n, 0, scaled);
    for (at = 0; at < n; at += row, stream += next, addend = addend ? addend + next : NULL)
        model_write(scaled + at, addend, relu, part, stream);
}

/* The same where int16 does not hold the sums, or 32 bits do not hold their multiples. */
MODEL_FUNCTION void model_rescale_wide(const model_requantize *r, size_t channel, const int32_t *all,
                                       const uint8_t *bytes, unsigned bits, size_t n, size_t row, size_t part,
                                       size_t next, const model_int16 *addend, int relu, model_int16 *stream)
{
    int32_t x[MODEL_BLOCK];
    int16_t scaled[MODEL_BLOCK];
    size_t i;
    model_join(bytes, bits, n, x);
    for (i = 0; i < n; i++)
        x[i] = 2 * x[i] - all[i];
    model_rescale(r, channel, x, n, scaled);
    for (i = 0; i < n; i += row, stream += next, addend = addend ? addend + next : NULL)
        model_write(scaled + i, addend, relu, part, stream);
}

#endif
