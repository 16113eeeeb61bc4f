/* The product that all is made of: a tile of ROWS rows by up to 48 columns, kept in registers.

   A unit is 32 bits along the axis that is summed over: one fp32, two bf16 or four bytes. Every
   output is the sum over its units in order, whatever stands beside it: its bits depend on nothing
   else. */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define ROWS 8
#define VECTORS 3
#define COLUMNS (16 * VECTORS)
#if TILES
#define BAND 32  /* rows and columns of one step of a layer's products */
#define PANEL 32
#define FILL 64 /* a width is filled up to a multiple */
#if VALUES == 1
#define PARTS 3 /* of bf16, which a product's fp32 is the sum of */
#endif
#else
#define BAND ROWS
#define PANEL COLUMNS
#define FILL COLUMNS
#endif
#ifndef PARTS
#define PARTS 1
#endif
#define SIZE (PARTS == 1 ? 4 / VALUES : 2 * PARTS) /* bytes of a value of a product's left side */

typedef __m512i (*Step)(__m512i sum, __m512i a, __m512i b);

INLINE __m512i step_fp32(__m512i sum, __m512i a, __m512i b) {
    return (__m512i)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
}

#if VALUES > 1
INLINE __m512i step_bf16(__m512i sum, __m512i a, __m512i b) {
    return (__m512i)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

#if VALUES > 2
INLINE __m512i step_int8(__m512i sum, __m512i a, __m512i b) { /* a: unsigned bytes */
    return _mm512_dpbusd_epi32(sum, a, b);
}
#endif

/* out = a b: row i of a begins at a + i * row, its next unit is `next` away; b has `vectors` vectors
   of 16 units side by side, the next ones `below` away. All in units of 32 bits. */
INLINE void tile(Step step, int vectors, const uint32_t *a, size_t row, size_t next,
                 const uint32_t *b, size_t below, int units, uint32_t *out, size_t out_row) {
    __m512i sum[ROWS][VECTORS], right[VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sum[i][v] = _mm512_setzero_si512();
    for (int u = 0; u < units; u++, a += next, b += below) {
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) right[v] = _mm512_loadu_si512(b + 16 * v);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            __m512i left = _mm512_set1_epi32((int)a[i * row]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sum[i][v] = step(sum[i][v], left, right[v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) _mm512_storeu_si512(out + i * out_row + 16 * v, sum[i][v]);
}
