/* What is done value by value, sixteen at a time. All in fp32. */

#include <math.h>
#include <string.h>

INLINE __m512 constant(float value) { return _mm512_set1_ps(value); }

/* Lanes below `count`: what is left of a row whose width is no multiple of sixteen. */
INLINE __mmask16 lanes(int count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

INLINE __m512 polynomial(__m512 x, const float *c, int terms) {
    __m512 y = constant(c[terms - 1]);
#pragma GCC unroll 16
    for (int n = terms - 2; n >= 0; n--) y = _mm512_fmadd_ps(y, x, constant(c[n]));
    return y;
}

/* 2 to the x: a polynomial of what is left of x, scaled by its nearest integer. Off by 1e-7 in fp32,
   by 3e-6 where the result is rounded to bf16. */
INLINE __m512 power_of_two(__m512 x) {
#if VALUES == 1
    static const float c[] = {1.00000000f,    0.693147206f,   0.240226469f,  0.0555032878f,
                              0.00961848896f, 0.00133999315f, 0.000153458122f};
#else
    static const float c[] = {0.999999261f, 0.693121814f, 0.240247448f, 0.0559178625f,
                              0.00957010212f};
#endif
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_scalef_ps(polynomial(_mm512_sub_ps(x, whole), c, sizeof c / sizeof *c), whole);
}

enum { NONE, GELU, GELU_TANH, RELU };

/* x times the normal distribution's share below x. fp32: its density times a polynomial of
   1 / (1 + 0.3 |x|), exact but for rounding; else one polynomial, off by 4e-5, a hundredth of what
   rounding to bf16 does. */
INLINE __m512 gelu(__m512 x) {
#if VALUES == 1
    static const float c[] = {-0.00230675969f, 0.146303026f, -0.0133573379f, 0.482626383f,
                              -0.548968766f, 0.707740506f, -0.323771935f, 0.0517348825f};
    __m512 y = _mm512_abs_ps(x), one = constant(1);
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(y, constant(0.3f), one));
    __m512 density = power_of_two(_mm512_mul_ps(_mm512_mul_ps(y, y), constant(-0.72134752f)));
    __m512 tail = _mm512_mul_ps(density, polynomial(t, c, 8)); /* the share beyond |x| */
    __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mul_ps(x, _mm512_mask_sub_ps(tail, above, one, tail));
#else
    static const float c[] = {
        0.39890234f,    -0.066344547f,  0.0098160195f,   -0.001108579f,  9.3422318e-05f,
        -5.6268361e-06f, 2.2556881e-07f, -5.3286314e-09f, 5.5660583e-11f};
    __m512 z = _mm512_max_ps(constant(-4.25f), _mm512_min_ps(constant(4.25f), x));
    __m512 share = _mm512_fmadd_ps(z, polynomial(_mm512_mul_ps(z, z), c, 9), constant(0.5f));
    return _mm512_mul_ps(x, share);
#endif
}

/* x / (1 + e^-2y) with y = sqrt(2/pi) (x + 0.044715 x^3), which is x/2 (1 + tanh y). */
INLINE __m512 gelu_tanh(__m512 x) {
    __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), constant(0.044715f), constant(1));
    __m512 y = _mm512_mul_ps(_mm512_mul_ps(x, cubic), constant(-2.302208198f)); /* times log2 e */
    return _mm512_div_ps(x, _mm512_add_ps(constant(1), power_of_two(y)));
}

INLINE __m512 activated(int act, __m512 x) {
    switch (act) {
        case GELU: return gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        case RELU: return _mm512_max_ps(x, _mm512_setzero_ps());
        default: return x;
    }
}

/* LayerNorm of a row in place; `weight` and `bias` go on with zeros to a multiple of sixteen. */
static void normalise(float *x, int width, const float *weight, const float *bias, float eps) {
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (int i = 0; i < width; i += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    __m512 mean = constant(_mm512_reduce_add_ps(sum) / (float)width);
    for (int i = 0; i < width; i += 16) {
        __m512 apart = _mm512_maskz_sub_ps(lanes(width - i), _mm512_loadu_ps(x + i), mean);
        squares = _mm512_fmadd_ps(apart, apart, squares);
    }
    float variance = _mm512_reduce_add_ps(squares) / (float)width;
    __m512 scale = constant(1.0f / sqrtf(variance + eps));
    for (int i = 0; i < width; i += 16) {
        __m512 apart = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        __m512 scaled = _mm512_mul_ps(_mm512_mul_ps(apart, scale), _mm512_loadu_ps(weight + i));
        _mm512_storeu_ps(x + i, _mm512_add_ps(scaled, _mm512_loadu_ps(bias + i)));
    }
}

/* A row as the left side of a product takes it: as it is, cut into parts, rounded to bf16, or as unsigned bytes
   around 128 times a scale of its own, which is returned. `to` may be `from`, but for bytes. */
INLINE float operand(const float *from, int width, void *to) {
#if PARTS > 1
    for (int i = 0; i < width; i += 16) {
        __m512 left = _mm512_loadu_ps(from + i);
        for (int part = 0; part < PARTS; part++) {
            __m256i bits = (__m256i)_mm512_cvtneps_pbh(left);
            _mm256_storeu_si256((__m256i *)((uint16_t *)to + part * width + i), bits);
            left = _mm512_sub_ps(left, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
        }
    }
#elif VALUES == 1
    if (to != (const void *)from) memcpy(to, from, 4 * (size_t)width);
#elif VALUES == 2
    for (int i = 0; i < width; i += 16)
        _mm256_storeu_si256((__m256i *)((uint16_t *)to + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#else
    __m512i sign = _mm512_set1_epi32(0x7fffffff), most = _mm512_setzero_si512();
    for (int i = 0; i < width; i += 16) /* as integers, so that a NaN is the largest */
        most = _mm512_max_epi32(most, _mm512_and_si512(sign, _mm512_loadu_si512(from + i)));
    int bits = _mm512_reduce_max_epi32(most);
    float largest;
    memcpy(&largest, &bits, 4);
    float scale = bits ? largest / 127 : 1;
    __m512 shrink = constant(1 / scale);
    for (int i = 0; i < width; i += 16) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + i), shrink));
        whole = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
        _mm_storeu_si128((__m128i *)((uint8_t *)to + i), _mm512_cvtepi32_epi8(whole));
    }
    return scale;
#endif
    return 1;
}
