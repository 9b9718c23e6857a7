# Named prepared statements in transaction and statement mode. A client's names are its own; on the servers a statement
# is known by its text, under a name of ours, and is shared by all clients. Every client message stays one server
# message, so that answers keep their order without bookkeeping of what lies between: a Parse that the server does
# not need is sent as the Close of a statement that never exists, and its CloseComplete is handed on as ParseComplete.
#
# What a text means changes by DDL, whoever does it. So behind each Parse goes a Describe of ours, and what it is
# answered is remembered with the statement: elsewhere it is parsed with the types that its parameters had, and its
# client is held until it is known that the result is the same (BEING_READ). If not, its client is told what PostgreSQL
# would tell it (0A000), or its batch is run again (stale.pxi); who prepares the same text from then on gets a statement of its own. What a server has is given
# to who prepares its text if it was looked at within the last second (TRUSTED_US); else it is parsed anew.

cdef bytes NOBODY = b"PGBOUNCER_0"
cdef tuple MEANINGS = tuple(sorted([name.encode() for name in touches.MEANINGS]))
# Parameters by which a text means something else.

cdef enum:
    # Of a statement on a server. HOLDS: it is what its clients were told, or nobody was told anything before. BEING_READ: the
    # answer to that is to come. STALE_THERE: its result is of other types. DOUBTED: nothing has told; it is made anew.
    HOLDS = 0
    BEING_READ = 1
    STALE_THERE = 2
    DOUBTED = 3


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


cdef Statement share_statement(Client c, Server s, bytes body):
    # The Statement of a Parse by `c`: the same for all to whom the text means the same. It lasts as long as a client or a
    # server has it.
    cdef tuple key = share_key(c, body)
    cdef Statement stmt = c.relay.statements.get(key)
    cdef Held held
    if s.strays or s.touches is not None:
        # What it means in this transaction it may mean to nobody else.
        return new_statement(c.relay, (body,), body)
    if stmt is None:
        return new_statement(c.relay, key, body)
    held = s.stmts.get(stmt) if s.stmts is not None else None
    if held is None and stmt.told is None or held is not None and held.state != HOLDS:
        # Nobody knows yet what it is.
        return new_statement(c.relay, key, body)
    return stmt


cdef Statement new_statement(Relay relay, tuple key, bytes body):
    cdef Statement stmt = Statement.__new__(Statement)
    relay.next_statement += relay.statement_step
    stmt.id = relay.next_statement
    stmt.body = body
    stmt.key = key
    stmt.name = b"PGBOUNCER_%d" % relay.next_statement
    relay.statements[key] = stmt
    if relay.numbered is not None:
        relay.numbered[stmt.id] = stmt
    return stmt


cdef bint strays(object touch):
    # Whether texts may mean something else behind it, up to the end of the transaction or longer.
    return (touch.looks & touches.STRAYS or touch.kinds & touches.Held.UNSEEN or touches.ALL in touch.resets
            or not touches.MEANINGS.isdisjoint(touch.names))


cdef int settle_texts(Server s) except -1:
    # At a ReadyForQuery. What code may have deallocated is made anew; what is behind the transaction means what it did before.
    if s.forgets_all:
        s.stmts, s.unsure = None, True
        s.forgets_all = not s.ledger.at_rest()
    s.strays = s.strays and not s.clean()
    return 0


cdef tuple share_key(Client c, bytes body):
    # The text, and by what else it means what it does.
    cdef list key = [body, c.pool.database, c.pool.user]
    cdef int i
    for i in range(0, len(c.session), 2):
        if c.session[i] in MEANINGS:
            key += c.session[i:i + 2]
    for name in MEANINGS:
        place = c.relay.tracked_index.get(name)
        if place is not None:
            key.append(c.params[place])
    return tuple(key)


cdef int texts_changed(Server s) except -1:
    # What was committed there may have changed them for all, other workers' clients among them.
    s.relay.statements.clear()
    return s.relay.post(TextsChanged(s.pool)) if s.relay.numbered is not None else 0


cdef int learn(Statement stmt, bytes types, bytes told) except -1:
    # What it was described as where it was first prepared.
    cdef size_t end = strnlen(<char *>PyBytes_AS_STRING(stmt.body), PyBytes_GET_SIZE(stmt.body))
    stmt.told = told
    stmt.fixed = stmt.body[:end + 1] + types
    if stmt.fixed == stmt.body:
        stmt.fixed = stmt.body
    return 0


cdef bytes row_types(uint8_t *p, size_t l):
    # Of a RowDescription what PostgreSQL holds a result to: names, types and their modifiers.
    cdef bytearray found = bytearray()
    cdef size_t at = 7
    cdef size_t end
    while at < l:
        end = at + strnlen(<char *>p + at, l - at) + 1
        if end + 18 > l:
            break
        found += (<char *>p)[at:end]
        found += (<char *>p)[end + 6:end + 10]
        found += (<char *>p)[end + 12:end + 16]
        at = end + 18
    return bytes(found)


cdef int put_describe(Server s, Out *out, Statement stmt, object name) except -1:
    # Describe `stmt`, whose answer is ours (`describes`). `name`: that of the client which has just parsed it. Not behind the
    # end of a COPY that is unanswered: where that fails, guesses might differ on whose answer it is. Who means it waits
    # for that (`must_look_later`).
    cdef size_t n = PyBytes_GET_SIZE(stmt.name)
    cdef uint8_t *p
    if s.ledger.ends_copy():
        if n == 0:
            s.unnamed_state = HOLDS
        else:
            (<Held>s.stmts[stmt]).state = DOUBTED
        return 0
    p = out_scratch(out, n + 7)
    p[0] = DESCRIBE
    put32(p + 1, <uint32_t>(n + 6))
    p[5] = NAMED_STATEMENT
    memcpy(p + 6, PyBytes_AS_STRING(stmt.name), n + 1)
    out_add(out, p, n + 7)
    if n == 0:
        s.unnamed_state = BEING_READ
    else:
        (<Held>s.stmts[stmt]).state = HOLDS if stmt.told is None else BEING_READ
    return s.ledger.sent(DESCRIBE, SKIP, stmt, name)


cdef bint must_look_later(Server s, Statement stmt) except -1:
    # Whether it is to be asked what the statement is there, and can be when the end of a COPY is answered. With several
    # guesses that may never be: then it is not asked.
    cdef Held held
    if s.ledger.length == 0 or s.ledger.count > 1:
        return False
    held = s.stmts.get(stmt) if s.stmts is not None else None
    return (held is None or held.state == DOUBTED) and s.ledger.ends_copy()


cdef bint is_wrong(Server s, int act, uint8_t t, uint8_t *p, size_t l) except -1:
    # Whether a message of which something else is to be done than to pass it on is none that can be said here.
    if act == SKIP and s.ledger.described is not None:
        return not describes(s, t, p, l)
    return act == WRONG or l != 5


cdef bint describes(Server s, uint8_t t, uint8_t *p, size_t l) except -1:
    # A part of the answer to that; False if it comes out of turn.
    cdef Statement stmt = s.ledger.described
    cdef bytes told
    cdef Held held
    s.ledger.described = None
    if stmt is ANYBODYS or s.types == UNSURE and t != PARAMETER_DESCRIPTION:
        doubt_all(s)
        s.types = UNSURE if t == PARAMETER_DESCRIPTION else None
        return True
    if t == PARAMETER_DESCRIPTION:
        s.types = (<char *>p)[5:l]
        return True
    if s.types is None:
        return False
    told = s.types + (row_types(p, l) if t == ROW_DESCRIPTION else b"\0")
    held = s.stmts.get(stmt) if s.stmts is not None else None
    if stmt.told is None:
        learn(stmt, s.types, told)
    if stmt.told != told:
        s.relay.statements.clear()
    if not told_the_same(stmt.told, told):
        not_as_told(s, stmt, s.ledger.described_name, told)
    elif held is not None:
        held.state = HOLDS
        held.known = s.relay.now
    elif stmt.name == b"":
        s.unnamed_state = HOLDS
    s.types = s.ledger.described_name = None
    return True


cdef bytes UNSURE = b"?"
# In place of types: it cannot be told whose they are.


cdef int doubt_all(Server s) except -1:
    # What was to be read has been, and nobody knows of what it was told: all of that is made anew when it is meant.
    cdef Held held
    s.ledger.described_name = None
    for held in (s.stmts or {}).values():
        if held.state == BEING_READ:
            held.state = DOUBTED
    if s.unnamed_state == BEING_READ:
        s.unnamed = 0
    return 0


cdef int not_as_told(Server s, Statement stmt, object name, bytes told) except -1:
    # What it means has changed meanwhile: all texts are parsed anew by whoever prepares them. A client that has just
    # done so has a statement of its own.
    cdef Held held = s.stmts.get(stmt) if s.stmts is not None else None
    if stmt.name == b"":
        s.unnamed_state = STALE_THERE
    if held is not None:
        held.state = STALE_THERE
    if name is not None and s.link is not None and s.link.stmts is not None and s.link.stmts.get(name) is stmt:
        learn(s.link.renew(name, stmt), s.types, told)
    return 0


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


cdef int put_parse(Out *out, Statement stmt, bytes body) except -1:
    put_header(out, PARSE, stmt.name, PyBytes_GET_SIZE(body))
    out_add(out, <uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return 0


# ---- what a server has

cdef int hold_statement(Server s, Statement stmt) except -1:
    cdef Held held = Held.__new__(Held)
    s.relay.tick += 1
    held.stmt = stmt
    held.used = s.relay.tick
    held.known = s.relay.now
    if s.stmts is None:
        s.stmts = {}
    s.stmts[stmt] = held
    return 0


cdef int prepare(Server s, Out *out, Statement stmt, bytes body) except -1:
    # The Parse of `stmt` by this body, behind the Closes of the least recently used ones if the server is full: more than one when
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
    return put_parse(out, stmt, body)


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


cdef int command_complete(Server s, uint8_t *b, size_t n) except -1:
    # What its end tells of what the server holds now: of the most usual, nothing, or that it has drawn.
    cdef int what
    if b[5] == c'S' or b[5] == c'B':
        return 0
    if b[5] == c'I' and b[6] == c'N':
        return sequences_told(s, b, n)
    if s.touches is not None and n >= 13 and memcmp(b + 5, <char *>b"ROLLBACK", 8) == 0:
        s.undone = True
    elif s.touches is not None and silences(b, n):
        s.silenced = True
    elif s.touches is None and (s.pinned or s.session) and may_end_a_pin(b, n) and (
            s.pinned or sessions.looks_for_statements(s.session, ())):
        s.touches = []
    elif b[5] == c'N' and n == 12 and s.task == NO_TASK and memcmp(b + 5, <char *>b"NOTIFY", 7) == 0:
        s.notified = True
    sequences_told(s, b, n)
    if redefines(b, n) or s.redefines and b[5] == c'R':
        # Behind a ROLLBACK TO as it was.
        s.redefines = True
        s.relay.statements.clear()
    if makes_code(s, b, n):
        made_code(s)
    what = said_of_statements(b, n)
    if what == ALL_GONE:
        return settle_deallocate(s)
    if what == SOME_CHANGED:
        s.stmts, s.unsure = None, True
    return 0


cdef tuple STATEMENT_FAULTS = (
    (UNKNOWN, b"\0C26000\0", "prepared statement did not exist: '%s' not found", b"The prepared statement did not exist for this client."),
    (TWICE, b"\0C42P05\0", "prepared statement '%s' was already prepared",
     b"The prepared statement name is already in use by this client."),
)
# (what it was sent as, SQLSTATE of the server's answer, what the log hears, DETAIL for the client)
cdef bytes CHANGED = (b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0Fplancache.c\0RRevalidateCachedQuery\0\0")
# What PostgreSQL says of a statement whose result is of other types than when it was prepared.


cdef int reword(Server s, uint8_t *p, size_t l) except -1:
    # An error about a text or a name of ours, as its client is told it.
    cdef bytes told
    if s.link.refusals is None or memmem(p, l, <char *>b"POOLER_REFUSES_", 15) == NULL:
        if s.unmade is None or s.ledger.failed is not None:
            return say_renamed(s, p, l)
        told = said_of_unmade(s, p, l)
    else:
        told = refusal_in_words(s.link, p, l)
    return s.pass_on(<uint8_t *>PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told))


cdef int say_renamed(Server s, uint8_t *p, size_t l) except -1:
    # An error about a statement by the name that it has here, told with the name that its client knows.
    cdef bytes body = (<char *>p)[5:l]
    cdef bytes told = body
    cdef bytes there
    cdef iovec iov
    for stmt, name, act in s.ledger.failed:
        there = b'"%s"' % (<Statement>stmt).name
        if there not in body:
            continue
        if act == STALE:
            told = CHANGED
            break
        told = body.replace(there, b'"%s"' % name)
        for sent, code, log, detail in STATEMENT_FAULTS:
            if act == sent and code in body:
                told = told[:len(told) - 1] + b"D" + detail + b"\0\0"
                s.relay.post(ClientSaid(s.link, log % (<bytes>name).decode("utf-8", "replace")))
        break
    told = b"E" + (len(told) + 4).to_bytes(4, "big") + told
    iov.iov_base = PyBytes_AS_STRING(told)
    iov.iov_len = PyBytes_GET_SIZE(told)
    s.pool.counts.sent += iov.iov_len
    return s.link.write(&iov, 1)


cdef int renew_first(Server s) except -1:
    # It was told 0A000 of what it has prepared behind the change: not again.
    for stmt, name, act in s.ledger.failed or ():
        if act == FIRST and s.link is not None and s.link.stmts is not None and s.link.stmts.get(name) is stmt:
            s.link.renew(name, stmt)
    return 0


cdef int settle_deallocate(Server s) except -1:
    # What was prepared is gone, but for what is still owed: that was sent behind it. A Close among it, of what is
    # gone, brings nothing back if it is skipped. What was sent behind it by one guess and ahead by another may be there
    # or not: its client keeps it, and the server gets everything anew, behind a Close.
    cdef dict there = {}
    cdef dict names = {}
    cdef Owed *o
    cdef int i
    cdef int owing
    cdef bint uncertain = False
    for i in range(s.ledger.length):
        o = s.ledger.at(i)
        if not s.ledger.changes(o) or o.act == TWICE:
            continue
        owing = s.ledger.owing(i)
        uncertain |= 0 < owing < s.ledger.count
        if owing == 0:
            continue
        if o.kind == PARSE:
            there[<object>o.stmt] = None
        elif o.act == EVICTED and there.pop(<object>o.stmt, there) is there:
            o.act = SKIP
        if o.name != NULL and (o.kind == PARSE or o.act == AS_PARSE):
            names[<object>o.name] = <object>o.stmt
        elif o.name != NULL and names.pop(<object>o.name, None) is None:
            o.act = UNKNOWN
    if uncertain:
        s.stmts, s.unsure = None, True
    elif s.stmts is not None:
        s.stmts = {stmt: held for stmt, held in s.stmts.items() if stmt in there}
    if s.link is not None:
        s.link.remember_only(names)
    return 0


cdef int lose_track(Server s, uint8_t *b, size_t n) except -1:
    # An error about a statement by a name of ours: somebody has said PREPARE or DEALLOCATE with it. What is there
    # is no longer known: everything is prepared anew, from now on behind a Close, which never fails.
    if s.stmts is None and s.unsure or memmem(b, n, <char *>b"PGBOUNCER_", 10) == NULL:
        return 0
    if memmem(b, n, <char *>b"C26000", 7) != NULL or memmem(b, n, <char *>b"C42P05", 7) != NULL:
        s.stmts = None
        s.unsure = True
    return 0


cdef int undo(Server s, uint8_t kind, uint8_t act, Statement stmt, object name) except -1:
    # What was sent has not happened.
    if act == TWICE or kind == CLOSE and act in (SKIP, UNKNOWN):
        return 0
    if act == UNNAMED:
        return undo_unnamed(s, name)
    if act == UNNAMED_AGAIN:
        if not s.ledger.parses_unnamed(False):
            s.unnamed = 0
        return 0
    if kind == DESCRIBE:
        if stmt.name == b"":
            s.unnamed = 0
        elif s.stmts is not None and stmt in s.stmts and (<Held>s.stmts[stmt]).state == BEING_READ:
            (<Held>s.stmts[stmt]).state = DOUBTED
        return 0
    if kind == PARSE:
        s.ledger.makes_room(stmt, False)
        if s.stmts is not None:
            s.stmts.pop(stmt, None)
        if name is not None and s.link is not None:
            s.link.forget_statement(stmt, name)
    elif act == EVICTED:
        if not s.ledger.makes_room(stmt, True):
            hold_statement(s, stmt)
            (<Held>s.stmts[stmt]).state = DOUBTED
    elif s.link is None:
        return 0
    elif act == AS_PARSE:
        s.link.forget_statement(stmt, name)
    elif s.link.stmts is None or name not in s.link.stmts:
        # A Close that was not carried out leaves the client its statement.
        s.link.remember(name, stmt)
    return 0

