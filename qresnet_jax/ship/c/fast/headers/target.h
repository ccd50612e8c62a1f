/* Says which vectors the machine has that the code is compiled for. */

#ifndef MODEL_TARGET_H
#define MODEL_TARGET_H

#include "../../common.h"

/* The number of bytes of the widest vectors; 8 stands for plain C. Define it to keep the code from wider ones. */
#ifndef MODEL_VECTOR
#if !defined(__GNUC__)
#define MODEL_VECTOR 8
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define MODEL_VECTOR 64
#elif defined(__AVX2__)
#define MODEL_VECTOR 32
#elif defined(__SSE2__) || defined(__wasm_simd128__) || (defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN))
#define MODEL_VECTOR 16
#else
#define MODEL_VECTOR 8
#endif
#endif

/* The number of bytes of a model_vec: 8, but while code for wider ones is read. */
#define MODEL_BYTES 8

#if MODEL_VECTOR > 8 && defined(__SSE2__)
#include <immintrin.h>
#elif MODEL_VECTOR > 8 && defined(__wasm_simd128__)
#include <wasm_simd128.h>
#elif MODEL_VECTOR > 8 && defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* A function that is copied to wherever it is called, as its loops become straight code once the caller's constants are
   known. -Os means that nobody wants those copies. */
#if defined(__GNUC__) && !defined(__OPTIMIZE_SIZE__)
#define MODEL_INLINE static inline __attribute__((always_inline, unused))
#elif defined(__GNUC__)
#define MODEL_INLINE static inline __attribute__((unused))
#else
#define MODEL_INLINE static inline
#endif

#endif
