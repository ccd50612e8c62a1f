/* What the code of both profiles is built on. */

#ifndef MODEL_COMMON_H
#define MODEL_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A function that not every network calls, which is nothing to warn of. */
#ifdef __GNUC__
#define MODEL_FUNCTION static __attribute__((unused))
#else
#define MODEL_FUNCTION static inline
#endif

/* The same bytes of the caller's buffer hold numbers of one type after the other. A compiler that draws conclusions
   from types must know that. */
#ifdef __GNUC__
#define MODEL_ALIAS __attribute__((may_alias))
#else
#define MODEL_ALIAS
#endif

typedef int16_t MODEL_ALIAS model_int16;
typedef int32_t MODEL_ALIAS model_int32;

#endif
