# What a server still owes: the messages that it was sent and has not answered, in order, and what it is doing. From
# these alone it is decided whether it may go to another client. This is the machine of a PostgreSQL backend, seen from
# outside: no socket, no client, no clock. MACHINES.md draws it.
#
# The rule: what is not certain is kept as several guesses, which each answer of the server makes fewer. There is
# one such uncertainty: a Sync in the middle of a COPY is swallowed if the COPY still goes on when it is read, and
# answered if the COPY has failed by then. With several guesses nobody else gets the server; `Server.ask_where_it_is` ends that.

cdef class Ledger:
    def __cinit__(self):
        self.count = 1

    def __dealloc__(self):
        while self.length:
            self.forget_head()
        free(self.log)

    # ---- what is certain

    cdef bint at_rest(self) noexcept:
        # All was answered, and no transaction is open for want of a Sync.
        return self.length == 0 and self.count == 1 and self.guesses[0].mode == READING and not self.open

    cdef bint is_idle(self) noexcept:
        # It waits for a message.
        return self.length == 0 and self.count == 1 and self.guesses[0].mode == READING

    cdef bint skips(self) noexcept:
        # All but a Sync is forgotten by it.
        return self.count == 1 and self.guesses[0].mode == SKIPPING

    cdef bint parses_surely(self, uint8_t status) noexcept:
        # Whether a Parse of what it has already, said next, succeeds or is skipped: nothing under way can take prepared
        # statements away, and the transaction neither has failed nor may have by then.
        cdef int i
        if self.runs or self.count > 1 or self.guesses[0].mode != READING or status == IN_FAILED:
            return False
        if status == IN_TRANSACTION:
            for i in range(self.length):
                if self.at(i).kind == SYNC:
                    return False
        return True

    cdef bint may_be_asked(self) noexcept:
        # Several guesses, and by one of them all is over: to be asked where it is. Not in a transaction that waits for
        # its Sync, which a question would end, nor where a COPY may take the question for its data. Then it stays with
        # its client, until that goes on or goes.
        cdef int g
        cdef int i
        cdef bint over = False
        if self.count == 1 or self.open or self.is_asked():
            return False
        for g in range(self.count):
            if self.guesses[g].mode != READING and self.guesses[g].mode != RUNNING:
                return False
            for i in range(self.guesses[g].next, self.length):
                if self.at(i).kind == QUERY or self.at(i).kind == EXECUTE:
                    return False
            over |= self.guesses[g].mode == READING and self.guesses[g].next == self.length
        return over

    cdef bint may_be_synced(self) noexcept:
        # Several guesses, by one of which all is over, and by the others something is answered before the next Sync is:
        # then a Sync of ours tells them apart, whatever the transaction's state, and does no harm in a COPY. But for one
        # that may fail ahead of another Sync: which of the two were answered could not be told.
        cdef int g
        cdef int i
        cdef bint over = False
        cdef bint runs = False
        if self.count == 1 or self.open or self.is_asked():
            return False
        for g in range(self.count):
            if self.guesses[g].mode != READING:
                return False
            if self.guesses[g].next == self.length:
                over = True
            elif self.at(self.guesses[g].next).kind == SYNC:
                return False
            runs = False
            for i in range(self.guesses[g].next, self.length):
                if runs and self.at(i).kind == SYNC:
                    return False
                runs |= self.at(i).kind == QUERY or self.at(i).kind == EXECUTE
        return over

    cdef bint may_be_over(self) noexcept:
        # Whether by one of several guesses it waits for a message.
        cdef int g
        if self.count == 1:
            return False
        for g in range(self.count):
            if self.guesses[g].mode == READING and self.guesses[g].next == self.length:
                return True
        return False

    cdef bint is_asked(self) noexcept:
        # Whether a question of ours is under way.
        return self.fence is not None or self.syncs > 0

    cdef bint says_more(self) noexcept:
        # Whether by every guess there is an answer to come, whatever its client does.
        cdef int g
        for g in range(self.count):
            if not self.goes_on(&self.guesses[g]):
                return False
        return True

    cdef bint says_more_when_urged(self) noexcept:
        # The same, if a Flush of ours brings what there is.
        cdef int g
        for g in range(self.count):
            if not self.goes_on(&self.guesses[g]) and not self.has_something(&self.guesses[g]):
                return False
        return True

    cdef bint goes_on(self, Guess *guess) noexcept:
        # A COPY comes to an end by anything but a Sync, and says so at once but for one of an Execute that has come to a
        # good end; what else there is, by what is answered with ReadyForQuery.
        cdef bint copies = guess.mode == COPYING or guess.mode == RUN_COPYING
        cdef int i
        cdef uint8_t kind
        for i in range(guess.next, self.length):
            kind = self.at(i).kind
            if copies:
                if kind != SYNC and (guess.mode == RUN_COPYING or kind != COPY_DONE):
                    return True
                copies = kind == SYNC
            elif kind == SYNC or kind == QUERY or kind == FUNCTION_CALL:
                return True
        return guess.mode == RUNNING

    cdef bint has_something(self, Guess *guess) noexcept:
        # Whether there is an answer to come to what it has been sent, if only when urged.
        cdef int i
        if guess.mode != COPYING:
            return guess.mode == READING and guess.next < self.length
        for i in range(guess.next, self.length):
            if self.at(i).kind != SYNC:
                return True
        return False

    cdef bint may_discard(self) noexcept:
        # Whether by any guess something runs, or is to run, ahead of what is said next: that may be a DISCARD ALL. What is
        # said in a COPY ends the connection.
        cdef int g
        cdef int i
        for g in range(self.count):
            if self.guesses[g].mode == RUNNING or self.guesses[g].mode == RUN_COPYING and self.goes_on(&self.guesses[g]):
                return True
            for i in range(self.guesses[g].next, self.length):
                if self.at(i).kind == QUERY or self.at(i).kind == EXECUTE:
                    return True
        return False

    cdef bint awaits(self, bytes name, Statement one, Statement other):
        # Whether the fate of this name, or of one of these statements, is open behind a Sync: if its Parse (or Close) is
        # skipped, what follows that Sync finds it missing (or there).
        cdef int i
        cdef int last = self.length - 1
        cdef Owed *o
        if self.early == 0:
            return False
        while last >= 0 and self.at(last).kind != SYNC:
            last -= 1
        for i in range(last):
            o = self.at(i)
            if not self.changes(o):
                continue
            if o.stmt == <PyObject *>one or o.stmt == <PyObject *>other:
                return True
            if o.name != NULL and <bytes>o.name == name:
                return True
        return False

    cdef bint parses_unnamed(self, bint behind_sync) noexcept:
        # Whether what makes or ends the unnamed statement is unanswered: the last, and (`behind_sync`) if it stands before a Sync.
        cdef int i
        cdef bint synced = not behind_sync
        for i in range(self.length - 1, -1, -1):
            if self.at(i).act == UNNAMED or self.at(i).act == UNNAMED_AGAIN:
                return synced
            synced |= self.at(i).kind == SYNC
        return False

    cdef bint hand_down(self, tuple former) except -1:
        # What there was before an UNNAMED that was skipped, there is before the next one: whether one is unanswered.
        cdef int i
        cdef Owed *o
        for i in range(self.length):
            o = self.at(i)
            if o.act == UNNAMED and o.name != NULL:
                self.rename(o, (<tuple>o.name)[:1] + former[1:] if former is not None else None)
            if o.act == UNNAMED or o.act == UNNAMED_AGAIN:
                return True
        return False

    cdef int rename(self, Owed *o, object name) except -1:
        Py_XDECREF(o.name)
        o.name = NULL
        if name is not None:
            Py_INCREF(name)
            o.name = <PyObject *>name
        return 0

    cdef bint ends_copy(self) noexcept:
        # Whether an end of a COPY is unanswered, or it is not known which messages are.
        cdef int i
        for i in range(self.length):
            if self.at(i).kind == COPY_DONE:
                return True
        return self.count > 1

    cdef int owing(self, int i) noexcept:
        # By how many of the guesses the message at `i` has not been read.
        cdef int g
        cdef int found = 0
        for g in range(self.count):
            found += self.guesses[g].next <= i
        return found

    cdef bint makes_room(self, Statement stmt, bint there) except -1:
        # Whether it is still to close `stmt` to make room; if so, whether that statement will be `there` then. What is
        # not there is closed for nothing: a Close of it that is skipped as well does not bring it back.
        cdef int i
        cdef Owed *o
        for i in range(self.length):
            o = self.at(i)
            if o.kind == CLOSE and o.stmt == <PyObject *>stmt and (o.act == EVICTED or o.act == SKIP):
                o.act = EVICTED if there else SKIP
                return True
        return False

    # ---- the log

    cdef Owed *at(self, int i) noexcept:
        return &self.log[(self.head + i) & (self.cap - 1)]

    cdef bint changes(self, Owed *o) noexcept:
        # Whether it changes which statements there are.
        return (o.kind == PARSE or o.kind == CLOSE) and o.stmt != NULL

    cdef int grow(self) except -1:
        cdef int cap = self.cap * 2 if self.cap else 8
        cdef Owed *fresh = <Owed *>malloc(cap * sizeof(Owed))
        cdef int i
        if fresh == NULL:
            raise MemoryError
        for i in range(self.length):
            fresh[i] = self.at(i)[0]
        free(self.log)
        self.log = fresh
        self.cap = cap
        self.head = 0
        return 0

    cdef int forget_head(self) noexcept:
        cdef Owed *o = &self.log[self.head]
        if o.kind == EXECUTE or o.kind == QUERY or o.kind == FUNCTION_CALL:
            self.runs -= 1
        elif self.changes(o):
            if self.early:
                self.early -= 1
            else:
                self.changing -= 1
        if o.act == FENCED:
            self.fence = None
        elif o.act == SKIP and o.kind == SYNC:
            self.syncs -= 1
        elif o.kind == DESCRIBE:
            self.describing -= o.act == SKIP or o.act == WATCHED
        Py_XDECREF(o.stmt)
        Py_XDECREF(o.name)
        self.head = (self.head + 1) & (self.cap - 1)
        self.length -= 1
        return 0

    cdef int clear(self) except -1:
        # Nothing will be answered any more, or all has been.
        while self.length:
            self.forget_head()
        self.count = 1
        self.guesses[0].mode = READING
        self.guesses[0].next = 0
        self.open = self.begun = False
        return 0

    # ---- sent

    cdef int sent(self, uint8_t kind, uint8_t act, object stmt, object name) except -1:
        # A message that will be answered, or that moves the machine: all but CopyData and Flush. A CopyFail is noted as
        # the other end of a COPY, COPY_DONE.
        cdef Owed *o
        if self.length == self.cap:
            self.grow()
        o = self.at(self.length)
        o.kind = kind
        o.act = act
        o.skipped = 0
        o.stmt = NULL
        o.name = NULL
        if stmt is not None:
            Py_INCREF(stmt)
            o.stmt = <PyObject *>stmt
        if name is not None:
            Py_INCREF(name)
            o.name = <PyObject *>name
        self.length += 1
        self.urged = False
        if kind == SYNC:
            self.syncs += act == SKIP
            self.open = self.begun = False
            self.early += self.changing
            self.changing = 0
        elif kind == QUERY or kind == FUNCTION_CALL:
            self.open = self.begun = False
            self.runs += 1
        elif kind != COPY_DONE:
            self.open = True
            self.begun |= kind == BIND or kind == EXECUTE
            if kind == EXECUTE:
                self.runs += 1
            elif kind == DESCRIBE:
                self.describing += act == SKIP or act == WATCHED
            elif self.changes(o):
                self.changing += 1
        if self.count > 1 or self.guesses[0].mode == SKIPPING or kind == COPY_DONE:
            return self.catch_up()
        return 0

    cdef int catch_up(self) except -1:
        # What has just been sent is nothing to a server that skips, or that reads the end of no COPY.
        cdef int g
        for g in range(self.count):
            if self.guesses[g].mode == SKIPPING:
                self.skip(g)
            elif self.guesses[g].mode == READING:
                self.pass_ends(g)
        return self.settle()

    # ---- heard

    cdef int heard(self, uint8_t t) except -1:
        # The server says `t`: what is to be done with it.
        cdef int act
        if self.count == 1:
            act = self.step(0, t)
            if act != WRONG:
                self.settle()
            return act
        return self.heard_by_all(t)

    cdef int heard_by_all(self, uint8_t t) except -1:
        cdef int g
        cdef int act
        cdef int found = WRONG
        cdef int n = self.count
        cdef Statement of = None
        for g in range(n):
            self.described = None
            act = self.step(g, t)
            if act == WRONG:
                self.guesses[g].mode = REFUTED
            elif found == WRONG:
                found, of = act, self.described
            elif found != act:
                # It cannot be told whose answer this is.
                return WRONG
            elif of is not self.described:
                of = ANYBODYS
        self.described = of
        if found == WRONG or not self.sift():
            return WRONG
        self.settle()
        return found

    cdef int step(self, int g, uint8_t t) except -1:
        # One guess, one message further.
        cdef Guess *guess = &self.guesses[g]
        cdef Owed *o
        if guess.mode == READING:
            if guess.next == self.length:
                # Said to nobody: that the connection ends.
                return FORWARD if t == ERROR_RESPONSE else WRONG
            o = self.at(guess.next)
            if o.kind == QUERY or o.kind == FUNCTION_CALL:
                return self.step_into(g, t, o)
            if t == ERROR_RESPONSE:
                return self.fail(g, o) if o.kind != SYNC else FORWARD if o.act == FORWARD else WRONG
            return self.step_over(g, t, o)
        if guess.mode == RUNNING:
            if t == READY_FOR_QUERY:
                guess.mode = READING
                return self.pass_ends(g)
            if t == COPY_IN_RESPONSE:
                guess.mode = RUN_COPYING
                return FORWARD
            return WRONG if only_extended(t) else FORWARD
        if guess.mode == COPYING or guess.mode == RUN_COPYING:
            if t == COMMAND_COMPLETE:
                return self.copy_ended(g)
            return self.copy_failed(g) if t == ERROR_RESPONSE else WRONG
        return FORWARD if t == ERROR_RESPONSE else WRONG

    cdef int step_over(self, int g, uint8_t t, Owed *o) except -1:
        # Messages of the extended protocol, each with its own answers.
        cdef Guess *guess = &self.guesses[g]
        cdef int act = o.act
        if o.kind == EXECUTE:
            if t == COPY_OUT_RESPONSE:
                return FORWARD
            if t == COPY_IN_RESPONSE:
                guess.mode = COPYING
                guess.next += 1
                return FORWARD
            if t != COMMAND_COMPLETE and t != EMPTY_QUERY_RESPONSE and t != PORTAL_SUSPENDED:
                return WRONG
        elif o.kind == DESCRIBE:
            if t != PARAMETER_DESCRIPTION and t != ROW_DESCRIPTION and t != NO_DATA:
                return WRONG
            if act == SKIP or act == WATCHED:
                self.described = <Statement>o.stmt
                self.described_name = <object>o.name if o.name != NULL else None
            if t == PARAMETER_DESCRIPTION:
                return SKIP if act == SKIP else FORWARD
        elif o.kind == BIND:
            if t != BIND_COMPLETE or act == UNKNOWN or act == STALE:
                return WRONG
        elif o.kind == SYNC:
            if t != READY_FOR_QUERY:
                return WRONG
        elif o.kind == PARSE:
            if t != PARSE_COMPLETE or act == TWICE:
                return WRONG
        elif t != CLOSE_COMPLETE:
            return WRONG
        guess.next += 1
        self.pass_ends(g)
        if act == FORWARD:
            return FORWARD
        return SKIP if act == EVICTED or act == UNNAMED_AGAIN else act if act <= AS_PARSE else FORWARD

    cdef int step_into(self, int g, uint8_t t, Owed *o) except -1:
        # A Query or FunctionCall: whatever it is answered first with, the rest comes up to a ReadyForQuery.
        cdef Guess *guess = &self.guesses[g]
        if o.act == FENCED:
            if t != FENCE_ROW:
                return WRONG
            guess.next += 1
            guess.mode = RUNNING
            return FENCED
        if only_extended(t) or t == FENCE_ROW or t == READY_FOR_QUERY:
            return WRONG
        guess.next += 1
        guess.mode = RUN_COPYING if t == COPY_IN_RESPONSE else RUNNING
        return FORWARD

    cdef int pass_ends(self, int g) except -1:
        # The end of no COPY is nothing to a server that reads on.
        cdef Guess *guess = &self.guesses[g]
        while guess.next < self.length and self.at(guess.next).kind == COPY_DONE:
            guess.next += 1
        return FORWARD

    cdef int fail(self, int g, Owed *o) except -1:
        # An error in the extended protocol.
        if o.act == UNNAMED:
            self.rename(o, None)  # What was before is given up.
        if o.name != NULL:
            self.failed = self.failed or []
            self.failed.append((<object>o.stmt if o.stmt != NULL else None, <object>o.name, o.act))
        return self.skip(g)

    cdef int skip(self, int g) except -1:
        # On to the next Sync: what lies before it has not happened.
        cdef Guess *guess = &self.guesses[g]
        while guess.next < self.length and self.at(guess.next).kind != SYNC:
            self.at(guess.next).skipped |= 1 << g
            guess.next += 1
        guess.mode = READING if guess.next < self.length else SKIPPING
        return FORWARD

    cdef int copy_ended(self, int g) except -1:
        # It came to its end: it has swallowed all Syncs before that.
        cdef Guess *guess = &self.guesses[g]
        cdef int i = guess.next
        while i < self.length and self.at(i).kind == SYNC:
            i += 1
        if i == self.length or self.at(i).kind != COPY_DONE:
            return WRONG
        guess.next = i + 1
        if guess.mode == RUN_COPYING:
            guess.mode = RUNNING
            return FORWARD
        guess.mode = READING
        return self.pass_ends(g)

    cdef int copy_failed(self, int g) except -1:
        # It failed, before or behind any of the Syncs that were sent meanwhile: each may be the first that it answers.
        cdef Guess *guess = &self.guesses[g]
        cdef uint8_t mode = READING if guess.mode == COPYING else RUNNING
        while guess.next < self.length and self.at(guess.next).kind == SYNC:
            if not self.guess_as_well(g, mode):
                return WRONG
            guess.next += 1
        if mode == READING:
            return self.skip(g)
        guess.mode = RUNNING
        return FORWARD

    # ---- guesses

    cdef bint guess_as_well(self, int g, uint8_t mode) except -1:
        # That a server which has come as far as guess `g` now does `mode`; False when there are too many.
        cdef int i
        if self.count == MOST_GUESSES:
            return False
        self.guesses[self.count].mode = mode
        self.guesses[self.count].next = self.guesses[g].next
        for i in range(self.length):
            self.copy_bit(i, g, self.count)
        self.count += 1
        return True

    cdef int copy_bit(self, int i, int source, int target) noexcept:
        cdef Owed *o = self.at(i)
        o.skipped &= ~(1 << target)
        o.skipped |= (o.skipped >> source & 1) << target
        return 0

    cdef int drop_guess(self, int g) noexcept:
        # The last one takes its place.
        cdef int i
        self.count -= 1
        self.guesses[g] = self.guesses[self.count]
        for i in range(self.length):
            self.copy_bit(i, self.count, g)
            self.at(i).skipped &= ~(1 << self.count)
        return 0

    cdef bint sift(self) noexcept:
        # Only what is not refuted is left, and that once. False when two say the same of the server, but not of which
        # statements it has: that will never be known.
        cdef int g = 0
        cdef int other
        while g < self.count:
            if self.guesses[g].mode == REFUTED:
                self.drop_guess(g)
                continue
            other = 0
            while other < g:
                if self.guesses[g].mode == self.guesses[other].mode and self.guesses[g].next == self.guesses[other].next:
                    break
                other += 1
            if other == g:
                g += 1
            elif self.tells_apart(g, other):
                return False
            else:
                self.drop_guess(g)
        return True

    cdef bint tells_apart(self, int g, int other) noexcept:
        cdef int i
        for i in range(self.guesses[g].next):
            if self.changes(self.at(i)) and (self.at(i).skipped >> g ^ self.at(i).skipped >> other) & 1:
                return True
        return False

    cdef int settle(self) except -1:
        # With one guess left, what it has read is history.
        cdef int n = self.guesses[0].next
        cdef int i
        cdef uint8_t skipped = 0
        if n == 0 or self.count > 1:
            return 0
        for i in range(n):
            skipped |= self.at(i).skipped
        if skipped:
            self.take_back(n)
        for i in range(n):
            self.forget_head()
        self.guesses[0].next = 0
        if self.length == 0 and self.cap > 256:
            free(self.log)
            self.log = NULL
            self.cap = self.head = 0
        return 0

    cdef int take_back(self, int n) except -1:
        # What was skipped of the first `n` is undone, from the last on. A Close that made room brings nothing back if another one
        # of that statement has been carried out behind it.
        cdef int i
        cdef Owed *o
        cdef bint unnamed = False
        self.undone = self.undone or []
        for i in range(n - 1, -1, -1):
            o = self.at(i)
            if o.act == UNNAMED or o.act == UNNAMED_AGAIN:
                # The last one that was not is what there is, or is not.
                if not o.skipped:
                    unnamed = True
                elif not unnamed:
                    self.undone.append((o.kind, o.act, None, <object>o.name if o.name != NULL else None))
                continue
            if not o.skipped or not self.changes(o) and not (o.kind == DESCRIBE and o.act == SKIP):
                continue
            if not (o.act == EVICTED and self.made_room(o.stmt, i + 1, n)):
                self.undone.append((o.kind, o.act, <object>o.stmt, <object>o.name if o.name != NULL else None))
        return 0

    cdef bint made_room(self, PyObject *stmt, int start, int end) noexcept:
        # Whether a Close of `stmt` of ours, of those read already, was carried out.
        cdef int i
        cdef Owed *o
        for i in range(start, end):
            o = self.at(i)
            if o.kind == CLOSE and o.stmt == stmt and not o.skipped and (o.act == EVICTED or o.act == SKIP):
                return True
        return False

    # ---- for Python: tests, and a process that takes over

    def send(self, str kind, int act=FORWARD, stmt=None, name=None):
        """Note a message of the frontend by its letter; see `sent`."""
        self.sent(ord(kind), act, stmt, name)

    def hear(self, str kind):
        """Note a message of the backend by its letter; what is to be done with it (see `heard`)."""
        return self.heard(ord(kind) if kind else FENCE_ROW)

    @property
    def resting(self):
        """Whether all was answered, and no transaction is open for want of a Sync."""
        return self.at_rest()

    @property
    def modes(self):
        """What it may be doing: (mode, place of the next message it takes) of each guess."""
        return [(self.guesses[g].mode, self.guesses[g].next) for g in range(self.count)]

    def take_undone(self):
        """(kind, act, statement, name) of what was skipped since the last call, in the order of undoing."""
        undone, self.undone = self.undone, None
        return undone or []

    def record(self):
        """All of it as plain values; statements are the objects themselves."""
        cdef int i
        entries = []
        for i in range(self.length):
            o = self.at(i)
            entries.append((o.kind, o.act, o.skipped, <object>o.stmt if o.stmt != NULL else None,
                            <object>o.name if o.name != NULL else None))
        return {"entries": entries, "guesses": self.modes, "open": self.open, "fence": self.fence}

    def revive(self, dict state):
        """The other way round."""
        cdef int g
        self.count = len(state["guesses"])
        for g, (mode, following) in enumerate(state["guesses"]):
            self.guesses[g].mode = mode
            self.guesses[g].next = following
        for kind, act, skipped, stmt, name in state["entries"]:
            self.sent(kind, act, stmt, name)
            self.at(self.length - 1).skipped = skipped
        self.open = self.begun = state["open"]
        self.fence = state["fence"]


cdef inline bint only_extended(uint8_t t) noexcept:
    # Whether only a message of the extended protocol is answered so.
    return (t == PARSE_COMPLETE or t == BIND_COMPLETE or t == CLOSE_COMPLETE or t == NO_DATA
            or t == PARAMETER_DESCRIPTION or t == PORTAL_SUSPENDED)
