/* Convolutions with groups: one group after the other, each with the function for convolutions of its size. */

#ifndef MODEL_GROUPS_H
#define MODEL_GROUPS_H

#include "planes.h"
#include "rescale.h"

typedef void model_to_levels(const model_conv *, const model_thresholds *, const uint8_t *, size_t, uint8_t *);
typedef void model_to_stream(const model_conv *, const model_requantize *, const uint8_t *, size_t, const model_int16 *,
                             int, model_int16 *);

/* Moves on to the lists of the next group. */
MODEL_FUNCTION void model_next_group(model_conv *conv)
{
    size_t i;
    const size_t lists = 1 + (conv->out + 1) / 2 * 3;
    for (i = 0; i < lists; i++)
        conv->lists += conv->counts[i];
    conv->counts += lists;
    conv->order += conv->out;
}

/* As model_conv_levels_vec, with the numbers `bits` and `out_planes` of model_bits. */
MODEL_FUNCTION void model_levels_groups(model_to_levels *function, size_t bits, size_t out_planes,
                                        const model_conv *first, const model_thresholds *thresholds,
                                        const uint8_t *from, size_t at, uint8_t *levels)
{
    model_conv conv = *first;
    model_thresholds t = *thresholds;
    size_t o;
    for (o = 0; o < conv.channels; o += conv.out) {
        function(&conv, &t, from, at, levels + o * conv.plane);
        model_next_group(&conv);
        t.at_least += conv.out * t.rows * bits;
        t.first += conv.out * out_planes;
    }
}

/* As model_conv_stream_vec. */
MODEL_FUNCTION void model_stream_groups(model_to_stream *function, const model_conv *first,
                                        const model_requantize *requantize, const uint8_t *from, size_t at,
                                        const model_int16 *addend, int relu, model_int16 *stream)
{
    model_conv conv = *first;
    model_requantize r = *requantize;
    size_t o;
    for (o = 0; o < conv.channels; o += conv.out) {
        const size_t place = 8 * o * conv.plane;
        function(&conv, &r, from, at, addend ? addend + place : NULL, relu, stream + place);
        model_next_group(&conv);
        r.multiplier += conv.out;
        r.shift += conv.out;
        if (r.offset)
            r.offset += conv.out;
        else
            r.wide_offset += conv.out;
    }
}

#endif
