# What one turn of the loop sends leaves in one system call: small writes are put off until all events of the turn are
# dealt with, and go to the kernel together. Each send wakes somebody, who may take the processor from us at the end of
# a system call; this way that happens once a turn, not once a message. Reading stays with epoll.
# The rule: at most one piece is put off for each connection, nothing overtakes it, and none is left when Python has its
# turn. Without io_uring everything is sent at once, as it comes.

cdef class Batch:
    def __cinit__(self):
        self.ring.fd = -1
        self.failed = []

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
        # Take all pieces, or none: what is long goes at once, behind what is here already.
        cdef Piece *piece
        cdef uint8_t *p
        cdef int i
        cdef size_t total = 0
        for i in range(n):
            total += iov[i].iov_len
        if c.put_off == 0:
            if total > BATCH_BYTES:
                # Others need not wait for so much.
                self.depart()
                return False
            if self.count == BATCH and not self.make_room():
                return False
            piece = &self.pieces[self.count]
            piece.conn = <PyObject *>c
            piece.n = 0
            self.count += 1
            c.put_off = self.count
        else:
            piece = &self.pieces[c.put_off - 1]
            if piece.n + total > BATCH_BYTES:
                self.depart()
                return False
        p = self.room + (c.put_off - 1) * BATCH_BYTES + piece.n
        piece.n += total
        for i in range(n):
            memcpy(p, iov[i].iov_base, iov[i].iov_len)
            p += iov[i].iov_len
        return True

    cdef bint make_room(self) except -1:
        # False when the ring was lost by it.
        self.depart()
        return self.gathers

    cdef int depart(self) except -1:
        # Send all that was put off. What a socket does not take is queued on its connection.
        cdef int results[BATCH]
        cdef int n = self.count
        cdef int i
        cdef Conn c
        cdef uint8_t *p
        cdef size_t size
        cdef bint fine = True
        if n == 0:
            return 0
        self.count = 0
        if n == 1:
            results[0] = RING_UNSENT
        else:
            for i in range(n):
                ring_send(&self.ring, i, (<Conn>self.pieces[i].conn).fd, self.room + i * BATCH_BYTES, self.pieces[i].n)
            fine = ring_submit(&self.ring, n, results)
        for i in range(n):
            (<Conn>self.pieces[i].conn).put_off = 0
        for i in range(n):
            c = <Conn>self.pieces[i].conn
            p = self.room + i * BATCH_BYTES
            size = self.pieces[i].n
            if results[i] == RING_UNSENT:
                results[i] = send_now(c.fd, p, size)
            if results[i] == <int>size:
                continue
            try:
                c.sent_part(p, size, results[i])
            except MemoryError as error:
                # Whoever is at work now may hold it: it ends with the turn.
                c.broken = True
                self.failed.append((c, error))
        if not fine:
            self.end("the kernel took it back")
        return 0


cdef inline int send_now(int fd, uint8_t *p, size_t n) noexcept nogil:
    cdef ssize_t sent = c_send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT)
    return <int>sent if sent >= 0 else -errno
