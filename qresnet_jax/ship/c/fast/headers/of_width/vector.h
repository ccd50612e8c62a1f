/* A vector of MODEL_BYTES bytes, and what is done to its words of 8 bytes. */

#include "../target.h"

#if MODEL_BYTES <= MODEL_VECTOR

#if MODEL_BYTES == 8
typedef uint64_t model_vec;
#else
typedef uint64_t model_vec __attribute__((vector_size(MODEL_BYTES)));
#endif

#if MODEL_BYTES > 8 && defined(__AVX512VL__)
/* Any function of three bits is one instruction; `table` has its results. */
#undef MODEL_TERNARY
#undef MODEL_ROTATE
#if MODEL_BYTES == 64
#define MODEL_TERNARY(a, b, c, table) _mm512_ternarylogic_epi64((__m512i)(a), (__m512i)(b), (__m512i)(c), table)
#define MODEL_ROTATE(x, right) _mm512_rorv_epi64((__m512i)(x), _mm512_set1_epi64(right))
#elif MODEL_BYTES == 32
#define MODEL_TERNARY(a, b, c, table) _mm256_ternarylogic_epi64((__m256i)(a), (__m256i)(b), (__m256i)(c), table)
#define MODEL_ROTATE(x, right) _mm256_rorv_epi64((__m256i)(x), _mm256_set1_epi64x(right))
#else
#define MODEL_TERNARY(a, b, c, table) _mm_ternarylogic_epi64((__m128i)(a), (__m128i)(b), (__m128i)(c), table)
#define MODEL_ROTATE(x, right) _mm_rorv_epi64((__m128i)(x), _mm_set1_epi64x(right))
#endif

MODEL_INLINE model_vec model_majority_vec(model_vec a, model_vec b, model_vec c)
{
    return (model_vec)MODEL_TERNARY(a, b, c, 0xe8);
}

MODEL_INLINE model_vec model_parity_vec(model_vec a, model_vec b, model_vec c)
{
    return (model_vec)MODEL_TERNARY(a, b, c, 0x96);
}

/* A full adder: the sum of three bits, which is their parity, and the carry. */
MODEL_INLINE model_vec model_adder_vec(model_vec a, model_vec b, model_vec c, model_vec *carry)
{
    /* The carry is made from the sum: the instruction overwrites an operand, and a copy of it is needed otherwise. */
    const model_vec sum = model_parity_vec(c, a, b);
    *carry = (model_vec)MODEL_TERNARY(a, b, sum, 0xd4);
    return sum;
}
#else
MODEL_INLINE model_vec model_majority_vec(model_vec a, model_vec b, model_vec c)
{
#if MODEL_BYTES == 8            /* one copy less where instructions overwrite an operand */
    return b ^ ((a ^ b) & (b ^ c));
#elif defined(__wasm_simd128__) /* one instruction, after the one that the parity has as well */
    return (model_vec)wasm_v128_bitselect((v128_t)c, (v128_t)a, (v128_t)(a ^ b));
#elif defined(__ARM_NEON) && MODEL_BYTES == 16 && MODEL_VECTOR == 16
    return (model_vec)vbslq_u64((uint64x2_t)(a ^ b), (uint64x2_t)c, (uint64x2_t)a);
#else
    return (a & b) | (c & (a ^ b));
#endif
}

MODEL_INLINE model_vec model_parity_vec(model_vec a, model_vec b, model_vec c)
{
    return a ^ b ^ c;
}

MODEL_INLINE model_vec model_adder_vec(model_vec a, model_vec b, model_vec c, model_vec *carry)
{
    *carry = model_majority_vec(a, b, c);
    return model_parity_vec(a, b, c);
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

/* Moves the bits of words by `bits` down, or by -bits up. The caller masks away what comes in at the other end. */
MODEL_INLINE model_vec model_move_vec(model_vec x, int bits)
{
#if MODEL_BYTES > 8 && defined(__AVX512VL__)
    return (model_vec)MODEL_ROTATE(x, bits);
#else
    return bits < 0 ? x << -bits : x >> bits;
#endif
}

#else /* of several of the machine's vectors */

typedef struct {
    model_base w[MODEL_WORDS];
} model_vec;

MODEL_INLINE model_vec model_majority_vec(model_vec a, model_vec b, model_vec c)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        a.w[w] = model_majority_base(a.w[w], b.w[w], c.w[w]);
    return a;
}

MODEL_INLINE model_vec model_parity_vec(model_vec a, model_vec b, model_vec c)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        a.w[w] = model_parity_base(a.w[w], b.w[w], c.w[w]);
    return a;
}

MODEL_INLINE model_vec model_adder_vec(model_vec a, model_vec b, model_vec c, model_vec *carry)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        c.w[w] = model_adder_base(a.w[w], b.w[w], c.w[w], &carry->w[w]);
    return c;
}

MODEL_INLINE model_vec model_fill_vec(uint64_t word)
{
    model_vec x;
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        x.w[w] = model_fill_base(word);
    return x;
}

MODEL_INLINE model_vec model_xor_vec(model_vec a, model_vec b)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        a.w[w] ^= b.w[w];
    return a;
}

MODEL_INLINE model_vec model_and_vec(model_vec a, model_vec b)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        a.w[w] &= b.w[w];
    return a;
}

MODEL_INLINE model_vec model_shift_xor_vec(model_vec a, unsigned right, model_vec b, unsigned left)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        a.w[w] = (a.w[w] >> right) ^ (b.w[w] << left);
    return a;
}

MODEL_INLINE model_vec model_move_vec(model_vec x, int bits)
{
    size_t w;
    for (w = 0; w < MODEL_WORDS; w++)
        x.w[w] = model_move_base(x.w[w], bits);
    return x;
}
#endif

MODEL_INLINE model_vec model_load_vec(const uint8_t *p)
{
    model_vec x;
    memcpy(&x, p, sizeof x);
#if MODEL_BYTES > 8 && MODEL_BYTES <= MODEL_VECTOR && defined(__AVX512VL__)
    __asm__("" : "+v"(x)); /* or compilers load it again for each of its uses */
#endif
    return x;
}

MODEL_INLINE void model_store_vec(uint8_t *p, model_vec x)
{
    memcpy(p, &x, sizeof x);
}
