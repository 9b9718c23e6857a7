# From the server to the client: the backend messages. Most are only stepped over; the few that are looked into settle
# what was owed, tell the transaction's state, or change a tracked parameter. A server that belongs to nobody (idle, or
# answering a query of ours) is read by `process_own`.


@cython.no_gc
cdef class Server(Conn):
    def __dealloc__(self):
        while self.owed_len:
            self.forget_head()
        free(self.owed)

    cdef Conn partner(self):
        return self.link

    cdef int on_eof(self) except -1:
        return self.relay.lose(self, "server conn crashed?", True)

    # ---- what is owed

    cdef int owe(self, uint8_t kind, uint8_t act, object stmt, object name) except -1:
        cdef Owed *o
        cdef Owed *fresh
        cdef int i
        cdef int cap
        if self.owed_len == self.owed_cap:
            cap = self.owed_cap * 2 if self.owed_cap else 8
            fresh = <Owed *>malloc(cap * sizeof(Owed))
            if fresh == NULL:
                raise MemoryError
            for i in range(self.owed_len):
                fresh[i] = self.owed[(self.owed_head + i) & (self.owed_cap - 1)]
            free(self.owed)
            self.owed = fresh
            self.owed_cap = cap
            self.owed_head = 0
        o = &self.owed[(self.owed_head + self.owed_len) & (self.owed_cap - 1)]
        o.kind = kind
        o.act = act
        o.stmt = NULL
        o.name = NULL
        if stmt is not None:
            Py_INCREF(stmt)
            o.stmt = <PyObject *>stmt
        if name is not None:
            Py_INCREF(name)
            o.name = <PyObject *>name
        self.owed_len += 1
        return 0

    cdef int forget_head(self) except -1:
        cdef Owed *o = &self.owed[self.owed_head]
        Py_XDECREF(o.stmt)
        Py_XDECREF(o.name)
        self.owed_head = (self.owed_head + 1) & (self.owed_cap - 1)
        self.owed_len -= 1
        return 0

    cdef bint owes_copy_end(self) noexcept:
        return self.owed_len and self.owed[(self.owed_head + self.owed_len - 1) & (self.owed_cap - 1)].kind == c'c'

    cdef int skipped(self) except -1:
        # The server skipped all up to the next Sync or Query: nothing of what that was sent for has happened. Undone
        # from the last to the first, so that a name given up and taken again is what it was before.
        cdef int i
        cdef int n = 0
        cdef uint8_t kind
        while n < self.owed_len:
            kind = self.owed[(self.owed_head + n) & (self.owed_cap - 1)].kind
            if kind == c'S' or kind == c'Q':
                break
            n += 1
        for i in range(n - 1, -1, -1):
            self.undo(&self.owed[(self.owed_head + i) & (self.owed_cap - 1)])
        for i in range(n):
            self.forget_head()
        return 0

    cdef int undo(self, Owed *o) except -1:
        cdef Statement stmt
        if o.stmt == NULL:
            return 0
        stmt = <Statement>o.stmt
        if o.kind == c'P':
            if self.stmts is not None:
                self.stmts.pop(stmt, None)
            if o.name != NULL and self.link is not None:
                self.link.forget_statement(stmt, <bytes>o.name)
        elif o.act == AS_PARSE:
            if self.link is not None:
                self.link.forget_statement(stmt, <bytes>o.name)
        elif o.act == EVICTED:
            self.hold_statement(stmt)
        elif self.link is not None and self.link.stmts is not None and <bytes>o.name not in self.link.stmts:
            # A Close that was not carried out leaves the client its statement.
            self.link.remember(<bytes>o.name, stmt)
        return 0

    cdef int settle_error(self) except -1:
        # An error in the extended protocol: the server skips everything up to the next Sync.
        self.copy_in = False
        self.skipped()
        if self.extended and self.owed_len == 0:
            self.extended |= SKIPPING
        return 0

    cdef int settle_copy(self) except -1:
        # CopyInResponse: the server swallows every Sync that was sent ahead of the end of the data.
        cdef int i = 0
        cdef int kept = 0
        cdef Owed o
        cdef bint ended = False
        cdef bint swallowed = False
        cdef bint simple = self.owed_len and self.owed[self.owed_head].kind == c'Q'
        for i in range(self.owed_len):
            o = self.owed[(self.owed_head + i) & (self.owed_cap - 1)]
            if not ended and o.kind == c'S':
                swallowed = True
                continue
            if not ended and o.kind == c'c':
                ended = True
                continue
            swallowed = swallowed and o.kind != c'S'
            self.owed[(self.owed_head + kept) & (self.owed_cap - 1)] = o
            kept += 1
        self.owed_len = kept
        self.copy_in = not ended
        if swallowed and not simple:
            self.extended |= OPEN
        return 0

    cdef int answered(self, uint8_t kind) except -1:
        # ParseComplete or CloseComplete: which message it answers says what to do with it (an act, or -2 if unasked).
        cdef Owed *o
        cdef int act
        if self.owed_len == 0:
            return FORWARD
        o = &self.owed[self.owed_head]
        if o.kind != kind:
            return FORWARD
        act = o.act
        self.forget_head()
        return act

    cdef int settle_ready(self) except -1:
        # ReadyForQuery answers the next Sync or Query; what stood before it without an answer will get none.
        self.skipped()
        if self.owed_len:
            self.forget_head()
        while self.owed_len and self.owed[self.owed_head].kind == c'c':
            self.forget_head()
        return 0

    cdef int settle_loss(self) except -1:
        # Nothing will be answered any more.
        if self.manner != PROMPT:
            self.manner = PROMPT
            self.relay.lazy.remove(self)
        while self.owed_len:
            self.forget_head()
        return 0

    cdef int on_drained(self) except -1:
        Conn.on_drained(self)
        return self.let_go()

    cdef int let_go(self) except -1:
        # Released now if it was ready before all that its client sent for it was out.
        if self.link is None or not self.shared() or self.task != NO_TASK or not self.clean():
            return 0
        self.pool.unlink(self)
        return self.part_if_read()

    cdef int part_if_read(self) except -1:
        # Somebody else may have this server once nothing is left of what it sent before.
        if self.deaf:
            return self.listen_again()
        return self.part() if self.need == 0 and self.hold_len == 0 and not self.again else 0

    cdef bint clean(self) noexcept:
        # Free to go to another client: idle, nothing owed, nothing half sent in either direction. What is put off to the
        # end of the turn counts as sent: whole messages, which stay ahead of what the next client says.
        return (self.status == c'I' and self.owed_len == 0 and not self.extended and not self.copy_in
                and self.olen == 0
                and (self.link is None or self.link.need == 0 or self.link.dropping))

    cdef bint shared(self) noexcept:
        # Whether it may go to another client when a transaction has ended.
        return self.pool.mode != MODE_SESSION and not self.bound

    # ---- a long result: fewer, larger reads

    cdef bint is_narrow(self) noexcept:
        # Whether this is a socket that may be pulled. It tells by itself, also after a takeover.
        cdef int size = 0
        cdef socklen_t n = sizeof(size)
        getsockopt(self.fd, SOL_SOCKET, SO_RCVBUF, &size, &n)
        return size == 2 * NARROW_BYTES

    cdef int set_manner(self, uint8_t manner) except -1:
        # PROMPT: whatever comes wakes us. LAZY, in the middle of a long result: LAZY_BYTES do (or half the receive buffer,
        # if that is less), not every little segment, and what stays below that is fetched by `Relay.run_lazy` in a
        # millisecond or two. PULLED: nothing wakes us but that. Meanwhile the narrow window of the socket fills, and
        # PostgreSQL's sends are only put on a queue; when we read on, it is our thread that the kernel has carry them
        # over, in large pieces. So the backend, which is what a result waits for, is spared a quarter of its time. A fast
        # one outruns the millisecond.
        cdef uint8_t old = self.manner
        cdef int lowat = LAZY_BYTES if manner != PROMPT else 1
        self.volume = 0
        if manner == old:
            return 0
        if old == PROMPT:
            if self.gauge is None:
                self.gauge = Gauge(self.relay.now, self.is_narrow())
            else:
                self.gauge.start(self.relay.now)
            self.relay.lazy.append(self)
        elif manner == PROMPT:
            self.relay.lazy.remove(self)
        self.manner = manner
        if PULLED in (manner, old):
            self.relay.watch(self, EPOLL_CTL_MOD, 0 if manner == PULLED else EPOLLIN)
        if PROMPT in (manner, old):
            setsockopt(self.fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat))
        return 0

    cdef bint goes_on(self) noexcept:
        # Emptying a narrow window lets the next segments in at once, if the server has had to wait with them.
        cdef int n = 0
        if self.more or self.manner != PULLED:
            return self.more
        ioctl(self.fd, FIONREAD, &n)
        return n >= REFILLED_BYTES

    cdef int on_read(self) except -1:
        Conn.on_read(self)
        if self.lost or self.link is None:
            return 0
        if self.manner != PROMPT:
            if self.last_read > 0:
                self.gauge.gain(self.last_read)
        elif self.last_read > 0:
            self.volume += self.last_read
            if self.volume >= LAZY_AFTER:
                self.set_manner(LAZY)
        return 0

    # ---- the stream of a linked server

    cdef ssize_t process(self, uint8_t *b, size_t n) except -1:
        cdef Out out
        cdef size_t pos = 0
        cdef size_t run = 0
        cdef size_t l
        cdef size_t take
        cdef int act
        cdef uint8_t t
        cdef uint8_t *p
        if self.link is None or self.task != NO_TASK:
            return self.process_own(b, n)
        out_clear(&out)
        while pos < n:
            if self.need:
                take = n - pos if self.need > n - pos else <size_t>self.need
                self.need -= take
                pos += take
                continue
            if n - pos < 5:
                break
            p = b + pos
            t = p[0]
            l = <size_t>be32(p + 1) + 1
            if l < 5:
                self.hand_over(&out, b, run, pos)
                self.relay.lose(self, "bad pkt header", True)
                return n
            if t == c'Z':
                if n - pos < 6:
                    break
                if l != 6:
                    self.hand_over(&out, b, run, pos)
                    self.relay.lose(self, "bad pkt header", True)
                    return n
                if p[5] != c'I' and self.pool.mode == MODE_STATEMENT and not self.bound:
                    self.hand_over(&out, b, run, pos)
                    self.relay.lose(self, "transaction blocks not allowed in statement pooling mode", True)
                    return n
                pos += 6
                self.hand_over(&out, b, run, pos)
                run = pos
                self.ready(p[5], self.relay.now)
                if self.lost:
                    return n
                if self.link is None:
                    # Released. What follows belongs to nobody, and must be read before anybody gets this server.
                    return pos + self.process_own(b + pos, n - pos)
                continue
            if t == c'1' or t == c'3':
                act = self.answered(c'P' if t == c'1' else c'C')
                if act != FORWARD:
                    out_add(&out, b + run, pos - run)
                    run = pos + 5
                    if act == AS_PARSE:
                        out_add(&out, PARSE_COMPLETE, 5)
                    if out_full(&out):
                        self.hand_over(&out, b, run, run)
                pos += 5
                continue
            if t == c'S' or t == c'E' or (t == c'C' and (l == 17 or l == 20)):
                if n - pos < l and (t != c'E' or l <= READ_BYTES):
                    if l > READ_BYTES:
                        self.hand_over(&out, b, run, pos)
                        self.relay.lose(self, "broken ParameterStatus packet", True)
                        return n
                    break
                if t == c'S':
                    self.parameter(p, l)
                    if self.lost:
                        return n
                elif t == c'C':
                    self.command_complete(p, l)
                else:
                    self.settle_error()
                    self.doubt(p, l if l < n - pos else n - pos)
            elif t == c'G' or t == c'W':
                self.settle_copy()
            take = n - pos if l > n - pos else l
            self.need = l - take
            pos += take
        self.hand_over(&out, b, run, pos)
        return pos

    cdef int hand_over(self, Out *out, uint8_t *b, size_t start, size_t end) except -1:
        # What is collected so far, and b[start:end], go to the client.
        if end > start:
            out_add(out, b + start, end - start)
        if out.n:
            if self.link is not None:
                self.pool.counts.sent += out_size(out)
                self.link.write(out.iov, out.n)
            out_clear(out)
        return 0

    cdef int ready(self, uint8_t status, int64_t now) except -1:
        # ReadyForQuery has been passed on: close the books of the query, and let the client go if nothing is owed.
        cdef Client c = self.link
        cdef Pool pool = self.pool
        self.status = status
        self.set_manner(PROMPT)
        self.settle_ready()
        if c.query_start:
            pool.counts.query_time += now - c.query_start
            pool.measure(&pool.query_hist, now - c.query_start)
            c.query_start = 0
        self.requested = now
        if status != c'I':
            return 0
        if c.xact_start:
            pool.counts.xact_time += now - c.xact_start
            pool.measure(&pool.xact_hist, now - c.xact_start)
            c.xact_start = 0
        if self.shared() and self.clean():
            pool.unlink(self)
        elif pool.mode == MODE_SESSION and self.close_needed and pool.fast_close and self.clean():
            self.relay.lose(self, "database configuration changed", True)
        return 0

    cdef int parameter(self, uint8_t *b, size_t n) except -1:
        # ParameterStatus: a tracked one is now the server's, and its client's.
        cdef size_t key_len = strnlen(<char *>b + 5, n - 5)
        cdef size_t value_len
        cdef object place
        if 5 + key_len + 1 >= n:
            return self.relay.lose(self, "broken ParameterStatus packet", True)
        value_len = strnlen(<char *>b + 5 + key_len + 1, n - 5 - key_len - 1)
        if 5 + key_len + 1 + value_len >= n:
            return self.relay.lose(self, "broken ParameterStatus packet", True)
        place = self.relay.tracked_index.get((<char *>b)[5:5 + key_len])
        if place is None:
            return 0
        value = (<char *>b)[5 + key_len + 1:5 + key_len + 1 + value_len]
        self.params = self.relay.changed(self.params, place, value)
        if self.link is not None:
            if self.task == NO_TASK:
                self.link.params = self.relay.changed(self.link.params, place, value)
        return 0

    cdef int command_complete(self, uint8_t *b, size_t n) except -1:
        # DISCARD ALL and DEALLOCATE ALL take the prepared statements with them, on both sides.
        if n == 17 and memcmp(b + 5, <char *>b"DISCARD ALL", 12) == 0 or (
                n == 20 and memcmp(b + 5, <char *>b"DEALLOCATE ALL", 15) == 0):
            return self.settle_deallocate()
        return 0

    cdef int settle_deallocate(self) except -1:
        # What was prepared is gone, but for what is still owed: that was sent behind it.
        cdef dict there = {}
        cdef dict names = {}
        cdef Owed *o
        cdef int i
        for i in range(self.owed_len):
            o = &self.owed[(self.owed_head + i) & (self.owed_cap - 1)]
            if o.stmt == NULL:
                continue
            if o.kind == c'P':
                there[<object>o.stmt] = None
            elif o.act == EVICTED:
                there.pop(<object>o.stmt, None)
            if o.name != NULL and (o.kind == c'P' or o.act == AS_PARSE):
                names[<object>o.name] = <object>o.stmt
            elif o.name != NULL:
                names.pop(<object>o.name, None)
        if self.stmts is not None:
            self.stmts = {stmt: held for stmt, held in self.stmts.items() if stmt in there}
        if self.link is not None:
            self.link.remember_only(names)
        return 0

    # ---- a server of nobody's: idle, or answering a query of ours

    cdef ssize_t process_own(self, uint8_t *b, size_t n) except -1:
        cdef size_t pos = 0
        cdef size_t l
        cdef size_t take
        cdef uint8_t t
        while pos < n:
            if self.need:
                take = n - pos if self.need > n - pos else <size_t>self.need
                self.need -= take
                pos += take
                continue
            if n - pos < 5:
                break
            t = b[pos]
            l = <size_t>be32(b + pos + 1) + 1
            if l < 5:
                self.relay.lose(self, "bad pkt header", True)
                return n
            if (t == c'S' or t == c'E' or t == c'Z') and n - pos < l:
                if l > READ_BYTES:
                    self.relay.lose(self, "bad packet", True)
                    return n
                break
            if t == c'S':
                self.parameter(b + pos, l)
            elif t == c'E':
                self.own_error(b + pos, l)
            elif self.task == NO_TASK and t != c'N' and t != c'A':
                self.relay.lose(self, "idle server got dirty" if self.state != SV_USED else "SV_USED server got dirty", True)
            elif t == c'Z' and l == 6:
                self.status = b[pos + 5]
                self.task_done()
            if self.lost:
                return n
            take = n - pos if l > n - pos else l
            self.need = l - take
            pos += take
            if self.link is not None and self.task == NO_TASK:
                # A client got this server just now; the rest is for it.
                return pos + self.process(b + pos, n - pos)
        if self.parting != STAYS and self.need == 0 and pos == n and not self.more and not self.tls_ready:
            # Where there may be more, `run_again` reads it first.
            self.part()
        return pos

    cdef int part(self) except -1:
        # All that was read is dealt with: now somebody else may have this server.
        cdef uint8_t how = self.parting
        self.parting = STAYS
        return self.pool.release(self) if how == RELEASED else self.pool.make_idle(self)

    cdef int own_error(self, uint8_t *b, size_t n) except -1:
        # Keep the message for the log; what it means is decided when the server is ready, or gone.
        cdef object message = error_message(<bytes>(<char *>b)[5:n])
        self.task_error = message
        if self.task == NO_TASK:
            # An idle server that speaks of an error is about to go (a restart, an administrator): nobody gets it.
            self.relay.post((SERVER_SAID, self, message))
            return self.relay.lose(self, "server conn crashed?", True)
        return 0

    cdef int run_task(self, uint8_t task, bytes sql) except -1:
        # Send a query of ours; `task_done` goes on when it is answered.
        cdef iovec iov
        cdef bytes packet = b"Q" + (len(sql) + 5).to_bytes(4, "big") + sql + b"\0"
        self.task = task
        self.task_error = None
        self.status = 0
        self.requested = self.relay.now
        iov.iov_base = PyBytes_AS_STRING(packet)
        iov.iov_len = PyBytes_GET_SIZE(packet)
        return self.write(&iov, 1)

    cdef int task_done(self) except -1:
        cdef uint8_t task = self.task
        cdef Client c = self.link
        self.task = NO_TASK
        if self.task_error is not None:
            if task == SET_TASK:
                return self.relay.lose(self, "invalid server parameter", True)
            return self.relay.lose(self, "reset query failed" if task == RESET_TASK else "test query failed", True)
        if task == SET_TASK:
            # What the server made of the values is what the client has from now on.
            c.params = self.params = self.relay.settled(c.params, self.params)
            return c.resume()
        if self.status != c'I':
            return self.relay.lose(self, "reset query failed" if task == RESET_TASK else "test query failed", True)
        if task == RESET_TASK and b"DISCARD ALL" in self.pool.reset_query.upper():
            self.stmts = None
        self.parting = CHECKED
        return 0

    # ---- prepared statements

    cdef int hold_statement(self, Statement stmt) except -1:
        cdef Held held = Held.__new__(Held)
        self.relay.tick += 1
        held.stmt = stmt
        held.used = self.relay.tick
        if self.stmts is None:
            self.stmts = {}
        self.stmts[stmt] = held
        return 0

    cdef int prepare(self, Out *out, Statement stmt) except -1:
        # The Parse of `stmt`, behind the Close of the least recently used one if the server is full; of two, while it
        # has more than a limit that was lowered allows. Of the largest, if it is the bytes that are too many: only a
        # statement of more than its share can bring that about.
        cdef int i
        cdef size_t size = PyBytes_GET_SIZE(stmt.body)
        cdef size_t most = self.relay.max_statement_bytes
        cdef bint heavy = size * self.pool.max_prepared > most
        for i in range(2):
            if self.stmts is not None and len(self.stmts) >= self.pool.max_prepared:
                self.evict(out, False)
            elif heavy and self.held_bytes() + size > most and self.stmts:
                self.evict(out, True)
        if self.wary:
            # It may be there all the same, or something else by its name.
            put_close(out, stmt.name)
            self.owe(c'C', SKIP, None, None)
        self.hold_statement(stmt)
        self.pool.counts.server_parses += 1
        return put_parse(out, stmt)

    cdef size_t held_bytes(self) except? 0:
        cdef Statement stmt
        cdef size_t total = 0
        if self.stmts is not None:
            for stmt in self.stmts:
                total += PyBytes_GET_SIZE(stmt.body)
        return total

    cdef int evict(self, Out *out, bint largest) except -1:
        cdef Held held
        cdef Held found = None
        for held in self.stmts.values():
            if found is None or (PyBytes_GET_SIZE(held.stmt.body) > PyBytes_GET_SIZE(found.stmt.body) if largest
                                 else held.used < found.used):
                found = held
        del self.stmts[found.stmt]
        put_close(out, found.stmt.name)
        return self.owe(c'C', EVICTED, found.stmt, None)

    cdef int doubt(self, uint8_t *b, size_t n) except -1:
        # An error about a statement by a name of ours: somebody has said PREPARE or DEALLOCATE with it. What is there
        # is no longer known: everything is prepared anew, from now on behind a Close, which never fails.
        if self.stmts is None and self.wary or memmem(b, n, <char *>b"PGBOUNCER_", 10) == NULL:
            return 0
        if memmem(b, n, <char *>b"C26000", 7) != NULL or memmem(b, n, <char *>b"C42P05", 7) != NULL:
            self.stmts = None
            self.wary = True
        return 0

    # ---- for Python

    @property
    def linked(self):
        return self.link

    @property
    def manner_name(self):
        """How it is read."""
        return MANNERS[self.manner]

    @property
    def in_transaction(self):
        return self.status == c'T' or self.status == c'E'

    @property
    def is_clean(self):
        return self.clean()

    @property
    def idle_us(self):
        """How long the server has been free, in microseconds."""
        return self.relay.now - self.released

    def cancel_begins(self):
        """A cancel request is on its way to this server: no other client may get it until `cancel_ends`."""
        self.cancels += 1

    def cancel_ends(self):
        self.cancels -= 1
        if self.cancels == 0 and self.state == SV_BEING_CANCELED and not self.lost:
            self.pool.make_idle(self)

    def check(self):
        """Send the check query: the server answers before it is used again."""
        self.pool.move(self, SV_TESTED)
        self.run_task(CHECK_TASK, self.pool.check_query)


cdef uint8_t *PARSE_COMPLETE = b"1\0\0\0\x04"


cdef str error_message(bytes body):
    # 'FATAL 57P01: text' of an ErrorResponse's fields.
    fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
    words = b"%s %s: %s" % (fields.get(b"S", b"ERROR"), fields.get(b"C", b"?"), fields.get(b"M", b""))
    return words.decode("utf-8", "replace")
