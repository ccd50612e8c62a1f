/// rescale
/* The rescaled numbers of one channel, saturated. */
MODEL_INLINE void model_rescale_any(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                                     int16_t *restrict out)
{
    const int64_t multiplier = r->multiplier[channel];
    const uint64_t offset = r->wide_offset[channel];
    const unsigned shift = r->shift[channel];
    const uint64_t low = ((uint64_t)1 << (63 - shift)) - 32768, high = low + 65535;
    size_t i;
    for (i = 0; i < n; i++) {
        uint64_t value = ((uint64_t)(x[i] * multiplier) + offset) >> shift;
        value = value < low ? low : value;
        value = value > high ? high : value;
        out[i] = (int16_t)((int32_t)(value - low) - 32768);
    }
}

static void model_rescale(const model_requantize *r, size_t channel, const model_int32 *x, size_t n,
                          int16_t *restrict out)
{
    if (r->low) {
        const int32_t low = r->low[channel], high = r->high[channel], zero = r->zero[channel];
        const int negative = r->multiplier[channel] < 0;
        /* high - x is ~x + high + 1. */
        const uint32_t flip = negative ? ~(uint32_t)0 : 0;
        const uint32_t start = negative ? (uint32_t)high + 1 : 0 - (uint32_t)low;
        const uint32_t multiplier = (uint32_t)r->multiplier[channel], size = negative ? 0 - multiplier : multiplier;
        const uint64_t offset = r->wide_offset[channel];
        const unsigned shift = r->shift[channel];
        size_t i;
        for (i = 0; i < n; i++) {
            int32_t value = x[i] < low ? low : x[i];
            value = value > high ? high : value;
            value = (int32_t)(((uint64_t)(((uint32_t)value ^ flip) + start) * size + offset) >> shift) - zero;
            value = value < -32768 ? -32768 : value;
            value = value > 32767 ? 32767 : value;
            out[i] = (int16_t)value;
        }
    } else {
        model_rescale_any(r, channel, x, n, out);
    }
}

/// rescale_narrow
static inline void model_rescale_narrow(const model_requantize *r, size_t channel, const int16_t *x, size_t n,
                                        int16_t *out)
{
    const uint32_t multiplier = (uint32_t)r->multiplier[channel], offset = r->offset[channel];
    const unsigned shift = r->shift[channel];
    const int32_t zero = (int32_t)(0x80000000u >> shift);
    size_t i;
    for (i = 0; i < n; i++) {
        int32_t value = (int32_t)(((uint32_t)x[i] * multiplier + offset) >> shift) - zero;
        value = value < -32768 ? -32768 : value;
        value = value > 32767 ? 32767 : value;
        out[i] = (int16_t)value;
    }
}

/// write
/* x + addend, saturated, and its positive part if `relu`. `addend` may be NULL, or `stream` itself. */
static inline void model_write(const int16_t *restrict x, const model_int16 *addend, int relu, size_t n,
                               model_int16 *restrict stream)
{
    const int32_t lowest = relu ? 0 : -32768;
    size_t i;
    if (addend == NULL)
        memset(stream, 0, n * sizeof *stream);
    else if (addend != stream)
        memcpy(stream, addend, n * sizeof *stream);
#if MODEL_VECTOR >= 16 && defined(__SSE2__)
    for (i = 0; i < n; i += 8) { /* n is a multiple of 8 */
        __m128i a, b;
        memcpy(&a, x + i, 16);
        memcpy(&b, stream + i, 16);
        a = _mm_max_epi16(_mm_adds_epi16(a, b), _mm_set1_epi16((short)lowest));
        memcpy(stream + i, &a, 16);
    }
#else
    for (i = 0; i < n; i++) {
        int32_t sum = x[i] + stream[i];
        sum = sum > 32767 ? 32767 : sum;
        sum = sum < lowest ? lowest : sum;
        stream[i] = (int16_t)sum;
    }
#endif
}

/// quantize
/* Bit k of 64 numbers. */
static inline uint64_t model_pack(const uint16_t *x, unsigned k)
{
#if MODEL_VECTOR >= 64
    const __m512i bit = _mm512_set1_epi16((short)(1u << k));
    __m512i low, high;
    memcpy(&low, x, 64);
    memcpy(&high, x + 32, 64);
    return (uint64_t)_mm512_test_epi16_mask(low, bit) | (uint64_t)_mm512_test_epi16_mask(high, bit) << 32;
#elif MODEL_VECTOR >= 16 && defined(__SSE2__)
    const __m128i shift = _mm_cvtsi32_si128(15 - (int)k);
    uint64_t bits = 0;
    unsigned i;
    for (i = 0; i < 64; i += 16) {
        __m128i low, high;
        memcpy(&low, x + i, 16);
        memcpy(&high, x + i + 8, 16);
        low = _mm_packs_epi16(_mm_sll_epi16(low, shift), _mm_sll_epi16(high, shift));
        bits |= (uint64_t)(unsigned)_mm_movemask_epi8(low) << i;
    }
    return bits;
#else
    uint64_t bits = 0;
    unsigned i, j;
    for (i = 0; i < 64; i += 8) {
        uint8_t bytes[8];
        for (j = 0; j < 8; j++)
            bytes[j] = (uint8_t)(x[i + j] >> k & 1u);
        /* The product collects the lowest bits of all bytes in the highest byte. */
        bits |= (model_load(bytes) * 0x0102040810204080u >> 56) << i;
    }
    return bits;
#endif
}

MODEL_INLINE void model_quantize_steps(const model_quantizer *q, size_t steps, size_t planes, const model_int16 *x,
                                       uint8_t *levels)
{
    size_t c, at, i, j, k;
    for (c = 0; c < q->channels; c++) {
        const size_t row = q->rows == 1 ? 0 : c;
        for (at = 0; at < q->plane; at += 8) {
            const model_int16 *pixel = x + 8 * (c * q->plane + at);
            const int32_t *above = q->above + row * q->steps;
            const size_t left = q->plane - at < 8 ? q->plane - at : 8;
            uint16_t level[64];
            for (j = 0; j < 64; j++)
                level[j] = q->first[row];
            for (i = 0; i + 3 <= steps; i += 3) {
                const int16_t t0 = (int16_t)above[i], t1 = (int16_t)above[i + 1], t2 = (int16_t)above[i + 2];
                const uint16_t s0 = q->select[i], s1 = q->select[i + 1], s2 = q->select[i + 2];
                for (j = 0; j < 64; j++)
                    level[j] = (uint16_t)(level[j] ^ (pixel[j] > t0 ? s0 : 0) ^ (pixel[j] > t1 ? s1 : 0) ^
                                          (pixel[j] > t2 ? s2 : 0));
            }
            for (; i < steps; i++) {
                const int16_t t0 = (int16_t)above[i];
                const uint16_t s0 = q->select[i];
                for (j = 0; j < 64; j++)
                    level[j] = (uint16_t)(level[j] ^ (pixel[j] > t0 ? s0 : 0));
            }
            for (k = 0; k < planes; k++) {
                const uint64_t bits = model_pack(level, (unsigned)k) & model_load(q->mask + at);
                uint8_t *to = levels + (k * q->channels + c) * q->plane + at;
                if (left == 8)
                    model_store(to, bits);
                else
                    for (j = 0; j < left; j++)
                        to[j] = (uint8_t)(bits >> (8 * j));
            }
        }
    }
}

static void model_quantize(const model_quantizer *q, const model_int16 *x, uint8_t *levels)
{
    if (q->steps == 3 && q->planes == 2) /* as constants, for speed */
        model_quantize_steps(q, 3, 2, x, levels);
    else
        model_quantize_steps(q, q->steps, q->planes, x, levels);
}

/// quantize_sums
/* Levels of one row of `bytes` bytes of a channel. */
static void model_quantize_sums(const model_quantizer *q, size_t channel, const int32_t *x, size_t bytes,
                                size_t at, uint8_t *levels)
{
    const size_t row = q->rows == 1 ? 0 : channel;
    size_t i, j, k;
    for (k = 0; k < q->planes; k++)
        memset(levels + (k * q->channels + channel) * q->plane + at, 0, bytes);
    for (j = 0; j < 8 * bytes; j++) {
        unsigned level = q->first[row];
        for (i = 0; i < q->steps; i++)
            if (x[j] > q->above[row * q->steps + i])
                level ^= q->select[i];
        for (k = 0; k < q->planes; k++)
            levels[(k * q->channels + channel) * q->plane + at + j / 8] |=
                (uint8_t)((level >> k & 1u) << (j % 8) & q->mask[at + j / 8]);
    }
}

/// stem
/* 2 * pixel - mean, with zeros around the image. */
static void model_stem_pixels(const model_stem *s, const uint8_t *image, model_int16 *pixels)
{
    const size_t part = s->rows * s->pitch, pairs = (s->channels + 1) / 2;
    size_t y, x, c;
    memset(pixels, 0, 2 * pairs * s->stride * part * sizeof *pixels);
    for (y = 0; y < s->height; y++)
        for (x = 0; x < s->width; x++)
            for (c = 0; c < s->channels; c++) {
                const size_t column = x + s->kernel_width / 2, row = y + s->kernel_height / 2;
                const size_t place = (c / 2 * s->stride + column % s->stride) * part + row * s->pitch;
                pixels[2 * (place + column / s->stride) + c % 2] = (int16_t)(2 * *image++ - s->mean[c]);
            }
}

/* sum += weight[0] * pixel[0] + weight[1] * pixel[1], in vectors of int32 */
#if MODEL_VECTOR >= 64
#define MODEL_WEIGHTS(x) _mm512_set1_epi32(x)
#define MODEL_DOT(sum, pixels, weights) _mm512_add_epi32(sum, _mm512_madd_epi16(pixels, weights))
typedef __m512i model_lanes;
#elif MODEL_VECTOR >= 32
#define MODEL_WEIGHTS(x) _mm256_set1_epi32(x)
#define MODEL_DOT(sum, pixels, weights) _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, weights))
typedef __m256i model_lanes;
#elif MODEL_VECTOR >= 16 && defined(__SSE2__)
#define MODEL_WEIGHTS(x) _mm_set1_epi32(x)
#define MODEL_DOT(sum, pixels, weights) _mm_add_epi32(sum, _mm_madd_epi16(pixels, weights))
typedef __m128i model_lanes;
#endif
#ifdef MODEL_DOT
#define MODEL_STEM_BLOCK (sizeof(model_lanes) / 2) /* sums, in two vectors */
#else
#define MODEL_STEM_BLOCK 8u
#endif

/* Sums of one row of one channel; a multiple of 32 of them. */
static void model_stem_row(const model_stem *s, const model_int16 *pixels, size_t row, size_t out, model_int32 *sums)
{
    const size_t taps = s->kernel_height * s->kernel_width * ((s->channels + 1) / 2);
    const int16_t *weights = s->weights + 2 * taps * out;
    size_t x, t;
    pixels += 2 * row * s->stride * s->pitch;
    for (x = 0; x < 8 * s->out_row; x += MODEL_STEM_BLOCK) {
#ifdef MODEL_DOT
        model_lanes sum = MODEL_WEIGHTS(0), more = sum, pixel;
        for (t = 0; t < taps; t++) {
            const model_int16 *from = pixels + 2 * (s->taps[t] + x);
            int32_t both;
            memcpy(&both, weights + 2 * t, 4);
            memcpy(&pixel, from, sizeof pixel);
            sum = MODEL_DOT(sum, pixel, MODEL_WEIGHTS(both));
            memcpy(&pixel, from + MODEL_STEM_BLOCK, sizeof pixel);
            more = MODEL_DOT(more, pixel, MODEL_WEIGHTS(both));
        }
        memcpy(sums + x, &sum, sizeof sum);
        memcpy(sums + x + MODEL_STEM_BLOCK / 2, &more, sizeof more);
#else
        int32_t sum[MODEL_STEM_BLOCK] = {0};
        size_t k;
        for (t = 0; t < taps; t++) {
            const model_int16 *from = pixels + 2 * (s->taps[t] + x);
            for (k = 0; k < MODEL_STEM_BLOCK; k++)
                sum[k] += from[2 * k] * (int32_t)weights[2 * t] + from[2 * k + 1] * (int32_t)weights[2 * t + 1];
        }
        memcpy(sums + x, sum, sizeof sum);
#endif
    }
}

/// stem_levels
static void model_stem_levels(const model_stem *s, const model_quantizer *q, const model_int16 *pixels,
                              model_int32 *sums, uint8_t *levels)
{
    size_t y, o;
    for (y = 0; y < s->out_height; y++)
        for (o = 0; o < s->out; o++) {
            model_stem_row(s, pixels, y, o, sums);
            model_quantize_sums(q, o, sums, s->out_row, y * s->out_row, levels);
        }
}

/// stem_stream
static void model_stem_stream(const model_stem *s, const model_requantize *r, const model_int16 *pixels,
                              model_int32 *sums, const model_int16 *addend, int relu, model_int16 *stream)
{
    size_t y, o, x;
    for (y = 0; y < s->out_height; y++)
        for (o = 0; o < s->out; o++) {
            model_stem_row(s, pixels, y, o, sums);
            for (x = 0; x < 8 * s->out_row; x += MODEL_BLOCK) {
                const size_t place = 8 * (o * s->out_height + y) * s->out_row + x;
                const size_t left = 8 * s->out_row - x, n = left < MODEL_BLOCK ? left : MODEL_BLOCK;
                int16_t scaled[MODEL_BLOCK];
                model_rescale(r, o, sums + x, n, scaled);
                model_write(scaled, addend ? addend + place : NULL, relu, n, stream + place);
            }
        }
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
    size_t c, y0, x0, y, z;
    for (c = 0; c < channels; c++, x += 8 * height * row)
        for (y0 = 0; y0 < height; y0 += 2, out += 8 * out_row) {
            memset(out, 0, 8 * out_row * sizeof *out);
            for (x0 = 0; x0 < width; x0 += 2) {
                int16_t largest = x[8 * y0 * row + x0];
                for (y = y0 ? y0 - 1 : 0; y < height && y <= y0 + 1; y++)
                    for (z = x0 ? x0 - 1 : 0; z < width && z <= x0 + 1; z++)
                        if (x[8 * y * row + z] > largest)
                            largest = x[8 * y * row + z];
                out[x0 / 2] = largest;
            }
        }
}

/// mean_pool
/* Mean over all pixels, halves rounded up. */
static void model_mean_pool(const model_int16 *x, size_t channels, size_t height, size_t width, size_t row,
                            model_int16 *mean)
{
    const uint64_t pixels = (uint64_t)height * width;
    size_t c, y, i;
    for (c = 0; c < channels; c++) {
        /* The mean of x + 32768, of non-negative numbers, which division rounds down. */
        uint64_t sum = 0;
        for (y = 0; y < height; y++, x += 8 * row) {
            uint32_t part = 0;
            for (i = 0; i < width; i++)
                part += (uint32_t)(x[i] + 32768);
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
