/* Types and macros for the code of both profiles. */

#ifndef MODEL_COMMON_H
#define MODEL_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Marks a function that some networks do not call, so that compilers do not warn about it. */
#ifdef __GNUC__
#define MODEL_FUNCTION static __attribute__((unused))
#else
#define MODEL_FUNCTION static inline
#endif

/* C++ has no `restrict`, but its compilers know it by another name. */
#ifdef __cplusplus
#define MODEL_RESTRICT __restrict
#else
#define MODEL_RESTRICT restrict
#endif

/* The same bytes of the caller's buffer hold numbers of different types, one after the other. Compilers that optimize by
   types must be told so. */
#ifdef __GNUC__
#define MODEL_ALIAS __attribute__((may_alias))
#else
#define MODEL_ALIAS
#endif

typedef int16_t MODEL_ALIAS model_int16;
typedef int32_t MODEL_ALIAS model_int32;

#endif
