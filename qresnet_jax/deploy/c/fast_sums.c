/// vector
#if MODEL_VECTOR >= MODEL_BYTES_vec
MODEL_TYPE_vec

#if MODEL_BYTES_vec > 8 && defined(__AVX512VL__)
#define MODEL_ADD_vec(carry, sum, a, b, c)                              \
    do {                                                                \
        const model_vec a_ = (a), b_ = (b), c_ = (c);                   \
        carry = (model_vec)MODEL_TERNARY_vec((MODEL_INTEL_vec)a_, (MODEL_INTEL_vec)b_, (MODEL_INTEL_vec)c_, 0xe8); \
        sum = (model_vec)MODEL_TERNARY_vec((MODEL_INTEL_vec)a_, (MODEL_INTEL_vec)b_, (MODEL_INTEL_vec)c_, 0x96); \
    } while (0)
#define MODEL_MAJORITY_vec(a, b, c) \
    ((model_vec)MODEL_TERNARY_vec((MODEL_INTEL_vec)(a), (MODEL_INTEL_vec)(b), (MODEL_INTEL_vec)(c), 0xe8))
#else
#define MODEL_ADD_vec(carry, sum, a, b, c)                  \
    do {                                                    \
        const model_vec a_ = (a), b_ = (b), c_ = (c);       \
        const model_vec d_ = a_ ^ b_;                       \
        carry = (a_ & b_) | (c_ & d_);                      \
        sum = c_ ^ d_;                                      \
    } while (0)
#define MODEL_MAJORITY_vec(a, b, c) (((a) & (b)) | ((c) & ((a) | (b))))
#endif

MODEL_INLINE model_vec model_load_vec(const uint8_t *p)
{
    model_vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Carries of 8 planes added to ones, twos and fours. */
#define MODEL_EIGHT_vec(carry, list)                                                                   \
    do {                                                                                               \
        model_vec t_, u_, v_, w_;                                                                      \
        MODEL_ADD_vec(t_, ones, model_load_vec(from + scale * (size_t)(list)[0]), model_load_vec(from + scale * (size_t)(list)[1]), ones); \
        MODEL_ADD_vec(u_, ones, model_load_vec(from + scale * (size_t)(list)[2]), model_load_vec(from + scale * (size_t)(list)[3]), ones); \
        MODEL_ADD_vec(v_, twos, t_, u_, twos);                                                         \
        MODEL_ADD_vec(t_, ones, model_load_vec(from + scale * (size_t)(list)[4]), model_load_vec(from + scale * (size_t)(list)[5]), ones); \
        MODEL_ADD_vec(u_, ones, model_load_vec(from + scale * (size_t)(list)[6]), model_load_vec(from + scale * (size_t)(list)[7]), ones); \
        MODEL_ADD_vec(w_, twos, t_, u_, twos);                                                         \
        MODEL_ADD_vec(carry, fours, v_, w_, fours);                                                    \
    } while (0)

/* count = how many of the n planes at from + list[i] have a bit, a number of `bits` bits; n is a multiple of 8. */
MODEL_INLINE void model_count_vec(const uint8_t *from, unsigned scale, const model_offset *list, size_t n,
                                   unsigned bits, model_vec *count)
{
    model_vec ones = {0}, twos = {0}, fours = {0}, eights = {0};
    size_t k;
    memset(count, 0, bits * sizeof *count);
    for (; n >= 16; n -= 16, list += 16) {
        model_vec carry, more;
        MODEL_EIGHT_vec(carry, list);
        MODEL_EIGHT_vec(more, list + 8);
        MODEL_ADD_vec(carry, eights, carry, more, eights);
        for (k = 4; k < bits; k++) {
            const model_vec x = count[k];
            count[k] = x ^ carry;
            carry = carry & x;
        }
    }
    if (n) {
        model_vec carry, x;
        MODEL_EIGHT_vec(carry, list);
        x = eights;
        eights = x ^ carry;
        carry = carry & x;
        for (k = 4; k < bits; k++) {
            x = count[k];
            count[k] = x ^ carry;
            carry = carry & x;
        }
    }
    count[0] = ones;
    count[1] = twos;
    count[2] = fours;
    count[3] = eights;
}

/* sum += count << shift */
MODEL_INLINE void model_add_vec(const model_vec *count, unsigned count_bits, unsigned shift, unsigned sum_bits,
                                 model_vec *sum)
{
    model_vec carry = {0};
    unsigned k;
    for (k = 0; shift + k < sum_bits; k++) {
        if (k < count_bits) {
            MODEL_ADD_vec(carry, sum[shift + k], sum[shift + k], count[k], carry);
        } else {
            const model_vec x = sum[shift + k];
            sum[shift + k] = x ^ carry;
            carry = carry & x;
        }
    }
}

/* sum = sum of the levels of a list, a number of `sum_bits` bits. */
MODEL_INLINE void model_sum_vec(const model_conv *conv, model_bits bits, const uint8_t *from,
                                 const model_offset *list, size_t n, unsigned count_bits, unsigned sum_bits,
                                 model_vec *sum)
{
    const model_vec zeros = {0};
    model_vec count[32];
    unsigned b, k;
    model_count_vec(from, bits.scale, list, n, count_bits, sum);
    for (k = count_bits; k < sum_bits; k++)
        sum[k] = zeros;
    for (b = 1; b < bits.planes; b++) {
        model_count_vec(from + b * conv->group, bits.scale, list, n, count_bits, count);
        model_add_vec(count, count_bits, b, sum_bits, sum);
    }
}
#endif

/// table
/* As model_sum_vec8, of a list of entries, of which all four planes are counted at once. */
MODEL_INLINE void model_sum_table(const model_conv *conv, model_bits bits, const uint8_t *from,
                                   const model_offset *list, size_t n, unsigned count_bits, unsigned sum_bits,
                                   uint64_t *sum)
{
#if MODEL_VECTOR >= 16
    uint64_t plane[4][32];
    unsigned b, k;
#if MODEL_VECTOR >= 32
    model_vec32 count[32];
    model_count_vec32(from, bits.scale, list, n, count_bits, count);
    for (k = 0; k < count_bits; k++)
        for (b = 0; b < 4; b++)
            plane[b][k] = count[k][b];
#else
    model_vec16 low[32], high[32];
    model_count_vec16(from, bits.scale, list, n, count_bits, low);
    model_count_vec16(from + 16, bits.scale, list, n, count_bits, high);
    for (k = 0; k < count_bits; k++)
        for (b = 0; b < 2; b++) {
            plane[b][k] = low[k][b];
            plane[b + 2][k] = high[k][b];
        }
#endif
    (void)conv;
    for (k = 0; k < sum_bits; k++)
        sum[k] = k < count_bits ? plane[0][k] : 0;
    for (b = 1; b < 4; b++)
        model_add_vec8(plane[b], count_bits, b, sum_bits, sum);
#else
    model_sum_vec8(conv, bits, from, list, n, count_bits, sum_bits, sum);
#endif
}

/// kernel
#if MODEL_VECTOR >= MODEL_BYTES_vec
/* x = 2^(bits - 1) + all - 2 * sum, with `offset` for the first two. */
MODEL_INLINE void model_subtract_vec(const model_vec *offset, const model_vec *sum, model_bits bits, model_vec *x)
{
    const model_vec ones = ~(offset[0] ^ offset[0]);
    model_vec carry = ones;
    unsigned k;
    x[0] = offset[0];
    for (k = 1; k < bits.bits; k++)
        MODEL_ADD_vec(carry, x[k], offset[k], k <= bits.sum_bits ? ~sum[k - 1] : ones, carry);
}

MODEL_INLINE void model_compare_vec(const model_thresholds *t, size_t o, const model_vec *x, model_bits bits,
                                     model_vec *level)
{
    const model_vec zeros = x[0] ^ x[0];
    const model_vec either[2] = {zeros, ~zeros};
    size_t i, k;
    for (k = 0; k < bits.out_planes; k++)
        level[k] = either[t->first[o] >> k & 1];
    for (i = 0; i < bits.steps; i++) {
        /* Carries of x + ~threshold + 1: the last one says whether x is as large. */
        const uint32_t inverse = ~t->at_least[o * bits.steps + i];
        model_vec carry = either[1];
        for (k = 0; k < bits.bits; k++)
            carry = MODEL_MAJORITY_vec(x[k], carry, either[inverse >> k & 1]);
        for (k = 0; k < bits.out_planes; k++)
            if (t->select[i] >> k & 1)
                level[k] ^= carry;
    }
}

MODEL_INLINE void model_conv_levels_vec(const model_conv *conv, model_bits bits, const model_thresholds *t,
                                         const uint8_t *from, uint8_t *levels)
{
    size_t at, o, k;
    for (at = 0; at < conv->plane; at += sizeof(model_vec)) {
        const model_offset *list = conv->lists + conv->counts[0];
        const size_t left = conv->plane - at;
        const model_vec mask = model_load_vec(conv->mask + at);
        model_vec all[32], sum[32], x[32], level[16];
        model_sum_vec(conv, bits, from + at, conv->lists, conv->counts[0], bits.all_bits, bits.bits, all);
        all[bits.bits - 1] = ~all[bits.bits - 1]; /* it is 0 */
        for (o = 0; o < conv->out; list += conv->counts[++o]) {
            model_sum_vec(conv, bits, from + at, list, conv->counts[o + 1], bits.count_bits, bits.sum_bits, sum);
            model_subtract_vec(all, sum, bits, x);
            model_compare_vec(t, o, x, bits, level);
            for (k = 0; k < bits.out_planes; k++) {
                uint8_t *to = levels + (k * conv->out + o) * conv->plane + at;
                level[k] &= mask;
                if (left >= sizeof(model_vec))
                    memcpy(to, &level[k], sizeof(model_vec));
                else
                    memcpy(to, &level[k], left);
            }
        }
    }
}

MODEL_INLINE void model_conv_stream_vec(const model_conv *conv, model_bits bits, const model_requantize *r,
                                         const uint8_t *from, const model_int16 *addend, int relu,
                                         model_int16 *stream)
{
    size_t at, o;
    for (at = 0; at < conv->plane; at += sizeof(model_vec)) {
        const model_offset *list = conv->lists + conv->counts[0];
        const size_t left = conv->plane - at;
        const size_t pixels = 8 * (left < sizeof(model_vec) ? left : sizeof(model_vec));
        model_vec all[32], sum[32];
        int16_t narrow[8 * sizeof(model_vec)];
        int32_t wide[8 * sizeof(model_vec)];
        model_sum_vec(conv, bits, from + at, conv->lists, conv->counts[0], bits.all_bits, bits.bits, all);
        if (bits.narrow)
            model_unpack((const uint8_t *)all, sizeof(model_vec), bits.bits, NULL, narrow);
        else
            model_unpack_wide((const uint8_t *)all, sizeof(model_vec), bits.bits, NULL, wide);
        for (o = 0; o < conv->out; list += conv->counts[++o]) {
            const size_t place = 8 * (o * conv->plane + at);
            int16_t x[8 * sizeof(model_vec)], scaled[8 * sizeof(model_vec)];
            int32_t y[8 * sizeof(model_vec)];
            model_sum_vec(conv, bits, from + at, list, conv->counts[o + 1], bits.count_bits, bits.sum_bits, sum);
            if (bits.narrow) {
                model_unpack((const uint8_t *)sum, sizeof(model_vec), bits.sum_bits, narrow, x);
                model_rescale_narrow(r, o, x, pixels, scaled);
            } else {
                model_unpack_wide((const uint8_t *)sum, sizeof(model_vec), bits.sum_bits, wide, y);
                model_rescale(r, o, y, pixels, scaled);
            }
            model_write(scaled, addend ? addend + place : NULL, relu, pixels, stream + place);
        }
    }
}
#endif

/// unpack
/* x = all - 2 * number, or the number if `all` is NULL, of numbers in bit planes of `bytes` bytes each. */
static void model_unpack_wide(const uint8_t *planes, size_t bytes, unsigned bits, const int32_t *all, int32_t *x)
{
    size_t i;
    unsigned k;
    for (i = 0; i < 8 * bytes; i++) {
        int32_t value = 0;
        for (k = 0; k < bits; k++)
            value |= (int32_t)(planes[k * bytes + i / 8] >> (i % 8) & 1) << k;
        x[i] = all ? all[i] - 2 * value : value;
    }
}

/* The same, where int16 holds all of it; `bytes` is a multiple of 8. */
#if MODEL_VECTOR >= 64
MODEL_INLINE void model_unpack(const uint8_t *planes, size_t bytes, unsigned bits, const int16_t *all, int16_t *x)
{
    size_t i, j;
    unsigned k;
    for (i = 0; i < 8 * bytes; i += 64)
        for (j = i; j < i + 64; j += 32) {
            __m512i value = _mm512_setzero_si512(), unit = _mm512_set1_epi16(all ? -2 : 1);
            if (all)
                memcpy(&value, all + j, 64);
            for (k = 0; k < bits; k++) {
                uint32_t plane;
                memcpy(&plane, planes + k * bytes + j / 8, 4);
                value = _mm512_mask_add_epi16(value, plane, value, unit);
                unit = _mm512_add_epi16(unit, unit);
            }
            memcpy(x + j, &value, 64);
        }
}
#else
/* Bit i of byte k becomes bit k of byte i. */
#define MODEL_TRANSPOSE(x, xor, and, left, right, constant)                            \
    do {                                                                               \
        t = and(xor(x, right(x, 7)), constant(0x00aa00aa00aa00aau));                   \
        x = xor(x, xor(t, left(t, 7)));                                                \
        t = and(xor(x, right(x, 14)), constant(0x0000cccc0000ccccu));                  \
        x = xor(x, xor(t, left(t, 14)));                                               \
        t = and(xor(x, right(x, 28)), constant(0x00000000f0f0f0f0u));                  \
        x = xor(x, xor(t, left(t, 28)));                                               \
    } while (0)
#define MODEL_XOR(x, y) ((x) ^ (y))
#define MODEL_AND(x, y) ((x) & (y))
#define MODEL_LEFT(x, n) ((x) << (n))
#define MODEL_RIGHT(x, n) ((x) >> (n))
#define MODEL_CONSTANT(x) (x)

#if MODEL_VECTOR >= 16 && defined(__SSE2__)
#define MODEL_CONSTANTS(x) _mm_set1_epi64x((long long)(x))

MODEL_INLINE void model_interleave(__m128i *x)
{
    __m128i y[8];
    unsigned k;
    for (k = 0; k < 4; k++) {
        y[2 * k] = _mm_unpacklo_epi8(x[k], x[k + 4]);
        y[2 * k + 1] = _mm_unpackhi_epi8(x[k], x[k + 4]);
    }
    memcpy(x, y, sizeof y);
}
#endif

MODEL_INLINE void model_unpack(const uint8_t *planes, size_t bytes, unsigned bits, const int16_t *all, int16_t *x)
{
    size_t i;
    unsigned k;
#if MODEL_VECTOR >= 16 && defined(__SSE2__)
    for (i = 0; i < bytes; i += 16) {
        const size_t n = bytes - i < 16 ? 8 : 16;
        __m128i half[2][8], t;
        unsigned h;
        for (h = 0; h < 2; h++) {
            for (k = 0; k < 8; k++)
                if (8 * h + k >= bits)
                    half[h][k] = _mm_setzero_si128();
                else if (n == 16)
                    half[h][k] = _mm_loadu_si128((const __m128i *)(planes + (8 * h + k) * bytes + i));
                else
                    half[h][k] = _mm_loadl_epi64((const __m128i *)(planes + (8 * h + k) * bytes + i));
            /* Three times the upper four between the lower: then the 8 bytes of a pixel's planes stand together. */
            model_interleave(half[h]);
            model_interleave(half[h]);
            model_interleave(half[h]);
            for (k = 0; k < n / 2; k++)
                MODEL_TRANSPOSE(half[h][k], _mm_xor_si128, _mm_and_si128, _mm_slli_epi64, _mm_srli_epi64,
                                MODEL_CONSTANTS);
            if (bits <= 8) {
                memset(half[1], 0, sizeof half[1]);
                break;
            }
        }
        for (k = 0; k < n; k++) {
            const size_t pixel = 8 * (i + k);
            __m128i value, sum;
            if (k % 2 == 0)
                value = _mm_unpacklo_epi8(half[0][k / 2], half[1][k / 2]);
            else
                value = _mm_unpackhi_epi8(half[0][k / 2], half[1][k / 2]);
            if (all) {
                memcpy(&sum, all + pixel, 16);
                value = _mm_sub_epi16(sum, _mm_add_epi16(value, value));
            }
            memcpy(x + pixel, &value, 16);
        }
    }
#else
    size_t j;
    for (i = 0; i < bytes; i++) {
        uint64_t half[2] = {0, 0}, t;
        uint8_t low[8], high[8];
        for (k = 0; k < bits; k++)
            half[k / 8] |= (uint64_t)planes[k * bytes + i] << (8 * (k % 8));
        MODEL_TRANSPOSE(half[0], MODEL_XOR, MODEL_AND, MODEL_LEFT, MODEL_RIGHT, MODEL_CONSTANT);
        model_store(low, half[0]);
        if (bits > 8)
            MODEL_TRANSPOSE(half[1], MODEL_XOR, MODEL_AND, MODEL_LEFT, MODEL_RIGHT, MODEL_CONSTANT);
        model_store(high, half[1]);
        for (j = 0; j < 8; j++) {
            const int32_t value = low[j] | high[j] << 8;
            x[8 * i + j] = (int16_t)(all ? all[8 * i + j] - 2 * value : value);
        }
    }
#endif
}
#endif
