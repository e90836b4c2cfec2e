/* Recurrent cells over whole sequences, forward and backward, in float32 on a CPU.
 *
 * Each thread keeps its own reviews for all steps, so that no thread waits for another within a
 * sequence. Everything a step needs stays in that thread's cache: it multiplies a few dozen
 * rows by weights that were packed beforehand, applies the gates, and goes on. Gradients of the
 * weights are summed up per thread over a few steps at a time.
 *
 * Dimensions: T steps, B reviews, I input size, H hidden size. Sizes with a P (IP, HP) are rounded up
 * to whole vectors; the columns in between are zeros. A row of `saved` is what one step of one
 * review leaves for the backward pass, in groups of HP columns:
 *
 *     RNN           h
 *     LSTM          i f g o c
 *     GRU, after    u r z n, where u = U_n h + b_hn
 *     GRU, before   r z n
 *
 * The equations are those of cells.py.
 */

#include "tiles.h"

enum { RNN, LSTM, GRU_AFTER, GRU_BEFORE };

/* kernels/__init__.py has the same fields in the same order. */
struct sequence {
    long cell, threads, T, B, I, H;
    long grad_h_step;              /* floats from one step of grad_h to the next */
    const long *lengths;           /* (B,): steps of each review; after them its state stays */
    const float *x;                /* (T, B, I) */
    const float *input_weights;    /* packed (I, input gates) */
    const float *state_weights;    /* packed (H, state gates) */
    const float *bias;             /* what a row of `saved` starts from */
    const float *h0, *c0;          /* (B, H) */
    float *h;                      /* (T, B, H) */
    float *h_last, *c_last;        /* (B, H) */
    float *saved;                  /* (T, B, groups * HP); null: there will be no backward pass */

    const float *input_weights_t;  /* packed (input gates, I) */
    const float *state_weights_t;  /* packed (state gates, H) */
    const float *grad_h;           /* (T, B, H) */
    const float *grad_h_last, *grad_c_last; /* (B, H) */
    float *grad_x;                 /* (T, B, I); null: not wanted */
    float *grad_h0, *grad_c0;      /* (B, H) */
    float *grad_input_weights;     /* (threads, input gates, IP), zeros before */
    float *grad_state_weights;     /* (threads, state gates, HP), zeros before */
    float *grad_bias;              /* (threads, gates), zeros before */
    long out_of_memory;
};

/* One step of R reviews. S: their rows of `saved`, sums on entry. h (R, HP): before and after. */

static int has_ended(const struct sequence *s, long t, long review)
{
    return s->lengths && t >= s->lengths[review];
}

static void rnn_step(long HP, float *S, float *h)
{
    for (long j = 0; j < HP; j += LANES)
        AT(S, j) = AT(h, j) = tanh_(IN(S, j));
}

static void lstm_step(long HP, float *S, const float *c_before, float *h)
{
    for (long j = 0; j < HP; j += LANES) {
        vec i = sigmoid_(IN(S, j)), f = sigmoid_(IN(S, HP + j));
        vec g = tanh_(IN(S, 2 * HP + j)), o = sigmoid_(IN(S, 3 * HP + j));
        vec c = f * IN(c_before, j) + i * g;
        AT(S, j) = i;
        AT(S, HP + j) = f;
        AT(S, 2 * HP + j) = g;
        AT(S, 3 * HP + j) = o;
        AT(S, 4 * HP + j) = c;
        AT(h, j) = o * tanh_(c);
    }
}

static void gru_after_step(long HP, float *S, float *h)
{
    for (long j = 0; j < HP; j += LANES) {
        vec r = sigmoid_(IN(S, HP + j)), z = sigmoid_(IN(S, 2 * HP + j));
        vec n = tanh_(IN(S, 3 * HP + j) + r * IN(S, j));
        AT(S, HP + j) = r;
        AT(S, 2 * HP + j) = z;
        AT(S, 3 * HP + j) = n;
        AT(h, j) = z * IN(h, j) + (1 - z) * n;
    }
}

static void gru_before_gates(long HP, float *S, const float *h, float *reset)
{
    for (long j = 0; j < HP; j += LANES) {
        vec r = AT(S, j) = sigmoid_(IN(S, j));
        AT(S, HP + j) = sigmoid_(IN(S, HP + j));
        AT(reset, j) = r * IN(h, j);
    }
}

static void gru_before_step(long HP, float *S, float *h)
{
    for (long j = 0; j < HP; j += LANES) {
        vec z = IN(S, HP + j), n = AT(S, 2 * HP + j) = tanh_(IN(S, 2 * HP + j));
        AT(h, j) = z * IN(h, j) + (1 - z) * n;
    }
}

/* The same backwards. D: gradients of the gates' sums. dh (R, HP): of h after the step on entry; on
 * return the part of that before it which does not come through the gates. */

static void rnn_back(long HP, const float *h, float *D, float *dh)
{
    for (long j = 0; j < HP; j += LANES) {
        AT(D, j) = IN(dh, j) * (1 - IN(h, j) * IN(h, j));
        AT(dh, j) = (vec){0};
    }
}

static void lstm_back(long HP, const float *S, const float *c_before, float *D, float *dh, float *dc)
{
    for (long j = 0; j < HP; j += LANES) {
        vec i = IN(S, j), f = IN(S, HP + j), g = IN(S, 2 * HP + j), o = IN(S, 3 * HP + j);
        vec squashed = tanh_(IN(S, 4 * HP + j));
        vec c = IN(dc, j) + IN(dh, j) * o * (1 - squashed * squashed);
        AT(D, j) = c * g * i * (1 - i);
        AT(D, HP + j) = c * IN(c_before, j) * f * (1 - f);
        AT(D, 2 * HP + j) = c * i * (1 - g * g);
        AT(D, 3 * HP + j) = IN(dh, j) * squashed * o * (1 - o);
        AT(dc, j) = c * f;
        AT(dh, j) = (vec){0};
    }
}

static void gru_after_back(long HP, const float *S, const float *h_before, float *D, float *dh)
{
    for (long j = 0; j < HP; j += LANES) {
        vec u = IN(S, j), r = IN(S, HP + j), z = IN(S, 2 * HP + j), n = IN(S, 3 * HP + j);
        vec d = IN(dh, j), dn = d * (1 - z) * (1 - n * n);
        AT(D, j) = dn * r;
        AT(D, HP + j) = dn * u * r * (1 - r);
        AT(D, 2 * HP + j) = d * (IN(h_before, j) - n) * z * (1 - z);
        AT(D, 3 * HP + j) = dn;
        AT(dh, j) = d * z;
    }
}

static void gru_before_candidate_back(long HP, const float *S, const float *h_before, float *D,
                                      const float *dh, float *dreset)
{
    for (long j = 0; j < HP; j += LANES) {
        vec z = IN(S, HP + j), n = IN(S, 2 * HP + j), d = IN(dh, j);
        AT(D, HP + j) = d * (IN(h_before, j) - n) * z * (1 - z);
        AT(D, 2 * HP + j) = d * (1 - z) * (1 - n * n);
        AT(dreset, j) = (vec){0};
    }
}

static void gru_before_back(long HP, const float *S, const float *h_before, const float *dreset,
                            float *D, float *dh, float *reset)
{
    for (long j = 0; j < HP; j += LANES) {
        vec r = IN(S, j), z = IN(S, HP + j), h = IN(h_before, j), d = IN(dreset, j);
        AT(D, j) = d * h * r * (1 - r);
        AT(dh, j) = IN(dh, j) * z + d * r;
        AT(reset, j) = r * h;
    }
}

/* Whole sequences */

static const long SAVED[] = {1, 5, 4, 3}; /* groups of HP columns in a row of `saved` */
static const long GATES[] = {1, 4, 4, 3}; /* of these, sums that have a gradient */
static const long INPUT[] = {1, 4, 3, 3}; /* of these, sums that the input reaches: the last ones */
static const long STATE[] = {1, 4, 3, 2}; /* ... and the state directly: the first ones */

static void forward(const struct sequence *s, long first, long R, float *scratch)
{
    const long T = s->T, B = s->B, I = s->I, H = s->H, HP = whole(H), cell = s->cell;
    const long width = SAVED[cell] * HP, gates = GATES[cell] * HP;
    const long input = INPUT[cell] * HP, state = STATE[cell] * HP;
    const long state_panels = (state + WIDTH - 1) / WIDTH * WIDTH;
    float *h = scratch, *c0 = h + R * HP, *reset = c0 + R * HP, *unsaved = reset + R * HP;
    const float *c_before = c0;
    long c_row = HP;

    spread(R, H, s->h0 + first * H, h, HP);
    if (cell == LSTM)
        spread(R, H, s->c0 + first * H, c0, HP);
    for (long t = 0; t < T; t++) {
        float *S = s->saved ? s->saved + (t * B + first) * width : unsaved;
        const float *x = s->x + (t * B + first) * I;
        float *reached = S + gates - input; /* by the input; the rest starts from its bias alone */
        for (long r = 0; r < R; r++)
            memcpy(S + r * width, s->bias, (gates - input) * sizeof(float));
        packed_product(R, input, I, x, I, s->input_weights, s->bias + gates - input, 0, reached,
                       width);
        packed_product(R, state, H, h, HP, s->state_weights, S, width, S, width);
        if (cell == GRU_BEFORE) {
            for (long r = 0; r < R; r++)
                gru_before_gates(HP, S + r * width, h + r * HP, reset + r * HP);
            float *candidate = S + 2 * HP;
            packed_product(R, HP, H, reset, HP, s->state_weights + H * state_panels, candidate,
                           width, candidate, width);
        }
        for (long r = 0; r < R; r++) {
            float *row = S + r * width, *h_row = h + r * HP;
            if (has_ended(s, t, first + r)) {
                if (cell == LSTM)
                    memmove(row + 4 * HP, c_before + r * c_row, HP * sizeof(float));
            } else if (cell == RNN)
                rnn_step(HP, row, h_row);
            else if (cell == LSTM)
                lstm_step(HP, row, c_before + r * c_row, h_row);
            else if (cell == GRU_AFTER)
                gru_after_step(HP, row, h_row);
            else
                gru_before_step(HP, row, h_row);
        }
        gather(R, H, h, HP, s->h + (t * B + first) * H);
        c_before = S + 4 * HP;
        c_row = width;
    }
    gather(R, H, h, HP, s->h_last + first * H);
    if (cell == LSTM)
        gather(R, H, c_before, c_row, s->c_last + first * H);
}

static void backward(const struct sequence *s, long thread, long first, long R, float *scratch)
{
    const long T = s->T, B = s->B, I = s->I, H = s->H, cell = s->cell;
    const long HP = whole(H), IP = whole(I), width = SAVED[cell] * HP, gates = GATES[cell] * HP;
    const long input = INPUT[cell] * HP, state = STATE[cell] * HP;
    const long HW = (HP + WIDTH - 1) / WIDTH * WIDTH;
    const long slots = CHUNK / R > 0 ? CHUNK / R : 1;
    const long d_row = gates + LANES, z_row = IP + 2 * HP + LANES; /* LANES: off the same cache set */
    const long all_state = cell == GRU_BEFORE ? 3 * HP : state;
    float *dW = s->grad_input_weights + thread * input * IP;
    float *dU = s->grad_state_weights + thread * all_state * HP;
    float *db = s->grad_bias + thread * gates;
    float *dh = scratch, *dc = dh + R * HP, *c0 = dc + R * HP, *dreset = c0 + R * HP;
    float *dx = dreset + R * HP, *Ds = dx + R * IP, *Zs = Ds + slots * R * d_row;

    spread(R, H, s->grad_h_last + first * H, dh, HP);
    if (cell == LSTM) {
        spread(R, H, s->grad_c_last + first * H, dc, HP);
        spread(R, H, s->c0 + first * H, c0, HP);
    }
    long filled = 0;
    for (long t = T - 1; t >= 0; t--) {
        const float *S = s->saved + (t * B + first) * width;
        const float *c_before = t > 0 ? S - B * width + 4 * HP : c0;
        const long c_row = t > 0 ? width : HP;
        const float *grad_h = s->grad_h + t * s->grad_h_step + first * H;
        float *D = Ds + filled * R * d_row, *Z = Zs + filled * R * z_row;

        spread(R, I, s->x + (t * B + first) * I, Z, z_row);
        spread(R, H, t > 0 ? s->h + ((t - 1) * B + first) * H : s->h0 + first * H, Z + IP, z_row);
        for (long r = 0; r < R; r++)
            for (long j = 0; j < H; j++)
                dh[r * HP + j] += grad_h[r * H + j];
        for (long r = 0; r < R; r++) {
            const float *row = S + r * width, *h_before = Z + r * z_row + IP;
            float *D_row = D + r * d_row, *dh_row = dh + r * HP;
            if (has_ended(s, t, first + r)) {
                memset(D_row, 0, gates * sizeof(float));
                memset(Z + r * z_row, 0, I * sizeof(float)); /* whatever stands there */
                memset(dreset + r * HP, 0, HP * sizeof(float));
            } else if (cell == RNN)
                rnn_back(HP, row, D_row, dh_row);
            else if (cell == LSTM)
                lstm_back(HP, row, c_before + r * c_row, D_row, dh_row, dc + r * HP);
            else if (cell == GRU_AFTER)
                gru_after_back(HP, row, h_before, D_row, dh_row);
            else
                gru_before_candidate_back(HP, row, h_before, D_row, dh_row, dreset + r * HP);
        }
        if (cell == GRU_BEFORE) {
            packed_product(R, HP, HP, D + 2 * HP, d_row, s->state_weights_t + state * HW, dreset,
                           HP, dreset, HP);
            for (long r = 0; r < R; r++) {
                float *Z_row = Z + r * z_row, *D_row = D + r * d_row;
                if (has_ended(s, t, first + r))
                    memset(Z_row + IP + HP, 0, HP * sizeof(float));
                else
                    gru_before_back(HP, S + r * width, Z_row + IP, dreset + r * HP, D_row,
                                    dh + r * HP, Z_row + IP + HP);
            }
        }
        packed_product(R, HP, state, D, d_row, s->state_weights_t, dh, HP, dh, HP);
        if (s->grad_x) {
            memset(dx, 0, R * IP * sizeof(float));
            packed_product(R, IP, input, D + gates - input, d_row, s->input_weights_t, dx, IP, dx,
                           IP);
            gather(R, I, dx, IP, s->grad_x + (t * B + first) * I);
        }
        if (++filled == slots || t == 0) {
            const long K = filled * R;
            add_outer_products(input, IP, K, Ds + gates - input, d_row, Zs, z_row, dW, IP);
            add_outer_products(state, HP, K, Ds, d_row, Zs + IP, z_row, dU, HP);
            if (cell == GRU_BEFORE)
                add_outer_products(HP, HP, K, Ds + 2 * HP, d_row, Zs + IP + HP, z_row,
                                 dU + state * HP, HP);
            for (long k = 0; k < K; k++)
                for (long g = 0; g < gates; g++)
                    db[g] += Ds[k * d_row + g];
            filled = 0;
        }
    }
    gather(R, H, dh, HP, s->grad_h0 + first * H);
    if (cell == LSTM)
        gather(R, H, dc, HP, s->grad_c0 + first * H);
}

/* A thread's reviews, a block at a time. */
static void share(void *data)
{
    struct sequence *s = data;
    const long thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const long begin = s->B * thread / threads, end = s->B * (thread + 1) / threads;
    const long HP = whole(s->H), IP = whole(s->I), R = end - begin < BLOCK ? end - begin : BLOCK;
    const long rows = CHUNK > R ? CHUNK : R;
    size_t floats = R * (5 * HP + IP) + (s->grad_h ? rows * (6 * HP + IP + 2 * LANES) : R * 5 * HP);
    float *scratch = R > 0 ? aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64) : NULL;
    if (!scratch) {
        if (R > 0)
            __atomic_store_n(&s->out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    for (long first = begin; first < end; first += R) {
        const long count = end - first < R ? end - first : R;
        memset(scratch, 0, floats * sizeof(float)); /* the columns of padding */
        if (s->grad_h)
            backward(s, thread, first, count, scratch);
        else
            forward(s, first, count, scratch);
    }
    free(scratch);
}

/* The forward pass, or where grad_h is set the backward pass. Returns 1 where memory ran out. */
long run(struct sequence *s)
{
    s->out_of_memory = 0;
    GOMP_parallel(share, s, (unsigned)s->threads, 0);
    return s->out_of_memory;
}
