/* The instructions of SSE2 that the code takes. WebAssembly has nearly the same ones under other names. */

#ifndef MODEL_SSE2_H
#define MODEL_SSE2_H

#include "target.h"

/* MODEL_SSE2 says that there are such instructions. */
#if MODEL_VECTOR >= 16 && defined(__SSE2__)
#define MODEL_SSE2
#elif MODEL_VECTOR >= 16 && defined(__wasm_simd128__)
#define MODEL_SSE2
typedef v128_t __m128i;
#define _mm_setzero_si128() wasm_i64x2_const(0, 0)
#define _mm_set1_epi16(x) wasm_i16x8_splat(x)
#define _mm_set1_epi32(x) wasm_i32x4_splat(x)
#define _mm_cvtsi32_si128(x) wasm_i32x4_make(x, 0, 0, 0)
#define _mm_cmpgt_epi16(a, b) wasm_i16x8_gt(a, b)
#define _mm_add_epi16(a, b) wasm_i16x8_add(a, b)
#define _mm_adds_epi16(a, b) wasm_i16x8_add_sat(a, b)
#define _mm_add_epi32(a, b) wasm_i32x4_add(a, b)
#define _mm_sub_epi16(a, b) wasm_i16x8_sub(a, b)
#define _mm_max_epi16(a, b) wasm_i16x8_max(a, b)
#define _mm_madd_epi16(a, b) wasm_i32x4_dot_i16x8(a, b)
#define _mm_mullo_epi16(a, b) wasm_i16x8_mul(a, b)
#define _mm_slli_epi16(a, n) wasm_i16x8_shl(a, n)
#define _mm_sra_epi32(a, n) wasm_i32x4_shr(a, (uint32_t)wasm_i32x4_extract_lane(n, 0))
#define _mm_packs_epi32(a, b) wasm_i16x8_narrow_i32x4(a, b)
#define _mm_packus_epi16(a, b) wasm_u8x16_narrow_i16x8(a, b)
#define _mm_unpacklo_epi16(a, b) wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define _mm_unpackhi_epi16(a, b) wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#endif

#endif
