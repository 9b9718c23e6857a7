# From the client to the server: the frontend messages. Each is counted, given a server if there is none, noted as owed
# where it will be answered, and forwarded; only messages with the name of a prepared statement are rewritten.


@cython.no_gc
cdef class Client(Conn):
    cdef Conn partner(self):
        return self.link

    cdef bint must_wait(self):
        if self.state == CL_WAITING or self.relay.suspended:
            return True
        return self.link is not None and (self.link.olen != 0 or self.link.task != NO_TASK)

    cdef int on_eof(self) except -1:
        return self.relay.lose(self, "client unexpected eof", False)

    cdef int go_deaf(self) except -1:
        return self.hung_up() if self.hup and self.state == CL_WAITING else Conn.go_deaf(self)

    cdef int hung_up(self) except -1:
        # Nothing more will come than what is here: take it in, so as to see the end of it (in moderation: what is not
        # taken is read when there is a server).
        cdef ssize_t n = 1
        cdef size_t had
        self.deaf = True
        while n > 0 and self.hold_len < 2 * READ_BYTES:
            had = self.hold_len
            self.keep(self.hold, had, had + READ_BYTES)
            n = self.fill(self.hold + had, READ_BYTES)
            self.hold_len += n if n > 0 else 0
        return self.on_eof() if n == 0 or n == -2 else 0

    cdef bint half_sent(self) noexcept:
        # Whether the server has a part of a message only: anything else would be read as the rest of it.
        return self.need != 0 and not self.dropping

    cdef int resume(self) except -1:
        # A server is there, ready for this client: go on with what was held, then read again.
        self.digest()
        if not self.lost and not self.must_wait() and (self.deaf or self.more or self.tls_ready):
            self.listen_again()
        return 0

    cdef size_t wanted(self, uint8_t *b, size_t n) noexcept:
        # Only the text of a Parse is collected whole, and its room grows with what has really come.
        cdef size_t l
        if n < 5:
            return 0
        l = <size_t>be32(b + 1) + 1
        if b[0] == c'P' and l > 2 * n + READ_BYTES:
            return 2 * n + READ_BYTES
        return l if l < n + READ_BYTES else n + READ_BYTES

    cdef ssize_t process(self, uint8_t *b, size_t n) except -1:
        # Forward whole and partial messages of b[0:n]; how many bytes are done with. The rest must come again.
        cdef Out out
        cdef size_t pos = 0
        cdef size_t run = 0
        cdef size_t l
        cdef size_t take
        cdef ssize_t name_end
        cdef uint8_t t
        cdef Server s
        cdef bint rewrite = self.pool.mode != MODE_SESSION and self.pool.max_prepared > 0 and not self.bound
        out_clear(&out)
        self.requested = self.relay.now
        while pos < n:
            if self.need:
                take = n - pos if self.need > n - pos else <size_t>self.need
                self.need -= take
                if self.dropping:
                    run = pos + take
                elif not self.quiet:
                    self.pool.counts.received += take
                pos += take
                if self.need == 0 and self.link is not None and self.link.clean():
                    # The server answered before it had the whole message.
                    self.submit(&out, b, run, pos)
                    run = pos
                    self.link.let_go()
                continue
            if n - pos < 5:
                break
            t = b[pos]
            l = <size_t>be32(b + pos + 1) + 1
            if out_full(&out) or self.link is None:
                self.submit(&out, b, run, pos)
                run = pos
                if self.link is not None and self.link.olen:
                    # A few bytes of Bind may cost a long Parse: no more of them than the server takes.
                    self.deaf = True
                    break
            if l < 5 or l - 1 > self.relay.max_packet:
                self.submit(&out, b, run, pos)
                self.relay.lose(self, "bad packet header: '%s'" % (<char *>b)[pos:pos + 5].hex(), True)
                return n
            if t == c'X':
                self.submit(&out, b, run, pos)
                self.relay.lose(self, "client close request", False)
                return n
            if self.link is None and (t == c'd' or t == c'c' or t == c'f' or t == c'H'):
                # Without a server no COPY is under way and nothing is to be flushed: PostgreSQL ignores these as well.
                self.need = l
                self.dropping = True
                continue
            name_end = 0
            if rewrite and (t == c'P' or t == c'B' or t == c'D' or t == c'C'):
                name_end = self.statement_name(t, b + pos, l, n - pos)
                if name_end < 0:
                    if t == c'P' and n - pos > 5 and b[pos + 5] != 0 and self.overfull(l):
                        # Not a byte more of it is collected.
                        self.submit(&out, b, run, pos)
                        self.relay.lose(self, TOO_MANY, True)
                        return n
                    if name_end == -3:
                        self.submit(&out, b, run, pos)
                        self.relay.lose(self, BROKEN[t], True)
                        return n
                    break
            if self.link is None or self.query_start == 0 or self.link.task != NO_TASK:
                if not self.ask(t):
                    if self.lost:
                        return n
                    break
            s = self.link
            if name_end > 0 and not s.extended & SKIPPING:
                out_add(&out, b + run, pos - run)
                run = pos + self.rename(&out, s, t, b + pos, l, name_end)
            else:
                self.note(s, t)
            if self.lost:
                return n
            take = n - pos if l > n - pos else l
            self.dropping = False
            self.need = l - take
            if not self.quiet:
                self.pool.counts.received += take
            pos += take
        self.submit(&out, b, run, pos)
        return pos

    cdef int submit(self, Out *out, uint8_t *b, size_t start, size_t end) except -1:
        # What is collected so far, and b[start:end], go to the server.
        if end > start:
            out_add(out, b + start, end - start)
        if out.n:
            if self.link is not None:
                # Who asks waits for the answer: what came so far was not the beginning of one long result.
                self.link.set_manner(PROMPT)
                self.link.write(out.iov, out.n)
            out_clear(out)
        return 0

    cdef bint ask(self, uint8_t t) except -1:
        # The first message of a query: count it, and get a server. False when the client has to wait.
        if not known(t):
            self.relay.lose(self, "unknown pkt", True)
            return False
        if self.query_start == 0 and not self.quiet:
            self.query_start = self.relay.now
            self.pool.counts.queries += 1
            if self.xact_start == 0:
                self.xact_start = self.query_start
                self.pool.counts.xacts += 1
        if self.link is None:
            return self.pool.take(self)
        return self.link.task == NO_TASK

    cdef int note(self, Server s, uint8_t t) except -1:
        # Remember what the server will owe for this message.
        if t == c'Q' or t == c'F':
            if t == c'Q' and self.pool.refuse_simple:
                return self.relay.lose(self, "PQexec disallowed", True)
            if s.extended & SKIPPING:
                return 0
            s.extended = 0
            return s.owe(c'Q', FORWARD, None, None)
        if t == c'S':
            if s.copy_in:
                # In the middle of a COPY the server swallows it: another one has to follow, but in a simple query.
                s.extended |= 0 if s.owed_len else OPEN
                return 0
            s.extended = 0
            return s.owe(c'S', FORWARD, None, None)
        if t == c'B' or t == c'E' or t == c'D':
            s.extended |= OPEN
            return 0
        if t == c'P' or t == c'C':
            s.extended |= OPEN
            return 0 if s.extended & SKIPPING else s.owe(t, FORWARD, None, None)
        if t == c'c' or t == c'f':
            if s.copy_in:
                s.copy_in = False
                return 0
            # Of several ends only the first can be a COPY's.
            return 0 if s.owes_copy_end() else s.owe(c'c', FORWARD, None, None)
        if t == c'd' or t == c'H':
            return 0
        return self.relay.lose(self, "unknown pkt", True)

    # ---- named statements

    cdef ssize_t statement_name(self, uint8_t t, uint8_t *p, size_t l, size_t avail) except -9:
        # Where the statement's name ends in the message (behind its NUL); 0 when it names none of the client's
        # statements, -2 when too little of it is here, -3 when it is broken.
        cdef size_t have = l if avail > l else avail
        cdef uint8_t *end
        cdef size_t at = 5
        if have == 5:
            return -3 if l == 5 else -2
        if t == c'D' or t == c'C':
            if l > READ_BYTES:
                return -3
            if p[5] != c'S':
                return 0
            at = 6
        elif t == c'B':
            end = <uint8_t *>memchr(p + 5, 0, have - 5)
            if end == NULL:
                return -3 if have == l or have > READ_BYTES / 2 else -2
            at = end - p + 1
        if have <= at:
            return -3 if have == l else -2
        if p[at] == 0:
            return 0
        if have < l and t != c'B':
            return -2
        end = <uint8_t *>memchr(p + at, 0, have - at)
        if end == NULL:
            return -3 if have == l or have > READ_BYTES / 2 else -2
        return end - p + 1

    cdef size_t rename(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0:
        # Put the message, with the server's name for the statement, into `out`; how many bytes of `p` that replaces.
        if t == c'P':
            self.parse(out, s, p, l, name_end)
            return l
        if t == c'C':
            self.close_statement(out, s, p, name_end)
            return l
        return self.use_statement(out, s, t, p, l, name_end)

    cdef int parse(self, Out *out, Server s, uint8_t *p, size_t l, size_t name_end) except -1:
        cdef bytes name = (<char *>p)[5:name_end - 1]
        cdef Statement stmt
        if self.stmts is not None and name in self.stmts:
            return self.relay.lose(self, "prepared statement name is already in use", True)
        if l - name_end < 3:
            return self.relay.lose(self, "broken Parse packet", True)
        if self.overfull(l):
            return self.relay.lose(self, TOO_MANY, True)
        stmt = share_statement(self.relay, (<char *>p)[name_end:l])
        self.remember(name, stmt)
        self.pool.counts.client_parses += 1
        s.extended |= OPEN
        if s.stmts is not None and stmt in s.stmts:
            self.pool.counts.hits += 1
            put_close(out, NOBODY)
            return s.owe(c'C', AS_PARSE, stmt, name)
        self.pool.counts.misses += 1
        s.prepare(out, stmt)
        return s.owe(c'P', FORWARD, stmt, name)

    cdef size_t use_statement(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0:
        # Bind and Describe: make sure that this server has the statement, and call it by its name there.
        cdef size_t at = 6
        cdef size_t prefix
        cdef size_t n
        cdef uint8_t *q
        cdef Statement stmt
        cdef Held held
        if t == c'B':
            at = <uint8_t *>memchr(p + 5, 0, l - 5) - p + 1
        stmt = self.stmts.get((<char *>p)[at:name_end - 1]) if self.stmts is not None else None
        if stmt is None:
            self.relay.lose(self, "prepared statement did not exist", True)
            return l
        s.extended |= OPEN
        if t == c'B':
            self.pool.counts.binds += 1
        held = s.stmts.get(stmt) if s.stmts is not None else None
        if held is None:
            self.pool.counts.misses += 1
            s.prepare(out, stmt)
            s.owe(c'P', SKIP, stmt, None)
        else:
            self.pool.counts.hits += 1
            self.relay.tick += 1
            held.used = self.relay.tick
        n = PyBytes_GET_SIZE(stmt.name)
        prefix = at - 5
        if prefix > 512:
            # A portal's name that long is no driver's.
            self.relay.lose(self, "broken Bind packet", True)
            return l
        q = out_scratch(out, 5)
        q[0] = t
        put32(q + 1, <uint32_t>(l - 1 - (name_end - at) + n + 1))
        out_add(out, q, 5)
        out_add(out, p + 5, prefix)
        out_add(out, <uint8_t *>PyBytes_AS_STRING(stmt.name), n + 1)
        return name_end

    cdef int close_statement(self, Out *out, Server s, uint8_t *p, size_t name_end) except -1:
        # The statement stays on the server for others; the client gets its CloseComplete for a name that never was.
        cdef bytes name = (<char *>p)[6:name_end - 1]
        cdef Statement stmt = self.stmts.get(name) if self.stmts is not None else None
        s.extended |= OPEN
        if stmt is not None:
            self.forget_statement(stmt, name)
        put_close(out, NOBODY)
        return s.owe(c'C', FORWARD, stmt, name if stmt is not None else None)

    cdef int remember(self, bytes name, Statement stmt) except -1:
        if self.stmts is None:
            self.stmts = {}
        self.stmts[name] = stmt
        self.stored += storage(name, stmt)
        return 0

    cdef int forget_statement(self, Statement stmt, bytes name) except -1:
        if self.stmts is not None and self.stmts.get(name) is stmt:
            del self.stmts[name]
            self.stored -= storage(name, stmt)
        return 0

    cdef int remember_only(self, dict names) except -1:
        self.stmts = None
        self.stored = 0
        for name, stmt in names.items():
            self.remember(name, stmt)
        return 0

    cdef bint overfull(self, size_t l) noexcept:
        # Whether one more statement, of `l` bytes, is more than a client may have.
        return self.stored + l + STATEMENT_COST > self.relay.max_statement_bytes

    # ---- for Python

    @property
    def linked(self):
        return self.link

    @property
    def wait_us(self):
        """How long the client has been waiting for a server, in microseconds; 0 when it is not waiting."""
        return self.relay.now - self.wait_start if self.state == CL_WAITING else 0

    @property
    def state_name(self):
        if self.state == CL_ACTIVE and self.link is None:
            return "idle"
        return STATES[self.state]

    def cancel_queued(self, bytes error):
        """Drop the request with which this client waits, answer `error` and ReadyForQuery, and let it leave the queue.

        False when nothing can be dropped cleanly: the client is not waiting, or its request is not here whole."""
        cdef size_t pos = 0
        cdef size_t l
        cdef uint8_t t = 0
        if self.state != CL_WAITING or self.lost:
            return False
        while pos + 5 <= self.hold_len:
            t = self.hold[pos]
            l = <size_t>be32(self.hold + pos + 1) + 1
            if l < 5 or pos + l > self.hold_len:
                return False
            pos += l
            if t == c'Q' or t == c'S' or t == c'F':
                break
        else:
            return False
        self.keep(self.hold + pos, self.hold_len - pos, 0)
        self.pool.move(self, CL_ACTIVE)
        self.query_start = self.xact_start = self.wait_start = 0
        self.send(error + b"Z\0\0\0\x05I")
        self.resume()
        return True


cdef inline bint known(uint8_t t) noexcept:
    return (t == c'Q' or t == c'P' or t == c'B' or t == c'E' or t == c'D' or t == c'S' or t == c'C' or t == c'F'
            or t == c'H' or t == c'd' or t == c'c' or t == c'f')


cdef inline size_t storage(bytes name, Statement stmt):
    # What a name and its statement cost us, about.
    return PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(stmt.body) + STATEMENT_COST


cdef str TOO_MANY = "prepared statements need too much memory"
cdef dict BROKEN = {
    <int>c'P': "broken Parse packet", <int>c'B': "broken Bind packet",
    <int>c'D': "broken Describe packet", <int>c'C': "broken Close packet",
}
