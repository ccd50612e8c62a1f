/* Makes taps in chunks of MODEL_BYTES bytes. */

#include "../planes.h"
#include "../vectors.h"

/* What a tap sees of a chunk of one plane: out[pixel] = in[pixel + bits] & mask[pixel]; see model_taps for `across`. */
MODEL_INLINE void model_tap_vec(const uint8_t *in, int across, int bits, const uint8_t *mask,
                                uint8_t *MODEL_RESTRICT out)
{
    size_t i;
#if MODEL_VECTOR > 8
    if (!across) {
        const model_vec moved = model_move_vec(model_load_vec(in), bits);
        model_store_vec(out, model_and_vec(moved, model_load_vec(mask)));
        return;
    }
#endif
    for (i = 0; i < sizeof(model_vec); i += 8) {
        uint64_t x = model_load(in + i);
        if (across)
            x = x >> bits | model_load(in + i + 1) << (8 - bits);
        else
            x = bits < 0 ? x << -bits : x >> bits;
        model_store(out + i, x & model_load(mask + i));
    }
}

/* One tap of a chunk of all planes. */
MODEL_INLINE void model_spread_tap_vec(const model_taps *s, int across, int bits, const uint8_t *in,
                                       const uint8_t *mask, uint8_t *MODEL_RESTRICT out)
{
    const size_t pitch = s->phases ? s->phases * s->pitch : s->out_height * s->out_row, next = s->channels * pitch;
    size_t c, b;
    for (c = 0; c < s->channels; c++, in += pitch)
        if (s->planes == 2) /* as a constant, for speed */
            for (b = 0; b < 2; b++, out += sizeof(model_vec))
                model_tap_vec(in + b * next, across, bits, mask, out);
        else
            for (b = 0; b < s->planes; b++, out += sizeof(model_vec))
                model_tap_vec(in + b * next, across, bits, mask, out);
}

/* All taps of the chunk at byte `at` of all planes. `across` and the direction of a shift are constants in each of the
   calls. */
MODEL_INLINE void model_spread_vec(const model_taps *s, const uint8_t *in, size_t at, uint8_t *out)
{
    const size_t entry = s->planes * sizeof(model_vec);
    size_t t;
    memset(out, 0, entry);
    out += entry;
    for (t = 0; t < s->taps; t++, out += s->channels * entry) {
        const uint8_t *from = in + at + (s->phases ? s->phase[t] * s->pitch : 0) + s->bytes[t];
        const uint8_t *mask = s->mask + 8 * t * s->words + at;
        if (s->across)
            model_spread_tap_vec(s, 1, s->bits[t], from, mask, out);
        else if (s->bits[t] < 0)
            model_spread_tap_vec(s, 0, s->bits[t], from, mask, out);
        else
            model_spread_tap_vec(s, 0, s->bits[t], from, mask, out);
    }
}
