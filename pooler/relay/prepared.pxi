# Named prepared statements in transaction and statement mode. A client's names are its own; on the servers a statement
# is known by its text, under a name of ours, and is shared by all clients. Every client message stays one server
# message, so that answers keep their order without bookkeeping of what lies between: a Parse that the server does
# not need is sent as the Close of a statement that never exists, and its CloseComplete is handed on as ParseComplete.

cdef bytes NOBODY = b"PGBOUNCER_0"


@cython.no_gc
cdef class Statement:
    @property
    def text(self):
        """Query and parameter types as they stand in the Parse message, behind the name."""
        return self.body

    @property
    def server_name(self):
        return self.name


cdef class Held:
    pass


def last_use(Held held):
    return held.used


def size_of(Held held):
    return PyBytes_GET_SIZE(held.stmt.body)


cdef Statement share_statement(Relay relay, bytes body):
    # The one Statement for this text. It lasts as long as a client or a server has it.
    cdef Statement stmt = relay.statements.get(body)
    if stmt is None:
        relay.next_statement += 1
        stmt = Statement.__new__(Statement)
        stmt.id = relay.next_statement
        stmt.body = body
        stmt.name = b"PGBOUNCER_%d" % relay.next_statement
        relay.statements[body] = stmt
    return stmt


cdef Statement missing_statement(Relay relay):
    # What a client has named and does not have: by a name that no statement ever has, and of which an error that names it
    # can be told from all others.
    cdef Statement stmt = Statement.__new__(Statement)
    relay.tick += 1
    stmt.id = -relay.tick
    stmt.body = b""
    stmt.name = b"PGBOUNCER_%d" % stmt.id
    return stmt


cdef int put_close(Out *out, bytes name) except -1:
    # Close of statement `name`; at most 64 bytes of scratch.
    cdef size_t n = PyBytes_GET_SIZE(name)
    cdef uint8_t *p = out_scratch(out, n + 7)
    p[0] = CLOSE
    put32(p + 1, <uint32_t>(n + 6))
    p[5] = NAMED_STATEMENT
    memcpy(p + 6, PyBytes_AS_STRING(name), n + 1)
    out_add(out, p, n + 7)
    return 0


cdef int put_header(Out *out, uint8_t t, bytes name, size_t body) except -1:
    # The head of a message that begins with `name`, before `body` more bytes of it.
    cdef size_t n = PyBytes_GET_SIZE(name)
    cdef uint8_t *p = out_scratch(out, n + 6)
    p[0] = t
    put32(p + 1, <uint32_t>(4 + n + 1 + body))
    memcpy(p + 5, PyBytes_AS_STRING(name), n + 1)
    out_add(out, p, n + 6)
    return 0


cdef int put_parse(Out *out, Statement stmt) except -1:
    cdef size_t body = PyBytes_GET_SIZE(stmt.body)
    put_header(out, PARSE, stmt.name, body)
    out_add(out, <uint8_t *>PyBytes_AS_STRING(stmt.body), body)
    return 0


# ---- what a server has

cdef int hold_statement(Server s, Statement stmt) except -1:
    cdef Held held = Held.__new__(Held)
    s.relay.tick += 1
    held.stmt = stmt
    held.used = s.relay.tick
    if s.stmts is None:
        s.stmts = {}
    s.stmts[stmt] = held
    return 0


cdef int prepare(Server s, Out *out, Statement stmt) except -1:
    # The Parse of `stmt`, behind the Closes of the least recently used ones if the server is full: more than one when
    # the limit was lowered. Behind those of the largest, if it is the bytes that are too many: only a statement of
    # more than its share can bring that about.
    cdef size_t size = PyBytes_GET_SIZE(stmt.body)
    cdef size_t most = s.relay.max_statement_bytes
    cdef int surplus = len(s.stmts) - s.pool.max_prepared + 1 if s.stmts is not None else 0
    if surplus > 0:
        for held in sorted(s.stmts.values(), key=last_use)[:surplus]:
            evict(s, out, held)
    if size * s.pool.max_prepared > most:
        while s.stmts and held_bytes(s) + size > most:
            evict(s, out, max(s.stmts.values(), key=size_of))
    if s.unsure:
        # It may be there all the same, or something else by its name.
        put_close(out, stmt.name)
        s.ledger.sent(CLOSE, SKIP, None, None)
    hold_statement(s, stmt)
    s.pool.counts.server_parses += 1
    return put_parse(out, stmt)


cdef size_t held_bytes(Server s) except? 0:
    cdef Statement stmt
    cdef size_t total = 0
    if s.stmts is not None:
        for stmt in s.stmts:
            total += PyBytes_GET_SIZE(stmt.body)
    return total


cdef int evict(Server s, Out *out, Held held) except -1:
    if out_full(out):
        s.write(out.iov, out.n)
        out_clear(out)
    del s.stmts[held.stmt]
    put_close(out, held.stmt.name)
    return s.ledger.sent(CLOSE, EVICTED, held.stmt, None)


cdef int lose_track(Server s, uint8_t *b, size_t n) except -1:
    # An error about a statement by a name of ours: somebody has said PREPARE or DEALLOCATE with it. What is there
    # is no longer known: everything is prepared anew, from now on behind a Close, which never fails.
    if s.stmts is None and s.unsure or memmem(b, n, <char *>b"PGBOUNCER_", 10) == NULL:
        return 0
    if memmem(b, n, <char *>b"C26000", 7) != NULL or memmem(b, n, <char *>b"C42P05", 7) != NULL:
        s.stmts = None
        s.unsure = True
    return 0
