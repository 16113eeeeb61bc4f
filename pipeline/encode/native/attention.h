/* Attention of some tokens of one sequence over all of it, for one head.

   Lanes are queries: keys and values are read as they lie, and the softmax of a query stays in its
   lane. A query's sums go over the keys in order, so that its bits depend on its sequence alone. */

#if VALUES == 1
typedef float value; /* of query, key and value */
#define PAIR 1
#define step_value step_fp32
#else
typedef uint16_t value;
#define PAIR 2
#define step_value step_bf16
#endif
#define ATTEND_TILES (TILES && VALUES > 1)

typedef struct {
    const value *qkv; /* row 0 of the sequence, at query 0 of the head */
    int stride;       /* values from one token to the next */
    int width;        /* of the model: key and value of the head lie so far behind its query */
    int length, head; /* tokens of the sequence; values of the head */
    const float *bias; /* of distance 0 from query to key, ascending; or NULL */
} Head;

typedef struct {
    uint32_t *query, *scores, *values, *mixed;
} Desk; /* one thread's: head x 48, length x 48, length x head, head x 48; filled up to tiles */

INLINE void transpose(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Sixteen queries from `first` on become columns. */
static void take_queries(const Head *h, int first, uint32_t *to) {
    int units = h->head / PAIR;
    for (int u = 0; u < units; u += 16) {
        __m512i r[16];
        for (int i = 0; i < 16; i++)
            r[i] = _mm512_maskz_loadu_epi32(
                lanes(units - u), (const uint32_t *)(h->qkv + (size_t)(first + i) * h->stride) + u);
        transpose(r);
        for (int i = 0; i < 16 && (ATTEND_TILES || u + i < units); i++) /* zeros behind them */
            _mm512_storeu_si512(to + (u + i) * COLUMNS, r[i]);
    }
}

#if PAIR == 2
/* Values d .. d + 15 of tokens t and t + 1 side by side, zeros behind the last token. */
INLINE __m512i value_pair(const Head *h, int t, int d) {
    const value *from = h->qkv + 2 * h->width + (size_t)t * h->stride + d;
    __m512i a = _mm512_setzero_si512(), b = a;
    if (t < h->length) a = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    if (t + 1 < h->length)
        b = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + h->stride)));
    return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}
#endif

#if ATTEND_TILES
/* Rows of pairs for each of the head's values: the left side of the second product. */
static void pair_values(const Head *h, uint32_t *to, int pairs) {
    for (int d = 0; d < h->head; d += 16)
        for (int p = 0; p < pairs; p += 16) {
            __m512i r[16];
            for (int i = 0; i < 16; i++) r[i] = value_pair(h, 2 * (p + i), d);
            transpose(r);
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + (d + i) * pairs + p, r[i]);
        }
}
#elif PAIR == 2
/* Pairs as rows: what step_bf16 sums over. */
static void pair_values(const Head *h, uint32_t *to, int pairs) {
    int wide = (h->head + 15) / 16 * 16;
    for (int p = 0; p < pairs; p++)
        for (int d = 0; d < h->head; d += 16)
            _mm512_storeu_si512(to + p * wide + d, value_pair(h, 2 * p, d));
}
#endif

/* Scores of sixteen queries -> weights in their place, paired for bf16; returns 1 / their sum. */
INLINE __m512 soften(const Head *h, float *scores, int first) {
    const float log2_e = 1.44269504f, root = 1 / sqrtf((float)h->head);
    __m512 most = constant(-INFINITY), sum = _mm512_setzero_ps();
    __m512 factor = constant(h->bias ? log2_e : log2_e * root);
    for (int t = 0; t < h->length; t++) {
        __m512 s = _mm512_loadu_ps(scores + t * COLUMNS);
        if (h->bias) {
            s = _mm512_fmadd_ps(s, constant(root), _mm512_loadu_ps(h->bias + first - t));
            _mm512_storeu_ps(scores + t * COLUMNS, s);
        }
        most = _mm512_max_ps(s, most);
    }
    most = _mm512_mul_ps(most, factor);
    for (int t = 0; t < h->length; t += PAIR) {
        __m512 a = _mm512_loadu_ps(scores + t * COLUMNS);
        a = power_of_two(_mm512_fmsub_ps(a, factor, most));
        sum = _mm512_add_ps(sum, a);
#if PAIR == 1
        _mm512_storeu_ps(scores + t * COLUMNS, a);
#else
        __m512 b = _mm512_setzero_ps();
        if (t + 1 < h->length) {
            b = _mm512_loadu_ps(scores + (t + 1) * COLUMNS);
            b = power_of_two(_mm512_fmsub_ps(b, factor, most));
            sum = _mm512_add_ps(sum, b);
        }
        __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
        __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
        high = _mm512_slli_epi32(high, 16);
        _mm512_storeu_si512(scores + t / 2 * COLUMNS, _mm512_or_si512(low, high));
#endif
    }
    return _mm512_div_ps(constant(1), sum);
}

/* Columns become rows again, each divided by its sum; as bf16 where the next product takes it. */
INLINE void put_mixed(const Head *h, const float *mixed, __m512 share, int rows, char *out,
                      size_t out_bytes) {
    for (int d = 0; d < h->head; d += 16) {
        __m512i r[16];
        __mmask16 mask = lanes(h->head - d);
        for (int i = 0; i < 16; i++)
            r[i] = (__m512i)_mm512_mul_ps(_mm512_loadu_ps(mixed + (d + i) * COLUMNS), share);
        transpose(r);
        for (int i = 0; i < rows; i++) {
            char *to = out + i * out_bytes;
#if VALUES == 2
            _mm256_mask_storeu_epi16((uint16_t *)to + d, mask,
                                     (__m256i)_mm512_cvtneps_pbh((__m512)r[i]));
#else
            _mm512_mask_storeu_ps((float *)to + d, mask, (__m512)r[i]);
#endif
        }
    }
}

#if !ATTEND_TILES
#define FIXED(name, vectors)                                                                     \
    static __attribute__((noinline)) void name(const uint32_t *a, size_t row, size_t next,      \
                                               const uint32_t *b, int units, uint32_t *out) {   \
        tile(step_value, vectors, a, row, next, b, COLUMNS, units, out, COLUMNS);                \
    }
FIXED(tile_1, 1)
FIXED(tile_2, 2)
FIXED(tile_3, 3)
static void (*const TILES_OF[])(const uint32_t *, size_t, size_t, const uint32_t *, int,
                             uint32_t *) = {tile_1, tile_2, tile_3};
#endif

/* Scores of the queries of the desk, 16 * vectors columns. */
INLINE void score(const Head *h, Desk *desk, int vectors) {
    const uint32_t *keys = (const uint32_t *)(h->qkv + h->width);
    size_t stride = (size_t)h->stride / PAIR;
    int units = h->head / PAIR;
#if ATTEND_TILES
    for (int t = 0; t < h->length; t += SIDE)
        STRIPS[vectors - 1](keys + t * stride, stride, desk->query, (units + 15) / 16 * 16,
                            desk->scores + t * COLUMNS);
#else
    for (int t = 0; t < h->length; t += ROWS)
        TILES_OF[vectors - 1](keys + t * stride, stride, 1, desk->query, units,
                              desk->scores + t * COLUMNS);
#endif
}

/* Their weights' sums of values, one row for each of the head's. */
INLINE void gather(const Head *h, Desk *desk, int vectors, int pairs) {
#if ATTEND_TILES
    memset(desk->scores + (h->length + 1) / 2 * COLUMNS, 0,
           4 * COLUMNS * (size_t)(pairs - (h->length + 1) / 2));
    for (int d = 0; d < h->head; d += SIDE)
        STRIPS[vectors - 1](desk->values + d * pairs, pairs, desk->scores, pairs,
                            desk->mixed + d * COLUMNS);
#else
    const uint32_t *values = PAIR == 1 ? (const uint32_t *)(h->qkv + 2 * h->width) : desk->values;
    size_t stride = PAIR == 1 ? (size_t)h->stride : (size_t)(h->head + 15) / 16 * 16;
    for (int d = 0; d < h->head; d += ROWS)
        TILES_OF[vectors - 1](values + d, 1, stride, desk->scores, pairs,
                              desk->mixed + d * COLUMNS);
#endif
}

/* Queries first .. last - 1 of the sequence; row `first` of the result goes to `out`. */
static void attend(const Head *h, int first, int last, Desk *desk, char *out, size_t out_bytes) {
    int pairs = (h->length + PAIR - 1) / PAIR;
    if (ATTEND_TILES) pairs = (pairs + 15) / 16 * 16;
#if PAIR == 2
    pair_values(h, desk->values, pairs);
#endif
    for (; first < last; first += COLUMNS, out += COLUMNS * out_bytes) {
        int rows = last - first < COLUMNS ? last - first : COLUMNS, vectors = (rows + 15) / 16;
        for (int v = 0; v < vectors; v++)
            take_queries(h, first + 16 * v, desk->query + 16 * v);
        score(h, desk, vectors);
        __m512 share[VECTORS];
        for (int v = 0; v < vectors; v++)
            share[v] = soften(h, (float *)desk->scores + 16 * v, first + 16 * v);
        gather(h, desk, vectors, pairs);
        for (int v = 0; v < vectors; v++) {
            int here = rows - 16 * v < 16 ? rows - 16 * v : 16;
            put_mixed(h, (const float *)desk->mixed + 16 * v, share[v], here,
                      out + (size_t)(16 * v) * out_bytes, out_bytes);
        }
    }
}
