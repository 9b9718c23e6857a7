# One connection: reading, writing, TLS, and backpressure. What the bytes mean is the business of client.pxi and
# server.pxi; here they are only moved. The rule: a peer that does not drain stops its source, so that at most one
# read buffer per connection is ever pending.


cdef class ConnList:
    cdef void append(self, Conn c):
        c.home = self
        c.prev = self.tail
        c.next = None
        if self.tail is None:
            self.head = c
        else:
            self.tail.next = c
        self.tail = c
        self.count += 1

    cdef void prepend(self, Conn c):
        c.home = self
        c.next = self.head
        c.prev = None
        if self.head is None:
            self.tail = c
        else:
            self.head.prev = c
        self.head = c
        self.count += 1

    cdef void remove(self, Conn c):
        if c.prev is None:
            self.head = c.next
        else:
            c.prev.next = c.next
        if c.next is None:
            self.tail = c.prev
        else:
            c.next.prev = c.prev
        c.prev = c.next = None
        c.home = None
        self.count -= 1

    def all(self):
        """The connections from head to tail, as a list that stays valid while they move."""
        cdef Conn c = self.head
        found = []
        while c is not None:
            found.append(c)
            c = c.next
        return found


cdef inline bint flatten(uint8_t *flat, iovec *iov, int n, iovec *whole) noexcept nogil:
    # A few small pieces are cheaper to copy together than for the kernel to gather. False when they are too long.
    cdef int i
    cdef size_t total = 0
    for i in range(n):
        if total + iov[i].iov_len > FLAT_BYTES:
            return False
        memcpy(flat + total, iov[i].iov_base, iov[i].iov_len)
        total += iov[i].iov_len
    whole.iov_base = flat
    whole.iov_len = total
    return True


@cython.no_gc
cdef class Socket:
    cdef int on_event(self, uint32_t events) except -1:
        return 0


@cython.no_gc
cdef class Conn(Socket):
    def __dealloc__(self):
        free(self.hold)
        free(self.obuf)

    # ---- reading

    cdef ssize_t fill(self, uint8_t *buf, size_t cap) except -3:
        # Up to `cap` plain bytes; 0 at the end of the stream, -1 when nothing is there now, -2 on an error.
        cdef ssize_t n
        if self.ssl is not None:
            return self.fill_tls(buf, cap)
        while True:
            n = c_recv(self.fd, buf, cap, MSG_DONTWAIT)
            if n >= 0:
                self.more = n == <ssize_t>cap
                return n
            if errno == EINTR:
                continue
            self.more = False
            return -1 if errno == EAGAIN else -2

    cdef ssize_t fill_tls(self, uint8_t *buf, size_t cap) except -3:
        cdef size_t got = 0
        cdef ssize_t n
        cdef bint single = False
        while True:
            if self.tls_ready:
                n = plain_from(self, buf + got, cap - got)
                if n > 0:
                    got += n
                    self.tls_partial = False
                    if got + RECORD > cap:
                        # Of the next record only a part might fit; what is left waits inside OpenSSL, unseen by epoll.
                        return got
                    if single or cipher_left(self) == 0:
                        self.tls_ready = False
                    continue
                if n == -2:
                    return -2
                self.tls_ready = False
                if n == 0:
                    return got
                # OpenSSL may have begun on a record: what comes next is not the head of one.
                self.tls_partial = True
            if got:
                return got
            n = c_recv(self.fd, cipher, READ_BYTES, MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                self.more = False
                return -1 if errno == EAGAIN else -2
            if n == 0:
                return 0
            self.more = n == READ_BYTES
            cipher_to(self, cipher, n)
            self.tls_ready = True
            # One whole record, the usual case: once it is read there is no need to ask what is left.
            single = not self.tls_partial and n > 5 and 5 + (<size_t>cipher[3] << 8 | cipher[4]) == <size_t>n

    cdef int keep(self, uint8_t *p, size_t n, size_t want) except -1:
        # Hold `n` unprocessed bytes, with room for `want` in all: they come first at the next read. A room that has
        # become far too large is given up.
        cdef size_t cap
        cdef uint8_t *fresh
        if n == 0 and want == 0:
            if self.hold != NULL:
                free(self.hold)
                self.hold = NULL
                self.hold_cap = 0
            self.hold_len = 0
            return 0
        cap = want if want > n else n
        if cap > self.hold_cap or cap < self.hold_cap / 4 and self.hold_cap >= READ_BYTES:
            fresh = <uint8_t *>malloc(cap)
            if fresh == NULL:
                raise MemoryError
            memcpy(fresh, p, n)
            free(self.hold)
            self.hold = fresh
            self.hold_cap = cap
        elif p != self.hold:
            memmove(self.hold, p, n)
        self.hold_len = n
        return 0

    cdef int on_read(self) except -1:
        cdef ssize_t n
        cdef size_t had
        cdef size_t room
        if self.hold_len == 0:
            n = self.fill(rbuf, READ_BYTES)
            if n > 0:
                self.take_in(rbuf, n)
        else:
            # A message was cut: go on behind the part that is here. The room grows only when it is nearly full: a message
            # that comes in a thousand pieces is not moved a thousand times.
            had = self.hold_len
            room = self.wanted(self.hold, had)
            if self.hold_cap == had or self.hold_cap - had < READ_BYTES and self.hold_cap < room:
                self.keep(self.hold, had, room if room > had else had + READ_BYTES)
            room = self.hold_cap - had
            n = self.fill(self.hold + had, room if room < READ_BYTES else READ_BYTES)
            if n > 0:
                self.hold_len = had + n
                self.take_in(self.hold, had + n)
        self.last_read = n
        if n == 0 or n == -2:
            if not self.lost:
                self.on_eof()
        elif n > 0 and (self.hup or self.tls_ready or self.goes_on()) and not self.lost:
            self.wake_later()
        return 0

    cdef bint goes_on(self) noexcept:
        # Whether there is more to read at once.
        return self.more

    cdef int take_in(self, uint8_t *b, size_t n) except -1:
        cdef ssize_t used
        # What is being dealt with is not held.
        self.hold_len = 0
        used = self.process(b, n)
        if self.lost:
            return 0
        return self.keep(b + used, n - used, 0)

    cdef int digest(self) except -1:
        # What was held has its chance now.
        return self.take_in(self.hold, self.hold_len) if self.hold_len else 0

    cdef int wake_later(self) except -1:
        # Bytes that epoll cannot see (TLS, or held ones) wait to be read: come back at the end of this turn.
        if not self.again:
            self.again = True
            self.relay.again.append(self)
        return 0

    cdef size_t wanted(self, uint8_t *b, size_t n) noexcept:
        # Bytes that the message at the head of `b` needs before it can be processed; 0 when unknown.
        cdef uint32_t l
        if n < 5:
            return 0
        l = be32(b + 1)
        return <size_t>l + 1 if l < HELD_LIMIT else 0

    # ---- writing

    cdef int write(self, iovec *iov, int n) except -1:
        # Send all pieces, or as much as the socket takes; the rest is queued and goes out by `flush`.
        cdef msghdr msg
        cdef ssize_t sent
        cdef int i = 0
        cdef iovec whole
        cdef uint8_t flat[FLAT_BYTES]
        if self.broken or self.lost or n == 0:
            return 0
        if self.ssl is not None:
            if n > 1 and flatten(flat, iov, n, &whole):
                return self.write_tls(&whole, 1)
            return self.write_tls(iov, n)
        if self.relay.batch.gathers and self.olen == 0 and self.relay.batch.put_off(self, iov, n):
            return 0
        if self.broken:
            # What was put off before it could not be sent: nothing may go behind that gap.
            return 0
        if n > 1 and flatten(flat, iov, n, &whole):
            iov = &whole
            n = 1
        if self.olen == 0:
            if n == 1:
                sent = c_send(self.fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                memset(&msg, 0, sizeof(msg))
                msg.msg_iov = iov
                msg.msg_iovlen = n
                sent = c_sendmsg(self.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self.give_up()
                sent = 0
            while i < n and <size_t>sent >= iov[i].iov_len:
                sent -= iov[i].iov_len
                i += 1
            if i == n:
                return 0
            self.queue(<uint8_t *>iov[i].iov_base + sent, iov[i].iov_len - sent)
            i += 1
        while i < n:
            self.queue(<uint8_t *>iov[i].iov_base, iov[i].iov_len)
            i += 1
        return self.flush()

    cdef int sent_part(self, uint8_t *p, size_t n, int sent) except -1:
        # What has become of `n` bytes: so many were sent, or none for an error below zero.
        if sent == <int>n:
            return 0
        if sent < 0 and sent != -EAGAIN:
            return self.give_up()
        if sent < 0:
            sent = 0
        try:
            return self.queue(p + sent, n - sent)
        except MemoryError:
            # Whoever is at work now may be using it: it ends like one that cannot be sent anything.
            return self.give_up()

    cdef int give_up(self) except -1:
        # Nothing more can be sent. The read side tells why, when it has passed on what the peer said last; should
        # nothing be wrong with that side, it ends here as well.
        self.broken = True
        c_shutdown(self.fd, SHUT_RDWR)
        return 0

    cdef int write_tls(self, iovec *iov, int n) except -1:
        # As few records as the pieces need: short ones are put together.
        cdef int i
        cdef size_t used = 0
        cdef size_t step
        cdef uint8_t *p
        cdef size_t left
        for i in range(n):
            p = <uint8_t *>iov[i].iov_base
            left = iov[i].iov_len
            while left:
                if used == 0 and (left >= RECORD or n == 1):
                    step = left if left < READ_BYTES else READ_BYTES
                    if not self.encrypt(p, step):
                        return 0
                else:
                    step = RECORD - used if RECORD - used < left else left
                    memcpy(cipher + used, p, step)
                    used += step
                    if used == RECORD:
                        used = 0
                        if not self.encrypt(cipher, RECORD):
                            return 0
                p += step
                left -= step
        if used and not self.encrypt(cipher, used):
            return 0
        return self.push_tls()

    cdef bint encrypt(self, uint8_t *p, size_t n) except -1:
        if plain_to(self, p, n):
            return True
        self.give_up()
        return False

    cdef int push_tls(self) except -1:
        # Ciphertext from the BIO to the socket.
        cdef ssize_t sent
        cdef ssize_t n
        cdef iovec iov
        while True:
            n = cipher_from(self, cipher, CIPHER_BYTES)
            if n == 0:
                break
            sent = 0
            iov.iov_base = cipher
            iov.iov_len = n
            if self.relay.batch.gathers and self.olen == 0 and self.relay.batch.put_off(self, &iov, 1):
                sent = n
            elif self.broken:
                return 0
            elif self.olen == 0:
                sent = c_send(self.fd, cipher, n, MSG_NOSIGNAL | MSG_DONTWAIT)
                if sent < 0:
                    if errno != EAGAIN and errno != EINTR:
                        return self.give_up()
                    sent = 0
            if sent < n:
                self.queue(cipher + sent, n - sent)
            elif n < CIPHER_BYTES:
                return 0
        return self.flush() if self.olen else 0

    cdef int queue(self, uint8_t *p, size_t n) except -1:
        cdef size_t need = self.olen + n
        cdef size_t cap
        cdef uint8_t *fresh
        if self.ohead + need > self.ocap:
            if need <= self.ocap:
                memmove(self.obuf, self.obuf + self.ohead, self.olen)
            else:
                cap = need + (need >> 1)
                fresh = <uint8_t *>malloc(cap)
                if fresh == NULL:
                    raise MemoryError
                if self.olen:
                    memcpy(fresh, self.obuf + self.ohead, self.olen)
                free(self.obuf)
                self.obuf = fresh
                self.ocap = cap
            self.ohead = 0
        memcpy(self.obuf + self.ohead + self.olen, p, n)
        self.olen += n
        return 0

    cdef int flush(self) except -1:
        cdef ssize_t sent
        while self.olen:
            sent = c_send(self.fd, self.obuf + self.ohead, self.olen, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return 0
                self.give_up()
                sent = self.olen
            self.ohead += sent
            self.olen -= sent
        free(self.obuf)
        self.obuf = NULL
        self.ocap = 0
        self.ohead = 0
        return self.on_drained()

    cdef int on_drained(self) except -1:
        # All is out: the source that was stopped for our sake may be read again.
        cdef Conn source = self.partner()
        if source is not None and source.deaf:
            source.listen_again()
        return 0

    cdef Conn partner(self):
        return None

    cdef bint waits_for_answer(self) noexcept:
        # Whether it goes on when its partner's peer says something.
        return False

    cdef bint read_by_the_clock(self) noexcept:
        # Whether it is read without being told that something has come.
        return False

    # ---- events. The socket is watched edge-triggered: an event comes once, when something new has. Until a read has
    # found the socket empty there may be `more`; whoever does not read on then is in somebody's hand: `again` (the end of
    # this turn), `deaf` (a peer that drains, or a task that ends, calls `listen_again`) or lazy (the next millisecond).

    cdef bint must_wait(self):
        # Whether what this connection sends cannot be taken now.
        cdef Conn peer = self.partner()
        return self.relay.suspended or (peer is not None and peer.olen != 0)

    cdef int on_event(self, uint32_t events) except -1:
        stirs(self.pool)
        if self.olen and events & EPOLLOUT:
            self.flush()
            if self.lost:
                return 0
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.hup = True
        elif events & EPOLLIN == 0:
            return 0
        self.more = True
        if self.must_wait():
            return self.go_deaf()
        return self.on_read()

    cdef int go_deaf(self) except -1:
        # Not now; `listen_again` reads what has come. A peer that is gone with nothing left to read is gone at once.
        cdef char c
        cdef ssize_t n
        self.deaf = True
        if self.hup:
            n = c_recv(self.fd, &c, 1, MSG_PEEK | MSG_DONTWAIT)
            if n == 0 or (n < 0 and errno != EAGAIN and errno != EINTR):
                return self.on_eof()
        return 0

    cdef int listen_again(self) except -1:
        self.deaf = False
        return 0 if self.lost else self.wake_later()

    cdef int on_eof(self) except -1:
        return 0

    cdef ssize_t process(self, uint8_t *b, size_t n) except -1:
        return n

    # ---- for Python, on rare occasions

    def send(self, bytes data):
        """Queue `data` (whole messages of ours) for the peer. The caller knows that no message is half sent."""
        self.say(data)

    cdef int say(self, bytes data) except -1:
        cdef iovec iov
        iov.iov_base = PyBytes_AS_STRING(data)
        iov.iov_len = PyBytes_GET_SIZE(data)
        if iov.iov_len:
            self.write(&iov, 1)
        return 0

    def finish(self, bytes farewell):
        """Send a last message if the socket takes it at once, and close. Only for a connection that was lost."""
        cdef iovec iov
        cdef ssize_t sent
        if self.fd < 0:
            return
        if self.olen and not self.broken:
            # What is still to go comes first; a farewell in the middle of it would be read as a part of it.
            sent = c_send(self.fd, self.obuf + self.ohead, self.olen, MSG_NOSIGNAL | MSG_DONTWAIT)
            self.broken = sent != <ssize_t>self.olen
            self.olen = 0
        if farewell and not self.broken:
            self.lost = False
            iov.iov_base = PyBytes_AS_STRING(farewell)
            iov.iov_len = PyBytes_GET_SIZE(farewell)
            self.write(&iov, 1)
            self.lost = True
        if self.ssl is not None and not self.broken:
            self.shut_tls()
        c_close(self.fd)
        self.fd = -1
        self.tls = NULL
        self.ssl = self.incoming = self.outgoing = None

    cdef int shut_tls(self) except -1:
        # close_notify, so that the peer can tell the end from a cut; its answer is not awaited.
        try:
            self.ssl.shutdown()
        except (SSLError, OSError):
            pass
        if self.olen == 0:
            data = self.outgoing.read()
            c_send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT)
        return 0

    def carry_on(self):
        """Read again after a SUSPEND."""
        if isinstance(self, Client) and (<Client>self).inbox is not None and may_be_told(<Client>self):
            empty_inbox(<Client>self)
        if self.deaf and not self.must_wait():
            self.listen_again()

    @property
    def state_name(self):
        return STATES[self.state]

    @property
    def is_lost(self):
        return self.lost

    @property
    def unattended(self):
        """For tests: why what may have come will never be read; empty when all is well. See MACHINES.md, Reading."""
        if self.lost or self.again:
            return ""
        if self.deaf:
            return "" if self.must_wait() or self.waits_for_answer() else "deaf, with nobody to wake it"
        if self.more or self.tls_ready:
            return "" if self.read_by_the_clock() else "more to read, and nobody comes back to it"
        return ""

    @property
    def is_deaf(self):
        return self.deaf

    @property
    def room(self):
        """For tests: bytes that may be held unprocessed before they have to be moved."""
        return self.hold_cap

    @property
    def unread(self):
        """For tests: bytes that the kernel has for it."""
        cdef int n = 0
        ioctl(self.fd, FIONREAD, &n)
        return n

    @property
    def has_tls(self):
        return self.ssl is not None

    @property
    def is_direct(self):
        """Whether its TLS calls OpenSSL without Python in between."""
        return self.tls != NULL

    @property
    def connect_us(self):
        """Stamp of the connection's start, on the relay's clock."""
        return self.connected

    @property
    def request_us(self):
        """Stamp of the last request, on the relay's clock."""
        return self.requested

    @property
    def prepared_count(self):
        return len(self.stmts) if self.stmts is not None else 0

    @property
    def parameters(self):
        return self.params

    @property
    def buffers(self):
        """How many buffers of its own it has now, and their bytes."""
        return (self.hold != NULL) + (self.obuf != NULL), self.hold_cap + self.ocap

    @property
    def pending(self):
        """(bytes held unprocessed, bytes left of the message under way, bytes not yet sent)."""
        return self.hold_len, self.need, self.olen
