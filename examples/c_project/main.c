/* Classifies one image with an exported network:

       ./classify image.raw

   The file has MODEL_HEIGHT x MODEL_WIDTH x MODEL_CHANNELS bytes, row by row, one byte for each channel of a pixel. */

#include "model.h"

#include <stdio.h>

#define IMAGE_BYTES (MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS)

/* The network's working memory belongs to the caller. It is used only during a call, so other code may share it. */
static uint8_t buffer[MODEL_BUFFER_BYTES];

int main(int argc, char **argv)
{
    uint8_t image[IMAGE_BYTES + 1]; /* one byte more, to notice a file that is too long */
    int32_t logits[MODEL_CLASSES];
    size_t bytes;
    FILE *file;
    int k, best = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: %s IMAGE, a file of %d bytes\n", argv[0], IMAGE_BYTES);
        return 2;
    }
    file = fopen(argv[1], "rb");
    if (file == NULL) {
        perror(argv[1]);
        return 2;
    }
    bytes = fread(image, 1, sizeof image, file);
    fclose(file);
    if (bytes != IMAGE_BYTES) {
        fprintf(stderr, "%s must have %d bytes: %d rows of %d pixels with %d channels\n", argv[1], IMAGE_BYTES,
                MODEL_HEIGHT, MODEL_WIDTH, MODEL_CHANNELS);
        return 2;
    }

    model_logits(image, logits, buffer);
    for (k = 1; k < MODEL_CLASSES; k++)
        if (logits[k] > logits[best])
            best = k;
    printf("%s\n", model_class_names[best]);
    return 0;
}
