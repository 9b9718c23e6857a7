# The statement without a name. It is there until the next Parse without a name, or a Query: also behind a Sync, and so on
# another server, where another client's may be. Whose it is there is known by a number (`Server.unnamed`); a client's last
# one is kept, so that it can be parsed again. The rule: nobody ever binds another's.
#
# One that was bound in the batch in which it was parsed is not likely to be meant again: a long text of that kind is not
# kept (KEPT_BYTES), and 26000 is what is said of it on another server.

cdef bint unnamed_waits(Client c, Out *out, uint8_t *b, size_t *run, size_t pos, uint8_t t, size_t l, size_t have) except -1:
    # A message that names no statement, at `pos`: noted, with what has to go before it. Whether it waits for an answer.
    cdef Server s = c.link
    cdef uint8_t *p = b + pos
    if t == PARSE:
        another_unnamed(c, s, PARSE, c.judgement)
        if have >= l and l <= READ_BYTES:
            if l <= KEPT_BYTES:
                keep_unnamed(c, p + 6, l - 6)
            else:
                c.loose, c.loose_len = p + 6, l - 6
        return False
    if t != BIND and p[5] != NAMED_STATEMENT:
        s.ledger.sent(t, FORWARD, None, None)
        return False
    if t == CLOSE:
        no_unnamed(c, s, CLOSE)
        return False
    if s.ledger.length > 1 and s.ledger.parses_unnamed(True) or c.unnamed != 0 and c.unnamed == s.unnamed and s.unnamed_state == BEING_READ:
        return c.waits_on(out, b, run, pos, IN_DOUBT)
    if c.unnamed == 0 or c.unnamed != s.unnamed:
        if c.kept_len != 0 and c.shown is not None and c.shown.told is not None and s.ledger.count == 1 and s.ledger.ends_copy():
            # What it is there is asked when that is answered.
            return c.waits_on(out, b, run, pos, IN_DOUBT)
        out_add(out, b + run[0], pos - run[0])
        run[0] = pos
        parse_again(c, out, s)
        c.submit(out, b, pos, pos)
        if s.unnamed != 0 and s.unnamed_state == BEING_READ:
            return c.waits_on(out, b, run, pos, IN_DOUBT)
    if t == BIND and c.unnamed_touch is not None and not (<int>c.unnamed_touch.looks) & NAMED_LATER:
        touched(c, s, c.unnamed_touch)
    if s.unnamed != 0 and s.unnamed_state == STALE_THERE:
        return mean_nobodys(c, out, b, run, pos, t, l)
    if t == BIND:
        c.loose = NULL
    elif c.shown is None and s.unnamed != 0:
        return watch_description(c, s)
    s.ledger.sent(t, FORWARD, None, None)
    return False


cdef int no_unnamed(Client c, Server s, uint8_t t) except -1:
    # A Close of it, or a Query.
    if c.unnamed != 0 and not s.ledger.at_rest():
        return another_unnamed(c, s, t, None)
    c.unnamed = s.unnamed = 0
    return s.ledger.sent(t, FORWARD, None, None)


cdef int another_unnamed(Client c, Server s, uint8_t t, object touch) except -1:
    # From this message on there is another one, or none. What may be skipped, since something is under way, has with it
    # what there was before.
    cdef int64_t was = c.unnamed
    cdef tuple former = None
    c.relay.tick += 1
    c.unnamed = c.relay.tick
    if was != 0 and not s.ledger.at_rest():
        if c.loose != NULL:
            keep_unnamed(c, c.loose, c.loose_len)
        former = (c.unnamed, was, (<char *>c.kept)[:c.kept_len], c.shown, c.unnamed_touch, s.unnamed if s.unnamed_state == HOLDS else 0)
    s.unnamed = c.unnamed
    s.unnamed_state = HOLDS
    c.unnamed_touch = touch
    c.shown = None
    c.kept_len = 0
    c.loose = NULL
    return s.ledger.sent(t, UNNAMED, None, former)


cdef int undo_unnamed(Server s, tuple former) except -1:
    # It was skipped: there is what there was before, for its client and on the server.
    cdef Client c = s.link
    cdef bytes kept
    if s.ledger.hand_down(former):
        return 0
    if former is None or c is None:
        s.unnamed = 0
        if c is not None:
            c.unnamed = 0
        return 0
    if s.unnamed == former[0]:
        s.unnamed = former[5]
    if c.unnamed == former[0]:
        _, c.unnamed, kept, c.shown, c.unnamed_touch, _ = former
        c.judgement = c.unnamed_touch
        keep_unnamed(c, <uint8_t *>PyBytes_AS_STRING(kept), PyBytes_GET_SIZE(kept))
    return 0


cdef bint mean_nobodys(Client c, Out *out, uint8_t *b, size_t *run, size_t pos, uint8_t t, size_t l) except -1:
    # A Bind or Describe of one whose result is of other types by now. It is looked at again when it is meant next.
    cdef Server s = c.link
    cdef uint8_t *p = b + pos
    cdef Statement nobody = missing_statement(c.relay)
    cdef size_t at = 6 if t != BIND else <uint8_t *>memchr(p + 5, 0, l - 5) - p + 1
    s.unnamed = 0
    s.ledger.sent(t, STALE, nobody, b"")
    out_add(out, b + run[0], pos - run[0])
    run[0] = pos + c.put_renamed(out, t, p, l, at, at + 1, nobody.name)
    return False


cdef bint watch_description(Client c, Server s) except -1:
    # What it is told now holds on other servers as well.
    cdef Statement stmt
    if c.loose != NULL:
        keep_unnamed(c, c.loose, c.loose_len)
    if c.kept_len == 0:
        s.ledger.sent(DESCRIBE, FORWARD, None, None)
        return False
    stmt = missing_statement(c.relay)
    stmt.name = b""
    stmt.body = (<char *>c.kept)[:c.kept_len]
    stmt.key = (stmt.body,)
    c.shown = stmt
    s.ledger.sent(DESCRIBE, WATCHED, stmt, None)
    return False


cdef int parse_again(Client c, Out *out, Server s) except -1:
    # The server has none of this client's: it gets the client's own, or none at all.
    s.unnamed = c.unnamed if c.kept_len else 0
    s.unnamed_state = HOLDS
    if s.unnamed == 0:
        put_close(out, b"")
        return s.ledger.sent(CLOSE, SKIP, None, None)
    s.ledger.sent(PARSE, UNNAMED_AGAIN, None, None)
    if c.shown is not None and c.shown.told is not None:
        put_parse(out, c.shown, c.shown.fixed)
        return put_describe(s, out, c.shown, None)
    put_header(out, PARSE, b"", c.kept_len)
    out_add(out, c.kept, c.kept_len)
    return 0


cdef int keep_unnamed(Client c, uint8_t *p, size_t n) except -1:
    # The rest of the message, behind the name. A room that is far too large is given up.
    cdef uint8_t *fresh
    c.loose = NULL
    c.kept_len = 0
    if n > c.kept_cap or c.kept_cap > KEPT_BYTES and n <= KEPT_BYTES:
        fresh = <uint8_t *>malloc(n)
        if fresh == NULL:
            raise MemoryError
        free(c.kept)
        c.kept = fresh
        c.kept_cap = n
    memcpy(c.kept, p, n)
    c.kept_len = n
    return 0
