/// words
/* 8 bytes, the first in the lowest bits. */
static inline uint64_t model_load(const uint8_t *p)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
#else
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
#endif
}

static inline void model_store(uint8_t *p, uint64_t x)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(p, &x, 8);
#else
    size_t i;
    for (i = 0; i < 8; i++)
        p[i] = (uint8_t)(x >> (8 * i));
#endif
}

/// vector
#if MODEL_BYTES_vec <= MODEL_VECTOR
MODEL_TYPE_vec

#if MODEL_BYTES_vec > 8 && defined(__AVX512VL__)
#define MODEL_TERNARY_OF_vec(a, b, c, table) \
    ((model_vec)MODEL_TERNARY_vec((MODEL_INTEL_vec)(a), (MODEL_INTEL_vec)(b), (MODEL_INTEL_vec)(c), table))
MODEL_INLINE model_vec model_majority_vec(model_vec a, model_vec b, model_vec c)
{
    return MODEL_TERNARY_OF_vec(a, b, c, 0xe8);
}
MODEL_INLINE model_vec model_parity_vec(model_vec a, model_vec b, model_vec c)
{
    return MODEL_TERNARY_OF_vec(a, b, c, 0x96);
}
#else
MODEL_INLINE model_vec model_majority_vec(model_vec a, model_vec b, model_vec c)
{
#if MODEL_BYTES_vec == 8 /* a copy less where instructions overwrite an operand */
    return b ^ ((a ^ b) & (b ^ c));
#else
    return (a & b) | (c & (a ^ b));
#endif
}
MODEL_INLINE model_vec model_parity_vec(model_vec a, model_vec b, model_vec c)
{
    return a ^ b ^ c;
}
#endif

MODEL_INLINE model_vec model_fill_vec(uint64_t word)
{
    const model_vec zeros = {0};
    return zeros + word;
}

MODEL_INLINE model_vec model_xor_vec(model_vec a, model_vec b)
{
    return a ^ b;
}

MODEL_INLINE model_vec model_and_vec(model_vec a, model_vec b)
{
    return a & b;
}

/* (a >> right) ^ (b << left) */
MODEL_INLINE model_vec model_shift_xor_vec(model_vec a, unsigned right, model_vec b, unsigned left)
{
    return (a >> right) ^ (b << left);
}
#else
typedef struct {
    model_base w[MODEL_BYTES_vec / MODEL_VECTOR];
} model_vec;

#define MODEL_WORDS_vec (MODEL_BYTES_vec / MODEL_VECTOR)

MODEL_INLINE model_vec model_majority_vec(model_vec a, model_vec b, model_vec c)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS_vec; w++)
        a.w[w] = model_majority_base(a.w[w], b.w[w], c.w[w]);
    return a;
}

MODEL_INLINE model_vec model_parity_vec(model_vec a, model_vec b, model_vec c)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS_vec; w++)
        a.w[w] = model_parity_base(a.w[w], b.w[w], c.w[w]);
    return a;
}

MODEL_INLINE model_vec model_fill_vec(uint64_t word)
{
    model_vec x;
    size_t w;
    for (w = 0; w < MODEL_WORDS_vec; w++)
        x.w[w] = model_fill_base(word);
    return x;
}

MODEL_INLINE model_vec model_xor_vec(model_vec a, model_vec b)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS_vec; w++)
        a.w[w] ^= b.w[w];
    return a;
}

MODEL_INLINE model_vec model_and_vec(model_vec a, model_vec b)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS_vec; w++)
        a.w[w] &= b.w[w];
    return a;
}

MODEL_INLINE model_vec model_shift_xor_vec(model_vec a, unsigned right, model_vec b, unsigned left)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS_vec; w++)
        a.w[w] = (a.w[w] >> right) ^ (b.w[w] << left);
    return a;
}
#endif

MODEL_INLINE model_vec model_load_vec(const uint8_t *p)
{
    model_vec x;
    memcpy(&x, p, sizeof x);
#if MODEL_BYTES_vec > 8 && MODEL_BYTES_vec <= MODEL_VECTOR && defined(__AVX512VL__)
    __asm__("" : "+v"(x)); /* else it is loaded for each of its uses */
#endif
    return x;
}

#if MODEL_BYTES_vec <= MODEL_VECTOR
#define MODEL_ADD_vec(carry, sum, a, b, c)                 \
    do {                                                   \
        const model_vec a_ = (a), b_ = (b), c_ = (c);      \
        carry = model_majority_vec(a_, b_, c_);            \
        sum = model_parity_vec(a_, b_, c_);                \
    } while (0)
#define MODEL_TAP_vec(i) model_load_vec(from + scale * (size_t)list[i])

/* Carry of 8 taps added to ones, twos and fours. */
MODEL_INLINE model_vec model_eight_vec(const uint8_t *from, unsigned scale, const model_offset *list, model_vec *state)
{
    model_vec ones = state[0], twos = state[1], fours = state[2], s, t, u, v, w, x;
    /* The state comes last, so that eight taps need not wait for the eight before. */
    MODEL_ADD_vec(u, s, MODEL_TAP_vec(0), MODEL_TAP_vec(1), MODEL_TAP_vec(2));
    MODEL_ADD_vec(v, t, MODEL_TAP_vec(3), MODEL_TAP_vec(4), MODEL_TAP_vec(5));
    MODEL_ADD_vec(w, s, s, MODEL_TAP_vec(6), MODEL_TAP_vec(7));
    MODEL_ADD_vec(x, ones, ones, s, t);
    MODEL_ADD_vec(u, s, u, v, w);
    MODEL_ADD_vec(v, twos, twos, s, x);
    MODEL_ADD_vec(t, fours, fours, u, v);
    state[0] = ones;
    state[1] = twos;
    state[2] = fours;
    return t;
}

/* 16 taps added to a number of `bits` bits, or 8 if `half`. */
MODEL_INLINE void model_sixteen_vec(const uint8_t *from, unsigned scale, const model_offset *list, int half,
                                    unsigned bits, model_vec *sum)
{
    model_vec carry = model_eight_vec(from, scale, list, sum), more = {0};
    unsigned k;
    if (!half)
        more = model_eight_vec(from, scale, list + 8, sum);
    MODEL_ADD_vec(carry, sum[3], sum[3], carry, more);
    for (k = 4; k < bits; k++) {
        const model_vec x = sum[k];
        sum[k] = x ^ carry;
        carry = carry & x;
    }
}
#endif

#if MODEL_BYTES_vec == MODEL_VECTOR
#define model_base model_vec
#define model_fill_base model_fill_vec
#define model_majority_base model_majority_vec
#define model_parity_base model_parity_vec
#define model_eight_base model_eight_vec
#endif

/// words_of_vectors
/* A loop that is left as it is: of few words, from which compilers can make one vector. */
#if defined(__GNUC__) && !defined(__clang__)
#define MODEL_LOOP _Pragma("GCC unroll 1")
#else
#define MODEL_LOOP
#endif

/// count
#if MODEL_BYTES_vec > MODEL_VECTOR
/* A loop over words; see MODEL_LOOP. */
#define MODEL_EACH_vec(...)                        \
    do {                                           \
        if (words <= 4)                            \
            MODEL_LOOP for (w = 0; w < words; w++) \
                __VA_ARGS__                        \
        else                                       \
            for (w = 0; w < words; w++)            \
                __VA_ARGS__                        \
    } while (0)
/* Carry of 8 taps added to the three lowest bits of sum, or to 0 if `start`. */
#define MODEL_EIGHT_vec(result, list, start)                                      \
    model_base state[3];                                                          \
    state[0] = start ? model_fill_base(0) : sum[w];                               \
    state[1] = start ? model_fill_base(0) : sum[words + w];                       \
    state[2] = start ? model_fill_base(0) : sum[2 * words + w];                   \
    result = model_eight_base(from + w * sizeof(model_base), scale, list, state); \
    sum[w] = state[0];                                                            \
    sum[words + w] = state[1];                                                    \
    sum[2 * words + w] = state[2];
/* Carry of 16 taps added to the four lowest. Two loops, as one has too few registers. */
#define MODEL_SIXTEEN_vec(result, list, start)                                              \
    MODEL_EACH_vec({ MODEL_EIGHT_vec(result[w], list, start) });                            \
    MODEL_EACH_vec({                                                                        \
        model_base second, eight = start ? model_fill_base(0) : sum[3 * words + w];         \
        MODEL_EIGHT_vec(second, list + 8, 0)                                                \
        sum[3 * words + w] = model_parity_base(result[w], second, eight);                   \
        result[w] = model_majority_base(result[w], second, eight);                          \
    })
/* Adds a carry from a bit on. */
#define MODEL_RIPPLE_vec(first, carry)                    \
    do {                                                  \
        model_base rest = carry;                          \
        for (k = first; k < bits; k++) {                  \
            const model_base before = sum[k * words + w]; \
            sum[k * words + w] = before ^ rest;           \
            rest &= before;                               \
        }                                                 \
    } while (0)
#endif

#if MODEL_BYTES_vec <= MODEL_VECTOR
/* As model_count_vec, of one plane, added to a number that is 0. */
MODEL_INLINE void model_count_plane_vec(const uint8_t *from, unsigned scale, const model_offset *list, size_t n,
                                        unsigned bits, model_vec *sum)
{
    for (; n >= 16; n -= 16, list += 16)
        model_sixteen_vec(from, scale, list, 0, bits, sum);
    if (n)
        model_sixteen_vec(from, scale, list, 1, bits, sum);
}
#endif

/* How many of the n taps of a list have a bit, for one or two planes: a number of `bits` bits, [bits][pair]. */
MODEL_INLINE void model_count_vec(const uint8_t *from, unsigned scale, unsigned pair, const model_offset *list,
                                  size_t n, unsigned bits, model_vec *count)
{
    unsigned k;
#if MODEL_BYTES_vec <= MODEL_VECTOR
    model_vec first[32], second[32];
    for (k = 0; k < bits; k++)
        first[k] = second[k] = model_fill_vec(0);
    model_count_plane_vec(from, scale, list, n, bits, first);
    if (pair == 2) /* not in the same loop, for which there are too few registers */
        model_count_plane_vec(from + sizeof(model_vec), scale, list, n, bits, second);
    for (k = 0; k < bits; k++) {
        count[pair * k] = first[k];
        if (pair == 2)
            count[2 * k + 1] = second[k];
    }
#else
    /* Loops over words, which compilers can make wider vectors of. The number is [bits][words]. */
    const size_t words = pair * MODEL_WORDS_vec;
    model_base *const sum = (model_base *)(void *)count;
    model_base carry[2 * MODEL_WORDS_vec], more[2 * MODEL_WORDS_vec];
    size_t w;
    for (k = n < 16 ? 0 : 5; k < bits || k < 3; k++) /* 8 taps are added to three bits, whatever is left of them */
        for (w = 0; w < words; w++)
            sum[k * words + w] = model_fill_base(0);
    if (n >= 16) {
        MODEL_SIXTEEN_vec(carry, list, 1);
        for (w = 0; w < words; w++)
            sum[4 * words + w] = carry[w];
        n -= 16;
        list += 16;
    }
    for (; n >= 32; n -= 32, list += 32) {
        MODEL_SIXTEEN_vec(carry, list, 0);
        MODEL_SIXTEEN_vec(more, (list + 16), 0);
        for (w = 0; w < words; w++) {
            const model_base x = sum[4 * words + w];
            sum[4 * words + w] = model_parity_base(x, carry[w], more[w]);
            MODEL_RIPPLE_vec(5, model_majority_base(x, carry[w], more[w]));
        }
    }
    if (n >= 16) {
        MODEL_SIXTEEN_vec(carry, list, 0);
        for (w = 0; w < words; w++)
            MODEL_RIPPLE_vec(4, carry[w]);
        n -= 16;
        list += 16;
    }
    if (n) {
        MODEL_EACH_vec({ MODEL_EIGHT_vec(carry[w], list, 0) });
        for (w = 0; w < words; w++)
            MODEL_RIPPLE_vec(3, carry[w]);
    }
#endif
}
