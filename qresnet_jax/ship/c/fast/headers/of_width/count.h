/* How many taps of a list have a bit, for every bit of one or two vectors of MODEL_BYTES bytes at once.

   The counts are numbers in bit planes. Full adders make them, as in carry-save addition: parity and majority of three
   bits are the two bits of their sum. `list` has the places of the taps; a tap lies at from + scale * place. */

#include "../planes.h"
#include "../vectors.h"

#if MODEL_BYTES <= MODEL_VECTOR

#define MODEL_ADD(carry, sum, a, b, c)                \
    do {                                              \
        const model_vec a_ = (a), b_ = (b), c_ = (c); \
        carry = model_majority_vec(a_, b_, c_);       \
        sum = model_parity_vec(a_, b_, c_);           \
    } while (0)
#define MODEL_TAP(i) model_load_vec(from + scale * (size_t)list[i])

/* Adds 8 taps to the ones, twos and fours of a number, and returns the carry. */
MODEL_INLINE model_vec model_eight_vec(const uint8_t *from, unsigned scale, const model_offset *list, model_vec *state)
{
    model_vec ones = state[0], twos = state[1], fours = state[2], s, t, u, v, w, x;
    /* The state comes last, so that eight taps need not wait for the eight before. */
    MODEL_ADD(u, s, MODEL_TAP(0), MODEL_TAP(1), MODEL_TAP(2));
    MODEL_ADD(v, t, MODEL_TAP(3), MODEL_TAP(4), MODEL_TAP(5));
    MODEL_ADD(w, s, s, MODEL_TAP(6), MODEL_TAP(7));
    MODEL_ADD(x, ones, ones, s, t);
    MODEL_ADD(u, s, u, v, w);
    MODEL_ADD(v, twos, twos, s, x);
    MODEL_ADD(t, fours, fours, u, v);
    state[0] = ones;
    state[1] = twos;
    state[2] = fours;
    return t;
}

/* Adds 16 taps, or 8 if `half`, to a number of `bits` bits. */
MODEL_INLINE void model_sixteen_vec(const uint8_t *from, unsigned scale, const model_offset *list, int half,
                                    unsigned bits, model_vec *sum)
{
    model_vec carry = model_eight_vec(from, scale, list, sum), more = {0};
    unsigned k;
    if (!half)
        more = model_eight_vec(from, scale, list + 8, sum);
    MODEL_ADD(carry, sum[3], sum[3], carry, more);
    for (k = 4; k < bits; k++) {
        const model_vec x = sum[k];
        sum[k] = x ^ carry;
        carry = carry & x;
    }
}

/* Adds n taps of one plane to a number that is 0. */
MODEL_INLINE void model_count_plane_vec(const uint8_t *from, unsigned scale, const model_offset *list, size_t n,
                                        unsigned bits, model_vec *sum)
{
    for (; n >= 16; n -= 16, list += 16)
        model_sixteen_vec(from, scale, list, 0, bits, sum);
    if (n)
        model_sixteen_vec(from, scale, list, 1, bits, sum);
}

/* Counts n taps, a multiple of 8, of one plane or of two that lie side by side: a number of `bits` bits, 4 at least, in
   the order [bits][pair]. If `begun`, they are added to the number that is there. */
MODEL_INLINE void model_count_vec(const uint8_t *from, unsigned scale, unsigned pair, const model_offset *list,
                                  size_t n, unsigned bits, int begun, model_vec *count)
{
    model_vec first[32], second[32];
    unsigned k;
    for (k = 0; k < bits; k++) {
        first[k] = begun ? count[pair * k] : model_fill_vec(0);
        second[k] = begun && pair == 2 ? count[2 * k + 1] : model_fill_vec(0);
    }
    model_count_plane_vec(from, scale, list, n, bits, first);
    if (pair == 2) /* not in the same loop, for which there are too few registers */
        model_count_plane_vec(from + sizeof(model_vec), scale, list, n, bits, second);
    for (k = 0; k < bits; k++) {
        count[pair * k] = first[k];
        if (pair == 2)
            count[2 * k + 1] = second[k];
    }
}

#else /* vectors of several of the machine's: loops over those, which compilers can make wider vectors of again */

/* GCC would unroll a loop over a few of them, and then see no vector in it. */
#if defined(__GNUC__) && !defined(__clang__)
#define MODEL_LOOP _Pragma("GCC unroll 1")
#else
#define MODEL_LOOP
#endif

#define MODEL_EACH(...)                   \
    do {                                  \
        if (words <= 4) {                 \
            MODEL_LOOP                    \
            for (w = 0; w < words; w++) { \
                __VA_ARGS__               \
            }                             \
        } else {                          \
            for (w = 0; w < words; w++) { \
                __VA_ARGS__               \
            }                             \
        }                                 \
    } while (0)

/* result = carry of 8 taps that are added to the three lowest bits of sum, or to 0 if `start`. */
#define MODEL_EIGHT(result, list, start)                                          \
    model_base state[3];                                                          \
    state[0] = start ? model_fill_base(0) : sum[w];                               \
    state[1] = start ? model_fill_base(0) : sum[words + w];                       \
    state[2] = start ? model_fill_base(0) : sum[2 * words + w];                   \
    result = model_eight_base(from + w * sizeof(model_base), scale, list, state); \
    sum[w] = state[0];                                                            \
    sum[words + w] = state[1];                                                    \
    sum[2 * words + w] = state[2];

/* Does this for 16 taps and the four lowest bits, in two loops: one would need too many registers. */
#define MODEL_SIXTEEN(result, list, start)                                          \
    MODEL_EACH({MODEL_EIGHT(result[w], list, start)});                              \
    MODEL_EACH({                                                                    \
        model_base second, eight = start ? model_fill_base(0) : sum[3 * words + w]; \
        MODEL_EIGHT(second, list + 8, 0)                                            \
        sum[3 * words + w] = model_parity_base(result[w], second, eight);           \
        result[w] = model_majority_base(result[w], second, eight);                  \
    })

/* Adds a carry to sum, from bit `first` on. */
#define MODEL_RIPPLE(first, carry)                        \
    do {                                                  \
        model_base rest = carry;                          \
        for (k = first; k < bits; k++) {                  \
            const model_base before = sum[k * words + w]; \
            sum[k * words + w] = before ^ rest;           \
            rest &= before;                               \
        }                                                 \
    } while (0)

MODEL_INLINE void model_count_vec(const uint8_t *from, unsigned scale, unsigned pair, const model_offset *list,
                                  size_t n, unsigned bits, int begun, model_vec *count)
{
    const size_t words = pair * MODEL_WORDS;
    model_base *const sum = (model_base *)(void *)count; /* [bits][words] */
    model_base carry[2 * MODEL_WORDS], more[2 * MODEL_WORDS];
    size_t w;
    unsigned k;
    /* 8 taps are added to three bits, whatever is left of them. */
    for (k = n < 16 ? 0 : 5; !begun && (k < bits || k < 3); k++)
        for (w = 0; w < words; w++)
            sum[k * words + w] = model_fill_base(0);
    if (!begun && n >= 16) {
        MODEL_SIXTEEN(carry, list, 1);
        for (w = 0; w < words; w++)
            sum[4 * words + w] = carry[w];
        n -= 16;
        list += 16;
    }
    for (; n >= 32; n -= 32, list += 32) {
        MODEL_SIXTEEN(carry, list, 0);
        MODEL_SIXTEEN(more, (list + 16), 0);
        for (w = 0; w < words; w++) {
            const model_base x = sum[4 * words + w];
            sum[4 * words + w] = model_parity_base(x, carry[w], more[w]);
            MODEL_RIPPLE(5, model_majority_base(x, carry[w], more[w]));
        }
    }
    if (n >= 16) {
        MODEL_SIXTEEN(carry, list, 0);
        for (w = 0; w < words; w++)
            MODEL_RIPPLE(4, carry[w]);
        n -= 16;
        list += 16;
    }
    if (n) {
        MODEL_EACH({MODEL_EIGHT(carry[w], list, 0)});
        for (w = 0; w < words; w++)
            MODEL_RIPPLE(3, carry[w]);
    }
}
#endif
