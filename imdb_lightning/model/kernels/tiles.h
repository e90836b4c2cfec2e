/* What generated cells are made from: products of packed matrices, activations, rows of numbers.
 *
 * Each thread keeps its own reviews for all steps, so that no thread waits for another within a
 * sequence. Sizes with a P (HP, IP) are rounded up to whole vectors.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, PANEL = 4 };
#elif defined(__AVX__)
enum { LANES = 8, PANEL = 2 };
#elif defined(__aarch64__)
enum { LANES = 4, PANEL = 4 };
#else
enum { LANES = 4, PANEL = 2 };
#endif
enum { ROWS = 6, WIDTH = PANEL * LANES };

enum { BLOCK = 64 };   /* reviews that go through time together: their states stay in the cache */
enum { CHUNK = 128 };  /* rows of gate gradients that are summed into the weights' at once */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* The thread pool that torch uses: a second one would fight with it for the cores. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned);
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);

/* native.py has the same fields in the same order. */
struct call {
    long threads, T, B, I, H;
    long grad_h_step;                /* floats from one step of grad_h to the next */
    long out_of_memory;
    const long *lengths;             /* (B,): steps of each review; after them its state stays */
    const float *x;                  /* (T, B, I) */
    const float *rows;               /* (n, HP): sums of vectors */
    const float *const *matrices;    /* packed */
    const float *const *first;       /* (B, H), of each tensor of the state */
    float *const *last;              /* the same */
    float *h;                        /* (T, B, H) */
    float *saved;                    /* (T, B, saved_row(H)); null: there will be no backward pass */

    const float *grad_h;             /* (T, B, H); null: this is the forward pass */
    const float *const *grad_last;   /* (B, H) */
    float *const *grad_first;        /* (B, H) */
    float *grad_x;                   /* (T, B, I); null: not wanted */
    float *grad_rows;                /* (threads, columns, HP), zeros before */
    float *const *grad_matrices;     /* (threads, rows, columns), zeros before */
};

long panel_width(void) { return WIDTH; }
long lanes(void) { return LANES; }

static long whole(long n) { return (n + LANES - 1) / LANES * LANES; }

/* Products */

/* C = init + A B for `rows` rows of A and `vectors` vectors of columns of B, held in registers. */
static inline __attribute__((always_inline)) void tile(
    long rows, long vectors, long K, const float *A, long a_row, long a_col, const float *B,
    long b_row, const float *init, long init_row, float *C, long c_row)
{
    vec sum[ROWS][PANEL];
    for (long r = 0; r < rows; r++)
        for (long v = 0; v < vectors; v++)
            sum[r][v] = *(const vec *)(init + r * init_row + v * LANES);
    for (long k = 0; k < K; k++) {
        vec b[PANEL];
        for (long v = 0; v < vectors; v++)
            b[v] = *(const vec *)(B + k * b_row + v * LANES);
        for (long r = 0; r < rows; r++) {
            float a = A[r * a_row + k * a_col];
            for (long v = 0; v < vectors; v++)
                sum[r][v] += a * b[v];
        }
    }
    for (long r = 0; r < rows; r++)
        for (long v = 0; v < vectors; v++)
            *(vec *)(C + r * c_row + v * LANES) = sum[r][v];
}

/* C (M, N) = init + A B. Columns of B come in panels of WIDTH; N is a multiple of LANES. */
static inline __attribute__((always_inline)) void product(
    long M, long N, long K, const float *A, long a_row, long a_col, const float *B, long b_row,
    long b_panel, const float *init, long init_row, float *C, long c_row)
{
    for (long n = 0; n < N; n += WIDTH, B += b_panel) {
        long vectors = (N - n) / LANES;
        for (long m = 0; m < M; m += ROWS) {
            const float *a = A + m * a_row, *start = init + m * init_row + n;
            float *c = C + m * c_row + n;
            long rows = M - m < ROWS ? M - m : ROWS;
#define TILE(r, v) tile(r, v, K, a, a_row, a_col, B, b_row, start, init_row, c, c_row)
#define PANELS(r)                     \
    if (vectors >= PANEL) TILE(r, PANEL); \
    else for (long v = 0; v < vectors; v++) \
        tile(r, 1, K, a, a_row, a_col, B + v * LANES, b_row, start + v * LANES, init_row, c + v * LANES, c_row)
            switch (rows) {
            case 6: PANELS(6); break;
            case 5: PANELS(5); break;
            case 4: PANELS(4); break;
            case 3: PANELS(3); break;
            case 2: PANELS(2); break;
            default: PANELS(1);
            }
        }
    }
}

/* C (M, N) = init + A B with B packed; init is C itself, or one row for all where init_row is 0. */
static void packed_product(long M, long N, long K, const float *A, long a_row, const float *B,
                           const float *init, long init_row, float *C, long c_row)
{
    product(M, N, K, A, a_row, 1, B, WIDTH, K * WIDTH, init, init_row, C, c_row);
}

/* C (M, N) += A^T B: the sum over the K rows of A and B. */
static void add_outer_products(long M, long N, long K, const float *A, long a_row, const float *B,
                               long b_row, float *C, long c_row)
{
    product(M, N, K, A, 1, a_row, B, b_row, WIDTH, C, c_row, C, c_row);
}

/* Activations, to float32 */

/* e^x = scale * (1 + rest), |x| < 88: x = n ln 2 + r with |r| <= ln 2 / 2, and e^r - 1 by its series. */
static inline void exponential(vec x, vec *scale, vec *rest)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    vec shifted = x * 1.44269504f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    *rest = p * r * r + r;
    *scale = (vec)(((bits)shifted + 127) << 23);
}

static inline vec choose(bits which, vec yes, vec no)
{
    return (vec)(((bits)yes & which) | ((bits)no & ~which));
}

static inline vec sigmoid_(vec x)
{
    vec scale, rest, zero = {0}, least = zero - 87, most = zero + 87;
    x = choose(x < least, least, choose(x > most, most, x));
    exponential(-x, &scale, &rest);
    return 1 / (1 + scale + scale * rest);
}

/* By e^-2|x| - 1, which loses nothing near 0. */
static inline vec tanh_(vec x)
{
    vec scale, rest, zero = {0}, least = zero - 30;
    bits sign = (bits)x & (-2147483647 - 1);
    vec y = -2 * (vec)((bits)x ^ sign);
    y = choose(y < least, least, y);
    exponential(y, &scale, &rest);
    vec below = scale * rest + (scale - 1);
    return (vec)((bits)(-below / (below + 2)) | sign);
}

static inline vec splat(float x)
{
    return (vec){0} + x;
}

/* In two factors, since 2^128 is none of float32. */
static inline vec exp_(vec x)
{
    vec scale, rest, y = choose(x < -87, splat(-87), choose(x > 88, splat(88), x));
    exponential(0.5f * y, &scale, &rest);
    vec half = scale + scale * rest, value = half * half;
    exponential(y, &scale, &rest);
    value = choose(y > 87, value, scale + scale * rest);
    return choose(x > 88.722839f, splat(__builtin_inff()), choose(x < -87.336544f, splat(0), value));
}

static inline vec expm1_(vec x)
{
    vec scale, rest, y = choose(x < -87, splat(-87), choose(x > 87, splat(87), x));
    exponential(y, &scale, &rest);
    vec value = scale * rest + (scale - 1);
    return choose(x > 87, exp_(x), value);
}

/* x = 2^e m with m from sqrt(1/2) to sqrt(2), and log m by its series of Cephes. */
static inline vec log_(vec x)
{
    bits raw = (bits)x, e = ((raw >> 23) & 255) - 126;
    vec m = (vec)((raw & 0x007fffff) | 0x3f000000);
    bits small = m < 0.707106781f;
    e = e + small; /* true is -1 */
    m = choose(small, m + m, m) - 1;
    vec n = __builtin_convertvector(e, vec), z = m * m;
    vec p = 7.0376836292e-2f * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    vec y = p * m * z - 2.12194440e-4f * n - 0.5f * z;
    y = m + y + 0.693359375f * n;
    y = choose(x == 0, splat(-__builtin_inff()), y);
    y = choose(x == __builtin_inff(), x, y);
    return choose(x >= 0, y, splat(__builtin_nanf("")));
}

/* With what is lost where 1 is added. */
static inline vec log1p_(vec x)
{
    vec u = 1 + x;
    vec y = log_(u) - ((u - 1) - x) / u;
    y = choose(u == 1, x, y);
    return choose((u == __builtin_inff()) | (u <= 0), log_(u), y);
}

#define EACH(name, function)                \
    static inline vec name(vec x)           \
    {                                       \
        for (int i = 0; i < LANES; i++)     \
            x[i] = function(x[i]);          \
        return x;                           \
    }
EACH(sqrt_, sqrtf)
EACH(sin_, sinf)
EACH(cos_, cosf)
EACH(erf_, erff)

static inline vec abs_(vec x)
{
    return (vec)((bits)x & 0x7fffffff);
}

/* NaN of either. */
static inline vec maximum_(vec a, vec b)
{
    return choose((a > b) | (a != a), a, b);
}

static inline vec minimum_(vec a, vec b)
{
    return choose((a < b) | (a != a), a, b);
}

/* Rows */

#define AT(p, j) (*(vec *)((p) + (j)))
#define IN(p, j) (*(const vec *)((p) + (j)))

/* Units j to j + LANES, and `other` beyond H. */
static inline vec within(vec x, long j, long H, float other)
{
    if (j + LANES > H)
        for (long i = 0; i < LANES; i++)
            x[i] = j + i < H ? x[i] : other;
    return x;
}

static inline float sum_of(vec x)
{
    float total = 0;
    for (int i = 0; i < LANES; i++)
        total += x[i];
    return total;
}

static inline float maximum_of(vec x)
{
    float most = x[0];
    for (int i = 1; i < LANES; i++)
        most = x[i] > most || x[i] != x[i] ? x[i] : most;
    return most;
}

static inline int ended(const struct call *s, long t, long review)
{
    return s->lengths && t >= s->lengths[review];
}

static inline long w_row_of(long HP, long groups, long ones)
{
    return groups * HP + whole(ones);
}

static inline void swap(float **a, float **b)
{
    float *kept = *a;
    *a = *b;
    *b = kept;
}

/* Rows of a (.., n) matrix to rows of `padded` floats, and back. */
static inline void spread(long rows, long n, const float *from, float *to, long padded)
{
    for (long r = 0; r < rows; r++)
        memcpy(to + r * padded, from + r * n, n * sizeof(float));
}

static inline void gather(long rows, long n, const float *from, long padded, float *to)
{
    for (long r = 0; r < rows; r++)
        memcpy(to + r * n, from + r * padded, n * sizeof(float));
}
