/* Windows of any size that move over bit planes in any steps and with any border. */

#ifndef MODEL_WINDOW_H
#define MODEL_WINDOW_H

#include "planes.h"
#include "taps.h"

/* A window over images, which have zeros around them. */
typedef struct {
    size_t height, width, row;             /* of an image; bytes of a row of its bit planes */
    size_t out_height, out_width, out_row; /* of what the window leaves */
    size_t channels, planes;
    size_t rows, columns;    /* of the window */
    size_t down, right;      /* how far it moves */
    size_t top, left;        /* rows and columns of border */
    size_t full_height;      /* rows of a plane with its border, */
    size_t full_row;         /* and bytes of such a row: a border of whole bytes, the image, and zeros */
    size_t plane, out_plane; /* bytes of planes with the rows below the image, */
    size_t padded;           /* and of what the window leaves, in whole chunks */
} model_window;

/* Copies a plane into the middle of its border, which is 0 already. */
MODEL_FUNCTION void model_surround(const model_window *w, const uint8_t *plane, uint8_t *MODEL_RESTRICT full)
{
    size_t y;
    full += w->top * w->full_row + (w->left + 7) / 8;
    if (w->full_row == w->row) {
        memcpy(full, plane, w->height * w->row);
        return;
    }
    for (y = 0; y < w->height; y++)
        memcpy(full + y * w->full_row, plane + y * w->row, w->row);
}

/* What pixel (i, j) of the window sees of a plane with its border. Up to 7 bytes more than a plane's are written. */
MODEL_FUNCTION void model_see(const model_window *w, const uint8_t *full, size_t i, size_t j,
                              uint8_t *MODEL_RESTRICT seen)
{
    const size_t first = (w->left + 7) / 8 * 8 - w->left + j; /* the column that is seen at the first place */
    size_t y, x, k;
    full += i * w->full_row;
    for (y = 0; y < w->out_height; y++, full += w->down * w->full_row, seen += w->out_row) {
        /* What a store writes too much, the next one corrects. */
        if (w->right == 1)
            for (k = 0; k < w->out_row; k += 7)
                model_store(seen + k, model_load(full + k + first / 8) >> first % 8);
        else if (w->right == 2)
            for (k = 0; k < w->out_row; k += 3)
                model_store(seen + k, model_even(model_load(full + 2 * k + first / 8) >> first % 8));
        else {
            memset(seen, 0, w->out_row);
            for (x = 0; x < w->out_width; x++) {
                const size_t column = x * w->right + first;
                seen[x / 8] |= (uint8_t)((full[column / 8] >> column % 8 & 1u) << x % 8);
            }
        }
        seen[w->out_row - 1] &= (uint8_t)(255u >> (8 * w->out_row - w->out_width));
    }
}

/* As model_spread. `full` has space for a plane with its border, and `seen` for what the window leaves of one. */
MODEL_FUNCTION void model_spread_window(const model_window *w, const uint8_t *in, size_t chunk, uint8_t *full,
                                        uint8_t *seen, uint8_t *out)
{
    const size_t plane = w->out_height * w->out_row, taps = w->rows * w->columns;
    const size_t entry = w->planes * chunk, next = entry * (1 + taps * w->channels);
    size_t b, c, t, at;
    for (at = 0; at < w->padded; at += chunk)
        memset(out + at / chunk * next, 0, entry);
    memset(full, 0, w->full_height * w->full_row);
    for (b = 0; b < w->planes; b++)
        for (c = 0; c < w->channels; c++, in += w->plane) {
            model_surround(w, in, full);
            for (t = 0; t < taps; t++) {
                uint8_t *to = out + entry * (1 + t * w->channels + c) + b * chunk;
                model_see(w, full, t / w->columns, t % w->columns, seen);
                memset(seen + plane, 0, w->padded - plane);
                for (at = 0; at < w->padded; at += chunk, to += next)
                    memcpy(to, seen + at, chunk);
            }
        }
}

/* The largest levels of windows at all places, 56 of them from `from` on. Planes lie `next` bytes apart. */
MODEL_INLINE void model_largest(const model_window *w, size_t planes, const uint8_t *from, size_t next,
                                uint8_t *MODEL_RESTRICT to)
{
    uint64_t largest[16] = {0};
    size_t i, j, b;
    for (i = 0; i < w->rows; i++)
        for (j = 0; j < w->columns; j++) {
            const uint8_t *place = from + i * w->full_row + j / 8;
            uint64_t x[16], above = 0; /* where the lower bits of what is seen are a larger number */
            for (b = 0; b < planes; b++) {
                x[b] = model_load(place + b * next) >> j % 8;
                above = (above & ~(x[b] ^ largest[b])) | (x[b] & (x[b] ^ largest[b]));
            }
            for (b = 0; b < planes; b++)
                largest[b] ^= (largest[b] ^ x[b]) & above;
        }
    for (b = 0; b < planes; b++)
        model_store(to + b * next, largest[b]);
}

/* The largest level that the window sees. The border has level 0, which none is below. There is space for all planes of
   a channel with their border, for the largest levels of windows at all places, and for what the window leaves of a plane. */
MODEL_FUNCTION void model_max_levels(const model_window *w, const uint8_t *in, uint8_t *full, uint8_t *largest,
                                     uint8_t *seen, uint8_t *out)
{
    const size_t next = w->full_height * w->full_row + 8, places = (w->full_height - w->rows + 1) * w->full_row;
    size_t b, c, k;
    memset(full, 0, w->planes * next);
    for (c = 0; c < w->channels; c++) {
        for (b = 0; b < w->planes; b++)
            model_surround(w, in + (b * w->channels + c) * w->plane, full + b * next);
        for (k = 0; k < places; k += 7) /* what a store writes too much, the next one corrects */
            if (w->planes == 2)         /* as a constant, for speed */
                model_largest(w, 2, full + k, next, largest + k);
            else
                model_largest(w, w->planes, full + k, next, largest + k);
        for (b = 0; b < w->planes; b++) {
            model_see(w, largest + b * next, 0, 0, seen);
            memcpy(out + (b * w->channels + c) * w->out_plane, seen, w->out_plane);
        }
    }
}

#endif
