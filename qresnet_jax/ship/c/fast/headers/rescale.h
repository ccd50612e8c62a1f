/// unpack
/* x = numbers of which the bytes are given, the lowest first, [bytes of a number][n]. */
static void model_join(const uint8_t *bytes, unsigned bits, size_t n, int32_t *restrict x)
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

/// rescale
/* The rescaled numbers of one channel, saturated. */
MODEL_INLINE void model_rescale_any(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                                    int saturate, int16_t *restrict out)
{
    /* Of unsigned numbers, as vectors have products of 64 bits for those only. */
    const int32_t multiplier = r->multiplier[channel];
    const uint32_t size = multiplier < 0 ? 0u - (uint32_t)multiplier : (uint32_t)multiplier;
    const uint64_t flip = multiplier < 0 ? ~(uint64_t)0 : 0; /* -product = ~product + 1 */
    const uint64_t offset = r->wide_offset[channel] - (((uint64_t)size << 31) ^ flip);
    const unsigned shift = r->shift[channel];
    const uint64_t zero = ((uint64_t)1 << 63) >> shift, low = zero - 32768, high = zero + 32767;
    size_t i;
    for (i = 0; i < n; i++) {
        const uint64_t product = (uint64_t)((uint32_t)x[i] + 0x80000000u) * size;
        uint64_t value = ((product ^ flip) + offset) >> shift;
        if (saturate) {
            value = value < low ? low : value;
            value = value > high ? high : value;
        }
        out[i] = (int16_t)((int32_t)((uint32_t)(value - low)) - 32768);
    }
}

static void model_rescale(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                          int16_t *restrict out)
{
    if (r->saturates)
        model_rescale_any(r, channel, x, n, 1, out);
    else
        model_rescale_any(r, channel, x, n, 0, out);
}

/// write
/* x + addend, saturated, and its positive part if `relu`. `addend` may be NULL, or `stream` itself. */
static inline void model_write(const int16_t *restrict x, const model_int16 *addend, int relu, size_t n,
                               model_int16 *restrict stream)
{
    const int16_t lowest = relu ? 0 : -32768;
    size_t i;
    if (addend == NULL)
        memset(stream, 0, n * sizeof *stream);
    else if (addend != stream)
        memcpy(stream, addend, n * sizeof *stream);
#if MODEL_VECTOR >= 16 && defined(__SSE2__)
    for (i = 0; i < n - n % 8; i += 8) {
        __m128i a, b;
        memcpy(&a, x + i, 16);
        memcpy(&b, stream + i, 16);
        a = _mm_max_epi16(_mm_adds_epi16(a, b), _mm_set1_epi16(lowest));
        memcpy(stream + i, &a, 16);
    }
#else
    i = 0;
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

/// rescale_narrow
/* stream = the rescaled 2 * x - all of one channel, saturated, + addend, and so on as in model_write. The bytes of x
   lie in the order [bytes of a number, the lowest first][n], in rows of `row` pixels that are `next` apart in the
   streams. */
#if MODEL_VECTOR >= 64
#define MODEL_LANES(f) _mm512_##f
#define MODEL_BYTES_TO_WORDS _mm512_cvtepu8_epi16
typedef __m512i model_lanes;
typedef __m256i model_half;
#elif MODEL_VECTOR >= 32
#define MODEL_LANES(f) _mm256_##f
#define MODEL_BYTES_TO_WORDS _mm256_cvtepu8_epi16
typedef __m256i model_lanes;
typedef __m128i model_half;
#elif MODEL_VECTOR >= 16 && defined(__SSE2__)
#define MODEL_LANES(f) _mm_##f
#define MODEL_BYTES_TO_WORDS(x) _mm_unpacklo_epi8(_mm_cvtsi64_si128((int64_t)(x)), _mm_setzero_si128())
typedef __m128i model_lanes;
typedef uint64_t model_half;
#endif

#ifdef MODEL_LANES
/* x * multiplier, of int32 x that int16 holds; two products of 16 bits where there are none of 32. */
MODEL_INLINE model_lanes model_product(model_lanes x, int32_t multiplier)
{
#if MODEL_VECTOR >= 32
    return MODEL_LANES(mullo_epi32)(x, MODEL_LANES(set1_epi32)(multiplier));
#else
    const model_lanes low = _mm_madd_epi16(x, _mm_set1_epi32((int32_t)((uint32_t)multiplier & 255u)));
    const uint32_t high = ((uint32_t)multiplier >> 8) & 65535u;
    return _mm_add_epi32(_mm_slli_epi32(_mm_madd_epi16(x, _mm_set1_epi32((int32_t)high)), 8), low);
#endif
}

MODEL_INLINE void model_rescale_lanes(const model_requantize *r, size_t channel, const int16_t *all,
                                      const uint8_t *bytes, unsigned bits, size_t n, const model_int16 *addend,
                                      int relu, model_int16 *stream)
{
    const int32_t multiplier = r->multiplier[channel];
    const model_lanes offset = MODEL_LANES(set1_epi32)(r->offset[channel]);
    const model_lanes lowest = MODEL_LANES(set1_epi16)(relu ? 0 : -32768);
    const __m128i shift = _mm_cvtsi32_si128(r->shift[channel]);
    model_half part;
    model_lanes x, sum, sign, low, high;
    memcpy(&part, bytes, sizeof part);
    x = MODEL_BYTES_TO_WORDS(part);
    if (bits > 8) {
        memcpy(&part, bytes + n, sizeof part);
        x = MODEL_LANES(add_epi16)(x, MODEL_LANES(slli_epi16)(MODEL_BYTES_TO_WORDS(part), 8));
    }
    memcpy(&sum, all, sizeof sum);
    x = MODEL_LANES(sub_epi16)(MODEL_LANES(add_epi16)(x, x), sum);
    sign = MODEL_LANES(srai_epi16)(x, 15);
    low = model_product(MODEL_LANES(unpacklo_epi16)(x, sign), multiplier);
    high = model_product(MODEL_LANES(unpackhi_epi16)(x, sign), multiplier);
    low = MODEL_LANES(sra_epi32)(MODEL_LANES(add_epi32)(low, offset), shift);
    high = MODEL_LANES(sra_epi32)(MODEL_LANES(add_epi32)(high, offset), shift);
    x = MODEL_LANES(packs_epi32)(low, high);
    if (addend) {
        memcpy(&sum, addend, sizeof sum);
        x = MODEL_LANES(adds_epi16)(x, sum);
    }
    x = MODEL_LANES(max_epi16)(x, lowest);
    memcpy(stream, &x, sizeof x);
}
#endif

MODEL_INLINE void model_rescale_numbers(const model_requantize *r, size_t channel, const int16_t *all,
                                        const uint8_t *bytes, unsigned bits, size_t n, int saturate,
                                        int16_t *restrict out)
{
    const uint32_t offset = (uint32_t)r->offset[channel] + 0x80000000u;
    const int16_t low = (int16_t)((uint32_t)r->multiplier[channel] & 255u);
    const int16_t high = (int16_t)((r->multiplier[channel] - low) / 256);
    const unsigned shift = r->shift[channel];
    const int32_t zero = (int32_t)(0x80000000u >> shift);
    size_t i;
    for (i = 0; i < n; i++) {
        const int16_t number = (int16_t)(bits > 8 ? bytes[i] | bytes[n + i] << 8 : bytes[i]);
        const int16_t x = (int16_t)(2 * number - all[i]);
        /* Products of 16 bits are quicker than one of 32. */
        const uint32_t product = ((uint32_t)(x * (int32_t)high) << 8) + (uint32_t)(x * (int32_t)low);
        int32_t value = (int32_t)((product + offset) >> shift) - zero;
        if (saturate) {
            value = value < -32768 ? -32768 : value;
            value = value > 32767 ? 32767 : value;
        }
        out[i] = (int16_t)value;
    }
}

MODEL_INLINE void model_rescale_narrow(const model_requantize *r, size_t channel, const int16_t *all,
                                       const uint8_t *bytes, unsigned bits, size_t n, size_t row, size_t part,
                                       size_t next, const model_int16 *addend, int relu, model_int16 *stream)
{
    int16_t scaled[MODEL_BLOCK];
    size_t at, i;
#ifdef MODEL_LANES
    if (part == row && row % sizeof(model_half) == 0) {
        for (at = 0; at < n; at += row, stream += next, addend = addend ? addend + next : NULL)
            for (i = 0; i < row; i += sizeof(model_half))
                model_rescale_lanes(r, channel, all + at + i, bytes + at + i, bits, n, addend ? addend + i : NULL,
                                    relu, stream + i);
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

/* The same where int16 does not hold the numbers, or 32 bits not their multiples; n is at most MODEL_BLOCK. */
static void model_rescale_wide(const model_requantize *r, size_t channel, const int32_t *all, const uint8_t *bytes,
                               unsigned bits, size_t n, size_t row, size_t part, size_t next,
                               const model_int16 *addend, int relu, model_int16 *stream)
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

/// stream
/* A stream, rescaled unless r is NULL, + addend, and so on as in model_write. */
static void model_stream(const model_int16 *source, const model_requantize *r, size_t channels, size_t pixels,
                         const model_int16 *addend, int relu, model_int16 *stream)
{
    size_t c, x, i;
    for (c = 0; c < channels; c++)
        for (x = 0; x < pixels; x += MODEL_BLOCK) {
            const size_t place = c * pixels + x, left = pixels - x, n = left < MODEL_BLOCK ? left : MODEL_BLOCK;
            int32_t wide[MODEL_BLOCK];
            int16_t scaled[MODEL_BLOCK];
            for (i = 0; i < n; i++)
                wide[i] = scaled[i] = source[place + i];
            if (r)
                model_rescale(r, c, wide, n, scaled);
            model_write(scaled, addend ? addend + place : NULL, relu, n, stream + place);
        }
}

/// max_pool
/* Largest of 3 x 3 neighbours at stride 2; row and out_row are bytes of a row's bits. */
static void model_max_pool(const model_int16 *x, size_t channels, size_t height, size_t width, size_t row,
                           size_t out_row, model_int16 *out)
{
    const size_t plane = height * row, out_plane = (height + 1) / 2 * out_row;
    size_t c, y0, x0, y, z;
    for (c = 0; c < channels; c++, x += 8 * plane, out += 8 * out_plane) {
        memset(out, 0, 8 * out_plane * sizeof *out);
        for (y0 = 0; y0 < height; y0 += 2)
            for (x0 = 0; x0 < width; x0 += 2) {
                int16_t largest = -32768;
                for (y = y0 ? y0 - 1 : 0; y < height && y <= y0 + 1; y++)
                    for (z = x0 ? x0 - 1 : 0; z < width && z <= x0 + 1; z++) {
                        const int16_t value = x[z % 8 * plane + y * row + z / 8];
                        largest = value > largest ? value : largest;
                    }
                out[x0 / 2 % 8 * out_plane + y0 / 2 * out_row + x0 / 16] = largest;
            }
    }
}

/// mean_pool
/* Mean over all pixels, halves rounded up. */
static void model_mean_pool(const model_int16 *x, size_t channels, size_t height, size_t width, size_t row,
                            model_int16 *mean)
{
    const uint64_t pixels = (uint64_t)height * width;
    size_t c, i, y, k;
    for (c = 0; c < channels; c++) {
        /* The mean of x + 32768, of non-negative numbers, which division rounds down. */
        uint64_t sum = 0;
        for (i = 0; i < 8; i++)
            for (y = 0; y < height; y++, x += row) {
                const size_t n = (width + 7 - i) / 8;
                uint32_t part = 0;
                for (k = 0; k < n; k++)
                    part += (uint32_t)(x[k] + 32768);
                sum += part;
            }
        mean[c] = (int16_t)((int32_t)((2 * sum + pixels) / (2 * pixels)) - 32768);
    }
}

/// classify
/* logits = x @ weights + bias */
static void model_classify(const model_int16 *x, const int16_t *weights, const int32_t *bias, size_t channels,
                           int32_t *logits)
{
    size_t c, k;
    for (k = 0; k < MODEL_CLASSES; k++) {
        int32_t sum = bias[k];
        for (c = 0; c < channels; c++)
            sum += (int32_t)x[c] * weights[k * channels + c];
        logits[k] = sum;
    }
}
