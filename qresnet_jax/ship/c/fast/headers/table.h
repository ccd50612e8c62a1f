/* Binary convolutions of planes of at most 8 bytes, four outputs at a time.

   Such planes leave most of a vector idle. So the vector runs over outputs, whose pixels are its words of 8 bytes, and
   an output adds up fewer and larger numbers: entries of a table of the sums of all subsets of up to four inputs, in 4
   bits. If the window is centered, the table has the inputs of the kernel's middle row only, at stride 2 also of the
   next one: what they count for other rows is moved by whole rows of pixels afterwards. */

#ifndef MODEL_TABLE_H
#define MODEL_TABLE_H

#include "conv.h"
#include "planes.h"
#include "rescale.h"
#include "vectors.h"

/* The groups of inputs that the table has subsets of. */
typedef struct {
    const model_offset *inputs; /* [groups][choose], places of taps */
    size_t groups;
    unsigned choose, planes;
} model_subset;

#if MODEL_VECTOR >= 32 && defined(__AVX2__)
/* Transposes 4 x 4 words of 8 bytes. */
MODEL_INLINE void model_transpose_words(const uint8_t *from, size_t step, uint8_t *to, size_t out_step)
{
    /* Written out, as GCC would make a loop into copies of 16 bytes. */
    const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)from);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(from + step));
    const __m256i c = _mm256_loadu_si256((const __m256i *)(const void *)(from + 2 * step));
    const __m256i d = _mm256_loadu_si256((const __m256i *)(const void *)(from + 3 * step));
    const __m256i ab = _mm256_unpacklo_epi64(a, b), cd = _mm256_unpacklo_epi64(c, d);
    const __m256i ba = _mm256_unpackhi_epi64(a, b), dc = _mm256_unpackhi_epi64(c, d);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(ab, cd, 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(to + out_step), _mm256_permute2x128_si256(ba, dc, 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(to + 2 * out_step), _mm256_permute2x128_si256(ab, cd, 0x31));
    _mm256_storeu_si256((__m256i *)(void *)(to + 3 * out_step), _mm256_permute2x128_si256(ba, dc, 0x31));
}
#else
MODEL_INLINE void model_transpose_words(const uint8_t *from, size_t step, uint8_t *to, size_t out_step)
{
    unsigned i, j;
    for (i = 0; i < 4; i++)
        for (j = 0; j < 4; j++)
            memcpy(to + j * out_step + 8 * i, from + i * step + 8 * j, 8);
}
#endif

/* Turns each bit of numbers of 4 bits into a word of ones or zeros. */
MODEL_INLINE void model_word_masks(model_vec32 *masks)
{
    uint64_t words[4];
    unsigned i, j;
    for (i = 0; i < 16; i++) {
        for (j = 0; j < 4; j++)
            words[j] = (uint64_t)0 - (i >> j & 1u);
        memcpy(&masks[i], words, sizeof words);
    }
}

/* to = from + an input of `planes` bits in those entries that the mask selects. Sums have 4 bits. */
MODEL_INLINE void model_add_input(const model_vec32 *from, const uint8_t *word, unsigned planes, model_vec32 mask,
                                  model_vec32 *to)
{
    model_vec32 x[4];
    unsigned b;
    for (b = 0; b < 4; b++)
        to[b] = from[b];
    for (b = 0; b < planes; b++) {
        uint64_t bits;
        memcpy(&bits, word + 8 * b, 8);
        x[b] = model_and_vec32(model_fill_vec32(bits), mask);
    }
    model_add_vec32(x, 1, planes, 0, 4, to);
}

/* Writes the table, four entries at once: entry m of a group is the sum of those inputs i of the group for which m has
   bit i, in 4 planes of 8 bytes. */
MODEL_INLINE void model_subsets(const uint8_t *from, const model_offset *inputs, size_t groups, unsigned choose,
                                unsigned planes, uint8_t *table)
{
    const model_vec32 zeros = model_fill_vec32(0), ones = model_fill_vec32(~(uint64_t)0);
    model_vec32 masks[16], sums[4][4];
    size_t g, q;
    model_word_masks(masks);
    for (g = 0; g < groups; g++, inputs += choose, table += 32u << choose) {
        for (q = 0; q < 4; q++)
            sums[0][q] = zeros;
        model_add_input(sums[0], from + inputs[0], planes, masks[10], sums[0]); /* entries 1 and 3 */
        if (choose > 1)
            model_add_input(sums[0], from + inputs[1], planes, masks[12], sums[0]);
        model_transpose_words((const uint8_t *)sums[0], 32, table, 32);
        if (choose > 2) {
            model_add_input(sums[0], from + inputs[2], planes, ones, sums[1]);
            model_transpose_words((const uint8_t *)sums[1], 32, table + 128, 32);
            if (choose > 3) { /* in here, as GCC does not always see that sums[1] is known then */
                model_add_input(sums[0], from + inputs[3], planes, ones, sums[2]);
                model_add_input(sums[1], from + inputs[3], planes, ones, sums[3]);
                model_transpose_words((const uint8_t *)sums[2], 32, table + 256, 32);
                model_transpose_words((const uint8_t *)sums[3], 32, table + 384, 32);
            }
        }
    }
}

/* The table of the sums of inputs; `from` has their taps in chunks of 8 bytes. */
MODEL_FUNCTION void model_table(const uint8_t *from, const model_subset *s, uint8_t *table)
{
    if (s->choose == 4 && s->planes == 2) /* as constants, for speed */
        model_subsets(from, s->inputs, s->groups, 4, 2, table);
    else
        model_subsets(from, s->inputs, s->groups, s->choose, s->planes, table);
}

/* Moves each word by whole rows of pixels: for bits > 0 towards the end of the plane, else towards its beginning. */
MODEL_INLINE model_vec32 model_moved(model_vec32 x, int bits)
{
    const unsigned distance = (unsigned)(bits < 0 ? -bits : bits);
    const model_vec32 zeros = model_fill_vec32(0);
    const uint16_t one = 1;
    uint8_t lowest;
    memcpy(&lowest, &one, 1); /* whether the first byte has the lowest bits */
    if (distance > 63)
        return zeros;
    if ((bits > 0) == (lowest == 1))
        return model_shift_xor_vec32(zeros, 0, x, distance);
    return model_shift_xor_vec32(x, distance, zeros, 0);
}

/* As model_sum_vec, for entries of a table and 4 outputs, each with a list and the lengths of its parts. */
MODEL_INLINE void model_sum_entries(const model_conv *conv, model_bits bits, const uint8_t *from,
                                    const model_offset *list[4], const uint32_t *counts[4], unsigned sum_bits,
                                    model_vec32 *sum)
{
    model_vec32 rows[4][32], planes[32][4], plane[32];
    unsigned o, p, b, k;
    for (o = 0; o < 4; o++) {
        const model_offset *next = list[o];
        if (o && next == list[o - 1]) {
            memcpy(rows[o], rows[o - 1], sizeof rows[o]);
            continue;
        }
        for (p = 0; p < bits.parts; p++) {
            model_vec32 count[32];
            model_count_vec32(from, 1, 1, next, counts[o][p], bits.count_bits, NULL, count);
            next += counts[o][p];
            for (k = 0; k < bits.count_bits; k++)
                count[k] = model_moved(count[k], conv->moves[p]);
            if (p == 0)
                memcpy(rows[o], count, bits.count_bits * sizeof *count);
            else
                model_add_vec32(count, 1, bits.count_bits, 0, bits.count_bits, rows[o]);
        }
    }
    for (k = 0; k < bits.count_bits; k++)
        model_transpose_words((const uint8_t *)&rows[0][k], sizeof rows[0], (uint8_t *)planes[k], 32);
    for (b = 0; b < 4; b++)
        if (b == 0) {
            for (k = 0; k < sum_bits; k++)
                sum[k] = k < bits.count_bits ? planes[k][0] : model_fill_vec32(0);
        } else {
            for (k = 0; k < bits.count_bits; k++)
                plane[k] = planes[k][b];
            model_add_vec32(plane, 1, bits.count_bits, b, sum_bits, sum);
        }
}

/* As model_at_least_vec, with a threshold for each output, of which the inverted bits select masks. */
MODEL_INLINE model_vec32 model_at_least_words(const model_vec32 *x, unsigned bits, const model_vec32 *masks,
                                              const uint8_t *threshold)
{
    model_vec32 carry = model_fill_vec32(~(uint64_t)0);
    unsigned k;
    for (k = 0; k < bits; k++)
        carry = model_majority_vec32(x[k], carry, masks[threshold[k]]);
    return carry;
}

/* The same, with `high` as the threshold where `is_high` is set and `low` elsewhere. */
MODEL_INLINE model_vec32 model_at_least_either(const model_vec32 *x, unsigned bits, const model_vec32 *masks,
                                               const uint8_t *low, const uint8_t *high, model_vec32 is_high)
{
    model_vec32 carry = model_fill_vec32(~(uint64_t)0);
    unsigned k;
    for (k = 0; k < bits; k++) {
        const model_vec32 differs = model_and_vec32(masks[low[k] ^ high[k]], is_high);
        carry = model_majority_vec32(x[k], carry, model_xor_vec32(masks[low[k]], differs));
    }
    return carry;
}

/* As model_compare_vec, for 4 outputs from o on. */
MODEL_INLINE void model_compare_words(const model_thresholds *t, size_t o, const model_vec32 *x, model_bits bits,
                                      const model_vec32 *masks, model_vec32 *level)
{
    const uint8_t *at_least = t->at_least + o / 4 * bits.steps * bits.bits;
    size_t i, k;
    for (k = 0; k < bits.out_planes; k++)
        level[k] = masks[t->first[o / 4 * bits.out_planes + k]];
    if (bits.search) {
        const uint8_t *middle = at_least + bits.bits, *high = middle + bits.bits;
        const model_vec32 is_high = model_at_least_words(x, bits.bits, masks, middle);
        level[0] = model_xor_vec32(level[0], model_at_least_either(x, bits.bits, masks, at_least, high, is_high));
        level[1] = model_xor_vec32(level[1], is_high);
        return;
    }
    for (i = 0; i < bits.steps; i++) {
        const model_vec32 passed = model_at_least_words(x, bits.bits, masks, at_least + i * bits.bits);
        for (k = 0; k < bits.out_planes; k++)
            if (t->select[i] >> k & 1)
                level[k] = model_xor_vec32(level[k], passed);
    }
}

/* The lists of 4 outputs from o on, and the lengths of their parts. `next` is moved to the list after them. */
MODEL_FUNCTION void model_lists(const model_conv *conv, unsigned parts, size_t o, const model_offset **next,
                                const model_offset *list[4], const uint32_t *counts[4])
{
    size_t i, p;
    for (i = 0; i < 4; i++) {
        const size_t last = o + i < conv->out ? o + i : conv->out - 1; /* again, where there are fewer than 4 */
        counts[i] = conv->counts + (1 + last) * parts;
        list[i] = o + i < conv->out ? *next : list[i - 1];
        for (p = 0; p < parts && o + i < conv->out; p++)
            *next += counts[i][p];
    }
}

/* all = the sum of all inputs, in each word. Returns the list of the first output. */
MODEL_INLINE const model_offset *model_sum_all(const model_conv *conv, model_bits bits, const uint8_t *from,
                                               model_vec32 *all)
{
    const model_offset *next = conv->lists;
    const model_offset *list[4];
    const uint32_t *counts[4];
    unsigned i;
    for (i = 0; i < 4; i++) {
        list[i] = next;
        counts[i] = conv->counts;
    }
    model_sum_entries(conv, bits, from, list, counts, bits.bits, all);
    for (i = 0; i < bits.parts; i++)
        next += conv->counts[i];
    return next;
}

/* As model_conv_levels_vec. */
MODEL_INLINE void model_conv_levels_table(const model_conv *conv, model_bits bits, const model_thresholds *t,
                                          const uint8_t *from, uint8_t *levels)
{
    model_vec32 all[32], masks[16];
    const model_offset *next = model_sum_all(conv, bits, from, all);
    uint64_t mask;
    size_t o, i, k;
    memcpy(&mask, conv->mask, 8);
    model_invert_vec32(all, bits.bits);
    model_word_masks(masks);
    for (o = 0; o < conv->out; o += 4) {
        model_vec32 sum[32], x[32], level[16];
        const model_offset *list[4];
        const uint32_t *counts[4];
        uint64_t words[4];
        model_lists(conv, bits.parts, o, &next, list, counts);
        model_sum_entries(conv, bits, from, list, counts, bits.sum_bits, sum);
        model_subtract_vec32(all, sum, bits, x);
        model_compare_words(t, o, x, bits, masks, level);
        for (k = 0; k < bits.out_planes; k++) {
            level[k] = model_and_vec32(level[k], model_fill_vec32(mask));
            memcpy(words, &level[k], sizeof words);
            for (i = 0; i < 4 && o + i < conv->out; i++)
                if (conv->plane == 8)
                    memcpy(levels + (k * conv->out + o + i) * 8, &words[i], 8);
                else
                    memcpy(levels + (k * conv->out + o + i) * conv->plane, &words[i], conv->plane);
        }
    }
}

/* Turns numbers of 64 pixels of 4 outputs into bytes, [output][byte of a number, the lowest first][pixel]. */
MODEL_INLINE void model_bytes_table(const model_vec32 *planes, unsigned bits, uint8_t bytes[4][256])
{
    uint8_t mixed[32 * 32];
    unsigned b;
    model_bytes_vec32(planes, bits, mixed);
    for (b = 0; b < bits; b += 8) {
        model_transpose_words(mixed + 32 * b, 32, bytes[0] + 8 * b, 256);
        model_transpose_words(mixed + 32 * (b + 4), 32, bytes[0] + 8 * b + 32, 256);
    }
}

/* As model_conv_stream_vec. */
MODEL_INLINE void model_conv_stream_table(const model_conv *conv, model_bits bits, const model_requantize *r,
                                          const uint8_t *from, const model_int16 *addend, int relu, model_int16 *stream)
{
    model_vec32 planes[32];
    const model_offset *next = model_sum_all(conv, bits, from, planes);
    uint8_t bytes[4][256];
    int32_t all[64];
    int16_t narrow[64];
    size_t o, i;
    model_bytes_table(planes, bits.bits, bytes);
    model_join(bytes[0], bits.bits, 64, all);
    for (i = 0; i < 64; i++)
        narrow[i] = (int16_t)all[i];
    for (o = 0; o < conv->out; o += 4) {
        const model_offset *list[4];
        const uint32_t *counts[4];
        model_lists(conv, bits.parts, o, &next, list, counts);
        model_sum_entries(conv, bits, from, list, counts, bits.sum_bits, planes);
        model_bytes_table(planes, bits.sum_bits, bytes);
        for (i = 0; i < 4 && o + i < conv->out; i++) {
            const size_t place = 8 * (o + i) * conv->plane;
            const size_t row = conv->plane == 8 ? 64 : 8, part = conv->plane == 8 ? 64 : conv->plane;
            if (bits.narrow)
                model_rescale_narrow(r, o + i, narrow, bytes[i], bits.sum_bits, 64, row, part, conv->plane,
                                     addend ? addend + place : NULL, relu, stream + place);
            else
                model_rescale_wide(r, o + i, all, bytes[i], bits.sum_bits, 64, row, part, conv->plane,
                                   addend ? addend + place : NULL, relu, stream + place);
        }
    }
}

#endif
