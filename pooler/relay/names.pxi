# A database's own code that may leave something in a session (pooler/routines.py). Its names are looked for in the texts
# of a pool by an automaton (Aho and Corasick), a step a byte, in any case of letters, between bytes that belong to no
# word: what is beyond ASCII belongs to none. While it is not known what there is, everything is looked at (`Pool.unread`).

cdef enum:
    # Any text with the name may call it; only one that writes does; a word of those that write.
    CALL = 1
    WRITTEN_CALL = 2
    WRITER = 4
    # Classes of bytes: what belongs to no word, what does and stands in no name.
    EDGE = 0
    OTHER = 1
    # The place at the begin of a text, which is an edge.
    BEGIN = 1
    MOST_PLACES = 65535

CALLED, WRITTEN, WRITES = CALL, WRITTEN_CALL, WRITER


cdef class Names:
    def __init__(self, names):
        cdef int places = 2
        letters = sorted({c for name, _ in names for c in name.lower()})
        longest = 2 + sum([len(name) + 1 for name, _ in names])
        if longest > MOST_PLACES:
            raise ValueError("too many names")
        self.width = 2 + len(letters)
        self.table = <uint16_t *>calloc(longest * self.width, sizeof(uint16_t))
        self.found = <uint8_t *>calloc(longest, 1)
        if self.table == NULL or self.found == NULL:
            raise MemoryError
        for c in range(128):
            self.classes[c] = OTHER if c in WORD_LETTERS else EDGE
            lower = ord(chr(c).lower())
            if lower in letters:
                self.classes[c] = 2 + letters.index(lower)
        self.table[EDGE] = BEGIN
        for name, meaning in names:
            places = self.enter(name, meaning, places)
        self.join(places)

    def __dealloc__(self):
        free(self.table)
        free(self.found)

    cdef int enter(self, bytes name, int meaning, int places) except -1:
        # The places of a name behind those of the others; 0 is none yet.
        cdef size_t at = BEGIN
        cdef size_t step
        for c in name + b" ":
            step = at * self.width + self.classes[<int>c]
            if self.table[step] == 0:
                self.table[step] = places
                places += 1
            at = self.table[step]
        self.found[at] |= meaning
        return places

    cdef int join(self, int places) except -1:
        # Where no name goes on, the longest end of what was read that begins one does.
        cdef size_t at, there, back
        cdef int c
        behind = {0: 0, BEGIN: 0}
        todo = [BEGIN]
        for at in todo:
            back = behind[at]
            for c in range(self.width):
                there = self.table[at * self.width + c]
                if there == 0:
                    self.table[at * self.width + c] = self.table[back * self.width + c]
                else:
                    behind[there] = self.table[back * self.width + c]
                    todo.append(there)
        return 0

    cdef uint16_t read_on(self, uint16_t place, uint8_t *p, size_t n, uint8_t *hits) noexcept:
        cdef uint8_t found = hits[0]
        cdef size_t i
        for i in range(n):
            place = self.table[<size_t>place * self.width + self.classes[p[i]]]
            found |= self.found[place]
        hits[0] = found
        return place

    def hits(self, bytes text):
        """What stands in a text, as bits."""
        cdef uint8_t found = 0
        self.read_on(BEGIN, <uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text) + 1, &found)
        return found


cdef object UNREAD_CODE = touches.Touch(0, touches.Held.UNSEEN, "(not known)")
# Of what may call anything.


cdef bint names_hit(Client c, uint8_t *p, size_t n) noexcept:
    # More of a text: whether what has come of it calls something.
    c.named = c.pool.names.read_on(c.named, p, n, &c.hits)
    return c.hits & CALL or c.hits & WRITTEN_CALL and c.hits & WRITER


cdef bytes text_of(bytes body):
    # Of a Parse, behind the name.
    return body[:strnlen(<char *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))]


cdef object touch_now(Pool pool, Statement stmt):
    # What carrying out a statement may leave behind, by what is known of the code now.
    if stmt.known != pool.known:
        stmt.touch, stmt.known = judged(pool, text_of(stmt.body)), pool.known
    return stmt.touch


cdef bint makes_code(Server s, uint8_t *p, size_t l) noexcept:
    # By the tag of a CommandComplete: whether there may be other code now. No role, database, index or sequence calls any.
    cdef uint8_t *what
    if of_prepared(p, l) or imports(p, l):
        return True
    if l < 16 or p[5] != c'C' and p[5] != c'A' or memcmp(p + 5, <char *>b"CREATE ", 7) != 0 and memcmp(p + 5, <char *>b"ALTER ", 6) != 0:
        return False
    what = p + (12 if p[5] == c'C' else 11)
    return not (memcmp(what, <char *>b"ROLE", 4) == 0 or memcmp(what, <char *>b"DAT", 3) == 0 or memcmp(what, <char *>b"IND", 3) == 0
                or memcmp(what, <char *>b"SEQ", 3) == 0)


cdef int made_code(Server s) except -1:
    # In this transaction, on whose end the others may call it. A temporary table is nobody else's.
    if s.pool.kept | s.pool.refused == 0 or s.link is None or s.bound:
        return 0
    if s.touches is not None and any([touch.kinds & touches.Held.TEMP for touch in s.touches]):
        return 0
    s.defines = True
    return touched(s.link, s, UNREAD_CODE)


cdef int defined(Server s) except -1:
    # It can be called now, also by transactions that have begun before.
    cdef Server other = <Server>s.pool.active_servers.head
    s.defines = False
    s.pool.unread = True
    while other is not None:
        if other.link is not None and not other.bound:
            touched(other.link, other, UNREAD_CODE)
        other = <Server>other.next
    return s.relay.post(CodeMade(s.pool))


cdef int ask(Server s) except -1:
    # What Python wants to know.
    s.question, s.pool.question = s.pool.question, None
    s.rows = []
    if s.state != SV_TESTED:
        s.pool.move(s, SV_TESTED)
    return s.run_task(ASK_TASK, s.question)


cdef int told(Server s) except -1:
    # The answer, or why there is none.
    s.relay.post(ServerAnswered(s, s.question, s.rows, s.task_error))
    s.rows = s.question = None
    if s.status != IDLE:
        return s.relay.lose(s, TASK_FAILED[ASK_TASK], True)
    s.parting = CHECKED
    return 0
