# From the client to the server: the frontend messages. Each is counted, given a server if there is none, noted as owed
# where it will be answered, and forwarded; only messages with the name of a prepared statement are rewritten.

cdef enum:
    # What is known of a statement that a client means. MAYBE_FREE: its name is in use, or free again.
    CERTAIN = 0
    MAYBE_FREE = 1
    IN_DOUBT = 2


cdef inline bint is_collected(Pool pool, uint8_t t, size_t l, bint rewrite) noexcept:
    # Whether it is collected whole: what is judged, if it is not too long, and what another server may get.
    return t == PARSE and rewrite and l <= READ_BYTES or (t == QUERY or t == PARSE or t == FUNCTION_CALL) and pool.cares()


cdef inline bint counts_when_bound(Pool pool, object touch) except -1:
    # Whether a Parse without a name is nothing yet: its Bind is seen. What pins takes its place among those at once.
    return pool.max_prepared > 0 and not (<int>touch.kinds) & (PINNING | LISTENS)


@cython.no_gc
cdef class Client(Conn):
    def __dealloc__(self):
        free(self.kept)

    cdef Conn partner(self):
        return self.link

    cdef bint must_wait(self):
        if self.state == CL_WAITING or self.relay.suspended:
            return True
        return self.link is not None and (self.link.olen != 0 or self.link.task != NO_TASK)

    cdef int on_drained(self) except -1:
        Conn.on_drained(self)
        return empty_inbox(self) if self.inbox is not None and may_be_told(self) else 0

    cdef int on_eof(self) except -1:
        if self.held and self.link is not None and self.link.ledger.is_asked():
            # What it said last is dealt with when the answer has come.
            return 0
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
        if self.inbox is not None and may_be_told(self):
            empty_inbox(self)
        self.digest()
        if not self.lost and not self.must_wait() and (self.deaf or self.more or self.tls_ready):
            self.listen_again()
        return 0

    cdef bint waits_for_answer(self) noexcept:
        return self.held and self.link is not None and self.link.ledger.length != 0

    cdef int go_on(self) except -1:
        # The server has said something: maybe what was waited for.
        self.held = False
        return self.listen_again()

    cdef size_t wanted(self, uint8_t *b, size_t n) noexcept:
        # Only the text of a Parse is collected whole, and its room grows with what has really come.
        cdef size_t l
        if n < 5:
            return 0
        l = <size_t>be32(b + 1) + 1
        return min(l, 2 * n + READ_BYTES if b[0] == PARSE else n + READ_BYTES)

    cdef ssize_t process(self, uint8_t *b, size_t n) except -1:
        # Forward whole and partial messages of b[0:n]; how many bytes are done with. The rest must come again.
        cdef Out out
        cdef size_t pos = 0, run = 0, l
        cdef ssize_t name_end
        cdef uint8_t t
        cdef Server s
        cdef str fault
        cdef bint begins = self.need == 0 and (self.link is None or self.link.status == IDLE and self.link.ledger.at_rest())
        cdef bint names, rewrite = self.pool.mode != MODE_SESSION and self.pool.max_prepared > 0 and not self.bound
        out_clear(&out)
        self.requested = self.relay.now
        while pos < n:
            if self.need:
                pos = self.pass_rest(&out, b, &run, pos, n)
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
            if t == TERMINATE and l == 5 and self.link is not None and self.link.ledger.is_asked():
                # It leaves when the answer has come, and with it the server is somebody else's.
                self.submit(&out, b, run, pos)
                run = pos
                self.held = self.deaf = True
                break
            if l < 5 or l > self.relay.max_packet or t == TERMINATE or t == FLUSH and l != 5:
                return self.stop(&out, b, run, pos, n, ending(t, l, b + pos, min(n - pos, <size_t>8)))
            if self.link is None and (t == COPY_DATA or t == COPY_DONE or t == COPY_FAIL or t == FLUSH):
                # Without a server no COPY is under way and nothing is to be flushed: PostgreSQL ignores these as well.
                self.need = l
                self.dropping = True
                continue
            if n - pos < l and n - pos < READ_BYTES and is_collected(self.pool, t, l, rewrite):
                break
            name_end = 0
            names = rewrite and (t == PARSE or t == BIND or t == DESCRIBE or t == CLOSE)
            if names:
                name_end = self.statement_name(t, b + pos, l, n - pos)
                if name_end < 0:
                    fault = self.name_fault(t, b + pos, l, n - pos, name_end)
                    if fault is not None:
                        return self.stop(&out, b, run, pos, n, fault)
                    break
            if self.link is None or self.query_start == 0 or self.link.task != NO_TASK:
                if not self.ask(t):
                    if self.lost:
                        return n
                    break
            s = self.link
            if self.is_judged(t, name_end) and self.refuses(&out, b, &run, pos, t, l, n - pos, name_end):
                if self.lost:
                    return n
                pos = run
                if self.held:
                    break
                continue
            if names and not s.ledger.skips():
                if self.waits(&out, b, &run, pos, t, l, n - pos, name_end):
                    if self.lost:
                        return n
                    break
            else:
                self.note(s, t)
            if self.lost:
                return n
            self.dropping = False
            self.need = l
            pos = self.pass_piece(pos, n)
        self.submit(&out, b, run, pos)
        if self.link is not None and self.link.means:
            keep_batch(self.link, b, pos, begins)
        return pos

    cdef bint refuses(self, Out *out, uint8_t *b, size_t *run, size_t pos, uint8_t t, size_t l, size_t have, ssize_t name_end) except -1:
        # Whether the message at `pos`, of which `have` bytes are here, would leave behind what may not be: then another has
        # gone in its place. What may be is noted. A named statement is looked for where it is bound.
        cdef Server s = self.link
        cdef object touch
        cdef int kinds
        if s.bound or not self.pool.watches or s.ledger.skips():
            return False
        if self.pool.unread:
            touched(self, s, UNREAD_CODE)
        if t != BIND and len(self.relay.hubs_up) != 0 and speaks_of_notify(b + pos, l if have > l else have):
            s.notified = True
        if t == BIND:
            # Prepared when that was not refused; or by a value of this message a parameter is named.
            touch = self.touch_of(self.name_in(t, b + pos, l, name_end)) if name_end > 0 else self.touch_of_unnamed()
            if touch is not None and (<int>touch.looks) & NAMED_LATER:
                touched(self, s, touches.bound_names(touch, (<char *>b)[pos:pos + (l if have > l else have)]))
            if name_end == 0:
                if touch is not None and s.touches is None:
                    # Its Parse was in an earlier transaction.
                    touched(self, s, touch)
                return False
        else:
            touch = examine(self, t, b + pos, l, have)
        if t == PARSE:
            self.judgement = touch
        if touch is None:
            return False
        if (<int>touch.kinds) & SEQUENCES and is_skipped(s, t, b + pos, l, have):
            return False
        if (<int>touch.kinds) & SEQUENCES and s.sole != self.id and have >= l and t != FUNCTION_CALL:
            self.submit(out, b, run[0], pos)
            run[0] = pos
            if asks_whose(self, s, touch, self.text_in(t, b + pos, l, name_end), t == PARSE and name_end > 0):
                # It comes again, when the server has answered.
                return True
        kinds = forbidden(self, s, touch, t == PARSE and name_end > 0)
        if kinds == 0:
            if name_end == 0:
                if t != PARSE or not counts_when_bound(self.pool, touch):
                    touched(self, s, touch)
                if t == PARSE and b[pos + 5] != 0 and touch.looks & self.pool.kept and self.pool.max_prepared == 0:
                    # Its name is not ours to keep: who binds it later is not seen.
                    touched(self, s, TOO_LONG)
            return False
        note_seen(self, touch)
        if t == PARSE and name_end == 0:
            self.unnamed = s.unnamed = 0
        self.submit(out, b, run[0], pos)
        run[0] = pos + l
        if have < l and t != BIND:
            self.relay.lose(self, TOO_LONG_TO_REFUSE, True, NOT_SUPPORTED)
        else:
            if have < l:
                self.need, self.dropping = l - have, True
                run[0] = pos + have
            self.submit_instead(QUERY if t == FUNCTION_CALL else t, refusal(self, t, b + pos, l, touch, kinds), name_end if t == PARSE else 0)
        return True

    cdef bytes text_in(self, uint8_t t, uint8_t *p, size_t l, size_t name_end):
        # Of a Query, of a Parse, and of the statement that a Bind names.
        cdef Statement stmt = self.stmts.get(self.name_in(t, p, l, name_end)) if t == BIND and self.stmts is not None else None
        if t == BIND:
            return text_of(stmt.body) if stmt is not None else b""
        return (<char *>p)[5:l].partition(b"\0")[2 if t == PARSE else 0].partition(b"\0")[0]

    cdef bint is_judged(self, uint8_t t, ssize_t name_end) except -1:
        return t == QUERY or t == PARSE or t == FUNCTION_CALL or t == BIND and self.binds_late(name_end)

    cdef bint binds_late(self, ssize_t name_end) except -1:
        # Whether a Bind says more of a statement than its Parse did.
        if self.pool.unread or name_end == 0 and self.touch_of_unnamed() is not None:
            return True
        return name_end > 0 and (self.pool.may_refuse() or self.named_late or self.pool.recalls != 0 and self.link.sole != self.id)

    cdef object touch_of_unnamed(self):
        # What carrying out its statement without a name may leave behind. Where no books are kept of that, of what it
        # has parsed last.
        return self.unnamed_touch if self.unnamed != 0 else self.judgement

    cdef object touch_of(self, bytes name):
        # The same, of its statement of this name.
        cdef Statement stmt = self.stmts.get(name) if self.stmts is not None else None
        return touch_now(self.pool, stmt) if stmt is not None else None

    cdef bint waits(self, Out *out, uint8_t *b, size_t *run, size_t pos, uint8_t t, size_t l, size_t have, size_t name_end) except -1:
        # The message at `pos` goes under its name on the server; or it cannot go before something is answered, when
        # `Server.process` wakes us. Or never.
        cdef Server s = self.link
        cdef int doubt = CERTAIN
        if name_end == 0:
            return unnamed_waits(self, out, b, run, pos, t, l, have)
        if s.ledger.early or t == PARSE and not s.ledger.is_idle():
            doubt = self.in_doubt(s, t, b + pos, l, name_end)
        if doubt != CERTAIN and self.waits_on(out, b, run, pos, doubt):
            return True
        out_add(out, b + run[0], pos - run[0])
        run[0] = pos
        s.means = True
        run[0] += self.rename(out, s, t, b + pos, l, name_end)
        return run[0] == pos and self.waits_on(out, b, run, pos, IN_DOUBT)

    cdef bint waits_on(self, Out *out, uint8_t *b, size_t *run, size_t pos, int doubt) except -1:
        self.submit(out, b, run[0], pos)
        run[0] = pos
        if self.will_be_told(self.link):
            self.held = self.deaf = True
        elif doubt == IN_DOUBT:
            self.relay.lose(self, "it cannot be told which statements there are", True)
        return self.held or self.lost

    cdef int submit_instead(self, uint8_t t, bytes message, ssize_t name_end) except -1:
        # A whole message of ours, in place of the client's.
        cdef Out out
        cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(message)
        cdef size_t l = PyBytes_GET_SIZE(message)
        out_clear(&out)
        if name_end > 0 and not self.link.ledger.skips():
            self.rename(&out, self.link, t, p, l, name_end)
        else:
            self.note(self.link, t)
            out_add(&out, p, l)
        return self.submit(&out, p, 0, 0) if not self.lost else 0

    cdef size_t pass_piece(self, size_t pos, size_t n) noexcept:
        # Of the message under way, what is here; where it ends.
        cdef size_t take = n - pos if self.need > n - pos else <size_t>self.need
        self.need -= take
        if not self.dropping and not self.quiet:
            self.pool.counts.received += take
        return pos + take

    cdef size_t pass_rest(self, Out *out, uint8_t *b, size_t *run, size_t pos, size_t n) except? 0:
        # More of a message that has begun to go to the server, or nowhere.
        cdef Server s = self.link
        cdef size_t was = pos
        pos = self.pass_piece(pos, n)
        if self.reading and s is not None:
            read_rest(self, b + was, pos - was)
            if self.lost:
                return n
            self.reading = self.reading and self.need != 0
        if self.dropping:
            run[0] = pos
        if self.need == 0 and s is not None and s.status == IDLE and (s.clean() or s.ledger.count > 1):
            # The server may have answered before it had the whole message.
            self.submit(out, b, run[0], pos)
            run[0] = pos
            s.let_go()
            s.ask_where_it_is()
        return pos

    cdef ssize_t stop(self, Out *out, uint8_t *b, size_t run, size_t pos, size_t n, str reason) except -1:
        # Up to here all was well. Who asks for the end is told nothing.
        self.submit(out, b, run, pos)
        self.relay.lose(self, reason, reason is not CLOSE_REQUEST)
        return n

    cdef str name_fault(self, uint8_t t, uint8_t *p, size_t l, size_t have, ssize_t found):
        # Why a message without a readable name ends its client; None: the rest of it has to come.
        if t == PARSE and have > 5 and p[5] != 0 and self.overfull(l):
            # Not a byte more of it is collected.
            return TOO_MANY
        return BROKEN[t] if found == -3 else None

    cdef int submit(self, Out *out, uint8_t *b, size_t start, size_t end) except -1:
        # What is collected so far, and b[start:end], go to the server.
        if end > start:
            out_add(out, b + start, end - start)
        if self.loose != NULL:
            keep_unnamed(self, self.loose, self.loose_len)
        if out.n:
            if self.link is not None:
                # Who asks waits for the answer: what came so far was not the beginning of one long result.
                self.link.set_read_mode(PROMPT)
                self.link.asked = True
                self.link.write(out.iov, out.n)
            out_clear(out)
        return 0

    cdef bint ask(self, uint8_t t) except -1:
        # The first message of a query: count it, and get a server. False when the client has to wait.
        if not known(t):
            self.refuse_unknown(t)
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

    cdef int refuse_unknown(self, uint8_t t) except -1:
        self.relay.post(ClientSaid(self, "unknown pkt from client: %d/0x%02x" % (t, t)))
        return self.relay.lose(self, "unknown pkt", True)

    cdef int note(self, Server s, uint8_t t) except -1:
        # Remember what the server will owe for this message.
        if not known(t):
            return self.refuse_unknown(t)
        if t == QUERY and self.pool.refuse_simple:
            self.relay.post(ClientSaid(self, 'client used "Query" packet type'))
            return self.relay.lose(self, "PQexec disallowed", True)
        if s.bound or t == COPY_DATA or t == FLUSH:
            return 0
        if t == SYNC:
            return s.ledger.sent(SYNC, FORWARD, None, None)
        if s.ledger.skips():
            return 0
        if t == QUERY:
            return no_unnamed(self, s, QUERY)
        if t == COPY_DONE or t == COPY_FAIL:
            return 0 if s.ledger.is_idle() else s.ledger.sent(COPY_DONE, FORWARD, None, None)
        return s.ledger.sent(t, FORWARD, None, None)

    # ---- named statements

    cdef ssize_t statement_name(self, uint8_t t, uint8_t *p, size_t l, size_t avail) except -9:
        # Where the statement's name ends in the message (behind its NUL); 0 when it names none of the client's
        # statements, -2 when too little of it is here, -3 when it is broken.
        cdef size_t have = l if avail > l else avail
        cdef uint8_t *end
        cdef size_t at = 5
        if have == 5:
            return -3 if l == 5 else -2
        if t == DESCRIBE or t == CLOSE:
            if l > READ_BYTES:
                return -3
            if p[5] != NAMED_STATEMENT:
                return 0
            at = 6
        elif t == BIND:
            end = <uint8_t *>memchr(p + 5, 0, have - 5)
            if end == NULL:
                return -3 if have == l or have > READ_BYTES / 2 else -2
            at = end - p + 1
        if have <= at:
            return -3 if have == l else -2
        if p[at] == 0:
            return 0
        if have < l and t != BIND:
            return -2
        end = <uint8_t *>memchr(p + at, 0, have - at)
        if end == NULL:
            return -3 if have == l or have > READ_BYTES / 2 else -2
        return end - p + 1

    cdef size_t rename(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0:
        # Put the message, with the server's name for the statement, into `out`; how many bytes of `p` that replaces, 0 if
        # it has to wait for an answer.
        if t == PARSE:
            self.parse(out, s, p, l, name_end)
            return l
        if t == CLOSE:
            self.close_statement(out, s, p, name_end)
            return l
        return self.use_statement(out, s, t, p, l, name_end)

    cdef int in_doubt(self, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except -1:
        # Whether it takes an answer to know what the server and this client will have of that statement.
        cdef bytes name = self.name_in(t, p, l, name_end)
        cdef Statement there = self.stmts.get(name) if self.stmts is not None else None
        cdef Statement meant
        if s.ledger.early:
            meant = self.relay.statements.get(share_key(self, (<char *>p)[name_end:l])) if t == PARSE else there
            if s.ledger.awaits(name, there, meant):
                return IN_DOUBT
        # What is under way may be a DISCARD ALL, by which the name is free again. Where nothing tells, there was none.
        return MAYBE_FREE if t == PARSE and there is not None and s.ledger.may_discard() else CERTAIN

    cdef bint will_be_told(self, Server s) except -1:
        # Whether an answer is certain to come that settles it, or can be asked for.
        if s.ledger.says_more() or s.ledger.is_asked():
            return True
        if s.ledger.says_more_when_urged():
            s.urge()
            return True
        s.ask_where_it_is()
        return s.ledger.is_asked()

    cdef bytes name_in(self, uint8_t t, uint8_t *p, size_t l, size_t name_end):
        # The statement's name in a message.
        cdef size_t at = 5 if t == PARSE else 6
        if t == BIND:
            at = <uint8_t *>memchr(p + 5, 0, l - 5) - p + 1
        return (<char *>p)[at:name_end - 1]

    cdef int parse(self, Out *out, Server s, uint8_t *p, size_t l, size_t name_end) except -1:
        cdef bytes name = (<char *>p)[5:name_end - 1]
        cdef Statement stmt
        if l - name_end < 3:
            return self.relay.lose(self, "broken Parse packet", True)
        stmt = self.stmts.get(name) if self.stmts is not None else None
        if stmt is not None:
            return self.parse_twice(out, s, p, l, name_end, stmt)
        if self.overfull(l):
            return self.relay.lose(self, TOO_MANY, True)
        stmt = share_statement(self, s, (<char *>p)[name_end:l])
        stmt.touch, stmt.known = self.judgement, self.pool.known
        stmt.notifies = speaks_of_notify(p, l)
        self.named_late = self.named_late or self.judgement is not None and (<int>self.judgement.looks) & NAMED_LATER
        self.remember(name, stmt)
        if self.unproven is not None:
            self.unproven.discard(name)
        self.pool.counts.client_parses += 1
        if s.stmts is None or stmt not in s.stmts:
            self.pool.counts.misses += 1
            prepare(s, out, stmt, stmt.body)
            s.ledger.sent(PARSE, FORWARD, stmt, name)
            return put_describe(s, out, stmt, name)
        self.pool.counts.hits += 1
        if s.ledger.parses_surely(s.status) and self.relay.now - (<Held>s.stmts[stmt]).known < TRUSTED_US:
            put_close(out, NOBODY)
            self.unproven = self.unproven or set()
            self.unproven.add(name)
            return s.ledger.sent(CLOSE, AS_PARSE, stmt, name)
        # What is under way may be a DISCARD ALL, by which it is there no longer; or this is an error; or what it means has changed.
        put_close(out, stmt.name)
        s.ledger.sent(CLOSE, EVICTED, stmt, None)
        put_parse(out, stmt, stmt.body)
        s.ledger.sent(PARSE, FORWARD, stmt, name)
        return put_describe(s, out, stmt, name)

    cdef int parse_twice(self, Out *out, Server s, uint8_t *p, size_t l, size_t name_end, Statement stmt) except -1:
        # Under a name that is taken: the server is to say so, if it finds nothing worse.
        self.make_sure(out, s, stmt)
        put_header(out, PARSE, stmt.name, l - name_end)
        out_add(out, p + name_end, l - name_end)
        return s.ledger.sent(PARSE, TWICE, stmt, (<char *>p)[5:name_end - 1])

    cdef uint8_t make_sure(self, Out *out, Server s, Statement stmt) except 255:
        # That this server has the statement, and what it is there.
        cdef Held held = s.stmts.get(stmt) if s.stmts is not None else None
        if held is not None and held.state == DOUBTED:
            evict(s, out, held)
            held = None
        if held is None:
            self.pool.counts.misses += 1
            prepare(s, out, stmt, stmt.body if stmt.fixed is None else stmt.fixed)
            s.ledger.sent(PARSE, SKIP, stmt, None)
            put_describe(s, out, stmt, None)
            held = s.stmts[stmt]
            held.counted = held.state == BEING_READ
            return held.state
        if held.state == HOLDS:
            # Who has waited for it was counted.
            self.pool.counts.hits += not held.counted
            held.counted = False
            self.relay.tick += 1
            held.used = self.relay.tick
        return held.state

    cdef size_t use_statement(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0:
        # Bind and Describe: by the statement's name on the server, which gets it if need be; by no statement's name if
        # the client has none, so that the server says what there is to say.
        cdef bytes name = self.name_in(t, p, l, name_end)
        cdef Statement stmt = self.stmts.get(name) if self.stmts is not None else None
        cdef size_t at = name_end - 1 - PyBytes_GET_SIZE(name)
        cdef uint8_t act = UNKNOWN
        cdef uint8_t there
        if stmt is not None:
            there = BEING_READ if must_look_later(s, stmt) else self.make_sure(out, s, stmt)
            if there == BEING_READ:
                return 0
            act = STALE if there == STALE_THERE else FORWARD
            if self.unproven is not None and name in self.unproven:
                self.unproven.discard(name)
                act = FIRST
                if there == STALE_THERE:
                    # It was prepared behind the change by which it is stale.
                    evict(s, out, s.stmts[stmt])
                    stmt = self.renew(name, stmt)
                    self.make_sure(out, s, stmt)
        if t == BIND:
            self.pool.counts.binds += 1
            if stmt is not None:
                if stmt.known != self.pool.known:
                    touch_now(self.pool, stmt)
                if stmt.touch is not None and not (self.named_late and (<int>stmt.touch.looks) & NAMED_LATER):
                    touched(self, s, stmt.touch)
                if stmt.notifies:
                    s.notified = True
        if act == STALE:
            # It is looked at again by who means it next.
            evict(s, out, s.stmts[stmt])
        if act == STALE or act == UNKNOWN:
            stmt = missing_statement(self.relay)
        s.ledger.sent(t, act, stmt, name)
        return self.put_renamed(out, t, p, l, at, name_end, stmt.name)

    cdef size_t put_renamed(self, Out *out, uint8_t t, uint8_t *p, size_t l, size_t at, size_t name_end, bytes name) except? 0:
        # A Bind or Describe, with another name in place of the one that it has at `at`.
        cdef size_t size = PyBytes_GET_SIZE(name) + 1
        cdef uint8_t *q
        q = out_scratch(out, 5 + size)
        q[0] = t
        put32(q + 1, <uint32_t>(l - 1 - (name_end - at) + size))
        memcpy(q + 5, PyBytes_AS_STRING(name), size)
        out_add(out, q, 5)
        out_add(out, p + 5, at - 5)
        out_add(out, q + 5, size)
        return name_end

    cdef int close_statement(self, Out *out, Server s, uint8_t *p, size_t name_end) except -1:
        # The statement stays on the server for others; the client gets its CloseComplete for a name that never was.
        cdef bytes name = (<char *>p)[6:name_end - 1]
        cdef Statement stmt = self.stmts.get(name) if self.stmts is not None else None
        if stmt is not None:
            self.forget_statement(stmt, name)
        put_close(out, NOBODY)
        return s.ledger.sent(CLOSE, FORWARD, stmt, name if stmt is not None else None)

    cdef Statement renew(self, bytes name, Statement stmt):
        # Its statement of that name becomes one of its own, of the same text: what is there by now.
        cdef Statement fresh = new_statement(self.relay, stmt.key, stmt.body)
        fresh.touch, fresh.known, fresh.notifies = stmt.touch, stmt.known, stmt.notifies
        self.stmts[name] = fresh
        return fresh

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

    @property
    def listens_to(self):
        """Channels that a listening server tells it of."""
        return sorted(self.channels or ())

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
            if t == QUERY or t == SYNC or t == FUNCTION_CALL:
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
    return (t == QUERY or t == PARSE or t == BIND or t == EXECUTE or t == DESCRIBE or t == SYNC or t == CLOSE or t == FUNCTION_CALL
            or t == FLUSH or t == COPY_DATA or t == COPY_DONE or t == COPY_FAIL)


cdef inline size_t storage(bytes name, Statement stmt):
    # What a name and its statement cost us, about.
    return PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(stmt.body) + STATEMENT_COST


cdef str ending(uint8_t t, size_t l, uint8_t *p, size_t have):
    # Why a message, by its first five to eight bytes, is the last of its client's. Of a Flush that is no Flush PostgreSQL would say
    # an error, and skip what follows; nobody sends that.
    if t == TERMINATE and l >= 5:
        return CLOSE_REQUEST
    if t == FLUSH and l >= 5 and l != 5:
        return "broken Flush packet"
    return "bad packet header: '%s'" % (<char *>p)[:have].hex()


cdef str CLOSE_REQUEST = "client close request"
cdef str NOT_SUPPORTED = "0A000"
cdef str TOO_LONG_TO_REFUSE = "session state is refused, in a statement too long to be read"
cdef str TOO_MANY = "prepared statements need too much memory"
cdef dict BROKEN = {
    PARSE: "broken Parse packet", BIND: "broken Bind packet",
    DESCRIBE: "broken Describe packet", CLOSE: "broken Close packet",
}
