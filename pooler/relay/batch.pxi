# What one turn of the loop sends leaves in one system call: small writes are put off until all events of the turn are
# dealt with, and go to the kernel together. Each send wakes somebody, who may take the processor from us at the end of
# a system call; this way that happens once a turn, not once a message. Reading stays with epoll.
# The rule: at most one piece is put off for each connection, nothing overtakes it, and none is left when Python has its
# turn. Without io_uring everything is sent at once, as it comes.

cdef class Batch:
    def __cinit__(self):
        self.ring.fd = -1

    def __dealloc__(self):
        self.end("closed")

    cdef int begin(self) except -1:
        # From now on, where the kernel can.
        if ring_open(&self.ring, BATCH) < 0:
            self.end(os.strerror(errno))
            return 0
        self.room = <uint8_t *>malloc(BATCH * BATCH_BYTES)
        if self.room == NULL:
            self.end("no memory")
            raise MemoryError
        self.why_not = ""
        return 0

    cdef int end(self, str why) except -1:
        ring_close(&self.ring)
        free(self.room)
        self.room = NULL
        self.gathers = False
        self.why_not = why
        return 0

    cdef bint put_off(self, Conn c, iovec *iov, int n) except -1:
        # Take all pieces, or none: then all that is here has gone, so that it is not overtaken and need not wait.
        cdef Piece *piece = NULL
        cdef uint8_t *p
        cdef int i
        cdef size_t total = 0
        for i in range(n):
            total += iov[i].iov_len
        if c.put_off:
            piece = &self.pieces[c.put_off - 1]
        elif self.count < BATCH:
            piece = &self.pieces[self.count]
            piece.n = 0
        if piece == NULL or piece.n + total > BATCH_BYTES:
            self.depart()
            return False
        if not c.put_off:
            piece.conn = <PyObject *>c
            self.count += 1
            c.put_off = self.count
        p = self.room + (c.put_off - 1) * BATCH_BYTES + piece.n
        piece.n += total
        for i in range(n):
            memcpy(p, iov[i].iov_base, iov[i].iov_len)
            p += iov[i].iov_len
        return True

    cdef int depart(self) except -1:
        # Send all that was put off. What a socket does not take is queued on its connection.
        cdef int results[BATCH]
        cdef int n = self.count
        cdef int i
        cdef int why = 0
        cdef uint8_t *p = self.room
        cdef Conn c
        if n == 0:
            return 0
        self.count = 0
        if n == 1:
            results[0] = RING_UNSENT
        else:
            for i in range(n):
                ring_send(&self.ring, i, (<Conn>self.pieces[i].conn).fd, p + i * BATCH_BYTES, self.pieces[i].n)
            why = ring_submit(&self.ring, n, results)
        for i in range(n):
            c = <Conn>self.pieces[i].conn
            c.put_off = 0
            if results[i] == RING_UNSENT or results[i] == -EINTR:
                results[i] = send_now(c.fd, p, self.pieces[i].n)
            c.sent_part(p, self.pieces[i].n, results[i])
            p += BATCH_BYTES
        if why:
            self.end(os.strerror(why))
        return 0


cdef inline int send_now(int fd, uint8_t *p, size_t n) noexcept nogil:
    # Bytes sent, or an error number below zero.
    cdef ssize_t sent = -1
    while sent < 0:
        sent = c_send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0 and errno != EINTR:
            return -errno
    return <int>sent
