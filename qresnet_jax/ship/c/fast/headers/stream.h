/* What happens to streams outside of convolutions: sums, the pools of a ResNet, and their order for a classifier. */

#ifndef MODEL_STREAM_H
#define MODEL_STREAM_H

#include "rescale.h"

/* Rescales a stream unless r is NULL, and writes the result as model_write does. */
MODEL_FUNCTION void model_stream(const model_int16 *source, const model_requantize *r, size_t channels, size_t pixels,
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

/* The largest of 3 x 3 neighbours at stride 2. `row` and `plane` are the bytes of a row and of a bit plane. */
MODEL_FUNCTION void model_max_pool(const model_int16 *x, size_t channels, size_t height, size_t width, size_t row,
                                   size_t plane, size_t out_row, size_t out_plane, model_int16 *out)
{
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

/* The mean of numbers, with halves rounded up. The sum is that of x + 32768, which is not negative, so that division
   rounds down. */
MODEL_INLINE int16_t model_mean(uint64_t sum, uint64_t count)
{
    return (int16_t)((int32_t)((2 * sum + count) / (2 * count)) - 32768);
}

/* The mean over all pixels. */
MODEL_FUNCTION void model_mean_pool(const model_int16 *x, size_t channels, size_t height, size_t width, size_t row,
                                    size_t plane, model_int16 *mean)
{
    const uint64_t pixels = (uint64_t)height * width;
    size_t c, i, y, k;
    for (c = 0; c < channels; c++) {
        uint64_t sum = 0;
        for (i = 0; i < 8; i++, x += plane)
            for (y = 0; y < height; y++) {
                const size_t n = (width + 7 - i) / 8;
                uint32_t part = 0;
                for (k = 0; k < n; k++)
                    part += (uint32_t)(x[y * row + k] + 32768);
                sum += part;
            }
        mean[8 * c] = model_mean(sum, pixels);
    }
}

/* The numbers of a stream in the order height, width, channel. */
MODEL_FUNCTION void model_flatten(const model_int16 *x, size_t channels, size_t height, size_t width, size_t row,
                                  size_t plane, model_int16 *MODEL_RESTRICT flat)
{
    size_t c, y, k;
    for (c = 0; c < channels; c++, x += 8 * plane)
        for (y = 0; y < height; y++)
            for (k = 0; k < width; k++)
                flat[(y * width + k) * channels + c] = x[k % 8 * plane + y * row + k / 8];
}

#endif
