/* The reviews of a batch, shared out among threads. */

static size_t floats(const struct call *s, long R)
{
    const long HP = whole(s->H), IP = whole(s->I), width = saved_row(s->H);
    if (!s->grad_h)
        return R * ((1 + STATES) * HP + IP + w_row_of(HP, W_GROUPS, W_ONES) + 2 * width);
    const long rows = CHUNK > R ? CHUNK : R;
    return R * ((3 * STATES - 1) * HP + IP + w_row_of(HP, BACK_W_GROUPS, BACK_W_ONES))
           + rows * ((COLUMNS + LEFTS) * HP + IP + 2 * LANES);
}

/* A thread's reviews, a block at a time. */
static void share(void *data)
{
    struct call *s = data;
    const long thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const long begin = s->B * thread / threads, end = s->B * (thread + 1) / threads;
    const long R = end - begin < BLOCK ? end - begin : BLOCK;
    if (R == 0)
        return;
    const size_t size = (floats(s, R) * sizeof(float) + 63) / 64 * 64;
    float *scratch = aligned_alloc(64, size);
    if (!scratch) {
        __atomic_store_n(&s->out_of_memory, 1, __ATOMIC_RELAXED);
        return;
    }
    for (long first = begin; first < end; first += R) {
        const long count = end - first < R ? end - first : R;
        memset(scratch, 0, size); /* what is beyond H and I */
        if (s->grad_h)
            backward(s, thread, first, count, scratch);
        else
            forward(s, first, count, scratch);
    }
    free(scratch);
}

/* The forward pass, or where grad_h is set the backward pass. Returns 1 where memory ran out. */
long run(struct call *s)
{
    s->out_of_memory = 0;
    GOMP_parallel(share, s, (unsigned)s->threads, 0);
    return s->out_of_memory;
}
