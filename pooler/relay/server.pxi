# From the server to the client: the backend messages. Most are only stepped over; the few that are looked into settle
# what was owed, tell the transaction's state, or change a tracked parameter. A server that belongs to nobody (idle, or
# answering a query of ours) is read by `process_own`.


@cython.no_gc
cdef class Server(Conn):
    def __cinit__(self):
        self.ledger = Ledger.__new__(Ledger)
        self.channels = ()

    def __dealloc__(self):
        free(self.batch)

    cdef Conn partner(self):
        return self.link

    cdef int on_eof(self) except -1:
        return self.relay.lose(self, "server conn crashed?", True)

    # ---- what is owed

    cdef int take_back(self) except -1:
        # What the server has skipped has not happened, to the statements that it and its client have.
        cdef list undone = self.ledger.undone
        self.ledger.undone = None
        for kind, act, stmt, name in undone:
            undo(self, kind, act, stmt, name)
        return 0

    cdef int ask_where_it_is(self) except -1:
        # With several guesses at what it does, and maybe nothing: what it answers to this settles it. Nobody else can
        # know the name of the column.
        cdef iovec iov
        cdef bytes packet
        cdef bytes marker
        if self.link is None or self.link.half_sent():
            return 0
        if self.status != IDLE or not self.ledger.may_be_asked():
            return self.ask_by_sync() if self.ledger.may_be_synced() else 0
        marker = os.urandom(16).hex().encode()
        packet = b'SELECT 1 AS "%s"\0' % marker
        packet = b"Q" + (len(packet) + 4).to_bytes(4, "big") + packet
        self.unnamed = 0
        self.ledger.sent(QUERY, FENCED, None, None)
        self.ledger.fence = marker
        iov.iov_base = PyBytes_AS_STRING(packet)
        iov.iov_len = PyBytes_GET_SIZE(packet)
        return self.write(&iov, 1)

    cdef int ask_by_sync(self) except -1:
        cdef iovec iov
        cdef uint8_t *message = b"S\0\0\0\x04"
        self.ledger.sent(SYNC, SKIP, None, None)
        iov.iov_base = message
        iov.iov_len = 5
        return self.write(&iov, 1)

    cdef int urge(self) except -1:
        # Its client is held until an answer comes: where none is certain to come by itself, a Flush brings what there is.
        cdef iovec iov
        if self.ledger.urged:
            return 0
        self.ledger.urged = True
        iov.iov_base = FLUSHING
        iov.iov_len = 5
        return self.write(&iov, 1)

    cdef int settle_loss(self) except -1:
        # Nothing will be answered any more.
        if self.read_mode != PROMPT:
            self.read_mode = PROMPT
            self.relay.lazy.remove(self)
        self.pool.pinned_count -= self.weighs
        self.pinned = self.weighs = 0
        if self.relay.backends.get((self.place, self.pid)) is self:
            del self.relay.backends[self.place, self.pid]
            depart(self)
        if self.defines:
            defined(self)
        return self.ledger.clear()

    cdef int on_drained(self) except -1:
        Conn.on_drained(self)
        return self.let_go()

    cdef int let_go(self) except -1:
        # Released now if it was ready before all that its client sent for it was out.
        if self.link is None or not self.shared() or self.task != NO_TASK or not self.clean():
            return 0
        part_from(self)
        return self.part_if_read() if self.link is None else 0

    cdef int part_if_read(self) except -1:
        # Somebody else may have this server once nothing is left of what it sent before.
        if self.deaf:
            return self.listen_again()
        return self.part() if self.need == 0 and self.hold_len == 0 and not self.again else 0

    cdef bint clean(self) noexcept:
        # Free to go to another client: idle, nothing owed, nothing half passed on in either direction. What is put off to the
        # end of the turn counts as sent: whole messages, which stay ahead of what the next client says.
        # A bound server is nobody's but its client's, and no books are kept of it.
        return (self.status == IDLE and self.ledger.at_rest() and self.olen == 0 and self.need == 0 and not self.bound
                and (self.link is None or self.link.need == 0 or self.link.dropping))

    cdef str unfit(self):
        # Why it is to nobody else's use when its client goes, in PgBouncer's words: None where it is. There, too, a server
        # is ready that has ended a transaction after the last it was sent, whatever it still owes.
        if self.clean() and self.task == NO_TASK:
            return None
        if self.asked or self.status != IDLE or self.task != NO_TASK:
            return "client disconnect while server was not ready"
        if self.bound:
            return "replication client was closed"
        if not self.ledger.at_rest():
            return "client disconnected with query in progress"
        return "client disconnect before everything was sent to the server"

    cdef bint shared(self) noexcept:
        # Whether it may go to another client when a transaction has ended.
        return self.pool.mode != MODE_SESSION and not self.bound

    # ---- a long result: fewer, larger reads

    cdef bint read_by_the_clock(self) noexcept:
        return self.read_mode != PROMPT

    cdef bint is_narrow(self) noexcept:
        # Whether this is a socket that may be pulled. It tells by itself, also after a takeover.
        cdef int size = 0
        cdef socklen_t n = sizeof(size)
        getsockopt(self.fd, SOL_SOCKET, SO_RCVBUF, &size, &n)
        return size == 2 * NARROW_BYTES

    cdef int set_read_mode(self, uint8_t read_mode) except -1:
        # PROMPT: whatever comes wakes us. LAZY, in the middle of a long result: LAZY_BYTES do (or half the receive buffer,
        # if that is less), not every little segment, and what stays below that is fetched by `Relay.run_lazy` in a
        # millisecond or two. PULLED: nothing wakes us but that. Meanwhile the narrow window of the socket fills, and
        # PostgreSQL's sends are only put on a queue; when we read on, it is our thread that the kernel has carry them
        # over, in large pieces. So the backend, which is what a result waits for, is spared a quarter of its time. A fast
        # one outruns the millisecond.
        cdef uint8_t old = self.read_mode
        cdef int lowat = LAZY_BYTES if read_mode != PROMPT else 1
        self.volume = 0
        if read_mode == old:
            return 0
        if old == PROMPT:
            if self.gauge is None:
                self.gauge = Gauge(self.relay.now, self.is_narrow())
            else:
                self.gauge.start(self.relay.now)
            self.relay.lazy.append(self)
        elif read_mode == PROMPT:
            self.relay.lazy.remove(self)
        self.read_mode = read_mode
        if PULLED in (read_mode, old):
            self.relay.watch(self, EPOLL_CTL_MOD, 0 if read_mode == PULLED else EPOLLIN)
        if PROMPT in (read_mode, old):
            setsockopt(self.fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat))
        return 0

    cdef bint goes_on(self) noexcept:
        # Emptying a narrow window lets the next segments in at once, if the server has had to wait with them.
        cdef int n = 0
        if self.more or self.read_mode != PULLED:
            return self.more
        ioctl(self.fd, FIONREAD, &n)
        return n >= REFILLED_BYTES

    cdef int on_read(self) except -1:
        Conn.on_read(self)
        if self.lost or self.link is None:
            return 0
        if self.read_mode != PROMPT:
            if self.last_read > 0:
                self.gauge.gain(self.last_read)
        elif self.last_read > 0:
            self.volume += self.last_read
            if self.volume >= LAZY_AFTER:
                self.set_read_mode(LAZY)
        return 0

    # ---- the stream of a linked server

    cdef ssize_t process(self, uint8_t *b, size_t n) except -1:
        cdef Out out
        cdef size_t pos = 0, run = 0, l, take
        cdef int act
        cdef uint8_t t, what
        cdef uint8_t *p
        cdef str fault
        cdef bint rest = self.need != 0
        if self.link is None or self.task != NO_TASK:
            return self.process_own(b, n)
        self.heard_at = self.relay.now
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
            what = HEARD[t]
            if l < 5 or l > self.relay.max_packet or what == UNHEARD_OF:
                return self.stop(&out, b, run, pos, n, "bad pkt header")
            if (t == ERROR_RESPONSE or t == PARAMETER_DESCRIPTION) and self.keeps and goes_back(self, &out, b, &run, pos, n) != TOLD:
                if run <= pos:
                    break
                pos = run
                continue
            if what == STEP:
                if n - pos < l and self.to_be_whole(t, l):
                    break
                act = self.answered(t, p, l if l < n - pos else n - pos)
                if act != FORWARD and act != FENCED and is_wrong(self, act, t, p, l):
                    return self.stop(&out, b, run, pos, n, "bad packet" if act == WRONG else "bad pkt header")
                if act == FENCED:
                    self.hand_over(&out, b, run, pos)
                    self.task = FENCE_TASK
                    return pos + self.process_own(p, n - pos)
                if act != FORWARD:
                    self.leave_out(&out, b, run, pos, act)
                    run = pos + l
            elif what == LOOKED_INTO:
                if n - pos < l and (t != ERROR_RESPONSE or l <= READ_BYTES):
                    if l > READ_BYTES:
                        return self.stop(&out, b, run, pos, n, STATUS_BROKEN if t == PARAMETER_STATUS else "bad pkt header")
                    break
                if t == READY_FOR_QUERY:
                    fault = self.end_of_query(&out, b, run, pos, l)
                    if fault is not None:
                        return self.stop(&out, b, run, pos, n, fault)
                    pos = run = pos + 6
                    if self.lost:
                        return n
                    if self.link is None or self.task != NO_TASK:
                        # Released, or asked by us. What follows belongs to nobody, and must be read before anybody gets this server.
                        return pos + self.process_own(b + pos, n - pos)
                    continue
                if t == PARAMETER_STATUS:
                    self.parameter(p, l)
                    if self.lost:
                        return n
                elif self.erred(p, l, l if l < n - pos else n - pos) == WRONG:
                    return self.stop(&out, b, run, pos, n, "bad packet")
                elif l <= n - pos and self.rewords(&out, b, &run, pos, l):
                    pos = run
                    continue
            elif t == NOTIFICATION_RESPONSE and n - pos < l <= READ_BYTES:
                break
            elif t == NOTIFICATION_RESPONSE and l <= n - pos and self.keeps_back(&out, b, &run, pos, l):
                pos = run
                continue
            take = n - pos if l > n - pos else l
            self.need = l - take
            pos += take
        self.hand_over(&out, b, run, pos)
        catch_up(self.link)
        return pos + self.no_longer_kept(b + pos, n - pos) if rest else pos

    cdef ssize_t no_longer_kept(self, uint8_t *b, size_t n) except -1:
        # The rest of a message has been passed on, for which alone its client may have kept it.
        if self.need or self.status != IDLE or not self.shared() or not self.clean():
            return 0
        part_from(self)
        return self.process_own(b, n) if self.link is None or self.task != NO_TASK else 0

    cdef bint rewords(self, Out *out, uint8_t *b, size_t *run, size_t pos, size_t l) except -1:
        # Whether the ErrorResponse at `pos` is about what its client has not said: then it is told in its own words.
        if not self.is_about_ours(b + pos, l):
            return False
        self.hand_over(out, b, run[0], pos)
        reword(self, b + pos, l)
        run[0] = pos + l
        return True

    cdef bint keeps_back(self, Out *out, uint8_t *b, size_t *run, size_t pos, size_t l) except -1:
        # Whether the notification at `pos` is not for its client.
        if is_for_client(self, b + pos, l):
            return False
        self.hand_over(out, b, run[0], pos)
        run[0] = pos + l
        return True

    cdef int leave_out(self, Out *out, uint8_t *b, size_t run, size_t pos, int act) except -1:
        # An answer that is not the client's, or (of five bytes) that it knows by another letter.
        out_add(out, b + run, pos - run)
        if act == AS_PARSE:
            out_add(out, PARSED, 5)
        return self.hand_over(out, b, pos, pos) if out_full(out) else 0

    cdef str end_of_query(self, Out *out, uint8_t *b, size_t run, size_t pos, size_t l):
        # ReadyForQuery, at `pos`: passed on with all ahead of it, unless it answers a question of ours. None, or why not.
        cdef uint8_t status = b[pos + 5]
        cdef int act
        if l != 6 or (status != IDLE and status != IN_TRANSACTION and status != IN_FAILED):
            return "bad pkt header"
        if status != IDLE and self.pool.mode == MODE_STATEMENT and not self.bound:
            return NO_BLOCKS
        act = self.answered(READY_FOR_QUERY, b + pos, l)
        if act == WRONG:
            return "bad packet"
        if status == IDLE and act != SKIP and self.link.inbox is not None and self.touches is None:
            self.hand_over(out, b, run, pos)
            empty_inbox(self.link)
            run = pos
        self.hand_over(out, b, run, pos if act == SKIP else pos + 6)
        if act == SKIP:
            self.is_told_apart(status)
        else:
            self.ready(status, self.relay.now)
        return None

    cdef bint to_be_whole(self, uint8_t t, size_t l) noexcept:
        # Whether this message is looked into, and so has to be here whole.
        if t == COMMAND_COMPLETE:
            return l <= LONGEST_TAG
        if t == ROW_DESCRIPTION and self.ledger.fence is not None and l <= READ_BYTES:
            return True
        return self.ledger.describing != 0 and (t == ROW_DESCRIPTION or t == PARAMETER_DESCRIPTION) and l < LONGEST_ROW

    cdef ssize_t stop(self, Out *out, uint8_t *b, size_t run, size_t pos, size_t n, str reason) except -1:
        # Up to here all was well; only what is not allowed is not answered as if it had been done.
        if reason is not NO_BLOCKS:
            self.hand_over(out, b, run, pos)
        self.relay.lose(self, reason, True)
        return n

    cdef int answered(self, uint8_t t, uint8_t *p, size_t have) except -1:
        # A step of the exchange: what is to be done with this message (see ledger.pxi).
        cdef int act
        if self.bound:
            return FORWARD
        if t == ROW_DESCRIPTION and self.ledger.fence is not None:
            if memmem(p, have, PyBytes_AS_STRING(self.ledger.fence), PyBytes_GET_SIZE(self.ledger.fence)) != NULL:
                t = FENCE_ROW
        act = self.ledger.heard(t)
        if self.ledger.undone is not None:
            self.take_back()
        if t == COMMAND_COMPLETE and act == FORWARD:
            command_complete(self, p, have)
        elif self.ledger.described is not None and act == FORWARD:
            describes(self, t, p, have)
        return act

    cdef int erred(self, uint8_t *p, size_t l, size_t have) except -1:
        # An ErrorResponse, of which `have` of `l` bytes are here.
        cdef int act
        self.said_farewell |= is_last(p, have)
        self.undone = True
        only_locked(self, p, have)
        self.ledger.failed = None
        act = FORWARD if self.bound else self.ledger.heard(ERROR_RESPONSE)
        if self.ledger.undone is not None:
            self.take_back()
        if self.ledger.failed is None or not any(UNKNOWN <= sent <= STALE for _, _, sent in self.ledger.failed):
            lose_track(self, p, have)
            if is_change(p, have):
                self.relay.statements.clear()
                renew_first(self)
        return act

    cdef bint is_about_ours(self, uint8_t *p, size_t l) noexcept:
        # Whether an ErrorResponse may be about a text or a name of ours.
        return (self.link.refusals is not None and memmem(p, l, <char *>b"POOLER_REFUSES_", 15) != NULL
                or self.ledger.failed is not None and memmem(p, l, <char *>b"PGBOUNCER_", 10) != NULL
                or self.unmade is not None and memmem(p, l, <char *>b"\0C26000\0", 8) != NULL)

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
        self.set_read_mode(PROMPT)
        if self.strays or self.forgets_all:
            settle_texts(self)
        if self.means:
            self.means = self.keeps = self.goes_back = False
        if c.query_start:
            pool.counts.query_time += now - c.query_start
            pool.measure(&pool.query_hist, now - c.query_start)
            c.query_start = 0
        self.requested = now
        if status != IDLE:
            return 0
        self.asked = False
        if self.redefines:
            # Others may have read what was there before it was committed.
            self.redefines = False
            texts_changed(self)
        if self.defines:
            defined(self)
        if c.xact_start:
            pool.counts.xact_time += now - c.xact_start
            pool.measure(&pool.xact_hist, now - c.xact_start)
            c.xact_start = 0
        if pool.recalls == BEHIND:
            keep_sequences(self)
        self.draws = self.recalls = False
        if self.ledger.at_rest():
            self.vouched = UNASKED
            self.sets_one = False
        if self.shared() and self.clean():
            part_from(self)
        elif pool.mode == MODE_SESSION and self.close_needed and pool.fast_close and self.clean():
            self.relay.lose(self, "database configuration changed", True)
        elif self.ledger.count > 1:
            self.ask_where_it_is()
        return 0

    cdef int is_told_apart(self, uint8_t status) except -1:
        # The answer to `ask_by_sync`.
        self.status = status
        if self.shared() and self.clean():
            part_from(self)
        return 0

    cdef int parameter(self, uint8_t *b, size_t n) except -1:
        # ParameterStatus: a tracked one is now the server's, and its client's. What nobody has set here, since the server
        # is nobody's or the name is of a fact, is true of the pool's other servers too: who comes in is to be told so.
        cdef size_t key_len = strnlen(<char *>b + 5, n - 5)
        cdef size_t value_len
        cdef object place
        cdef bytes name
        cdef bytes value
        if 5 + key_len + 1 >= n:
            return self.relay.lose(self, STATUS_BROKEN, True)
        value_len = strnlen(<char *>b + 5 + key_len + 1, n - 5 - key_len - 1)
        if 5 + key_len + 1 + value_len >= n:
            return self.relay.lose(self, STATUS_BROKEN, True)
        name = (<char *>b)[5:5 + key_len]
        value = (<char *>b)[5 + key_len + 1:5 + key_len + 1 + value_len]
        if (self.link is None or name in FACTS) and not self.close_needed:
            if self.pool.told is not None and self.pool.told.get(name) != value:
                self.relay.post(ServerFact(self, name, value))
        place = self.relay.tracked_index.get(name.lower())
        if place is None:
            return 0
        self.params = self.relay.changed(self.params, place, value)
        self.told = self.relay.changed(self.told, place, value)
        if self.link is not None:
            if self.task == NO_TASK:
                self.link.params = self.relay.changed(self.link.params, place, value)
        return 0

    # ---- a server of nobody's: idle, or answering a query of ours

    cdef ssize_t process_own(self, uint8_t *b, size_t n) except -1:
        cdef size_t pos = 0
        cdef size_t l
        cdef size_t take
        cdef uint8_t t
        self.heard_at = self.relay.now
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
            if l < 5 or l > self.relay.max_packet or HEARD[t] == UNHEARD_OF:
                self.relay.lose(self, "bad pkt header", True)
                return n
            if n - pos < l and (HEARD[t] == LOOKED_INTO or t == COMMAND_COMPLETE or self.answers_look(t, l)
                                or t == NOTIFICATION_RESPONSE and self.link is not None):
                if l > READ_BYTES and (HEARD[t] == LOOKED_INTO or t == COMMAND_COMPLETE):
                    self.relay.lose(self, "bad packet", True)
                    return n
                break
            if t == PARAMETER_STATUS:
                self.parameter(b + pos, l)
            elif t == ERROR_RESPONSE:
                self.own_error(b + pos, l)
            elif self.task == NO_TASK and t != NOTICE_RESPONSE and t != NOTIFICATION_RESPONSE:
                self.relay.lose(self, "idle server got dirty" if self.state != SV_USED else "SV_USED server got dirty", True)
            elif t == COMMAND_COMPLETE and (self.task == SET_TASK or self.task == PREPARE_TASK):
                self.made += 1
                if said_of_statements(b + pos, l) == ALL_GONE:
                    self.stmts = None
            elif t == COMMAND_COMPLETE:
                command_complete(self, b + pos, l)
            elif self.answers_look(t, l):
                row_of_look(self, b + pos, l)
            elif t == DATA_ROW and asks_for_rows(self.task):
                self.task_error = "a value is too long"
            elif t == NOTIFICATION_RESPONSE and self.link is not None:
                if is_for_client(self, b + pos, l):
                    self.pass_on(b + pos, l)
            elif t == READY_FOR_QUERY and l == 6:
                self.status = b[pos + 5]
                self.task_done()
            elif t == COPY_IN_RESPONSE or t == COPY_BOTH_RESPONSE:
                # A query of ours that wants data would wait for ever.
                self.relay.lose(self, TASK_FAILED[self.task], True)
            if self.lost:
                return n
            take = n - pos if l > n - pos else l
            self.need = l - take
            pos += take
            if self.link is not None and self.task == NO_TASK:
                # A client got this server just now; the rest is for it.
                return pos + self.process(b + pos, n - pos)
        if self.need == 0 and pos == n:
            if self.parting != STAYS:
                if not self.more and not self.tls_ready:
                    # Where there may be more, `run_again` reads it first.
                    self.part()
            elif self.state == SV_IDLE:
                # What came for nobody is here whole: it may be taken again.
                self.pool.serve_waiting()
        return pos

    cdef bint answers_look(self, uint8_t t, size_t l) noexcept:
        return t == DATA_ROW and asks_for_rows(self.task) and l <= LONGEST_ROW

    cdef int pass_on(self, uint8_t *p, size_t l) except -1:
        # A notification, or the end, that comes while it answers a query of ours.
        cdef iovec iov
        iov.iov_base = p
        iov.iov_len = l
        self.pool.counts.sent += l
        return self.link.write(&iov, 1)

    cdef bint in_mid_message(self) noexcept:
        # Whether what it says next begins with the rest of something.
        return self.need != 0 or self.hold_len != 0

    cdef int64_t last_sign(self) noexcept:
        # When it was last asked something, or said something.
        return self.heard_at if self.heard_at > self.requested else self.requested

    cdef bint silent(self) noexcept:
        # Whether nobody should wait for what it has to say.
        return self.relay.now - self.last_sign() > self.relay.patience

    cdef int part(self) except -1:
        # All that was read is dealt with: now somebody else may have this server.
        cdef uint8_t how = self.parting
        self.parting = STAYS
        return self.pool.release(self) if how == RELEASED else self.pool.make_idle(self, True)

    cdef int own_error(self, uint8_t *b, size_t n) except -1:
        # Keep the message for the log; what it means is decided when the server is ready, or gone.
        cdef str message = error_message(<bytes>(<char *>b)[5:n])
        self.task_error = message
        if self.task == PREPARE_TASK or self.task == RECALL_TASK:
            self.said = (<char *>b)[:n]
        if self.task == RECALL_TASK and is_last(b, n):
            # It ends in its client's transaction, which is told as of any statement.
            self.said_farewell = True
            return self.pass_on(b, n)
        if self.task == NO_TASK:
            # An idle server that speaks of an error is about to go (a restart, an administrator): nobody gets it.
            self.relay.post(ServerSaid(self, "got packet 'E' from server when not linked: " + message))
            return self.relay.lose(self, "server conn crashed?", True)
        return 0

    cdef int run_task(self, uint8_t task, bytes sql) except -1:
        # Send a query of ours; `task_done` goes on when it is answered.
        cdef iovec iov
        cdef bytes packet = b"Q" + (len(sql) + 5).to_bytes(4, "big") + sql + b"\0"
        self.task = task
        self.task_error = None
        self.unnamed = 0
        self.status = 0
        self.requested = self.relay.now
        iov.iov_base = PyBytes_AS_STRING(packet)
        iov.iov_len = PyBytes_GET_SIZE(packet)
        return self.write(&iov, 1)

    cdef int task_done(self) except -1:
        cdef uint8_t task = self.task
        cdef Client c = self.link
        self.task = NO_TASK
        if task == PREPARE_TASK:
            return statements_made(self, c)
        if task == ASK_TASK:
            return told(self)
        if task == RECALL_TASK:
            return whose_told(self)
        if task == EPOCH_TASK and self.status == IDLE:
            return epoch_ended(self)
        if self.task_error is not None:
            if task == LOOK_TASK:
                return not_looked(self)
            if task == MARK_TASK and self.status == IDLE:
                # It stays with its client, as long as that listens.
                self.relay.post(ServerSaid(self, "%s: %s" % (TASK_FAILED[task], self.task_error)))
                self.hub = None
                return c.resume()
            if task == SET_TASK and c.session is not self.session and self.status == IDLE:
                return not_aligned(self, c)
            said = "varcache_apply failed" if task == SET_TASK else TASK_FAILED[task]
            self.relay.post(ServerSaid(self, "%s: %s" % (said, self.task_error)))
            return self.relay.lose(self, TASK_FAILED[task], True)
        if task == SET_TASK:
            # What the server made of the values is what the client has from now on.
            c.params = self.params = self.relay.settle(c, self.told)
            if self.to_make:
                return make_statements(self)
            self.session = c.session
            return c.resume()
        if task == FENCE_TASK:
            self.ledger.heard(READY_FOR_QUERY)
            if self.shared() and self.clean():
                part_from(self)
            return c.resume() if self.task == NO_TASK else 0
        if self.status != IDLE:
            return self.relay.lose(self, TASK_FAILED[task], True)
        if task == LOOK_TASK:
            return looked(self)
        if task >= MARK_TASK:
            return channels_task_done(self, task)
        if task != CHECK_TASK:
            self.params = self.relay.doubted(self.params, self.told)
        if task == RESET_TASK:
            self.session = self.relay.intern(sessions.doubted(self.session))
        if task == DISCARD_TASK:
            forget_session(self)
        self.parting = RELEASED if task == ROLLBACK_TASK else CHECKED
        return 0

    # ---- for Python

    @property
    def linked(self):
        return self.link

    @property
    def listens_to(self):
        """Channels that it listens to for its client, and that no listening server has yet."""
        return self.channels if self.link is not None and not self.lost else ()

    def hand_over_to(self, Hub hub):
        """This listening server has the channels that it listens to for its client: they go over to it as soon as its
        transaction is over."""
        if not self.lost and self.link is not None and self.pinned & LISTENS:
            self.hub = hub
            if self.task == NO_TASK and self.touches is None and self.clean():
                hand_over_channels(self)

    @property
    def read_mode_name(self):
        """How it is read."""
        return READ_MODES[self.read_mode]

    @property
    def in_transaction(self):
        return self.status == IN_TRANSACTION or self.status == IN_FAILED

    @property
    def is_clean(self):
        return self.clean()

    @property
    def is_aligning(self):
        """Whether it answers a query of ours that is no part of what its client runs."""
        return self.task != NO_TASK and self.task != RECALL_TASK

    @property
    def idle_us(self):
        """How long the server has been free, in microseconds."""
        return self.relay.now - self.released

    def cancel_begins(self):
        """A cancel request is on its way to this server: no other client may get it until `cancel_ends`."""
        self.cancels += 1

    def cancel_ends(self):
        self.cancels -= 1
        stirs(self.pool)
        if self.cancels == 0 and self.state == SV_BEING_CANCELED and not self.lost:
            self.pool.make_idle(self, False)

    def check(self):
        """Send the check query: the server answers before it is used again."""
        self.pool.move(self, SV_TESTED)
        self.run_task(CHECK_TASK, self.pool.check_query)
