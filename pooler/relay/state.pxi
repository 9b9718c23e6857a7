# What a session holds beside its transaction (settings, a role, locks, temporary tables, ...): seen here, followed and
# pinned here. Every Query and Parse goes through two small automata, a step a byte; what they find suspicious is judged
# (pooler/touches.py), and what may have been touched is asked of the server when its transaction has ended, before it
# is anybody else's (LOOK_TASK). What can be set again follows its client (`Pool.align`); what cannot stays with its
# server, and the server with its client (`pinned`), until a look says that it is gone or the client goes: then
# DISCARD ALL. With nothing touched, two tests for each transaction are all there is.

cdef enum:
    # Of both automata: nothing suspicious so far is below.
    SUSPICIOUS = 255
    # Of the first word's: behind it. Nothing but a semicolon leads on.
    REST = 1

cdef uint8_t FIRST_WORDS[256][256]
cdef uint8_t ANYWHERE[256][256]

cdef enum:
    # Of what is read of a long text (`QUOTES`): in a constant is from STRING to ESCAPE.
    PLAIN = 0
    STRING = 1
    ESCAPE = 2
    UNCLEAR = 11

cdef uint8_t QUOTES[12][256]

cdef tuple SPACES = tuple(b" \t\n\r\f\v")
cdef tuple FIRST_NAMES = tuple(sorted(word.encode() for word in touches.FIRST))
cdef object WORD_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$") | frozenset(range(128, 256))
cdef object WORD_EDGES = frozenset(range(256)) - WORD_LETTERS
cdef tuple SAYING = (b"set_config", b"advisory_lock", b"advisory_unlock", b"currval", b"lastval", b"nextval", b"setval", b"pg_temp", b'u&"', b"execute",
                     b"_to_xml", b"ts_stat", b"ts_rewrite", b" temp ", b" temporary ", b"pg_settings")
# Each blank is anything that no word goes on with.
cdef tuple NOTING = (b" into ", b" table ", b" materialized ")
# With one of these a text may make a table whose tag is SELECT's, or draw from a sequence by such a one (`noted`).
cdef int NOTED = 0
# The first place behind one of them.


cdef int fill_first_words() except -1:
    # The first word of each statement. START, and what may stand before it: blanks and comments. From REST only a
    # semicolon leads back: one in quotes does so too, which is judged then, and so is a comment within a comment.
    cdef int START = 0, DASH = 2, LINE = 3, SLASH = 4, BLOCK = 5, STAR = 6, INNER = 7
    cdef int place
    cdef int c
    rows = {START: (REST, {}), REST: (REST, {59: START}), DASH: (REST, {45: LINE, 59: START}), LINE: (LINE, {10: START, 13: START}),
            SLASH: (REST, {42: BLOCK, 59: START}), BLOCK: (BLOCK, {42: STAR, 47: INNER}), STAR: (BLOCK, {47: START, 42: STAR}),
            INNER: (BLOCK, {42: SUSPICIOUS, 47: INNER}), SUSPICIOUS: (SUSPICIOUS, {})}
    rows[START][1].update({**dict.fromkeys((*SPACES, 59), START), 45: DASH, 47: SLASH})
    places = {b"": START}
    for word in FIRST_NAMES:
        for n in range(1, len(word) + 1):
            if word[:n] not in places:
                places[word[:n]] = len(places) + 7
                rows[places[word[:n]]] = (REST, {59: START})
    for word in FIRST_NAMES:
        rows[places[word]][1].update(dict.fromkeys(WORD_EDGES, SUSPICIOUS))
    for word, place in places.items():
        n = len(word) - 1
        if n >= 0:
            rows[places[word[:n]]][1].update({word[n]: place, word.upper()[n]: place})
    for place, (usual, others) in rows.items():
        memset(FIRST_WORDS[place], usual, 256)
        for c, there in others.items():
            FIRST_WORDS[place][c] = there
    return 0


cdef int fill_anywhere() except -1:
    # Words that say something wherever they stand, by the sets of the places that are reached in them: a set is a number
    # with a bit for each letter of all the words, so that a byte is one shift and two masks (Baeza-Yates and Gonnet). All
    # sets are there twice: behind a word of NOTING it goes on in the second ones.
    cdef uint8_t kind[256]
    cdef uint8_t there[256]
    cdef int c
    cdef int layer
    cdef int row
    global NOTED
    begins = says = notes = end = 0
    stands = {}
    for word in SAYING + NOTING:
        begins |= 1 << end
        for c in word:
            stands[c] = stands.get(c, 0) | 1 << end
            end += 1
        if word in SAYING:
            says |= 1 << end - 1
        else:
            notes |= 1 << end - 1
    kinds = {}
    for c in range(256):
        fits = stands.get(c + 32 if c'A' <= c <= c'Z' else c, 0) | (stands[c' '] if c in WORD_EDGES else 0)
        kind[c] = kinds.setdefault(fits, len(kinds))
    places = {0: 0}
    todo = [0]
    moves = []
    while todo:
        here = todo.pop()
        moves.append((places[here], steps := []))
        for fits in kinds:
            reached = (here << 1 | begins) & fits
            goes_on = reached & ~(says | notes)
            if reached & says == 0 and goes_on not in places:
                places[goes_on] = len(places)
                todo.append(goes_on)
            steps.append((SUSPICIOUS, 0) if reached & says else (places[goes_on], reached & notes))
    NOTED = len(places)
    if 2 * NOTED >= SUSPICIOUS:
        raise AssertionError("too many words")
    for layer in (0, NOTED):
        for place, steps in moves:
            for c, (to, noted_now) in enumerate(steps):
                there[c] = to if to == SUSPICIOUS else to + (NOTED if noted_now else layer)
            row = place + layer
            for c in range(256):
                ANYWHERE[row][c] = there[kind[c]]
    memset(ANYWHERE[SUSPICIOUS], SUSPICIOUS, 256)
    return 0


cdef int fill_quotes() except -1:
    # Where a text is within a constant. What depends on a setting of the server's (a quote behind a backslash), what takes
    # memory (a dollar's quote) and a comment in a comment are for nobody to say: UNCLEAR.
    cdef int NAME = 3, DASH = 4, LINE = 5, SLASH = 6, BLOCK = 7, STAR = 8, INNER = 9, DOLLAR = 10
    cdef int place
    cdef int c
    plain = {39: STRING, 34: NAME, 45: DASH, 47: SLASH, 36: DOLLAR}
    tags = {c: UNCLEAR for c in WORD_LETTERS if not 48 <= c <= 57}
    rows = {PLAIN: (PLAIN, plain), STRING: (STRING, {39: PLAIN, 92: ESCAPE}), ESCAPE: (STRING, {39: UNCLEAR, 92: ESCAPE}), NAME: (NAME, {34: PLAIN}),
            DASH: (PLAIN, {**plain, 45: LINE}), LINE: (LINE, {10: PLAIN, 13: PLAIN}), SLASH: (PLAIN, {**plain, 42: BLOCK}), BLOCK: (BLOCK, {42: STAR, 47: INNER}),
            STAR: (BLOCK, {47: PLAIN, 42: STAR}), INNER: (BLOCK, {42: UNCLEAR, 47: INNER}), DOLLAR: (PLAIN, {**plain, **tags}), UNCLEAR: (UNCLEAR, {})}
    for place, (usual, others) in rows.items():
        memset(QUOTES[place], usual, 256)
        for c, there in others.items():
            QUOTES[place][c] = there
    return 0


fill_first_words()
fill_anywhere()
fill_quotes()


cdef bint read_on(Client c, uint8_t *p, size_t n) noexcept:
    # More of a text: whether there is something suspicious in what has come of it, but for names of the database's own.
    cdef uint8_t first = c.first_word
    cdef uint8_t anywhere = c.anywhere
    cdef uint8_t *at = p
    cdef uint8_t *end = p + n
    cdef size_t i
    while at < end and first != SUSPICIOUS:
        if first == REST:
            at = <uint8_t *>memchr(at, c';', end - at)
            if at == NULL:
                break
        first = FIRST_WORDS[first][at[0]]
        at += 1
    for i in range(n):
        anywhere = ANYWHERE[anywhere][p[i]]
    c.first_word = first
    c.anywhere = anywhere
    return first == SUSPICIOUS or anywhere == SUSPICIOUS


cdef inline bint in_constant(uint8_t place) noexcept:
    return STRING <= place <= ESCAPE


cdef bint read_outside(Client c, uint8_t *p, size_t n) noexcept:
    # The same of a text that is never here whole: what stands in a constant, as a document that is stored, says nothing.
    cdef uint8_t place = c.quoting
    cdef uint8_t before
    cdef size_t start = 0
    cdef size_t i
    cdef bint found = False
    for i in range(n):
        before = place
        place = QUOTES[before][p[i]]
        if in_constant(place) and not in_constant(before):
            found = found or read_on(c, p + start, i + 1 - start)
        elif in_constant(before) and not in_constant(place):
            start = i
    c.quoting = place
    return found or place == UNCLEAR or not in_constant(place) and read_on(c, p + start, n - start)


cdef int PINNING = touches.PINNING
cdef int NAMED_LATER = touches.NAMED_LATER

cdef object TOO_LONG = touches.Touch(touches.Held.UNSEEN, touches.Held.UNSEEN | touches.UNREAD, "(too long to be read)")
# What is suspicious in a text that is not here whole: nobody knows what it sets, so it stays until its client goes.
cdef object LONG_CODE = touches.Touch(touches.Held.UNSEEN, touches.Held.UNSEEN, "(too long to be read)")


cdef object judged(Pool pool, bytes text):
    # The Touch of a text, or None; remembered, since most come again: a long one, of which a client may send any number, by
    # what stands for it, which is no text.
    cdef object found
    cdef dict known = pool.relay.judged if pool.effects is None else pool.judged
    cdef object key = text if PyBytes_GET_SIZE(text) <= JUDGED_BYTES else (sha256(text),)
    try:
        return known[key]
    except KeyError:
        pass
    found = touches.judge(text, pool.effects)
    if len(known) >= JUDGED_TEXTS:
        known.clear()
    known[key] = found
    return found


cdef object examine(Client c, uint8_t t, uint8_t *p, size_t l, size_t have):
    # What the text of a Query or Parse, of whose message `have` of `l` bytes are here, may leave behind: a Touch, or None.
    cdef size_t start = 5
    cdef size_t end
    cdef uint8_t *name_end
    c.first_word = c.anywhere = c.hits = c.quoting = 0
    c.named = BEGIN
    c.reading = have < l
    have = l if have > l else have
    if t == FUNCTION_CALL:
        c.reading = False
        return touches.judge_call(be32(p + 5)) if have >= 9 else None
    if t == PARSE:
        name_end = <uint8_t *>memchr(p + 5, 0, have - 5)
        if name_end == NULL:
            # A name of that length is no name: so says the one who has it whole.
            c.reading = False
            return TOO_LONG if have < l else None
        start = name_end - p + 1
    if not (read_outside(c, p + start, have - start) if c.reading else read_on(c, p + start, have - start)):
        if c.pool.names is None or not names_hit(c, p + start, have - start):
            return noted(c.pool, p + start, l - start) if c.anywhere >= NOTED and have >= l else None
        if have < l:
            tell_unread(c)
            return UNREAD_CODE
    c.reading = False
    if have < l:
        return TOO_LONG
    end = start + strnlen(<char *>p + start, l - start)
    return as_encoded(c, judged(c.pool, (<char *>p)[start:end]))


cdef uint8_t *statement_at(uint8_t *p, uint8_t *end) noexcept:
    # Where one begins, behind blanks, brackets and comments; at a mark where that is not sure, as within a comment's comment.
    cdef uint8_t *star
    while p < end:
        if p[0] == c'/' and end - p > 3 and p[1] == c'*':
            star = <uint8_t *>memmem(p + 2, end - p - 2, <char *>b"*/", 2)
            if star == NULL:
                return p
            p = star + 2
        elif p[0] == c'-' and end - p > 1 and p[1] == c'-':
            while p < end and p[0] != c'\n' and p[0] != c'\r':
                p += 1
        elif p[0] > c' ' and p[0] != c'(':
            return p
        else:
            p += 1
    return end


cdef bint may_make(uint8_t *p, uint8_t *end) noexcept:
    # Whether one of the statements may, by its first letter: SELECT, WITH, EXPLAIN, CREATE. (A semicolon in quotes counts.)
    while True:
        p = statement_at(p, end)
        if p == end:
            return False
        if <char>(p[0] | 32) in (c's', c'w', c'e', c'c') or p[0] in (c'*', c'-', c'/'):
            return True
        p = <uint8_t *>memchr(p, c';', end - p)
        if p == NULL:
            return False
        p += 1


cdef object noted(Pool pool, uint8_t *p, size_t n):
    # Of a text with a word of NOTING, and nothing else: what its tag will not tell. That of an INSERT tells.
    cdef uint8_t *end = p + strnlen(<char *>p, n)
    cdef object touch
    if not may_make(p, end):
        return None
    touch = judged(pool, (<char *>p)[:end - p])
    if touch is None or touch.looks & TAGLESS == 0:
        return None
    return touches.Touch(0, touch.looks & TAGLESS, touch.statement)


cdef int TAGLESS = touches.REDEFINES | touches.DRAWS


cdef object as_encoded(Client c, object touch):
    # A name beyond ASCII is known only where the client writes UTF-8.
    cdef object place = c.relay.tracked_index.get(b"client_encoding")
    if touch is None or place is None or c.params[place] in (None, b"UTF8") or all([name.isascii() for name in touch.names]):
        return touch
    return touch._replace(kinds=touch.kinds | touches.Held.UNSEEN, looks=touch.looks | touches.Held.UNSEEN)


cdef inline bint asks_for_rows(uint8_t task) noexcept:
    return task == LOOK_TASK or task == ASK_TASK or task == RECALL_TASK


cdef inline int pinning(Pool pool) noexcept:
    # Kinds that keep a server. Channels do so only where no listening server can be had.
    return PINNING if pool.hears else PINNING | LISTENS


cdef int forbidden(Client c, Server s, object touch, bint later=False) except -1:
    # Kinds because of which the statement is refused: by the policy, since too many servers of the pool are pinned, or
    # since what it asks for may be another's. `later`: it is carried out when it is bound, and looked at again then.
    cdef int kinds = touch.kinds
    cdef Pool pool = c.pool
    cdef int refused = kinds & pool.refused
    if not s.shared():
        return 0
    if refused == 0 and kinds & pool.kept & pinning(pool) and not s.weighs and 0 <= pool.max_pinned <= pool.pinned_count:
        refused = kinds & pool.kept & pinning(pool)
    if kinds & pool.kept & SEQUENCES and not later and not is_own(s, touch):
        refused |= SEQUENCES
    elif kinds & SEQUENCES:
        pool.recalls = max(pool.recalls, WITHIN)
    return refused


cdef int read_rest(Client c, uint8_t *p, size_t n) except -1:
    # More of a text that did not come whole.
    if c.pool.names is not None and names_hit(c, p, n):
        tell_unread(c)
        touched(c, c.link, UNREAD_CODE)
    elif c.pool.unread:
        touched(c, c.link, UNREAD_CODE)
    if not read_outside(c, p, n):
        return 0
    c.reading = False
    if forbidden(c, c.link, TOO_LONG):
        note_seen(c, TOO_LONG)
        return c.relay.lose(c, TOO_LONG_TO_REFUSE, True, NOT_SUPPORTED)
    return touched(c, c.link, TOO_LONG)


cdef int tell_unread(Client c) except -1:
    # That something of the database's own is called, or only named, in a text that is not here whole: once for each client.
    # It is never refused.
    return note_seen(c, LONG_CODE) if (c.told_kinds | c.pool.refused) & <int>touches.Held.UNSEEN == 0 else 0


cdef int note_seen(Client c, object touch) except -1:
    # Counted, and told once for each kind. What Python does not fetch in time is no longer told apart.
    cdef Pool pool = c.pool
    cdef int kinds = touch.kinds
    if kinds == 0 or c.quiet:
        return 0
    if touch not in pool.seen and len(pool.seen) >= SEEN_TEXTS:
        touch = touches.Touch(kinds, 0, "")
    pool.seen[touch] = pool.seen.get(touch, 0) + 1
    if kinds & ~c.told_kinds:
        c.told_kinds |= kinds
        c.relay.post(ClientTouched(c, touch))
    return 0


cdef int looks_that_matter(Server s, object touch) except -1:
    # What a text may have ended is looked for where it is there; what it may lead to, everywhere.
    cdef int looks = touch.looks
    cdef int there = s.pinned if s.link.channels is None else s.pinned | LISTENS
    return looks & (there | touches.FOLLOWING | (touches.Held.TEMP if looks & touches.MAY_LEAD else 0))


cdef int touched(Client c, Server s, object touch) except -1:
    # Its client may have left something there: it is looked for when the transaction has ended.
    cdef Pool pool = c.pool
    cdef int kinds = touch.kinds
    note_seen(c, touch)
    if touch.looks & (DRAWS | SETS | SETS_ONE) or kinds & (SEQUENCES | <int>touches.Held.UNSEEN):
        note_sequences(s, touch)
    s.strays = s.strays or strays(touch)
    s.forgets_all = s.forgets_all or touch.looks & touches.FORGETS != 0
    if touch.looks & touches.REDEFINES:
        s.redefines = True
        c.relay.statements.clear()
    cdef int cared_for = pool.kept | pool.refused | (LISTENS if c.channels is not None else 0)
    if (kinds | looks_that_matter(s, touch)) & cared_for and s.shared():
        if kinds & pool.kept & pinning(pool) and not s.weighs:
            # It counts from now on, so that no others pass meanwhile.
            weigh(s, True)
        if s.touches is None:
            s.touches = [touch]
            s.undone = s.silenced = False
        elif s.touches and touch == s.touches[len(s.touches) - 1]:
            # (Empty where a tag alone has told that something may be over.)
            return 0
        elif len(s.touches) < TOUCHES:
            s.touches.append(touch)
        else:
            s.touches[TOUCHES - 1] = TOO_LONG
    return 0


cdef bytes refusal(Client c, uint8_t t, uint8_t *p, size_t l, object touch, int kinds):
    # In place of the message: one that surely fails, by which the server is where it would be had it refused itself. What
    # it says then is put into our words (`refusal_in_words`); or into those by which our question was stopped.
    cdef bytes text = b"POOLER_REFUSES_%d\0" % kinds
    cdef bytes name = b""
    c.refusals = {} if c.refusals is None else c.refusals
    c.refusals[kinds] = sessions.refusal(kinds, touch.said(kinds), bool(kinds & c.pool.refused))
    if c.link.vouched == STOPPED:
        c.link.vouched = NOT_OWN
        c.refusals[kinds] = c.link.said if kinds == SEQUENCES else c.refusals[kinds]
    if t == FUNCTION_CALL:
        t = QUERY
    if t == BIND:
        # Of a statement that does not exist, with no parameters.
        text = b"\0" + text + bytes(6)
    if t == PARSE:
        name = (<char *>p)[5:5 + strnlen(<char *>p + 5, l - 5)] + b"\0"
        text += b"\0\0"
    return bytes((t,)) + (4 + len(name) + len(text)).to_bytes(4, "big") + name + text


cdef bytes refusal_in_words(Client c, uint8_t *p, size_t l):
    # The ErrorResponse about our text, as the client is told it; another one as it is.
    cdef bytes body = (<char *>p)[5:l]
    cdef object found = REFUSES.search(body)
    cdef bytes said = c.refusals.get(int(found[1])) if found is not None else None
    return said if said is not None else (<char *>p)[:l]


cdef object REFUSES = re.compile(rb"POOLER_REFUSES_([0-9]{1,5})")


# ---- the end of a transaction

cdef int part_from(Server s) except -1:
    # `s` is shared and clean: its client goes on without it, unless something was touched, or is still there.
    if s.touches is not None:
        return look(s)
    if s.notified and end_epoch(s):
        return 0
    if s.pinned:
        return hand_over_channels(s) if s.hub is not None else 0
    return s.pool.unlink(s)


cdef int look(Server s) except -1:
    # Ask what is left.
    cdef Client c = s.link
    cdef int looks = s.pinned & ~(touches.UNREAD | touches.UNTOLD)
    cdef int pins
    names = {}
    if sessions.looks_for_statements(s.session, s.touches) and s.pool.kept & <int>touches.Held.PREPARE:
        looks |= <int>touches.Held.PREPARE
    for touch in s.touches:
        looks |= (<int>touch.kinds) | looks_that_matter(s, touch)
        names.update(dict.fromkeys(touch.names))
        if touches.ALL in touch.resets:
            # DISCARD ALL, and RESET ALL: of all that is known to be there.
            names.update(dict.fromkeys([name.decode("utf-8", "replace") for name in s.session[::2]]))
            names.update(dict.fromkeys([name.decode().lower() for name, value in zip(s.relay.tracked, s.told) if value is None]))
    if sessions.looks_at_all(s.touches, s.undone):
        looks |= touches.Held.UNSEEN
        names.update(dict.fromkeys([name.decode("utf-8", "replace") for name in (s.link.base + s.session)[::2] if b"." in name]))
    place = s.relay.tracked_index.get(b"session_authorization")
    sql = sessions.question(looks, list(names), reported=place is not None and s.told[place] is not None)
    if not sql:
        # Of what is tracked the server has told by itself.
        c.params = s.relay.intern(sessions.restored(c.params, c.base_params, s.relay.tracked, s.touches, [], s.undone))
        pins = s.pinned | sticking(s)
        s.touches = None
        pin(s, pins)
        return part_from(s)
    s.rows = []
    return s.run_task(LOOK_TASK, sql)


cdef int looked(Server s) except -1:
    # The answer: what the server has, what its client shall have, and whether they have to stay together. Of tracked
    # parameters the server tells by itself, or they are among what was asked for.
    cdef Client c = s.link
    cdef Relay relay = s.relay
    cdef list rows = s.rows
    cdef list seen = s.touches
    cdef bint undone = s.undone
    cdef bint silenced = s.silenced
    cdef int pins
    cdef list names
    rows, names = sessions.channels(rows)
    s.rows = s.touches = None
    s.undone = s.silenced = False
    told = {name.lower(): value for name, value in zip(relay.tracked, s.told) if value is not None}
    silent = {name.lower(): place for place, (name, value) in enumerate(zip(relay.tracked, s.told)) if value is None}
    there, wanted, pins = sessions.settled(sessions.joined(s.session, silent, s.params), rows, seen,
                                           sessions.joined(c.base, silent, c.base_params), frozenset(told), undone, b"%d" % c.id, s.pool.max_prepared)
    if s.unmade is not None:
        wanted = sessions.with_unmade(wanted, c.session, list(s.unmade))
    s.session, s.params = relay.parted(there, s.params, silent)
    c.session, c.params = relay.parted(wanted, c.params, silent)
    s.look_failed = False
    if has_temporary_path(s):
        pins |= touches.PINNING & (<int>touches.Held.TEMP)
    c.params = relay.intern(sessions.restored(c.params, c.base_params, relay.tracked, seen, rows, undone))
    if any([touch.looks & touches.UNREAD for touch in seen]):
        pins |= touches.UNREAD
    if c.channels is not None:
        # What the server listens to by now was listened to again in the same transaction.
        keep_channels(c, sessions.still_heard(c.channels, seen, undone or not silenced) | c.channels.intersection(names))
    pin(s, pins | s.pinned & (touches.UNREAD | SEQUENCES | <int>touches.STICKY) | (s.pinned & LISTENS if names else 0))
    find_channels(s, names)
    return go_on_with(s) if s.task == NO_TASK else 0


cdef int go_on_with(Server s) except -1:
    # What is there is known: its client goes on, with this server or without.
    cdef Client c = s.link
    if s.pinned == 0 and s.notified and end_epoch(s):
        return 0
    if s.pinned == 0:
        s.pool.unlink(s)
        return c.resume()
    return c.resume() if s.pool.align(c, s) else 0


cdef bint has_temporary_path(Server s) except -1:
    # Whether what is made by a name alone may be temporary. Of servers that report their search_path.
    cdef object place = s.relay.tracked_index.get(b"search_path")
    return place is not None and s.params[place] is not None and b"pg_temp" in s.params[place]


cdef int not_looked(Server s) except -1:
    # It cannot be told what is left there: a time limit, a right that is missing, a late cancel request. Asked once more, and
    # then the server is nobody's but its client's, and closed when that goes (UNTOLD); at once, with its client, where too
    # many are. Its client's transaction is over by then, and was answered.
    cdef Client c = s.link
    cdef Pool pool = s.pool
    cdef bint again = not s.look_failed and not s.pinned & <int>touches.UNTOLD
    cdef int pins
    if pool.look_failed == 0 or s.relay.now - pool.look_failed > UNTOLD_US:
        pool.look_failed = s.relay.now
        s.relay.post(ServerSaid(s, "session state is not known: %s" % s.task_error))
    s.rows = None
    s.look_failed = True
    if s.status == IDLE and again:
        return look(s)
    s.look_failed = False
    # What it was touched by may count already.
    if s.status == IDLE and (s.pinned or pool.max_pinned < 0 or pool.pinned_count - s.weighs < pool.max_pinned):
        pins = s.pinned | touches.UNREAD | touches.UNTOLD | sticking(s)
        s.touches = None
        pin(s, pins)
        return c.resume()
    return s.relay.lose(s, TASK_FAILED[LOOK_TASK], True)


cdef int not_aligned(Server s, Client c) except -1:
    # Nothing of it was done. Where the server had nothing of another client's it is this one's fault, who has asked at its
    # login for what cannot be; else nobody knows, and it tries another.
    if s.session == ():
        said = "%s: %s" % (TASK_FAILED[SET_TASK], s.task_error)
        return s.relay.lose(c, said, True)
    s.relay.post(ServerSaid(s, "session state could not be changed: %s" % s.task_error))
    c.link = s.link = None
    s.relay.lose(s, TASK_FAILED[LOOK_TASK], True)
    return c.resume() if not c.lost else 0


cdef int make_statements(Server s) except -1:
    # What its client has prepared in SQL.
    s.made = 0
    return s.run_task(PREPARE_TASK, b";".join([text for _, text in s.to_make]))


cdef int statements_made(Server s, Client c) except -1:
    # All, or up to one that cannot be: of that the client is told what was said when it means it (`Server.reword`).
    if s.task_error is not None:
        if s.status != IDLE or s.made >= len(s.to_make):
            return s.relay.lose(s, TASK_FAILED[PREPARE_TASK], True)
        name = s.to_make[s.made][0]
        s.relay.post(ServerSaid(s, "prepared statement is lost: %s" % s.task_error))
        s.unmade = s.unmade or {}
        s.unmade[name] = s.said
        s.to_make = s.to_make[s.made + 1:]
        if s.to_make:
            return make_statements(s)
    s.to_make = None
    s.session = c.session if s.unmade is None else s.relay.intern(sessions.without(c.session, list(s.unmade)))
    return c.resume()


cdef bytes said_of_unmade(Server s, uint8_t *p, size_t l):
    # An ErrorResponse about a statement that could not be made: what was said of it then.
    cdef bytes body = (<char *>p)[5:l]
    for name, said in s.unmade.items():
        if b'"%s"' % name in body:
            return said
    return (<char *>p)[:l]


cdef int pin(Server s, int pins) except -1:
    # What keeps it with its client. What its transaction has touched, and was not looked for yet, counts too.
    weigh(s, pins & ~LISTENS != 0 or pins != 0 and not s.pool.hears or s.touches is not None and s.weighs)
    if pins and not s.pinned:
        s.pinned_since = s.relay.now
    if (pins ^ s.pinned) & ~(LISTENS | SEQUENCES) and s.link is not None:
        s.relay.post(ServerPinned(s, s.link, pins))
    s.pinned = pins
    return 0


cdef int sticking(Server s) except -1:
    # What no look finds and no DISCARD ALL ends.
    cdef int kinds = s.pinned
    for touch in s.touches or ():
        kinds |= touch.kinds
    return kinds & <int>touches.STICKY


cdef int weigh(Server s, bint weighs) except -1:
    # Whether it is one of those of which there are `max_pinned` at most.
    s.pool.pinned_count += weighs - s.weighs
    s.weighs = weighs
    return 0


cdef int forget_session(Server s) except -1:
    # DISCARD ALL was carried out.
    s.touches = None
    s.sole = NOBODYS
    pin(s, 0)
    s.undone = False
    s.session = s.relay.intern(())
    s.channels = ()
    s.hub = None
    return 0


cdef bint salvageable(Server s, Client c) noexcept:
    # Whether a client that goes leaves nothing behind but a transaction: the server is told to forget it.
    return (s.pool.kept != 0 and (s.status == IN_TRANSACTION or s.status == IN_FAILED) and s.task == NO_TASK
            and s.shared() and s.ledger.at_rest() and s.olen == 0 and not c.half_sent() and not s.said_farewell)


cdef int row_of_look(Server s, uint8_t *p, size_t l) except -1:
    # A DataRow of the answer.
    cdef size_t at = 7
    cdef uint32_t size
    row = []
    while at + 4 <= l:
        size = be32(p + at)
        at += 4
        if size == 0xffffffff:
            row.append(None)
        else:
            if at + size > l:
                return 0
            row.append((<char *>p)[at:at + size])
            at += size
    s.rows.append(tuple(row))
    return 0


cdef bint silences(uint8_t *p, size_t l) noexcept:
    # By the tag of a CommandComplete: whether a client listens no longer to what its text names.
    return l >= 14 and (memcmp(p + 5, <char *>b"UNLISTEN", 9) == 0 or l >= 17 and memcmp(p + 5, <char *>b"DISCARD ALL", 12) == 0)


cdef bint may_end_a_pin(uint8_t *p, size_t l) noexcept:
    # By the tag of a CommandComplete: what may have been the end of what pins. All but the usual.
    return (p[5] == c'C' and memcmp(p + 5, <char *>b"CLOSE", 5) == 0 or p[5] == c'U' and memcmp(p + 5, <char *>b"UNLISTEN", 8) == 0
            or p[5] == c'D' and l > 8 and (memcmp(p + 5, <char *>b"DEA", 3) == 0 or memcmp(p + 5, <char *>b"DIS", 3) == 0
                                           or memcmp(p + 5, <char *>b"DRO", 3) == 0))
