/// stem
/* sum += weight[0] * pixel[0] + weight[1] * pixel[1], in vectors of int32 */
#if MODEL_VECTOR >= 64 && defined(__AVX512VNNI__)
#define MODEL_DOT(sum, pixels, weights) _mm512_dpwssd_epi32(sum, pixels, weights)
#elif MODEL_VECTOR >= 64
#define MODEL_DOT(sum, pixels, weights) _mm512_add_epi32(sum, _mm512_madd_epi16(pixels, weights))
#elif MODEL_VECTOR >= 32
#define MODEL_DOT(sum, pixels, weights) _mm256_add_epi32(sum, _mm256_madd_epi16(pixels, weights))
#elif MODEL_VECTOR >= 16 && defined(__SSE2__)
#define MODEL_DOT(sum, pixels, weights) _mm_add_epi32(sum, _mm_madd_epi16(pixels, weights))
#endif
#if MODEL_VECTOR >= 64
#define MODEL_WEIGHTS(x) _mm512_set1_epi32(x)
typedef __m512i model_sums;
#elif MODEL_VECTOR >= 32
#define MODEL_WEIGHTS(x) _mm256_set1_epi32(x)
typedef __m256i model_sums;
#elif defined(MODEL_DOT)
#define MODEL_WEIGHTS(x) _mm_set1_epi32(x)
typedef __m128i model_sums;
#endif

/* 2 * pixel - mean, with zeros around the image. Two channels lie side by side, pixel by pixel for MODEL_DOT, else
   one after the other. A pixel is copied for every byte of a row from which the kernel sees it. */
static void model_stem_pixels(const model_stem *s, const uint8_t *image, model_int16 *pixels)
{
    const size_t wide = 8 * s->stride, pair = 2 * s->stride * s->columns * s->part;
#ifdef MODEL_DOT
    const size_t beside = 1, pixel = 2;
#else
    const size_t beside = s->part, pixel = 1;
#endif
    size_t y, x, c;
    memset(pixels, 0, s->pairs * pair * sizeof *pixels);
    for (y = 0; y < s->height; y++) {
        const size_t row = y + s->kernel_height / 2;
        model_int16 *to = pixels + 2 * (row % s->stride * s->columns * s->part) + pixel * (row / s->stride * s->out_row);
        size_t column = s->kernel_width / 2 % wide, byte = s->kernel_width / 2 / wide;
        for (x = 0; x < s->width; x++, image += s->channels) {
            size_t f = column, k = byte;
            for (; f < s->columns; f += wide, k--) {
                model_int16 *place = to + 2 * f * s->part + pixel * k;
                if (k < s->out_row)
                    for (c = 0; c < s->channels; c++)
                        place[c / 2 * pair + c % 2 * beside] = (int16_t)(2 * image[c] - s->mean[c]);
                if (k == 0)
                    break;
            }
            if (++column == wide) {
                column = 0;
                byte++;
            }
        }
    }
}

/* Sums of the pixels of one bit of bytes, [byte of a plane], of two outputs. */
static void model_stem_sums(const model_stem *s, const model_int16 *pixels, const int16_t *const weights[2],
                            model_int32 *const sums[2])
{
    size_t k, t;
#ifdef MODEL_DOT
    const size_t n = sizeof(model_sums) / 4;
    for (k = 0; k < s->plane; k += 2 * n) {
        model_sums a = MODEL_WEIGHTS(0), b = a, c = a, d = a, pixel, more;
        for (t = 0; t < s->count; t++) {
            const model_int16 *from = pixels + 2 * (s->taps[t] + s->moves[t] + k);
            int32_t first, second;
            memcpy(&first, weights[0] + 2 * t, 4);
            memcpy(&second, weights[1] + 2 * t, 4);
            memcpy(&pixel, from, sizeof pixel);
            memcpy(&more, from + 2 * n, sizeof more);
            a = MODEL_DOT(a, pixel, MODEL_WEIGHTS(first));
            b = MODEL_DOT(b, more, MODEL_WEIGHTS(first));
            c = MODEL_DOT(c, pixel, MODEL_WEIGHTS(second));
            d = MODEL_DOT(d, more, MODEL_WEIGHTS(second));
        }
        memcpy(sums[0] + k, &a, sizeof a);
        memcpy(sums[0] + k + n, &b, sizeof b);
        memcpy(sums[1] + k, &c, sizeof c);
        memcpy(sums[1] + k + n, &d, sizeof d);
    }
#else
    size_t o;
    for (o = 0; o < 2; o++) {
        model_int32 *restrict sum = sums[o];
        memset(sum, 0, s->plane * sizeof *sum);
        for (t = 0; t < s->count; t++) {
            const model_int16 *first = pixels + 2 * s->taps[t] + s->moves[t], *second = first + s->part;
            const int16_t w = weights[o][2 * t], v = weights[o][2 * t + 1];
            for (k = 0; k < s->plane; k++)
                sum[k] += (int32_t)first[k] * w + (int32_t)second[k] * v;
        }
    }
#endif
}

/* The sums of two outputs, the last of which is the same twice if their number is odd. */
MODEL_INLINE void model_stem_pair(const model_stem *s, size_t o, size_t bit, const model_int16 *pixels,
                                  model_int32 *const sums[2])
{
    const size_t second = o + 1 < s->out ? o + 1 : o;
    const int16_t *weights[2];
    weights[0] = s->weights + 2 * s->count * o;
    weights[1] = s->weights + 2 * s->count * second;
    model_stem_sums(s, pixels + 2 * bit * s->stride * s->part, weights, sums);
}

/// stem_levels
static void model_stem_levels(const model_stem *s, const model_quantizer *q, const model_int16 *pixels,
                              model_int32 *first, model_int32 *second, uint8_t *levels)
{
    model_int32 *sums[2];
    size_t o, bit;
    sums[0] = first;
    sums[1] = second;
    for (o = 0; o < s->out; o += 2)
        for (bit = 0; bit < 8; bit++) {
            model_stem_pair(s, o, bit, pixels, sums);
            model_quantize_sums(q, o, bit, first, levels);
            if (o + 1 < s->out)
                model_quantize_sums(q, o + 1, bit, second, levels);
        }
}

/// stem_stream
static void model_stem_stream(const model_stem *s, const model_requantize *r, const model_int16 *pixels,
                              model_int32 *first, model_int32 *second, const model_int16 *addend, int relu,
                              model_int16 *stream)
{
    model_int32 *sums[2];
    size_t o, bit, k, i;
    sums[0] = first;
    sums[1] = second;
    for (o = 0; o < s->out; o += 2)
        for (bit = 0; bit < 8; bit++) {
            model_stem_pair(s, o, bit, pixels, sums);
            for (i = 0; i < 2 && o + i < s->out; i++)
                for (k = 0; k < s->plane; k += MODEL_BLOCK) {
                    const size_t place = (8 * (o + i) + bit) * s->plane + k;
                    const size_t left = s->plane - k, n = left < MODEL_BLOCK ? left : MODEL_BLOCK;
                    int16_t scaled[MODEL_BLOCK];
                    model_rescale(r, o + i, sums[i] + k, n, scaled);
                    model_write(scaled, addend ? addend + place : NULL, relu, n, stream + place);
                }
        }
}
