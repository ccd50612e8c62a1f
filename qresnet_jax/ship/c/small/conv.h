/* Binary convolutions of whole tiles.

   The sum of an output is 2 * plus - all, where `plus` adds up the taps whose sign is +1, and `all` adds up all taps. Full
   adders on words add up 32 pixels at once, one bit plane after the other (carry-save adders in blocks, after Harley and
   Seal). Two outputs share the sum of the taps that both of them add up. The export turns the signs of an output, and its
   constants, if this leaves less to add up. */

#ifndef MODEL_CONV_H
#define MODEL_CONV_H

#include "numbers.h"

#define MODEL_PLANES 32 /* more than any sum has */

#ifndef MODEL_INDEX_BITS
#define MODEL_INDEX_BITS 16
#endif
#if MODEL_INDEX_BITS == 16
typedef uint16_t MODEL_ALIAS model_index;
#else
typedef uint32_t MODEL_ALIAS model_index;
#endif

typedef struct {
    const uint32_t *signs;  /* [out][words]: a bit for each [tap][in] of an output, 1 for +1, and then zeros */
    const uint16_t *order;  /* the channels of the outputs: those that share sums lie side by side */
    size_t in, out, groups; /* channels of a group, and groups */
    size_t planes;          /* of the input */
    size_t bits;            /* of the sums */
    size_t tiles;           /* how many there is memory for */
    model_output output;
    model_window window;
} model_conv;

/* Adds two words to the plane `sum` of a number and returns the carries. */
MODEL_INLINE model_word model_adder(model_word *sum, model_word a, model_word b)
{
    const model_word odd = a ^ b, carry = (a & b) | (odd & *sum);
    *sum ^= odd;
    return carry;
}

/* Adds four words to the two lowest planes of a number and returns the carries. */
MODEL_INLINE model_word model_four(const model_word *taps, const model_index *list, model_word *ones, model_word *twos)
{
    const model_word two = model_adder(ones, taps[list[0]], taps[list[1]]);
    return model_adder(twos, two, model_adder(ones, taps[list[2]], taps[list[3]]));
}

/* Adds eight words to the three lowest planes of a number and returns the carries. */
MODEL_INLINE model_word model_eight(const model_word *taps, const model_index *list, model_word *ones, model_word *twos,
                                    model_word *fours)
{
    const model_word four = model_four(taps, list, ones, twos);
    return model_adder(fours, four, model_four(taps, list + 4, ones, twos));
}

/* Adds a carry to a plane and returns the carries. */
MODEL_INLINE model_word model_half_adder(model_word *sum, model_word a)
{
    const model_word carry = *sum & a;
    *sum ^= a;
    return carry;
}

/* Adds words to a number in bit planes, which its planes suffice for.

   list: positions of the words; their number is a multiple of 4 */
MODEL_APART void model_add(const model_word *taps, const model_index *list, size_t count, model_word *sum)
{
    model_word ones = sum[0], twos = sum[1], fours = sum[2], eights = sum[3], carry, *plane;
    while (count > 0) {
        if (count >= 8) {
            carry = model_eight(taps, list, &ones, &twos, &fours);
            list += 8;
            count -= 8;
            if (count >= 8) {
                carry = model_adder(&eights, carry, model_eight(taps, list, &ones, &twos, &fours));
                list += 8;
                count -= 8;
            } else {
                carry = model_half_adder(&eights, carry);
            }
        } else {
            carry = model_half_adder(&fours, model_four(taps, list, &ones, &twos));
            carry = model_half_adder(&eights, carry);
            count = 0;
        }
        for (plane = sum + 4; carry != 0; plane++)
            carry = model_half_adder(plane, carry);
    }
    sum[0] = ones;
    sum[1] = twos;
    sum[2] = fours;
    sum[3] = eights;
}

/* Adds the levels that a list names. */
MODEL_INLINE void model_add_levels(const model_word *taps, size_t planes, const model_index *list, size_t count,
                                   model_word *sum)
{
    size_t b;
    for (b = 0; b < planes; b++)
        model_add(taps + b, list, count, sum + b);
}

/* The zeros above the highest bit that is set, of which there must be one. */
MODEL_INLINE size_t model_zeros(model_word bits)
{
#ifdef __GNUC__
    return (size_t)__builtin_clz(bits);
#else
    size_t zeros = 0, step;
    for (step = 16; step > 0; step /= 2)
        if (bits >> (32 - step) == 0) {
            bits <<= step;
            zeros += step;
        }
    return zeros;
#endif
}

/* Appends the positions of the set bits to a list, and returns its new end. The highest bit has the position `last`. */
MODEL_INLINE model_index *model_append(model_word bits, size_t last, size_t step, model_index *list)
{
    while (bits != 0) {
        const size_t zeros = model_zeros(bits);
        bits &= ~(0x80000000u >> zeros);
        *list++ = (model_index)(last - zeros * step);
    }
    return list;
}

/* Which taps a list has: those that both of two outputs add up, only the first, or only the second. */
enum model_part { MODEL_BOTH, MODEL_FIRST, MODEL_SECOND };

/* Lists the words of a part of the taps of two outputs. The list is filled up to a multiple of 4 with the word behind all
   taps, which is zero. Returns its length. */
MODEL_FUNCTION size_t model_list(const uint32_t *first, const uint32_t *second, enum model_part part, size_t taps,
                                 size_t planes, model_index *list)
{
    model_index *end = list;
    size_t k;
    for (k = 0; k < taps; k += 32) {
        const model_word a = *first++, b = *second++;
        const model_word bits = part == MODEL_BOTH ? a & b : part == MODEL_FIRST ? a & ~b : b & ~a;
        end = model_append(bits, (k + 31) * planes, planes, end);
    }
    while ((end - list) % 4 != 0)
        *end++ = (model_index)(taps * planes);
    return (size_t)(end - list);
}

/* Begins the sums of a tile: as 2^(bits - 1) + 1 - all, to which twice `plus` is added. */
MODEL_FUNCTION void model_start(const model_conv *c, const model_word *taps, const model_index *all, size_t count,
                                model_word *start)
{
    model_word borrow = 0xffffffffu;
    size_t b;
    for (b = 0; b < MODEL_PLANES; b++)
        start[b] = 0;
    model_add_levels(taps, c->planes, all, count, start);
    start[0] = ~start[0]; /* The lowest plane becomes 1 - all % 2, and the others -(all / 2). */
    for (b = 1; b < c->bits; b++) {
        const model_word turned = ~start[b];
        start[b] = turned ^ borrow;
        borrow &= turned;
    }
    start[c->bits - 1] ^= 0xffffffffu;
    for (; b < MODEL_PLANES; b++)
        start[b] = 0;
}

/* Makes levels of sums in bit planes. A sum reaches a threshold if subtracting that gives a carry. */
MODEL_FUNCTION void model_compare(const model_thresholds *t, size_t channel, const model_word *sum, size_t bits,
                                  model_word *levels, size_t words)
{
    size_t step, b;
    model_begin(t, channel, levels, words);
    for (step = 0; step < t->steps; step++) {
        uint32_t least = (uint32_t)model_threshold(t, channel, step) + 1 + ((uint32_t)1 << (bits - 1));
        model_word reached = 0xffffffffu;
        for (b = 0; b < bits; b++, least >>= 1) {
            if (least & 1u)
                reached &= sum[b];
            else
                reached |= sum[b];
        }
        model_change(t, step, reached, levels, words);
    }
}

/* Exchanges the bits of two words that are `distance` apart, in the first one higher and in the second one lower. */
MODEL_INLINE void model_exchange(model_word *a, model_word *b, unsigned distance, model_word mask)
{
    const model_word difference = (*a >> distance ^ *b) & mask;
    *a ^= difference << distance;
    *b ^= difference;
}

/* Transposes up to 16 bit planes: the low half of word k becomes a number of pixel k, and the high half of pixel k + 16. */
MODEL_FUNCTION void model_transpose(const model_word *planes, size_t count, model_word *x)
{
    size_t k;
    for (k = 0; k < 16 && k < count; k++)
        x[k] = planes[k];
    for (; k < 16; k++)
        x[k] = 0;
    for (k = 0; k < 4; k++) {
        model_exchange(x + k, x + k + 8, 8, 0x00ff00ffu);
        model_exchange(x + k + 4, x + k + 12, 8, 0x00ff00ffu);
        model_exchange(x + k, x + k + 4, 4, 0x0f0f0f0fu);
        model_exchange(x + k + 8, x + k + 12, 4, 0x0f0f0f0fu);
    }
    for (k = 0; k < 16; k += 4) {
        model_exchange(x + k, x + k + 2, 2, 0x33333333u);
        model_exchange(x + k + 1, x + k + 3, 2, 0x33333333u);
        model_exchange(x + k, x + k + 1, 1, 0x55555555u);
        model_exchange(x + k + 2, x + k + 3, 1, 0x55555555u);
    }
}

/* The numbers of sums in bit planes. */
MODEL_FUNCTION void model_numbers(const model_word *sum, size_t bits, int32_t *numbers)
{
    const int32_t zero = (int32_t)((uint32_t)1 << (bits - 1)) + 1;
    model_word x[16];
    size_t k;
    model_transpose(sum, bits, x);
    for (k = 0; k < 16; k++) {
        numbers[k] = (int32_t)(x[k] & 0xffffu) - zero;
        numbers[k + 16] = (int32_t)(x[k] >> 16) - zero;
    }
    if (bits > 16) {
        model_transpose(sum + 16, bits - 16, x);
        for (k = 0; k < 16; k++) {
            numbers[k] += (int32_t)(x[k] << 16);
            numbers[k + 16] += (int32_t)(x[k] & 0xffff0000u);
        }
    }
}

/* Finishes the sums of an output. */
MODEL_FUNCTION void model_finish_sums(const model_conv *c, size_t channel, size_t tile, const model_word *sum,
                                      const model_int16 *addend, void *result)
{
    const model_thresholds *const t = c->output.thresholds;
    if (t) {
        const size_t words = model_words(c->output.pixels);
        model_compare(t, channel, sum, c->bits, (model_word *)result + channel * t->planes * words + tile, words);
    } else {
        int32_t numbers[32];
        model_numbers(sum, c->bits, numbers);
        model_finish(&c->output, channel, tile, numbers, addend, result);
    }
}

/* Copies planes, and up to three more. Single ones in a loop would become a call of `memcpy`, which takes longer. */
MODEL_INLINE void model_copy(const model_word *from, size_t planes, model_word *to)
{
    size_t b;
    for (b = 0; b < planes; b += 4) {
        to[b] = from[b];
        to[b + 1] = from[b + 1];
        to[b + 2] = from[b + 2];
        to[b + 3] = from[b + 3];
    }
}

/* Computes the outputs of a group for `count` tiles, of which the first one is `tile`.

   taps: of each tile the words of all taps, and a word of zeros for each plane of a level
   start: of each tile what its sums begin with */
MODEL_FUNCTION void model_outputs(const model_conv *c, size_t group, size_t tile, size_t count, const model_word *taps,
                                  const model_word *start, model_index *list, const model_int16 *addend, void *result)
{
    const size_t inputs = c->window.rows * c->window.columns * c->in, words = (inputs + 1) * c->planes;
    const size_t used = c->bits > c->planes + 4 ? c->bits : c->planes + 4;
    size_t o, t;
    for (o = group * c->out; o < (group + 1) * c->out; o += 2) {
        const int is_pair = o + 1 < (group + 1) * c->out;
        const uint32_t *const first = c->signs + o * model_words(inputs), *second = is_pair ? first + model_words(inputs) : first;
        const size_t both = model_list(first, second, MODEL_BOTH, inputs, c->planes, list);
        const size_t one = model_list(first, second, MODEL_FIRST, inputs, c->planes, list + both);
        const size_t other = model_list(first, second, MODEL_SECOND, inputs, c->planes, list + both + one);
        for (t = 0; t < count; t++) {
            const model_word *const from = taps + t * words;
            model_word sum[MODEL_PLANES], next[MODEL_PLANES];
            model_copy(start + t * MODEL_PLANES, used, sum);
            model_add_levels(from, c->planes, list, both, sum + 1);
            model_copy(sum, used, next);
            model_add_levels(from, c->planes, list + both, one, sum + 1);
            model_finish_sums(c, c->order[o], tile + t, sum, addend, result);
            if (is_pair) {
                model_add_levels(from, c->planes, list + both + one, other, next + 1);
                model_finish_sums(c, c->order[o + 1], tile + t, next, addend, result);
            }
        }
    }
}

/* Computes a convolution.

   work: for each of `tiles` tiles (taps + 1) * planes + MODEL_PLANES words, then taps + 12 indices, where taps counts
         those of a group's inputs */
MODEL_FUNCTION void model_convolve(const model_conv *c, const model_word *levels, const model_int16 *addend, void *result,
                                   model_word *work)
{
    const size_t inputs = c->window.rows * c->window.columns * c->in, words = (inputs + 1) * c->planes;
    const size_t plane = model_words(c->window.height * c->window.width), tiles = model_words(c->output.pixels);
    model_word *const taps = work, *const start = taps + c->tiles * words;
    model_index *const list = (model_index *)(start + c->tiles * MODEL_PLANES);
    size_t tile, group, count, t, i, j, k;
    for (tile = 0; tile < tiles; tile += count) {
        count = tiles - tile < c->tiles ? tiles - tile : c->tiles;
        for (group = 0; group < c->groups; group++) {
            const model_word *const from = levels + group * c->in * c->planes * plane;
            for (k = 0; k < inputs; k++)
                list[k] = (model_index)(k * c->planes);
            while (k % 4 != 0)
                list[k++] = (model_index)(inputs * c->planes);
            for (t = 0; t < count; t++) {
                model_word *to = taps + t * words;
                for (i = 0; i < c->window.rows; i++)
                    for (j = 0; j < c->window.columns; j++, to += c->in * c->planes)
                        model_see(&c->window, from, c->in * c->planes, tile + t, i, j, to);
                for (i = 0; i < c->planes; i++)
                    to[i] = 0;
                model_start(c, taps + t * words, list, k, start + t * MODEL_PLANES);
            }
            model_outputs(c, group, tile, count, taps, start, list, addend, result);
        }
    }
}

#endif
