# io_uring, as far as sending needs it: many sends in one system call. Where the kernel or the headers have none (before
# 5.6, many containers), `ring_open` says so. Calls the kernel itself: four functions are no reason for a library.

cdef extern from *:
    r"""
    #include <errno.h>
    #include <limits.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #if defined(__has_include) && defined(__NR_io_uring_setup)
    #if __has_include(<linux/io_uring.h>)
    #include <linux/io_uring.h>
    /* Came with 5.6, as IORING_OP_SEND did, which is no macro. */
    #ifdef IORING_FEAT_CUR_PERSONALITY
    #define HAVE_RING 1
    #endif
    #endif
    #endif

    /* io_uring's two queues, as far as sending needs them. All memory is the kernel's, shared with it. */
    typedef struct {
        int fd;
        char *map;
        size_t map_size, sqes_size;
        uint32_t *sq_head, *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
        void *sqes, *cqes;
    } ring;

    #define RING_UNSENT INT_MIN

    static void ring_close(ring *r) {
        if (r->map != NULL && r->map != MAP_FAILED)
            munmap(r->map, r->map_size);
        if (r->sqes != NULL && r->sqes != MAP_FAILED)
            munmap(r->sqes, r->sqes_size);
        if (r->fd >= 0)
            close(r->fd);
        r->map = NULL;
        r->sqes = NULL;
        r->fd = -1;
    }

    #ifdef HAVE_RING
    /* Room for `entries` sends at a time; -1 with errno where that is not to be had. */
    static int ring_open(ring *r, unsigned entries) {
        struct io_uring_params p;
        size_t answers;
        memset(r, 0, sizeof *r);
        memset(&p, 0, sizeof p);
        r->fd = (int)syscall(__NR_io_uring_setup, entries, &p);
        if (r->fd < 0)
            return -1;
        if (!(p.features & IORING_FEAT_SINGLE_MMAP) || !(p.features & IORING_FEAT_CUR_PERSONALITY)) {
            ring_close(r);
            errno = ENOSYS;
            return -1;
        }
        r->map_size = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
        answers = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
        if (answers > r->map_size)
            r->map_size = answers;
        r->sqes_size = p.sq_entries * sizeof(struct io_uring_sqe);
        r->map = mmap(NULL, r->map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
        r->sqes = mmap(NULL, r->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
        if (r->map == MAP_FAILED || r->sqes == MAP_FAILED) {
            int why = errno;
            ring_close(r);
            errno = why;
            return -1;
        }
        r->sq_head = (uint32_t *)(r->map + p.sq_off.head);
        r->sq_tail = (uint32_t *)(r->map + p.sq_off.tail);
        r->sq_mask = (uint32_t *)(r->map + p.sq_off.ring_mask);
        r->sq_array = (uint32_t *)(r->map + p.sq_off.array);
        r->cq_head = (uint32_t *)(r->map + p.cq_off.head);
        r->cq_tail = (uint32_t *)(r->map + p.cq_off.tail);
        r->cq_mask = (uint32_t *)(r->map + p.cq_off.ring_mask);
        r->cqes = r->map + p.cq_off.cqes;
        return 0;
    }

    /* The `i`th send of the next submit. */
    static inline void ring_send(ring *r, unsigned i, int fd, const void *p, size_t n) {
        unsigned at = (*r->sq_tail + i) & *r->sq_mask;
        struct io_uring_sqe *e = (struct io_uring_sqe *)r->sqes + at;
        memset(e, 0, sizeof *e);
        e->opcode = IORING_OP_SEND;
        e->fd = fd;
        e->addr = (uintptr_t)p;
        e->len = (uint32_t)n;
        e->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
        e->user_data = i;
        r->sq_array[at] = at;
    }

    /* All `n` of them at once. results[i]: bytes sent, or an error number below zero, or RING_UNSENT. Sends that must not
       wait are done when the call returns. Not 0: why the ring is of no use any more. */
    static int ring_submit(ring *r, unsigned n, int *results) {
        uint32_t first = *r->sq_tail, head;
        unsigned i, taken = 0, answered = 0;
        int why = 0;
        for (i = 0; i < n; i++)
            results[i] = RING_UNSENT;
        __atomic_store_n(r->sq_tail, first + n, __ATOMIC_RELEASE);
        while (answered < n && why == 0) {
            unsigned before = taken + answered;
            if (syscall(__NR_io_uring_enter, r->fd, n - taken, n - answered, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
                why = errno == EINTR ? 0 : errno;
            else
                before++;
            for (head = *r->cq_head; head != __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE); head++) {
                struct io_uring_cqe *a = (struct io_uring_cqe *)r->cqes + (head & *r->cq_mask);
                results[a->user_data] = a->res;
                answered++;
            }
            __atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
            taken = __atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE) - first;
            if (why == 0 && taken + answered < before)
                /* The call went well, and nothing came of it. */
                why = EIO;
        }
        /* What was taken from us without an answer may have been sent, or not: no byte must go twice. */
        for (i = 0; i < taken; i++)
            if (results[i] == RING_UNSENT)
                results[i] = -EIO;
        return why;
    }
    #else
    static int ring_open(ring *r, unsigned entries) {
        memset(r, 0, sizeof *r);
        r->fd = -1;
        errno = ENOSYS;
        return -1;
    }
    static inline void ring_send(ring *r, unsigned i, int fd, const void *p, size_t n) {}
    static int ring_submit(ring *r, unsigned n, int *results) { return ENOSYS; }
    #endif
    """
    int RING_UNSENT
    int ring_open(ring *r, unsigned entries) nogil
    void ring_close(ring *r) nogil
    void ring_send(ring *r, unsigned i, int fd, const void *p, size_t n) nogil
    int ring_submit(ring *r, unsigned n, int *results) nogil
