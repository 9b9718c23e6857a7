# LISTEN for all clients of a database by one server. A client listens on the server that it has, in its own transaction;
# when a look shows that there are channels (`looked`), they go over to the listening server without a gap and without a
# notification twice. PostgreSQL's queue has one order, so a notification of ours is a mark in both streams: what the
# client's server says before it is passed on, what the listening server says behind it is delivered. What comes for a
# client in a transaction waits in its `inbox` for the end of that, as at PostgreSQL.

cdef int LISTENS = touches.Held.LISTEN


cdef inline size_t channel_end(uint8_t *p, size_t l) noexcept:
    # Where the channel's name ends in a NotificationResponse: at its NUL.
    return 9 + strnlen(<char *>p + 9, l - 9) if l > 9 else l


cdef bytes channel_in(uint8_t *p, size_t l):
    return (<char *>p)[9:channel_end(p, l)] if l > 9 else b""


cdef class Hub:
    def __init__(self, Relay relay, str database, bytes marker, owner):
        """`marker`: a channel that nobody else knows; `owner`: what WantChannels and ChannelsLeft are for."""
        self.relay = relay
        self.database = database
        self.marker = marker
        self.owner = owner
        self.there = set()
        self.listeners = {}
        self.pending = {}
        relay.hubs[marker] = self

    @property
    def channels(self):
        """What clients listen to here."""
        return self.listeners.keys()

    @property
    def clients(self):
        """Who does."""
        return {c for told in self.listeners.values() for c in told}

    def connected(self, place):
        """There is a connection, which listens to `marker`, and is at this `place` (of a Server)."""
        self.place = place
        self.up = True
        self.relay.hubs_up[self.database, place] = self

    def lost(self):
        """Its connection is gone: what is on its way comes no more, and who listens does so on the next one."""
        cdef Server s
        self.up = False
        self.there.clear()
        self.pending.clear()
        self.relay.hubs_up.pop((self.database, self.place), None)
        for s in self.relay.backends.values():
            if s.place == self.place:
                s.epochs = None
        for told in self.listeners.values():
            for c in told:
                told[c] = None
        for c in self.clients:
            tell_early(c)

    def is_unsure(self, bytes message):
        """Whether the next moment may tell of whom this notification is: its server has just changed hands, and has not
        answered its new client yet."""
        cdef Server s = self.relay.backends.get((self.place, <int>be32(<uint8_t *>PyBytes_AS_STRING(message) + 5)))
        return (s is not None and s.link is not None and not s.epochs and not s.notified and s.last_pid != 0
                and s.heard_at <= s.taken and now_us() - s.released <= LATE_US)

    def notifier(self, bytes message):
        """The process id by which clients know who has notified; None: no server of ours."""
        cdef Server s = self.relay.backends.get((self.place, <int>be32(<uint8_t *>PyBytes_AS_STRING(message) + 5)))
        if s is not None:
            return holder(s, <uint32_t>s.pid)
        return self.relay.departed.get((self.place, <int>be32(<uint8_t *>PyBytes_AS_STRING(message) + 5)))

    def hear(self, bytes message, *, bint known=False):
        """A NotificationResponse has come: to how many clients it was told. `known`: it has the id by which clients know
        who has notified."""
        cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(message)
        cdef size_t l = PyBytes_GET_SIZE(message)
        cdef bytes channel = channel_in(p, l)
        cdef dict told
        cdef Client c
        cdef int count = 0
        if channel == self.marker:
            return self.arrived(message[10 + PyBytes_GET_SIZE(channel):l - 1])
        told = self.listeners.get(channel)
        if told is None:
            return 0
        if not known:
            message = message[:5] + notifier(self.relay, self.place, be32(p + 5)).to_bytes(4, "big") + message[9:]
        for c in list(told):
            self.relay.pace()
            if told.get(c, b"") is not None or c.lost:
                continue
            try:
                tell(c, message)
                count += 1
            except Exception as error:
                self.relay.fault(c, error)
        return count

    def overdue(self, int64_t limit):
        """Whether a mark was set more than `limit` microseconds ago and has not come: it listens somewhere else."""
        return any([self.relay.now - since > limit for _, since in self.pending.values()])

    cdef int epoch_is_over(self, bytes number) except -1:
        # All has come that was notified by who had this server until then. Anybody may have said so.
        cdef Server s
        if len(number) > 11 or not number.removeprefix(b"-").isdigit():
            return 0
        s = self.relay.backends.get((self.place, int(number)))
        if s is not None and s.epochs:
            del s.epochs[0]
        return 0

    cdef int arrived(self, bytes mark) except -1:
        # From here on this client is told here.
        cdef Client c
        if mark.startswith(EPOCH):
            return self.epoch_is_over(mark[len(EPOCH):])
        c, _ = self.pending.pop(mark, (None, 0))
        if c is None or c.lost:
            return 0
        if c.link is not None and c.link.mark == mark:
            c.early = [] if c.early is None else c.early
            c.early_at = 0 if c.inbox is None else len(c.inbox)
        else:
            tell_early(c)
        for name in c.channels or ():
            told = self.listeners.get(name)
            if told is not None and told.get(c) == mark:
                told[c] = None
        return 0

    cdef int claim(self, Client c, tuple names, bytes mark) except -1:
        # Its mark is about to be set.
        for name in names:
            self.listeners.setdefault(name, {})[c] = mark if self.up else None
        if self.up:
            self.pending[mark] = c, self.relay.now
        c.hub = self
        c.channels = set(names) | (c.channels or set())
        return 0

    cdef list marks_of(self, Client c):
        # For another process: its channels, each with the mark behind which it is told.
        return [[name, self.listeners[name].get(c)] for name in sorted(c.channels)]

    cdef int take_back(self, Client c, list marks) except -1:
        # A client of the process before, by `marks_of`.
        for name, mark in marks:
            self.claim(c, (name,), mark)
        self.pending.pop(None, None)
        return 0

    cdef int leave(self, Client c, names) except -1:
        # It listens to these no longer.
        cdef bint unused = False
        for name in names:
            told = self.listeners.get(name)
            if told is not None and told.pop(c, b"") != b"" and not told:
                del self.listeners[name]
                unused = True
        if unused:
            self.relay.post(ChannelsLeft(self))
        return 0


cdef uint32_t notifier(Relay relay, object place, uint32_t pid) except? 0:
    # The process id by which clients know who has notified: that which the client of this server was told.
    cdef Server s = relay.backends.get((place, <int>pid))
    return holder(s, pid) if s is not None else relay.departed.get((place, <int>pid), pid)


cdef int depart(Server s) except -1:
    # It is gone; what it has notified may be on its way.
    cdef dict departed = s.relay.departed
    departed.pop((s.place, s.pid), None)
    departed[s.place, s.pid] = holder(s, <uint32_t>s.pid)
    if len(departed) > DEPARTED:
        del departed[next(iter(departed))]
    return 0


cdef uint32_t holder(Server s, uint32_t pid):
    # The id that the client was told who has notified here, as far as can be known. See MACHINES.md, Who listens.
    if s.epochs:
        return s.epochs[0]
    if s.link is not None and not is_late(s):
        return <uint32_t>(s.link.key >> 32)
    return s.last_pid if s.last_pid else pid


cdef bint is_late(Server s) noexcept:
    # Whether what it notifies now, unseen, is of the one who had it before its client.
    return s.last_pid != 0 and not s.notified and s.relay.now - s.released <= LATE_US and s.heard_at <= s.taken


# ---- a client

cdef bint may_be_told(Client c) noexcept:
    # Whether it is between two transactions, and between two messages of what it is sent.
    cdef Server s = c.link
    if c.olen != 0 or c.relay.suspended:
        return False
    return s is None or (s.task == NO_TASK and s.need == 0 and s.touches is None and s.clean())


cdef int tell(Client c, bytes message) except -1:
    if c.inbox is None:
        if may_be_told(c):
            return say(c, message)
        c.inbox = []
    c.inbox.append(message)
    c.inbox_bytes += PyBytes_GET_SIZE(message) + NOTIFICATION_COST
    if c.olen + c.inbox_bytes > c.relay.max_notifications:
        return c.relay.lose(c, "too many notifications wait for this client", True, LIMIT_EXCEEDED)
    return 0


cdef int say(Client c, bytes messages) except -1:
    cdef iovec iov
    iov.iov_base = PyBytes_AS_STRING(messages)
    iov.iov_len = PyBytes_GET_SIZE(messages)
    c.pool.counts.sent += iov.iov_len
    return c.write(&iov, 1)


cdef int empty_inbox(Client c) except -1:
    cdef bytes messages = b"".join(c.inbox)
    c.inbox = None
    c.inbox_bytes = 0
    return say(c, messages)


cdef int catch_up(Client c) except -1:
    # Its server, if it has one still, has said something: maybe what it has waited for.
    if c is None:
        return 0
    if c.inbox is not None and may_be_told(c):
        empty_inbox(c)
    return c.go_on() if c.held else 0


cdef int tell_early(Client c) except -1:
    # What has waited for its other channels.
    cdef list early = c.early
    c.early = None
    for message in early or ():
        if not c.lost:
            tell(c, message)
    return 0


cdef int keep_channels(Client c, set left) except -1:
    # Of its channels only these are left. What waits for it of the others comes no more, as at PostgreSQL.
    cdef set gone
    if c.channels is None or len(left) == len(c.channels):
        return 0
    gone = c.channels - left
    c.hub.leave(c, gone)
    c.channels = left or None
    if c.inbox is not None:
        c.inbox = [message for message in c.inbox if channel_in(<uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)) not in gone] or None
        c.inbox_bytes = sum([len(message) + NOTIFICATION_COST for message in c.inbox or ()])
    if c.channels is None:
        c.hub = None
        tell_early(c)
    return 0


cdef str LIMIT_EXCEEDED = "53400"


# ---- its server

cdef bint is_for_client(Server s, uint8_t *p, size_t l) except -1:
    # Whether a notification that the server has for its client is told from here. It gets the notifier's id as clients know
    # it.
    cdef Client c = s.link
    cdef bytes channel
    if l < 10:
        return True
    put32(p + 5, notifier(s.relay, s.place, be32(p + 5)))
    if c.channels is None and s.task < MARK_TASK:
        return True
    channel = channel_in(p, l)
    if s.task >= MARK_TASK and s.hub is not None and channel == s.hub.marker:
        s.marked = s.marked or (<char *>p)[10 + PyBytes_GET_SIZE(channel):l - 1] == s.mark
        return False
    if s.task >= MARK_TASK and channel in s.channels:
        if s.marked:
            return False
    elif c.channels is not None and channel in c.channels:
        return False
    if c.channels is None or not c.hub.up or len(c.channels) == len(s.channels) and c.channels == set(s.channels):
        return True
    if c.early is None:
        c.early = []
        c.early_at = -1
    c.early.append((<char *>p)[:l])
    return tell_early(c) != 0 if len(c.early) > MOST_EARLY else False


cdef int find_channels(Server s, list names) except -1:
    # What the server listens to for its client, by a look. What that has already is heard elsewhere.
    cdef Client c = s.link
    cdef object place = s.relay.tracked_index.get(b"client_encoding")
    s.channels = tuple([name for name in names if c.channels is None or name not in c.channels])
    s.hub = None
    if s.channels:
        pin(s, s.pinned | LISTENS)
        if place is None or c.params[place] in (None, b"UTF8"):
            # The listening server speaks UTF-8, to everybody.
            s.relay.post(WantChannels(s, s.channels))
            return 0
    tell_early(c)
    if s.channels:
        return 0
    return s.run_task(UNLISTEN_TASK, b"UNLISTEN *") if names else 0


cdef int hand_over_channels(Server s) except -1:
    # It is clean, and the listening server has its channels.
    cdef Client c = s.link
    if not s.hub.up or not s.hub.there.issuperset(s.channels) or (c.hub is not None and c.hub is not s.hub):
        s.hub = None
        return tell_early(c)
    s.mark = os.urandom(16).hex().encode()
    s.marked = False
    return s.run_task(MARK_TASK, b'LISTEN "%s"' % s.hub.marker)


cdef int channels_task_done(Server s, uint8_t task) except -1:
    if task == MARK_TASK:
        s.hub.claim(s.link, s.channels, s.mark)
        return s.run_task(TELL_TASK, b'NOTIFY "%s", \'%s\'' % (s.hub.marker, s.mark))
    if task == TELL_TASK:
        # PostgreSQL tells whoever notifies itself before it is ready again.
        if not s.marked:
            s.relay.post(ServerSaid(s, "%s: it has not told of its own notification" % TASK_FAILED[task]))
            return s.relay.lose(s, TASK_FAILED[task], True)
        return s.run_task(UNLISTEN_TASK, b"UNLISTEN *")
    take_early(s.link)
    s.hub = s.mark = s.touches = None
    s.channels = ()
    pin(s, s.pinned & ~LISTENS)
    return go_on_with(s)


cdef int take_early(Client c) except -1:
    # Its server is at the end of what it has for it. If the listening server has not come to the mark yet, what is early
    # waits for that.
    if c.early is None or c.early_at < 0:
        return 0
    if c.early:
        c.inbox = [] if c.inbox is None else c.inbox
        c.inbox[c.early_at:c.early_at] = c.early
        c.inbox_bytes += sum([len(message) + NOTIFICATION_COST for message in c.early])
    c.early = None
    return 0


# ---- who has notified

cdef bytes EPOCH = b"epoch "


cdef bint speaks_of_notify(uint8_t *p, size_t n) noexcept:
    # Whether a text may be about that.
    return memmem(p, n, <char *>b"notify", 6) != NULL or memmem(p, n, <char *>b"NOTIFY", 6) != NULL


cdef bint end_epoch(Server s) except -1:
    # Its client may have notified, and another one may be next: a mark in the stream parts them. False: there is no need.
    cdef Hub hub = s.relay.hubs_up.get((s.pool.database, s.place))
    s.notified = False
    if hub is None:
        return False
    if s.epochs is None or len(s.epochs) > MOST_EPOCHS:
        s.epochs = []
    s.epochs.append(<uint32_t>(s.link.key >> 32))
    s.run_task(EPOCH_TASK, b'NOTIFY "%s", \'%s%d\'' % (hub.marker, EPOCH, s.pid))
    return True


cdef int epoch_ended(Server s) except -1:
    # Where its client's settings did not let that happen (a time limit), who comes next may be taken for it.
    cdef Client c = s.link
    if s.task_error is not None and s.epochs:
        s.epochs.pop()
    part_from(s)
    return c.resume() if s.task == NO_TASK else 0
