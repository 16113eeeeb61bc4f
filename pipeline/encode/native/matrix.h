/* The same products on AMX: a tile is 16 rows of 16 units, and one instruction multiplies two.

   A panel's rows lie as the right side's tile wants them, and a token's units as the left side's.
   The units of an output are summed in order here too. */

#include <sys/syscall.h>
#include <unistd.h>

#define SIDE 16 /* rows of a tile, and units of each */

/* Linux hands out the registers, 8 KiB a thread, to processes that ask. 0: granted. */
static int ask_for_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18) != 0; }

/* This thread's eight tiles get their shape. */
static void shape_tiles(void) {
    struct {
        uint8_t palette, start, none[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.row_bytes[i] = 4 * SIDE, shape.rows[i] = SIDE;
    _tile_loadconfig(&shape);
}

#if VALUES == 4
#define multiply_tiles _tile_dpbusd
#else
#define multiply_tiles _tile_dpbf16ps
#endif
#define ABOVE_BELOW(part) \
    _tile_loadd(4, left + 4 * (u + (part) * units), row_bytes); \
    _tile_loadd(5, below + 4 * (u + (part) * units), row_bytes)
#define RIGHT(part) \
    _tile_loadd(6, panel + (u + (part) * units) * PANEL, 4 * PANEL); \
    _tile_loadd(7, panel + (u + (part) * units) * PANEL + SIDE, 4 * PANEL)
#define MULTIPLY \
    multiply_tiles(0, 4, 6); \
    multiply_tiles(1, 4, 7); \
    multiply_tiles(2, 5, 6); \
    multiply_tiles(3, 5, 7)

/* 32 rows times a panel of 32 columns. An fp32 operand is three of bf16, each what the ones before
   leave of it; products that are too small for fp32 to see are left out. Meanwhile lines `fetch` to
   `until` of each step of the next panel come nearer: no core's cache has all weights. */
static void product_tile(const char *left, size_t row_bytes, const uint32_t *panel, int units,
                         int fetch, int until, float *out) {
    const uint32_t *next = panel + (size_t)units * PANEL;
    const char *below = left + SIDE * row_bytes;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int u = 0; u < units; u += SIDE) {
        for (int i = fetch; i < until; i++)
            _mm_prefetch((const char *)(next + u * PANEL + 16 * i), _MM_HINT_T1);
        ABOVE_BELOW(0);
        RIGHT(0);
        MULTIPLY;
#if PARTS == 3
        RIGHT(1);
        MULTIPLY;
        RIGHT(2);
        MULTIPLY;
        ABOVE_BELOW(1);
        RIGHT(1);
        MULTIPLY;
        RIGHT(0);
        MULTIPLY;
        ABOVE_BELOW(2);
        MULTIPLY;
#endif
    }
    _tile_stored(0, out, 4 * PANEL);
    _tile_stored(1, out + SIDE, 4 * PANEL);
    _tile_stored(2, out + SIDE * PANEL, 4 * PANEL);
    _tile_stored(3, out + SIDE * PANEL + SIDE, 4 * PANEL);
}

#if VALUES > 1
/* Rows of `a` times columns of `b`, both of bf16; `row` and COLUMNS units from one row to the next.
   units: a multiple of 16, `vectors` of 16 columns each. */
#define STRIP(name, vectors)                                                                     \
    static __attribute__((noinline)) void name(const uint32_t *a, size_t row, const uint32_t *b, \
                                               int units, uint32_t *out) {                      \
        _tile_zero(0);                                                                           \
        _tile_zero(1);                                                                           \
        _tile_zero(2);                                                                           \
        for (int u = 0; u < units; u += SIDE, b += SIDE * COLUMNS) {                             \
            _tile_loadd(3, a + u, 4 * row);                                                      \
            _tile_loadd(4, b, 4 * COLUMNS);                                                      \
            _tile_dpbf16ps(0, 3, 4);                                                             \
            if (vectors > 1) {                                                                   \
                _tile_loadd(5, b + SIDE, 4 * COLUMNS);                                           \
                _tile_dpbf16ps(1, 3, 5);                                                         \
            }                                                                                    \
            if (vectors > 2) {                                                                   \
                _tile_loadd(6, b + 2 * SIDE, 4 * COLUMNS);                                       \
                _tile_dpbf16ps(2, 3, 6);                                                         \
            }                                                                                    \
        }                                                                                        \
        _tile_stored(0, out, 4 * COLUMNS);                                                       \
        if (vectors > 1) _tile_stored(1, out + SIDE, 4 * COLUMNS);                               \
        if (vectors > 2) _tile_stored(2, out + 2 * SIDE, 4 * COLUMNS);                           \
    }
STRIP(strip_1, 1)
STRIP(strip_2, 2)
STRIP(strip_3, 3)
static void (*const STRIPS[])(const uint32_t *, size_t, const uint32_t *, int, uint32_t *) = {
    strip_1, strip_2, strip_3};
#endif
