# A statement that a change has made stale of which nothing was seen here: its server says 0A000 (RevalidateCachedQuery) of
# the first message that means it. Outside a transaction its client need not hear of that, if it is not going to read
# the rows of one shape by the description of another: the batch is run again, with the statement prepared anew
# (MACHINES.md draws it). A batch is kept from its first byte on, where it means a named statement, until it is answered. It
# is told from the copy, and from the ledger, that nothing of it has happened, or has been said.

cdef enum:
    # What an error that has come is. TOLD: its client's. TO_COME: that depends on what follows. AGAIN: nobody's.
    TOLD = 0
    TO_COME = 1
    AGAIN = 2


cdef struct Said:
    # Of the copy, where its first Bind or Describe is, and how many messages there are from there on. `described`: whoever
    # executes the statement is told before of what shape its rows are, and reads all its columns alike. `synced`: it ends with
    # a Sync, not a Flush.
    size_t start
    int count
    bint described
    bint synced


cdef struct Use:
    # What a batch has said of the statement so far. `portal`: bound to it, and not described since.
    uint8_t *portal
    size_t portal_len
    bint described


cdef int keep_batch(Server s, uint8_t *b, size_t n, bint begins) except -1:
    # What its client has just sent, of a batch that means a named statement. Of one that is too long nothing is kept.
    cdef uint8_t *fresh
    cdef size_t cap
    if begins:
        s.keeps, s.batch_len = True, 0
    if not s.keeps or s.batch_len + n > KEPT_BATCH:
        s.keeps = False
        return 0
    if s.batch_len + n > s.batch_cap:
        cap = KEPT_BATCH if s.batch_len + n > KEPT_BATCH / 8 else KEPT_BATCH / 8
        fresh = <uint8_t *>realloc(s.batch, cap)
        if fresh == NULL:
            raise MemoryError
        s.batch, s.batch_cap = fresh, cap
    memcpy(s.batch + s.batch_len, b, n)
    s.batch_len += n
    return 0


# ---- what a batch says

cdef size_t name_length(uint8_t *p, size_t n) noexcept:
    # With its NUL; more than there is, where it has none.
    return strnlen(<char *>p, n) + 1


cdef bint is_named(uint8_t *p, size_t n, bytes name) noexcept:
    cdef size_t l = PyBytes_GET_SIZE(name) + 1
    return n >= l and memcmp(p, PyBytes_AS_STRING(name), l) == 0


cdef bint alike(uint8_t *p, size_t n) noexcept:
    # Of a Bind, behind its names: whether all columns of the result are asked for in one format. Who asks for each by itself
    # goes by a description that it has.
    cdef size_t at = 4 + 2 * ((p[0] << 8) + p[1]) if n >= 4 else n
    cdef size_t size
    cdef int left = (p[at - 2] << 8) + p[at - 1] if at <= n and n >= 4 else 0
    while left > 0 and at + 4 <= n:
        size = be32(p + at)
        at += 4 if size == 0xffffffff else 4 + size
        left -= 1
    return left == 0 and at + 2 <= n and (p[at] << 8) + p[at + 1] <= 1


cdef bint reads_use(uint8_t t, uint8_t *p, size_t n, bytes name, Use *use) noexcept:
    # One message's body more; False if it is not said of all rows of that statement what they are, ahead of them.
    cdef size_t l
    if t == BIND:
        l = name_length(p, n)
        if l <= n and is_named(p + l, n - l, name):
            if use.portal != NULL or not alike(p + l + PyBytes_GET_SIZE(name) + 1, n - l - PyBytes_GET_SIZE(name) - 1):
                return False
            if not use.described:
                use.portal, use.portal_len = p, l
    elif t == EXECUTE:
        return use.portal == NULL or not (n >= use.portal_len and memcmp(p, use.portal, use.portal_len) == 0)
    elif t == DESCRIBE and n > 0 and p[0] == NAMED_STATEMENT:
        use.described = use.described or is_named(p + 1, n - 1, name)
    elif t == DESCRIBE and use.portal != NULL and n == use.portal_len + 1 and memcmp(p + 1, use.portal, n - 1) == 0:
        use.portal = NULL
    elif t == PARSE or t == CLOSE and n > 0 and p[0] == NAMED_STATEMENT:
        return not is_named(p if t == PARSE else p + 1, n if t == PARSE else n - 1, name)
    return True


cdef bint read_batch(Server s, bytes name, Said *batch) noexcept:
    # False where the copy is no whole batch that ends with its only Sync or Flush, or has anything but a Parse or Close ahead
    # of the first Bind or Describe. Those two stand, whatever fails behind them.
    cdef uint8_t *b = s.batch
    cdef size_t n = s.batch_len
    cdef size_t at = 0
    cdef size_t l
    cdef uint8_t t
    cdef Use use
    use.portal, use.described = NULL, False
    batch.count, batch.described = 0, True
    while at + 5 <= n:
        t = b[at]
        l = <size_t>be32(b + at + 1) + 1
        if l < 5 or l > n - at:
            return False
        batch.synced = t != FLUSH
        if t == FLUSH and batch.count:
            return at + l == n
        if batch.count == 0 and (t == BIND or t == DESCRIBE):
            batch.start = at
        elif t != PARSE and t != CLOSE and (batch.count == 0 or t != BIND and t != DESCRIBE and t != EXECUTE and t != SYNC):
            return False
        if batch.count or t == BIND or t == DESCRIBE:
            batch.count += 1
            batch.described = batch.described and reads_use(t, b + at + 5, l - 5, name, &use)
        at += l
        if t == SYNC:
            return at == n
    return False


# ---- what the server says

cdef bint is_change(uint8_t *p, size_t l) noexcept:
    # An ErrorResponse: whether it is that a statement's result is of other types now.
    return memmem(p, l, <char *>b"\0C0A000\0", 8) != NULL and memmem(p, l, <char *>b"\0RRevalidateCachedQuery\0", 24) != NULL


cdef bint is_unheard(Ledger ledger, Said *batch) noexcept:
    # Whether what the server owes is that batch, from its first Bind or Describe on, and what is ours.
    cdef int i
    cdef int count = 0
    cdef uint8_t act
    for i in range(ledger.length):
        act = ledger.at(i).act
        count += act != SKIP and act != EVICTED and act != UNNAMED_AGAIN
    return count == batch.count and (ledger.at(ledger.length - 1).kind == SYNC) == batch.synced


cdef int goes_back(Server s, Out *out, uint8_t *b, size_t *run, size_t pos, size_t n) except -1:
    # Whether what stands at `pos`, an ErrorResponse, or the ParameterDescription that may stand ahead of one, is told. If
    # not, and the batch is run again, `run` is behind it, and behind the ReadyForQuery where there is to be one.
    cdef size_t at = pos
    cdef size_t l
    cdef int act
    if b[at] == PARAMETER_DESCRIPTION:
        at += <size_t>be32(b + at + 1) + 1
        if at - pos > READ_BYTES or s.ledger.length == 0 or s.ledger.at(0).kind != DESCRIBE:
            return TOLD
    if at >= n:
        return TO_COME
    if b[at] != ERROR_RESPONSE:
        return TOLD
    l = <size_t>be32(b + at + 1) + 1 if n - at >= 5 else 5
    if l > READ_BYTES or l < 5:
        return TOLD
    act = may_go_back(s, b + at, l) if n - at >= l else TO_COME
    if act != AGAIN:
        return act
    if s.synced and n - at < l + 6:
        return TO_COME if n - at == l or b[at + l] == READY_FOR_QUERY else TOLD
    if s.synced and (b[at + l] != READY_FOR_QUERY or b[at + l + 5] != IDLE):
        return TOLD
    s.hand_over(out, b, run[0], pos)
    run[0] = at + l + (6 if s.synced else 0)
    return go_back(s, b + at, l)


cdef int may_go_back(Server s, uint8_t *p, size_t l) except -1:
    # AGAIN, if what is told is that a statement has become stale, of which nothing was said in this batch, and its client
    # is not going to read rows of one shape by another's description.
    cdef Owed *o = s.ledger.at(0) if s.ledger.length else NULL
    cdef Statement stmt
    cdef Said batch
    if (s.goes_back or s.link.need or s.status != IDLE or s.ledger.count > 1 or s.ledger.guesses[0].mode != READING
            or o == NULL or o.name == NULL
            or o.kind != BIND and o.kind != DESCRIBE or o.act != FORWARD and o.act != FIRST and o.act != STALE):
        return TOLD
    if not (is_change(p, l) if o.act != STALE else memmem(p, l, <char *>b"PGBOUNCER_-", 11) != NULL):
        return TOLD
    stmt = s.link.stmts.get(<object>o.name) if s.link.stmts is not None else None
    if stmt is None or not read_batch(s, <bytes>o.name, &batch) or not is_unheard(s.ledger, &batch):
        return TOLD
    if not batch.described and o.act != FIRST and (o.act == STALE or stmt.told is None):
        return TOLD
    s.batch_start, s.renews, s.synced = batch.start, batch.described or o.act == FIRST, batch.synced
    return AGAIN


cdef int go_back(Server s, uint8_t *p, size_t l) except -1:
    # The server goes over it, and its client says it all again. Where the client has a description of its own, and the result is
    # not the same but for lengths and precisions, it is told so then (STALE_THERE).
    cdef Client c = s.link
    cdef Owed *o = s.ledger.at(0)
    cdef uint8_t act = o.act
    cdef bytes name = <bytes>o.name
    cdef Statement stmt
    cdef bytes again
    s.erred(p, l, l)
    if s.synced:
        s.answered(READY_FOR_QUERY, p + l, 6)
    else:
        # Its client waits for this answer before it says Sync. Ours ends the transaction, in which nothing was carried out.
        s.ask_by_sync()
    stmt = c.stmts.get(name) if c.stmts is not None else None
    if stmt is not None and not s.renews and s.stmts is not None and stmt in s.stmts:
        (<Held>s.stmts[stmt]).state = DOUBTED
    elif stmt is not None and act != FIRST:
        renew_as_told(c, name, stmt)
    s.goes_back, s.keeps = True, False
    again = (<char *>s.batch)[s.batch_start:s.batch_len]
    s.pool.counts.received -= len(again)
    again += (<char *>c.hold)[:c.hold_len]
    c.keep(<uint8_t *>PyBytes_AS_STRING(again), PyBytes_GET_SIZE(again), 0)
    c.listen_again()
    return AGAIN


cdef int renew_as_told(Client c, bytes name, Statement stmt) except -1:
    # Its statement becomes one of its own, with parameters of the types that it was told, or could have been: by those it
    # has sent their values.
    cdef bytes body = stmt.body if stmt.fixed is None else stmt.fixed
    cdef Statement fresh = new_statement(c.relay, (body,) + stmt.key[1:], body)
    fresh.touch, fresh.known, fresh.notifies = stmt.touch, stmt.known, stmt.notifies
    c.forget_statement(stmt, name)
    return c.remember(name, fresh)


cdef bint told_the_same(bytes told, bytes now) noexcept:
    # Of two descriptions (`Statement.told`), whether values of the one are read by the other as what they are: the same but for
    # lengths and precisions (modifiers), which no value depends on.
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(told)
    cdef uint8_t *q = <uint8_t *>PyBytes_AS_STRING(now)
    cdef size_t n = PyBytes_GET_SIZE(told)
    cdef size_t at = 2 + 4 * ((p[0] << 8) + p[1]) if n >= 2 else n
    cdef size_t size
    if n != <size_t>PyBytes_GET_SIZE(now) or at > n or memcmp(p, q, at) != 0:
        return False
    while at < n:
        size = name_length(p + at, n - at) + 4
        if size + 4 > n - at:
            return memcmp(p + at, q + at, n - at) == 0
        if memcmp(p + at, q + at, size) != 0:
            return False
        at += size + 4
    return True
