/* How many taps of a list have a bit, for every bit of one or two vectors of MODEL_BYTES bytes at once.

   The counts are numbers in bit planes. Full adders make them, as in carry-save addition: parity and majority of three
   bits are the two bits of their sum. `list` has the places of the taps; a tap lies at from + scale * place. */

#include "../planes.h"
#include "../vectors.h"

#if MODEL_BYTES <= MODEL_VECTOR

/* The same vector of two planes, or of one: `b` does not matter then. */
typedef struct {
    model_vec a, b;
} model_two_vec;

/* Tap i, in both planes or in the first one. */
MODEL_INLINE model_two_vec model_tap_two_vec(const uint8_t *from, unsigned scale, int both, const model_offset *list,
                                             size_t i)
{
    const uint8_t *const tap = from + scale * (size_t)list[i];
    model_two_vec x;
    x.a = model_load_vec(tap);
    x.b = both ? model_load_vec(tap + sizeof(model_vec)) : x.a;
    return x;
}

/* Full adders in both planes or in the first one. */
MODEL_INLINE model_two_vec model_adder_two_vec(int both, model_two_vec a, model_two_vec b, model_two_vec c,
                                               model_two_vec *carry)
{
    model_two_vec sum = c;
    *carry = a;
    sum.a = model_adder_vec(a.a, b.a, c.a, &carry->a);
    if (both)
        sum.b = model_adder_vec(a.b, b.b, c.b, &carry->b);
    return sum;
}

#define MODEL_TAP(i) model_tap_two_vec(from, scale, both, list, i)
#define MODEL_ADD(a, b, c, carry) model_adder_two_vec(both, a, b, c, &carry)

/* Adds 8 taps to the ones, twos and fours of a number, sum[0] to sum[2], and returns the carry. */
MODEL_INLINE model_two_vec model_eight_vec(const uint8_t *from, unsigned scale, int both, const model_offset *list,
                                           model_two_vec *sum)
{
    model_two_vec s, t, u, v, w, x;
    s = MODEL_ADD(MODEL_TAP(0), MODEL_TAP(1), MODEL_TAP(2), u);
    t = MODEL_ADD(MODEL_TAP(3), MODEL_TAP(4), MODEL_TAP(5), v);
    s = MODEL_ADD(s, MODEL_TAP(6), MODEL_TAP(7), w);
    /* The number comes last, so that eight taps need not wait for the eight before. */
    sum[0] = MODEL_ADD(s, t, sum[0], x);
    s = MODEL_ADD(u, v, w, u);
    sum[1] = MODEL_ADD(s, x, sum[1], v);
    sum[2] = MODEL_ADD(u, v, sum[2], t);
    return t;
}

/* Adds 16 taps to the lowest four bits of a number, and returns the carry. */
MODEL_INLINE model_two_vec model_sixteen_vec(const uint8_t *from, unsigned scale, int both, const model_offset *list,
                                             model_two_vec *sum)
{
    const model_two_vec carry = model_eight_vec(from, scale, both, list, sum);
    const model_two_vec more = model_eight_vec(from, scale, both, list + 8, sum);
    model_two_vec result;
    sum[3] = MODEL_ADD(carry, more, sum[3], result);
    return result;
}

/* Adds a carry to a number, from bit `first` on. */
MODEL_INLINE void model_ripple_vec(int both, model_two_vec carry, unsigned first, unsigned bits, model_two_vec *sum)
{
    unsigned k;
    for (k = first; k < bits; k++) {
        /* It goes on where the bit was 1, so where it is 0 now. */
        sum[k].a = sum[k].a ^ carry.a;
        carry.a = carry.a & ~sum[k].a;
        if (both) {
            sum[k].b = sum[k].b ^ carry.b;
            carry.b = carry.b & ~sum[k].b;
        }
    }
}

/* Adds n taps to a number of `bits` bits. */
MODEL_INLINE void model_count_two_vec(const uint8_t *from, unsigned scale, int both, const model_offset *list, size_t n,
                                      unsigned bits, model_two_vec *sum)
{
#if MODEL_VECTOR >= 32 /* for others it gains little, and makes WebAssembly larger */
    for (; n >= 32 && bits > 4; n -= 32, list += 32) {
        model_two_vec carry = model_sixteen_vec(from, scale, both, list, sum);
        const model_two_vec more = model_sixteen_vec(from, scale, both, list + 16, sum);
        sum[4] = MODEL_ADD(carry, more, sum[4], carry);
        model_ripple_vec(both, carry, 5, bits, sum);
    }
#endif
    for (; n >= 16; n -= 16, list += 16)
        model_ripple_vec(both, model_sixteen_vec(from, scale, both, list, sum), 4, bits, sum);
    if (n)
        model_ripple_vec(both, model_eight_vec(from, scale, both, list, sum), 3, bits, sum);
}

/* Counts n taps, a multiple of 8, of one plane or of two that lie side by side: a number of `bits` bits, 4 at least, in
   the order [bits][pair]. They are added to the number `begun`, or to 0 if it is NULL. */
MODEL_INLINE void model_count_vec(const uint8_t *from, unsigned scale, unsigned pair, const model_offset *list,
                                  size_t n, unsigned bits, const model_vec *begun, model_vec *count)
{
    model_two_vec sum[32];
    unsigned k;
    for (k = 0; k < bits; k++) {
        sum[k].a = begun ? begun[pair * k] : model_fill_vec(0);
        sum[k].b = begun ? begun[pair * k + pair - 1] : model_fill_vec(0);
    }
#if MODEL_VECTOR >= 64 /* there are registers for two numbers, so that a place is loaded once for both planes */
    model_count_two_vec(from, scale, pair == 2, list, n, bits, sum);
    for (k = 0; k < bits; k++) {
        count[pair * k] = sum[k].a;
        if (pair == 2)
            count[2 * k + 1] = sum[k].b;
    }
#else
    model_count_two_vec(from, scale, 0, list, n, bits, sum);
    for (k = 0; k < bits; k++) {
        count[pair * k] = sum[k].a;
        sum[k].a = sum[k].b;
    }
    if (pair == 2) {
        model_count_two_vec(from + sizeof(model_vec), scale, 0, list, n, bits, sum);
        for (k = 0; k < bits; k++)
            count[2 * k + 1] = sum[k].a;
    }
#endif
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
#define MODEL_EIGHT(result, list, start)                                               \
    model_two_base state[3];                                                           \
    state[0].a = start ? model_fill_base(0) : sum[w];                                  \
    state[1].a = start ? model_fill_base(0) : sum[words + w];                          \
    state[2].a = start ? model_fill_base(0) : sum[2 * words + w];                      \
    result = model_eight_base(from + w * sizeof(model_base), scale, 0, list, state).a; \
    sum[w] = state[0].a;                                                               \
    sum[words + w] = state[1].a;                                                       \
    sum[2 * words + w] = state[2].a;

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
                                  size_t n, unsigned bits, const model_vec *begun, model_vec *count)
{
    const size_t words = pair * MODEL_WORDS;
    model_base *const sum = (model_base *)(void *)count; /* [bits][words] */
    model_base carry[2 * MODEL_WORDS], more[2 * MODEL_WORDS];
    size_t w;
    unsigned k;
    for (k = 0; begun && k < pair * bits; k++)
        count[k] = begun[k];
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
