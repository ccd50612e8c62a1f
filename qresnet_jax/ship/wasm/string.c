/* Longer copies, which clang makes calls of. */

#include "string.h"

#include <stdint.h>

#undef memcpy
#undef memset

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    uint8_t *a = to;
    const uint8_t *b = from;
    uint64_t word;
    for (; n >= 8; n -= 8, a += 8, b += 8) {
        __builtin_memcpy(&word, b, 8);
        __builtin_memcpy(a, &word, 8);
    }
    for (; n; n--)
        *a++ = *b++;
    return to;
}

void *memset(void *to, int value, size_t n)
{
    uint8_t *a = to;
    const uint64_t word = 0x0101010101010101u * (uint8_t)value;
    for (; n >= 8; n -= 8, a += 8)
        __builtin_memcpy(a, &word, 8);
    for (; n; n--)
        *a++ = (uint8_t)value;
    return to;
}
