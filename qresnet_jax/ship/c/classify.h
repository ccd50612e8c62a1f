/* The last layer of both profiles. */

#ifndef MODEL_CLASSIFY_H
#define MODEL_CLASSIFY_H

#include "common.h"

/* logits = weights @ x + bias, where the weights lie in the order [class][feature]. */
MODEL_FUNCTION void model_classify(const model_int16 *x, const int16_t *weights, const int32_t *bias, size_t features,
                                   size_t classes, int32_t *logits)
{
    size_t f, k;
    for (k = 0; k < classes; k++) {
        int32_t sum = bias[k];
        for (f = 0; f < features; f++)
            sum += (int32_t)x[f] * weights[k * features + f];
        logits[k] = sum;
    }
}

#endif
