/* The layers of a BERT over a pack without padding: fp32, bf16 or int8 (VALUES 1, 2, 4 a unit).

   A pack is cut into blocks of about a hundred tokens. A task is one block in one stage: attention
   over the stage before, the two halves of the layer, and query, key and value for the next, all
   while the block's rows are in a core's own cache. Threads take tasks in order; a task waits only
   for the blocks that its sequences reach into. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "tile.h"
#include "pointwise.h"
#if TILES
#include "matrix.h"
#endif
#include "attention.h"
#include "layer.h"

#define TARGET (TILES ? 192 : 96) /* tokens of a block */
#define MOST_THREADS 64

static void task(const Job *job, Bench *b, int stage, int first, int last) {
    const Model *m = job->model;
    float *x = job->x + (size_t)first * job->wide;
    int rows = last - first;
    if (stage) {
        const Layer *layer = m->layers + stage - 1;
        mix(job, b, job->qkv[(stage - 1) & 1], first, last);
        half(job, b, &layer->out, b->left, b->left_bytes, layer->norm_1, first, rows);
        feed_forward(job, b, layer, first, rows);
    } else {
        begin(job, first, rows);
    }
    if (stage < m->count) {
        const char *left = left_of_x(job, b, first, rows);
        value *to = job->qkv[stage & 1] + (size_t)first * job->across;
        multiply(STORE, NONE, &m->layers[stage].qkv, left, bytes_of_x(job, b), b->scales, rows,
                 b->tile, (char *)to, sizeof(value) * job->across);
    } else {
        for (int i = 0; i < rows; i++)
            memcpy(job->output + (size_t)(first + i) * m->width, x + (size_t)i * job->wide,
                   4 * (size_t)m->width);
    }
}

/* Until the blocks that these tokens' sequences reach into have done `stage` stages. Tasks are
   taken in order, so that each of these is done or under way in another thread. One that waits for
   long sleeps: its core may be what the other thread is waiting for. */
static void await(Job *job, int stage, int first, int last) {
    int begin = job->cu[job->sequence[first]], end = job->cu[job->sequence[last - 1] + 1];
    for (int n = begin / job->block; n <= (end - 1) / job->block; n++)
        for (int spins = 0; atomic_load(&job->done[n]) < stage; spins++)
            if (spins < 1000)
                _mm_pause();
            else
                nanosleep(&(struct timespec){0, 20000}, NULL);
}

typedef struct {
    Job *job;
    Bench bench;
} Worker;

static void *work(void *given) {
    Worker *worker = given;
    Job *job = worker->job;
#if TILES
    shape_tiles();
#endif
    for (;;) {
        int t = atomic_fetch_add(&job->next, 1), n = t % job->blocks, stage = t / job->blocks;
        if (stage > job->model->count) break;
        int first = n * job->block, last = first + job->block;
        if (last > job->tokens) last = job->tokens;
        if (stage) await(job, stage, first, last);
        task(job, &worker->bench, stage, first, last);
        atomic_store(&job->done[n], stage + 1);
    }
#if TILES
    _tile_release();
#endif
    return NULL;
}

typedef struct {
    char *at; /* NULL: only how much is wanted */
    size_t taken;
} Memory;

static void *take(Memory *memory, size_t bytes) {
    char *found = memory->at ? memory->at + memory->taken : NULL;
    memory->taken += round_up(bytes, 64) + EDGE;
    return found;
}

static void furnish(Memory *memory, const Job *job, Bench *b) {
    const Model *m = job->model;
    size_t rows = job->block + BAND, head = round_up(m->width / m->heads, 16);
    size_t longest = round_up(job->longest, 32), inner = m->layers->up.outputs;
    b->left_bytes = job->wide * SIZE + EDGE;
    b->inner_bytes = inner * SIZE + EDGE;
    b->wide_bytes = 4 * (inner > (size_t)job->wide ? inner : (size_t)job->wide) + EDGE;
    b->desk.query = take(memory, 4 * head * COLUMNS);
    b->desk.scores = take(memory, 4 * longest * COLUMNS);
    b->desk.values = take(memory, PAIR == 2 ? 4 * longest * head : 0);
    b->desk.mixed = take(memory, 4 * head * COLUMNS);
    b->left = take(memory, rows * b->left_bytes);
    b->inner = take(memory, rows * b->inner_bytes);
    b->wide_left = take(memory, STAGED ? rows * b->wide_bytes : 0);
    b->scales = take(memory, 4 * rows);
    b->tile = take(memory, 4 * BAND * PANEL);
}

static void lay_out(Memory *memory, Job *job, Worker *workers, int threads) {
    size_t rows = job->tokens + SLACK;
    job->x = take(memory, 4 * rows * job->wide);
    job->qkv[0] = take(memory, sizeof(value) * rows * job->across);
    job->qkv[1] = take(memory, sizeof(value) * rows * job->across);
    job->done = take(memory, sizeof(atomic_int) * job->blocks);
    for (int i = 0; i < threads; i++) {
        workers[i].job = job;
        furnish(memory, job, &workers[i].bench);
    }
}

/* Once a process. 0: the layers can be used here. */
int prepare(void) {
#if TILES
    return ask_for_tiles();
#else
    return 0;
#endif
}

/* All layers over a pack: input (T, D) -> output (T, D), fp32. With ids and second, input is written
   as well. cu: the S + 1 borders of the sequences; sequence: T, the sequence of each token; memory:
   of any content, aligned to 64 bytes, or NULL. Returns how many bytes of it are wanted. */
size_t forward(const Model *model, const int32_t *ids, const int32_t *second, float *input,
               float *output, const int32_t *cu, const int32_t *sequence, int tokens, int longest,
               int threads, char *memory) {
    if (tokens < 1) return 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    int blocks = (int)round_up((tokens + TARGET - 1) / TARGET, threads);
    int block = (int)round_up((tokens + blocks - 1) / blocks, BAND);
    Job job = {.model = model, .ids = ids, .second = second, .input = input, .output = output,
               .cu = cu, .sequence = sequence, .tokens = tokens, .block = block,
               .blocks = (tokens + block - 1) / block, .longest = longest, .wide = (int)round_up(model->width, FILL),
               .across = model->layers->qkv.outputs};
    if (threads > job.blocks) threads = job.blocks;
    Worker workers[MOST_THREADS];
    Memory given = {memory, 0};
    lay_out(&given, &job, workers, threads);
    if (!memory) return given.taken;
    for (int n = 0; n < job.blocks; n++) atomic_init(&job.done[n], 0);
    pthread_t others[MOST_THREADS];
    int started = 0;
    while (started < threads - 1 &&
           !pthread_create(others + started, NULL, work, workers + started + 1))
        started++;
    work(workers);
    while (started) pthread_join(others[--started], NULL);
    return given.taken;
}
