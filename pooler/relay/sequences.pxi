# currval and lastval of a value that was drawn in an earlier transaction. Which sequences a session has drawn from nobody
# can ask, and a stranger's value is told like one's own. So, from the first of these words in a pool on, a server on which
# several have been forgets all values (DISCARD SEQUENCES) ahead of its next client's; and from the first that asks behind
# its own transaction on, who may have drawn keeps its server for its next transaction. That first one finds everything
# forgotten, where its text begins a transaction; in one, the server is asked whether that value is of this transaction
# (RECALL_TASK); else it is refused.

cdef enum:
    # Whose values a server may have, beside one client's, whose id that is then.
    NOBODYS = 0
    SEVERAL = -1
    # What the clients of a pool were seen to ask for: values of the same transaction, of an earlier one.
    WITHIN = 1
    BEHIND = 2
    # What the server has said of the values that a text asks for; NOT_OWN, too, where it cannot tell. STOPPED: it was kept
    # from saying it, by what would have ended that text as well.
    UNASKED = 0
    OWN = 1
    NOT_OWN = 2
    STOPPED = 3

cdef int SEQUENCES = touches.Held.SEQUENCE
cdef int DRAWS = touches.DRAWS
cdef int RECALLS = touches.RECALLS
cdef int SETS = touches.SETS
cdef int SETS_ONE = touches.SETS_ONE
cdef object DRAWN = touches.Touch(touches.Held.SEQUENCE, 0, "(INSERT or nextval)")


cdef int change_hands(Server s, Client c) except -1:
    # It was not the last one's server, or nobody's, before; or it was, and its client has drawn elsewhere since, maybe.
    c.home = s.id
    s.vouched = UNASKED
    s.sets_one = False
    if s.sole == NOBODYS:
        s.sole = c.id
    elif s.pool.recalls and s.pool.kept & SEQUENCES and s.shared():
        s.sole = c.id
        s.forgets = True
    else:
        s.sole = SEVERAL
    return 0


cdef int note_sequences(Server s, object touch) except -1:
    # A text that draws, or asks for what was drawn, or may.
    cdef int kinds = touch.kinds
    if kinds & SEQUENCES:
        s.recalls = True
        s.pool.recalls = max(s.pool.recalls, BEHIND if touch.looks & RECALLS and not s.draws else WITHIN)
    s.draws |= touch.looks & DRAWS != 0 or kinds & ~SEQUENCES != 0
    if touch.looks & SETS or kinds & <int>touches.Held.UNSEEN:
        s.vouched = NOT_OWN
    s.sets_one |= touch.looks & SETS_ONE != 0
    return 0


cdef bint is_own(Server s, object touch) except -1:
    # Whether what this text asks for is its client's, if there is any: nobody else was here, or the server has said so.
    cdef bint own = touch.kinds & SEQUENCES == 0 or s.sole == s.link.id or s.vouched == OWN
    if s.vouched == OWN:
        s.vouched = UNASKED
    if not own and s.vouched != STOPPED:
        note_sequences(s, touch)
    return own


cdef bint is_skipped(Server s, uint8_t t, uint8_t *p, size_t l, size_t have) noexcept:
    # Whether the server will say that its transaction has failed, and nothing else: so the text asks for nothing, and its
    # client is none that does. A text of several statements may end the transaction.
    return s.status == IN_FAILED and s.vouched != STOPPED and s.ledger.at_rest() and (t == BIND or have >= l and memchr(p + 5, c';', l - 5) == NULL)


cdef bint asks_whose(Client c, Server s, object touch, bytes text, bint later) except -1:
    # Whether the message has to wait: the server, on which others were, forgets their values first, or, where its client
    # is in a transaction, is asked whether it has drawn in that, as soon as all that is under way has been answered. Between
    # a Parse and its Bind this can be. `later`: it is carried out when it is bound.
    cdef bytes asked = None
    if (<int>touch.kinds) & c.pool.kept & SEQUENCES == 0 or s.sole == c.id or not s.shared():
        return False
    if s.ledger.begun or s.need or not s.ledger.is_idle():
        if later or not answers(s):
            return False
        c.held = c.deaf = True
        return True
    if s.status == IDLE:
        s.sole = c.id
        s.run_task(SET_TASK, b"DISCARD SEQUENCES;")
        return True
    if s.status == IN_TRANSACTION and s.vouched == UNASKED and not later:
        asked = sessions.asks_whose(text, sets_one=s.sets_one)
    if asked is None:
        return False
    s.rows = []
    s.run_task(RECALL_TASK, asked)
    return True


cdef bint answers(Server s) except -1:
    # Whether all that is under way will be answered, if only when urged.
    if not s.ledger.says_more():
        if s.ledger.begun or not s.ledger.says_more_when_urged():
            return False
        s.urge()
    return True


cdef int whose_told(Server s) except -1:
    # The answer. A question that was stopped has ended the transaction as its client's statement would have. One that has
    # failed is taken back; one that has not may have marked what it has asked for as the transaction's own, so that another
    # in the same transaction would be believed: it is not asked.
    if s.task_error is not None and s.status == IN_FAILED and STOPPING.search(s.said) is not None:
        s.vouched = STOPPED
        s.rows = None
        return s.link.resume()
    if s.task_error is not None and s.status == IN_FAILED and s.vouched == UNASKED:
        s.vouched = OWN if sessions.draws_nothing(s.rows, s.said) else NOT_OWN
        return s.run_task(RECALL_TASK, sessions.TAKEN_BACK)
    if s.task_error is not None or s.status != IN_TRANSACTION:
        return s.relay.lose(s, TASK_FAILED[RECALL_TASK], True)
    if s.vouched == UNASKED:
        s.vouched = OWN if sessions.is_drawn_here(s.rows) else NOT_OWN
    s.rows = None
    return s.link.resume()


# A cancel request or statement_timeout, lock_timeout, a deadlock.
cdef object STOPPING = re.compile(rb"\0C(?:57014|55P03|40P01)\0")
# Errors of a constraint, of a division or a value, of what is not there, and in a transaction that has failed already: no draw
# fails with these behind its lock.
cdef object HARMLESS = re.compile(rb"\0C(?:23...|22012|22P02|22001|26000|42601|42P01|42703|42883|25P02)\0")


cdef int only_locked(Server s, uint8_t *p, size_t n) except -1:
    # By an error: whether a draw may have failed, or something else by which a sequence is locked, which a savepoint does
    # not take back.
    if s.vouched == UNASKED and HARMLESS.search(<bytes>(<char *>p)[:n]) is None:
        s.vouched = NOT_OWN
    return 0


cdef int sequences_told(Server s, uint8_t *p, size_t n) except -1:
    # By the tag of a CommandComplete: whether defaults may have drawn, a sequence may be locked by something else, or all
    # is forgotten.
    if memcmp(p + 5, <char *>b"INSERT", 6) == 0 or memcmp(p + 5, <char *>b"COPY ", 5) == 0 or memcmp(p + 5, <char *>b"MERGE", 5) == 0:
        s.draws = True
    elif memcmp(p + 5, <char *>b"ALTER", 5) == 0 or memcmp(p + 5, <char *>b"TRUNC", 5) == 0:
        s.vouched = NOT_OWN
    elif n >= 17 and (memcmp(p + 5, <char *>b"DISCARD SEQ", 11) == 0 or memcmp(p + 5, <char *>b"DISCARD ALL", 11) == 0):
        s.draws = s.recalls = False
        if s.link is not None:
            s.sole = s.link.id
    return 0


cdef int keep_sequences(Server s) except -1:
    # At the end of a transaction: whether the client is likely to ask for what it has drawn.
    cdef Pool pool = s.pool
    cdef bint there = s.pinned & SEQUENCES != 0
    cdef bint keeps = pool.kept & SEQUENCES and s.shared() and s.sole == s.link.id and (s.draws or there and s.recalls)
    if keeps and not s.weighs and 0 <= pool.max_pinned <= pool.pinned_count:
        keeps = False
    if keeps and s.link.told_kinds & SEQUENCES == 0:
        note_seen(s.link, DRAWN)
    s.draws = s.recalls = False
    return pin(s, s.pinned & ~SEQUENCES | (SEQUENCES if keeps else 0)) if keeps != there else 0


cdef int64_t let_sequences_go(Pool pool, int64_t limit) except -1:
    # Servers that stay for nothing else, and were asked for nothing for so long, go. In how long there will be another.
    cdef int64_t least = NEVER
    cdef int64_t left
    cdef Server s
    for s in pool.active_servers.all() if pool.pinned_count else ():
        if s.pinned == SEQUENCES and s.link is not None and s.clean() and s.task == NO_TASK:
            left = limit - (pool.relay.now - s.last_sign())
            if left > 0:
                least = min(least, left)
            else:
                pin(s, 0)
                s.let_go()
    return least
