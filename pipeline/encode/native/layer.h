/* One layer over one block of tokens, all of it in a core's own cache. */

#define SLACK 64 /* rows behind the last token: read by whole tiles, never used */
#define EDGE 64  /* bytes between rows, so that they do not fall on the same lines of a cache */

typedef struct {
    const uint32_t *weight; /* panels of outputs: (N / PANEL, K, PANEL) units */
    const float *bias;      /* N */
    const float *scale;     /* N, int8: of a weight's row */
    const int32_t *offset;  /* N, int8: what 128 more in every byte of the left side adds */
    int outputs, units;     /* N, a multiple of FILL; K */
} Product;

typedef struct {
    Product qkv, out, up, down;
    const float *norm_1[2], *norm_2[2];
} Layer;

typedef struct {
    const float *token, *segment, *position; /* rows of D; no segments: NULL */
    const float *norm[2];
} Tables;

typedef struct {
    const Layer *layers;
    int count, width, heads, act;
    float eps;
    const float *bias; /* (heads, 2 * reach + 1): what a distance adds to a score; or NULL */
    int reach;
    Tables tables;
} Model;

typedef struct {
    const Model *model;
    const int32_t *ids, *second; /* T; S: where segment 1 begins; or NULL, and input is given */
    float *input, *output;       /* (T, D) */
    const int32_t *cu;  /* S + 1 */
    const int32_t *sequence; /* T: of which sequence a token is */
    int tokens, block, blocks, longest, wide, across; /* columns of a row of x, of qkv */
    float *x;
    value *qkv[2];
    atomic_int *done; /* stages of each block */
    atomic_int next;
} Job;

/* A left side that no single value gives is made of a whole row of fp32. */
#define STAGED (VALUES == 4 || PARTS > 1)

typedef struct {
    Desk desk;
    char *left, *inner;   /* left sides: of a row of x or of attention, of a row of F */
    float *wide_left;     /* staged: such rows before they are a left side */
    float *scales, *tile; /* int8: of each row */
    size_t left_bytes, inner_bytes, wide_bytes;
} Bench;

static size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

#if !TILES
static __attribute__((noinline)) void product_tile(const char *left, size_t row_bytes,
                                                   const uint32_t *panel, int units, int fetch,
                                                   int until, float *out) {
    (void)fetch, (void)until;
#if VALUES == 1
    Step step = step_fp32;
#elif VALUES == 2
    Step step = step_bf16;
#else
    Step step = step_int8;
#endif
    tile(step, VECTORS, (const uint32_t *)left, row_bytes / 4, 1, panel, COLUMNS, units,
         (uint32_t *)out, COLUMNS);
}
#endif

enum { STORE, ADD, ACTIVATE };

/* What becomes of sixteen sums at column n: a value of qkv, an addition to x, a left side. */
INLINE void finish(int kind, int act, const Product *p, const float *sums, float scale, int n,
                   void *to) {
    (void)scale;
#if VALUES == 4
    __m512i whole = _mm512_add_epi32(_mm512_loadu_si512(sums), _mm512_loadu_si512(p->offset + n));
    __m512 factor = _mm512_mul_ps(constant(scale), _mm512_loadu_ps(p->scale + n));
    __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), factor, _mm512_loadu_ps(p->bias + n));
#else
    __m512 y = _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_loadu_ps(p->bias + n));
#endif
    if (kind == ADD) {
        float *x = (float *)to + n;
        _mm512_storeu_ps(x, _mm512_add_ps(_mm512_loadu_ps(x), y));
    } else if (kind == ACTIVATE && STAGED) {
        _mm512_storeu_ps((float *)to + n, activated(act, y));
    } else {
        if (kind == ACTIVATE) y = activated(act, y);
#if VALUES == 1
        _mm512_storeu_ps((float *)to + n, y);
#else
        _mm256_storeu_si256((__m256i *)((uint16_t *)to + n), (__m256i)_mm512_cvtneps_pbh(y));
#endif
    }
}

/* rows of `left` times the weights, each row's result to its place in `to`. */
INLINE void multiply(int kind, int act, const Product *p, const char *left, size_t left_bytes,
                     const float *scales, int rows, float *sums, char *to, size_t to_bytes) {
    const uint32_t *panel = p->weight;
    /* Of a panel for each step over its units; six products a line leave time enough without. */
    int lines = PARTS == 1 ? PANEL : 0;
    for (int n = 0; n < p->outputs; n += PANEL, panel += (size_t)p->units * PARTS * PANEL)
        for (int m = 0; m < rows; m += BAND) {
            int until = m + BAND < rows ? lines * (m + BAND) / rows : lines;
            product_tile(left + m * left_bytes, left_bytes, panel, p->units, lines * m / rows,
                         until, sums);
            for (int i = 0; i < BAND; i++)
                for (int v = 0; v < PANEL; v += 16)
                    finish(kind, act, p, sums + i * PANEL + v, scales[m + i], n + v,
                           to + (m + i) * to_bytes);
        }
}

/* Rows of x: LayerNorm(token + segment + position), written to `input`; or what stands there. */
static void begin(const Job *job, int first, int rows) {
    const Model *m = job->model;
    int width = m->width;
    for (int t = first; t < first + rows; t++) {
        float *x = job->x + (size_t)t * job->wide, *input = job->input + (size_t)t * width;
        memset(x + width, 0, 4 * (size_t)(job->wide - width));
        if (!job->ids) {
            memcpy(x, input, 4 * (size_t)width);
            continue;
        }
        int s = job->sequence[t], place = t - job->cu[s];
        const float *token = m->tables.token + (size_t)job->ids[t] * width;
        const float *position = m->tables.position + (size_t)place * width;
        const float *segment = m->tables.segment;
        if (segment && place >= job->second[s]) segment += width;
        for (int i = 0; i < width; i += 16) {
            __mmask16 mask = lanes(width - i);
            __m512 sum = _mm512_maskz_loadu_ps(mask, token + i);
            if (segment) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, segment + i));
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, position + i));
            _mm512_mask_storeu_ps(x + i, mask, sum);
        }
        normalise(x, width, m->tables.norm[0], m->tables.norm[1], m->eps);
        memcpy(input, x, 4 * (size_t)width);
    }
}

/* Rows of x as a left side. */
static const char *left_of_x(const Job *job, Bench *b, int first, int rows) {
    const float *x = job->x + (size_t)first * job->wide;
#if VALUES == 1 && !STAGED
    (void)b, (void)rows;
    return (const char *)x;
#else
    for (int i = 0; i < rows; i++)
        b->scales[i] = operand(x + (size_t)i * job->wide, job->wide, b->left + i * b->left_bytes);
    return b->left;
#endif
}

static size_t bytes_of_x(const Job *job, const Bench *b) {
    return VALUES == 1 && !STAGED ? 4 * (size_t)job->wide : b->left_bytes;
}

/* Attention of the tokens first .. last - 1, as a left side. */
static void mix(const Job *job, Bench *b, const value *qkv, int first, int last) {
    const Model *m = job->model;
    int head = m->width / m->heads;
    char *out = STAGED ? (char *)b->wide_left : b->left;
    size_t bytes = STAGED ? b->wide_bytes : b->left_bytes;
    for (int at = first; at < last;) {
        int s = job->sequence[at], begin = job->cu[s], end = job->cu[s + 1];
        int until = end < last ? end : last;
        for (int h = 0; h < m->heads; h++) {
            const float *bias = m->bias ? m->bias + h * (2 * m->reach + 1) + m->reach : NULL;
            Head one = {qkv + (size_t)begin * job->across + h * head, job->across, m->width,
                        end - begin, head, bias};
            char *to = out + (at - first) * bytes + (size_t)h * head * (VALUES == 2 ? 2 : 4);
            attend(&one, at - begin, until - begin, &b->desk, to, bytes);
        }
        at = until;
    }
    for (int i = 0; i < last - first; i++) {
        size_t size = VALUES == 2 ? 2 : 4;
        memset(out + i * bytes + m->width * size, 0, (job->wide - m->width) * size);
        if (STAGED)
            b->scales[i] = operand((float *)(out + i * bytes), job->wide,
                                   b->left + i * b->left_bytes);
    }
}

static void half(const Job *job, Bench *b, const Product *p, const char *left, size_t bytes,
                 const float *const norm[2], int first, int rows) {
    float *x = job->x + (size_t)first * job->wide;
    multiply(ADD, NONE, p, left, bytes, b->scales, rows, b->tile, (char *)x, 4 * job->wide);
    for (int i = 0; i < rows; i++)
        normalise(x + (size_t)i * job->wide, job->model->width, norm[0], norm[1], job->model->eps);
}

static void feed_forward(const Job *job, Bench *b, const Layer *layer, int first, int rows) {
    const char *left = left_of_x(job, b, first, rows);
    char *to = STAGED ? (char *)b->wide_left : b->inner;
    size_t bytes = STAGED ? b->wide_bytes : b->inner_bytes;
    const Product *up = &layer->up;
#define UP(act) \
    case act: \
        multiply(ACTIVATE, act, up, left, bytes_of_x(job, b), b->scales, rows, b->tile, to, bytes); \
        break;
    switch (job->model->act) { UP(GELU) UP(GELU_TANH) UP(RELU) }
    if (STAGED)
        for (int i = 0; i < rows; i++)
            b->scales[i] = operand((float *)(to + i * bytes), up->outputs,
                                   b->inner + i * b->inner_bytes);
    half(job, b, &layer->down, b->inner, b->inner_bytes, layer->norm_2, first, rows);
}
