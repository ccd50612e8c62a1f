/* A binary convolution of a chunk of MODEL_BYTES bytes of each plane: sums of levels as numbers in bit planes, and what
   becomes of them. */

#include "../count.h"
#include "../planes.h"
#include "../rescale.h"
#include "../vectors.h"

/* The vectors that hold two of these. */
#undef MODEL_TWICE
#if MODEL_BYTES == 8
#define MODEL_TWICE 16
#elif MODEL_BYTES == 16
#define MODEL_TWICE 32
#else
#define MODEL_TWICE 64
#endif
#define model_twice MODEL_NAME(vec, MODEL_TWICE)
#define model_count_twice MODEL_NAME(count_vec, MODEL_TWICE)

/* sum += count << shift, where the bits of count are count[0], count[step], ... */
MODEL_INLINE void model_add_vec(const model_vec *count, unsigned step, unsigned count_bits, unsigned shift,
                                unsigned sum_bits, model_vec *sum)
{
    model_vec carry = model_fill_vec(0);
    unsigned k;
    for (k = 0; shift + k < sum_bits; k++) {
        const model_vec x = sum[shift + k];
        if (k < count_bits)
            sum[shift + k] = model_adder_vec(carry, count[step * k], x, &carry);
        else {
            sum[shift + k] = model_xor_vec(x, carry);
            carry = model_and_vec(x, carry);
        }
    }
}

/* Counts the taps of a list as model_count_vec does, in one plane of levels or in two. Two are counted as one where the
   machine has vectors that hold both. */
MODEL_INLINE void model_count_planes_vec(const uint8_t *from, unsigned pair, const model_offset *list, size_t n,
                                         unsigned bits, const model_vec *begun, model_vec *count)
{
#if 2 * MODEL_BYTES <= MODEL_VECTOR && MODEL_VECTOR > 8
    if (pair == 2) {
        model_twice before[32], both[32];
        if (begun)
            memcpy(before, begun, bits * sizeof *before);
        model_count_twice(from, sizeof *count / 8, 1, list, n, bits, begun ? before : NULL, both);
        memcpy(count, both, bits * sizeof *both);
        return;
    }
#endif
    model_count_vec(from, sizeof *count / 8, pair, list, n, bits, begun, count);
}

/* sum = the sum of the levels in a list, a number of `sum_bits` bits. `shared` has the counts of other taps in the first
   two planes that belong to the sum as well, or is NULL. */
MODEL_INLINE void model_sum_vec(model_bits bits, const uint8_t *from, const model_offset *list, size_t n,
                                const model_vec *shared, unsigned count_bits, unsigned sum_bits, model_vec *sum)
{
    model_vec count[64];
    unsigned b, j, k;
#if MODEL_BYTES == 8 /* GCC may read these below as well, which are not needed, and would warn about it */
    for (k = 2 * count_bits; k < 2 * sum_bits; k++)
        count[k] = model_fill_vec(0);
#endif
    for (b = 0; b < bits.planes; b += 2) {
        const unsigned pair = bits.planes - b < 2 ? 1 : 2;
        model_count_planes_vec(from + b * sizeof *sum, pair, list, n, count_bits, b ? NULL : shared, count);
        for (j = 0; j < pair; j++)
            if (b + j == 0)
                for (k = 0; k < sum_bits; k++)
                    sum[k] = k < count_bits ? count[pair * k] : model_fill_vec(0);
            else
                model_add_vec(count + j, pair, count_bits, b + j, sum_bits, sum);
    }
}

/* Counts the taps that the outputs o and o + 1 both have, o being even. `list` is moved on. */
MODEL_INLINE void model_shared_vec(const model_conv *conv, model_bits bits, size_t o, const uint8_t *from,
                                   const model_offset **list, model_vec *shared)
{
    const uint32_t n = conv->counts[1 + o / 2 * 3];
    model_count_planes_vec(from, bits.planes < 2 ? 1 : 2, *list, n, bits.count_bits, NULL, shared);
    *list += n;
}

/* The sum of output o, whose taps are those of its pair and those of its own. `list` is moved on. */
MODEL_INLINE void model_output_vec(const model_conv *conv, model_bits bits, size_t o, const uint8_t *from,
                                   const model_offset **list, const model_vec *shared, model_vec *sum)
{
    const uint32_t n = conv->counts[1 + o / 2 * 3 + 1 + o % 2];
    model_sum_vec(bits, from, *list, n, shared, bits.count_bits, bits.sum_bits, sum);
    *list += n;
}

/* Turns `all` into what model_subtract_vec adds to twice a sum: 2^(bits - 1) - all - 1, which has all bits inverted but
   the highest one, which is 0. */
MODEL_INLINE void model_invert_vec(model_vec *all, unsigned bits)
{
    const model_vec ones = model_fill_vec(~(uint64_t)0);
    unsigned k;
    for (k = 0; k + 1 < bits; k++)
        all[k] = model_xor_vec(all[k], ones);
    all[bits - 1] = model_fill_vec(0);
}

/* x = 2 * sum - all + 2^(bits - 1) */
MODEL_INLINE void model_subtract_vec(const model_vec *inverted, const model_vec *sum, model_bits bits, model_vec *x)
{
    model_vec carry = inverted[0];
    unsigned k;
    x[0] = model_xor_vec(carry, model_fill_vec(~(uint64_t)0));
    for (k = 1; k < bits.bits; k++)
        if (k <= bits.sum_bits)
            x[k] = model_adder_vec(carry, inverted[k], sum[k - 1], &carry);
        else {
            x[k] = model_xor_vec(inverted[k], carry);
            carry = model_and_vec(inverted[k], carry);
        }
}

/* Whether x is at least as large as a threshold: the last carry of x + ~threshold + 1. `inverse` has the inverse of
   whatever stands in place of the threshold's bits. */
MODEL_INLINE model_vec model_at_least_vec(const model_vec *x, unsigned bits, const uint8_t *threshold,
                                          const model_vec *inverse)
{
    model_vec carry = model_fill_vec(~(uint64_t)0);
    unsigned k;
    for (k = 0; k < bits; k++)
        carry = model_majority_vec(carry, x[k], inverse[threshold[k]]);
    return carry;
}

/* The level of output o, from its sums. */
MODEL_INLINE void model_compare_vec(const model_thresholds *t, size_t o, const model_vec *x, model_bits bits,
                                    model_vec *level)
{
    const uint8_t *at_least = t->at_least + o * t->rows * bits.bits;
    model_vec inverse[4];
    size_t i, k;
    for (k = 0; k < bits.out_planes; k++)
        level[k] = model_fill_vec((uint64_t)0 - t->first[o * bits.out_planes + k]);
    inverse[0] = model_fill_vec(~(uint64_t)0);
    inverse[1] = model_fill_vec(0);
    if (bits.search) { /* levels 0 to 3: the middle threshold says which of the others matters */
        const model_vec middle = model_at_least_vec(x, bits.bits, at_least, inverse);
        inverse[1] = middle; /* bits that only the low threshold has: it counts below the middle */
        inverse[2] = model_xor_vec(middle, inverse[0]); /* bits that only the high one has */
        inverse[3] = model_fill_vec(0);
        level[0] = model_xor_vec(level[0], model_at_least_vec(x, bits.bits, at_least + bits.bits, inverse));
        level[1] = model_xor_vec(level[1], middle);
        return;
    }
    for (i = 0; i < bits.steps; i++) {
        const model_vec passed = model_at_least_vec(x, bits.bits, at_least + i * bits.bits, inverse);
        for (k = 0; k < bits.out_planes; k++)
            if (t->select[i] >> k & 1)
                level[k] = model_xor_vec(level[k], passed);
    }
}

/* A convolution whose sums become levels, for the chunk at byte `at` of each plane. `from` has its taps. */
MODEL_INLINE void model_conv_levels_vec(const model_conv *conv, model_bits bits, const model_thresholds *t,
                                        const uint8_t *from, size_t at, uint8_t *levels)
{
    const model_offset *list = conv->lists + conv->counts[0];
    const size_t left = conv->plane - at;
    const model_vec mask = model_load_vec(conv->mask + at);
    model_vec all[32], shared[64], sum[32], x[32], level[16];
    size_t pair, o, k;
    model_sum_vec(bits, from, conv->lists, conv->counts[0], NULL, bits.all_bits, bits.bits, all);
    model_invert_vec(all, bits.bits);
    for (pair = 0; pair < conv->out; pair += 2) {
        model_shared_vec(conv, bits, pair, from, &list, shared);
        for (o = pair; o < pair + 2 && o < conv->out; o++) {
            const size_t channel = conv->order[o];
            model_output_vec(conv, bits, o, from, &list, shared, sum);
            model_subtract_vec(all, sum, bits, x);
            model_compare_vec(t, channel, x, bits, level);
            for (k = 0; k < bits.out_planes; k++) {
                uint8_t *to = levels + (k * conv->channels + channel) * conv->plane + at;
                const model_vec kept = model_and_vec(level[k], mask);
                if (left >= sizeof(model_vec))
                    model_store_vec(to, kept);
                else
                    memcpy(to, &kept, left);
            }
        }
    }
}

/* Exchanges the bits of a that `mask` << distance selects for those of b that `mask` selects. */
MODEL_INLINE void model_swap_vec(model_vec *a, model_vec *b, unsigned distance, uint64_t mask)
{
    const model_vec t = model_and_vec(model_shift_xor_vec(*a, distance, *b, 0), model_fill_vec(mask));
    *b = model_xor_vec(*b, t);
    *a = model_shift_xor_vec(*a, 0, t, distance);
}

/* Makes bit i of byte k of plane b into bit b of byte k of plane i. */
MODEL_INLINE void model_transpose_vec(model_vec x[8])
{
    /* Written out, as GCC does not unroll loops over these. */
    model_swap_vec(&x[0], &x[4], 4, 0x0f0f0f0f0f0f0f0fu);
    model_swap_vec(&x[1], &x[5], 4, 0x0f0f0f0f0f0f0f0fu);
    model_swap_vec(&x[2], &x[6], 4, 0x0f0f0f0f0f0f0f0fu);
    model_swap_vec(&x[3], &x[7], 4, 0x0f0f0f0f0f0f0f0fu);
    model_swap_vec(&x[0], &x[2], 2, 0x3333333333333333u);
    model_swap_vec(&x[1], &x[3], 2, 0x3333333333333333u);
    model_swap_vec(&x[4], &x[6], 2, 0x3333333333333333u);
    model_swap_vec(&x[5], &x[7], 2, 0x3333333333333333u);
    model_swap_vec(&x[0], &x[1], 1, 0x5555555555555555u);
    model_swap_vec(&x[2], &x[3], 1, 0x5555555555555555u);
    model_swap_vec(&x[4], &x[5], 1, 0x5555555555555555u);
    model_swap_vec(&x[6], &x[7], 1, 0x5555555555555555u);
}

/* Turns numbers in bit planes into bytes, in the order [byte of a number, the lowest first][bit of a byte of a plane]
   [byte of a plane]. */
MODEL_INLINE void model_bytes_vec(const model_vec *planes, unsigned bits, uint8_t *bytes)
{
    unsigned b, i;
    for (b = 0; b < bits; b += 8) {
        model_vec x[8];
        for (i = 0; i < 8; i++)
            x[i] = b + i < bits ? planes[b + i] : model_fill_vec(0);
        model_transpose_vec(x);
        memcpy(bytes + b * sizeof(model_vec), x, sizeof x);
    }
}

/* A convolution whose sums become a stream, as in model_rescale_narrow, for one chunk. */
MODEL_INLINE void model_conv_stream_vec(const model_conv *conv, model_bits bits, const model_requantize *r,
                                        const uint8_t *from, size_t at, const model_int16 *addend, int relu,
                                        model_int16 *stream)
{
    const size_t n = 8 * sizeof(model_vec), left = conv->plane - at;
    const size_t part = left < sizeof(model_vec) ? left : sizeof(model_vec);
    const model_offset *list = conv->lists + conv->counts[0];
    model_vec shared[64], planes[32];
    uint8_t bytes[32 * sizeof(model_vec)];
    int32_t all[8 * sizeof(model_vec)];
    int16_t narrow[8 * sizeof(model_vec)];
    size_t pair, o, i;
    model_sum_vec(bits, from, conv->lists, conv->counts[0], NULL, bits.all_bits, bits.bits, planes);
    model_bytes_vec(planes, bits.bits, bytes);
    model_join(bytes, bits.bits, n, all);
    for (i = 0; i < n; i++)
        narrow[i] = (int16_t)all[i];
    for (pair = 0; pair < conv->out; pair += 2) {
        model_shared_vec(conv, bits, pair, from, &list, shared);
        for (o = pair; o < pair + 2 && o < conv->out; o++) {
            const size_t channel = conv->order[o], place = 8 * channel * conv->plane + at;
            const model_int16 *const addend_o = addend ? addend + place : NULL;
            model_output_vec(conv, bits, o, from, &list, shared, planes);
            model_bytes_vec(planes, bits.sum_bits, bytes);
            if (bits.narrow)
                model_rescale_narrow(r, channel, narrow, bytes, bits.sum_bits, n, sizeof(model_vec), part, conv->plane,
                                     addend_o, relu, stream + place);
            else
                model_rescale_wide(r, channel, all, bytes, bits.sum_bits, n, sizeof(model_vec), part, conv->plane,
                                   addend_o, relu, stream + place);
        }
    }
}
