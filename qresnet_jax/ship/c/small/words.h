/* Bit planes in words of 32 pixels, and what a window sees of them.

   The pixels of an image are numbered row by row, without gaps. A bit plane has one bit for each: that of pixel p is bit
   p % 32 of word p / 32. Levels lie as [channel][plane][word], streams as [channel][pixel]. 32 pixels are a tile. */

#ifndef MODEL_WORDS_H
#define MODEL_WORDS_H

#include "../common.h"

#ifndef MODEL_SLACK /* words before and after levels, which belong to something else and may be read */
#define MODEL_SLACK 1
#endif

typedef uint32_t MODEL_ALIAS model_word;

/* Marks what belongs into the function that calls it, and what shall keep the registers for itself. */
#ifdef __GNUC__
#define MODEL_INLINE static inline __attribute__((always_inline, unused))
#define MODEL_APART static __attribute__((noinline, unused))
#else
#define MODEL_INLINE static inline
#define MODEL_APART static inline
#endif

/* A window that moves over an image. Its taps are its pixels, row by row. */
typedef struct {
    size_t height, width; /* of the image */
    size_t out_height, out_width; /* how many places it has */
    size_t rows, columns; /* of the window */
    uint16_t down, right; /* how far it moves */
    uint16_t top, left;   /* rows and columns of border */
} model_window;

/* The words of a bit plane. */
MODEL_INLINE size_t model_words(size_t pixels)
{
    return (pixels + 31) / 32;
}

/* The 32 bits that begin at bit `at`. It reads a word more than they need. */
MODEL_INLINE model_word model_bits(const model_word *words, size_t at)
{
    const size_t i = at / 32, shift = at % 32;
    return words[i] >> shift | words[i + 1] << 1 << (31 - shift);
}

/* The pixels of a tile for which tap (i, j) of a window with steps of one pixel lies inside the image. */
MODEL_FUNCTION model_word model_inside(const model_window *w, size_t tile, size_t i, size_t j)
{
    const size_t low = w->left > j ? w->left - j : 0, high = w->width + w->left > j ? w->width + w->left - j : 0;
    size_t y = 32 * tile / w->out_width, x = 32 * tile % w->out_width, k = 0;
    model_word inside = 0;
    for (; k < 32 && y < w->out_height; y++) {
        const size_t end = w->out_width - x < 32 - k ? w->out_width : x + 32 - k; /* of this row's part of the tile */
        const size_t from = x > low ? x : low, to = end < high ? end : high;
        if (y + i - w->top < w->height && from < to)
            inside |= ((model_word)0xffffffffu >> (32 - (to - from))) << (k + from - x);
        k += end - x;
        x = 0;
    }
    return inside;
}

/* What a tap sees of bit planes whose pixels it sees side by side, see `model_see`. */
MODEL_FUNCTION void model_see_all(const model_window *w, const model_word *from, size_t planes, size_t tile, size_t i,
                                  size_t j, model_word *to)
{
    const size_t words = model_words(w->height * w->width);
    const size_t at = 32 * (tile + MODEL_SLACK) + i * w->width + j - w->top * w->width - w->left, shift = at % 32;
    const model_word inside = model_inside(w, tile, i, j), *plane = from - MODEL_SLACK + at / 32;
    for (; planes > 1; planes -= 2, plane += 2 * words) { /* of which there are two in most networks */
        *to++ = (plane[0] >> shift | plane[1] << 1 << (31 - shift)) & inside;
        *to++ = (plane[words] >> shift | plane[words + 1] << 1 << (31 - shift)) & inside;
    }
    if (planes > 0)
        *to = (plane[0] >> shift | plane[1] << 1 << (31 - shift)) & inside;
}

/* The bits at even positions, side by side. */
MODEL_INLINE model_word model_even(model_word x)
{
    x &= 0x55555555u;
    x = (x | x >> 1) & 0x33333333u;
    x = (x | x >> 2) & 0x0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ffu;
    return (x | x >> 8) & 0x0000ffffu;
}

/* What a tap sees that moves by more than one pixel, or over rows of another length. A tile is made of parts of its rows: of
   up to 16 pixels if the window moves by two, else of one pixel. */
MODEL_FUNCTION void model_see_some(const model_window *w, const model_word *from, size_t planes, size_t tile, size_t i,
                                   size_t j, model_word *to)
{
    const size_t words = model_words(w->height * w->width), most = w->right == 2 ? 16 : 1;
    size_t y = 32 * tile / w->out_width, x = 32 * tile % w->out_width, k = 0, count = 0, n, p;
    size_t first[32];         /* bit of each part */
    uint8_t place[32];        /* and its place in the tile */
    model_word inside[32];    /* which of its pixels lie inside the image */
    for (; k < 32 && y < w->out_height; k += n) {
        const size_t row = y * w->down + i - w->top, column = x * w->right + j - w->left;
        n = w->out_width - x < most ? w->out_width - x : most;
        n = 32 - k < n ? 32 - k : n;
        inside[count] = 0;
        for (p = 0; p < n; p++)
            inside[count] |= (model_word)(row < w->height && column + p * w->right < w->width) << p;
        first[count] = 32 * MODEL_SLACK + row * w->width + column;
        place[count] = (uint8_t)k;
        count += inside[count] != 0;
        x += n;
        if (x == w->out_width) {
            x = 0;
            y++;
        }
    }
    from -= MODEL_SLACK;
    for (; planes > 0; planes--, from += words) {
        model_word seen = 0;
        for (k = 0; k < count; k++) {
            const model_word bits = most == 1 ? from[first[k] / 32] >> first[k] % 32 : model_even(model_bits(from, first[k]));
            seen |= (bits & inside[k]) << place[k];
        }
        *to++ = seen;
    }
}

/* What tap (i, j) sees from the pixels of a tile, with zeros outside the image.

   from: `planes` bit planes of an image, one after the other
   to: a word for each of them */
MODEL_FUNCTION void model_see(const model_window *w, const model_word *from, size_t planes, size_t tile, size_t i, size_t j,
                              model_word *to)
{
    if (w->down == 1 && w->right == 1 && w->out_width == w->width)
        model_see_all(w, from, planes, tile, i, j, to);
    else
        model_see_some(w, from, planes, tile, i, j, to);
}

/* The largest levels that a window sees. Bit planes are compared from the highest one down.

   seen: a word for each plane of each channel */
MODEL_FUNCTION void model_max_levels(const model_window *w, const model_word *levels, size_t channels, size_t planes,
                                     model_word *seen, model_word *largest)
{
    const size_t words = model_words(w->out_height * w->out_width);
    size_t tile, i, j, c, b;
    for (tile = 0; tile < words; tile++) {
        for (c = 0; c < channels * planes; c++)
            largest[c * words + tile] = 0;
        for (i = 0; i < w->rows; i++)
            for (j = 0; j < w->columns; j++) {
                model_see(w, levels, channels * planes, tile, i, j, seen);
                for (c = 0; c < channels; c++) {
                    model_word more = 0, less = 0; /* the pixels whose levels are known to be more or less than before */
                    for (b = planes; b-- > 0;) {
                        model_word *const at = largest + (c * planes + b) * words + tile;
                        const model_word level = seen[c * planes + b], before = *at;
                        more |= level & ~before & ~less;
                        less |= before & ~level & ~more;
                        *at = (level & more) | (before & ~more);
                    }
                }
            }
    }
}

#endif
