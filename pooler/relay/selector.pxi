# The event loop's selector. asyncio's descriptors are tagged by an odd number, connections of the data path by their
# address. `select` forwards bytes until asyncio has something to do: one of its descriptors is ready, its timer is
# due, its turn has come (TURN_US), or Python has to hear of something (`events`).
import selectors
from weakref import WeakValueDictionary

cdef class Relay:
    def __init__(self, tracked=(b"client_encoding", b"DateStyle", b"TimeZone", b"standard_conforming_strings",
                                b"application_name"), io_uring=True):
        """`tracked`: names of the parameters that follow a client, as the server reports them. Bounds that may be set:
        `max_packet`, bytes of a message; `max_statement_bytes`, what the prepared statements of one client may
        take, and about what those of one server may; `patience`, for how many microseconds those who wait count on a
        server that is asked a query of ours; `max_notifications`, bytes that wait for one client; `wordy`, whether a ServerSet tells what servers are made to take on.
        `io_uring`: send what a turn sends together, if the kernel can."""
        self.ep = epoll_create1(EPOLL_CLOEXEC)
        if self.ep < 0:
            raise OSError(errno, os.strerror(errno))
        self.batch = Batch()
        if io_uring:
            self.batch.begin()
        else:
            self.batch.end("switched off")
        self.keys = {}
        self.graveyard = []
        self.again = []
        self.woken = []
        self.porches, self.knocks = {}, []
        self.lazy = []
        self.events = []
        self.stirred = []
        self.statements = WeakValueDictionary()
        self.statement_step = 1
        self.param_sets = {}
        self.max_packet = 0x7fffffff
        self.max_statement_bytes = 64 << 20
        self.patience = 1000000
        self.max_notifications = 16 << 20
        self.backends = {}
        self.departed = {}
        self.hubs = WeakValueDictionary()
        self.hubs_up = {}
        self.tls_direct = True
        self.tracked = tuple(tracked)
        self.tracked_index = {name.lower(): i for i, name in enumerate(self.tracked)}
        self.judged = {}
        self.computed = -1
        self.watched = -1
        self.now = now_us()

    def __dealloc__(self):
        free(self.slots)
        free(self.keys_of)

    def on_events(self, wake, Exits exits=None):
        """Call `wake` (quick, from inside select) whenever `events` has something new, but for what `exits` does at once."""
        self.wake, self.exits = wake, exits

    def on_stir(self, rouse):
        """Call `rouse` (quick, from inside select or of what changes a pool) when anything happens after a `rest`."""
        self.rouse = rouse

    def rest(self):
        """Whoever looks again and again has looked, and need not until something has happened."""
        self.resting = True

    def take_stirred(self):
        """The pools in which something has happened since the last call."""
        cdef Pool pool
        cdef list found = self.stirred
        self.stirred = []
        for pool in found:
            pool.stirred = False
        return found

    @property
    def tracked_names(self):
        return self.tracked

    @property
    def no_ring(self):
        """Why what a turn sends does not leave by io_uring; empty when it does."""
        return self.batch.why_not

    @property
    def param_set_count(self):
        return len(self.param_sets)

    @property
    def statement_count(self):
        return len(self.statements)

    # ---- the data path

    cdef int happen(self) except -1:
        # There is something to look at, for who looks again and again.
        self.happened += 1
        if self.resting:
            self.resting = False
            self.roused = True
            self.rouse()
        return 0

    cdef int post(self, object event) except -1:
        self.events.append(event)
        return 0

    cdef int lose(self, Conn c, str reason, bint tell, str sqlstate=None) except -1:
        # Take the connection out of everything, at once; Python logs why, says farewell if `tell`, and closes it.
        cdef Pool pool = c.pool
        if c.lost:
            return 0
        if c.put_off:
            self.batch.depart()
        epoll_ctl(self.ep, EPOLL_CTL_DEL, c.fd, NULL)
        c.lost = True
        pool.move(c, NOWHERE)
        self.graveyard.append(c)
        if isinstance(c, Client):
            self.lose_client(<Client>c, reason, tell, sqlstate)
        else:
            self.lose_server(<Server>c, reason, tell)
        return 0

    cdef int lose_client(self, Client c, str reason, bint tell, str sqlstate) except -1:
        cdef Server s = c.link
        cdef str why
        if s is not None and (s.said_farewell or s.need and s.task == NO_TASK):
            # An error in the middle of a row would be read as a part of it, and nothing comes behind the server's FATAL.
            tell = False
        # As ClientLost(…) makes it, which is written in Python.
        self.post(new_tuple(ClientLost, (c, reason, tell, sqlstate)))
        c.stmts = None
        c.inbox = c.early = None
        if c.hub is not None:
            keep_channels(c, set())
        self.free_slot(c)
        if s is None:
            return 0
        why = None if salvageable(s, c) else s.unfit()
        s.broken = s.broken or c.half_sent()
        c.link = None
        s.link = None
        s.last_pid = <uint32_t>(c.key >> 32)
        if why is not None:
            return self.lose(s, why, True)
        s.parting = RELEASED
        return s.part_if_read()

    cdef int lose_server(self, Server s, str reason, bint tell) except -1:
        cdef Client c = s.link
        if c is not None:
            s.broken = s.broken or c.half_sent()
        s.settle_loss()
        self.post(ServerLost(s, reason, tell))
        s.link = None
        if c is not None:
            c.link = None
            self.lose(c, reason, not s.said_farewell and (s.need == 0 or s.task != NO_TASK))
        if s.pool.waiting_clients.count:
            s.pool.full = False
            s.pool.serve_waiting()
        return 0

    cdef int fault(self, Socket c, object error) except -1:
        # A bug of ours, or no memory: this connection ends, the others go on, and the log has the error.
        self.post(Fault(c, error))
        if isinstance(c, Newcomer):
            # Its login ends by the janitor's deadline.
            (<Newcomer>c).unwatch()
            return 0
        return self.lose(<Conn>c, "bouncer resources exhaustion" if isinstance(error, MemoryError) else "failure", True)

    cdef int run_again(self) except -1:
        cdef Conn c
        cdef list turn = self.again
        self.again = []
        for c in turn:
            c.again = False
            stirs(c.pool)
            if c.lost or c.deaf:
                continue
            try:
                if c.hold_len and not c.must_wait():
                    c.digest()
                if c.lost:
                    continue
                if c.must_wait():
                    c.go_deaf()
                else:
                    c.on_read()
                if isinstance(c, Server) and (<Server>c).parting != STAYS and not c.lost:
                    (<Server>c).part_if_read()
            except Exception as error:
                self.fault(c, error)
        return 0

    cdef int run_lazy(self) except -1:
        # What has come for servers that are read lazily, and was too little to wake us.
        cdef Server s
        if self.now - self.lazy_turn < LAZY_MS * 1000:
            return 0
        self.lazy_turn = self.now
        for s in list(self.lazy):
            try:
                if s.read_mode == PROMPT:
                    continue
                stirs(s.pool)
                s.set_read_mode(s.gauge.look(self.now))
                if s.lost or s.deaf:
                    continue
                if s.must_wait():
                    s.go_deaf()
                else:
                    s.on_read()
            except Exception as error:
                self.fault(s, error)
        return 0

    cdef bint was_quiet(self, int64_t quiet, int64_t loud):
        # Whether logins have gone on since it was so many, and none of them has asked Python for anything.
        return self.quiet != quiet and self.loud == loud

    cdef tuple intern(self, tuple params):
        # The one object for these values. They come from clients: when they have become too many bytes, the sets that
        # nobody has are forgotten, and those in use decide when that is looked at again.
        cdef size_t most = 2 * self.params_in_use
        cdef object found = self.param_sets.get(params)
        if found is not None:
            return found
        if self.param_bytes > (most if most > PARAM_BYTES else PARAM_BYTES):
            self.forget_params()
        self.param_sets[params] = params
        self.param_bytes += set_size(params)
        return params

    cdef int forget_params(self) except -1:
        cdef dict kept = {}
        cdef list known = list(self.param_sets)
        cdef tuple params
        cdef size_t total = 0
        self.param_sets = kept
        for params in known:
            # Whoever has it is one more than `known` and `params`.
            if Py_REFCNT(params) > 2:
                kept[params] = params
                total += set_size(params)
        self.param_bytes = self.params_in_use = total
        return 0

    def changed(self, tuple params, int place, bytes value):
        if params[place] == value:
            return params
        return self.intern(params[:place] + (value,) + params[place + 1:])

    def settled(self, tuple wanted, tuple told):
        """What a server has, and so its client, once it was given the values `wanted`: of what it reports that."""
        return self.intern(tuple([told[i] if told[i] is not None else wanted[i] for i in range(len(self.tracked))]))

    cdef tuple settle(self, Client c, tuple told):
        # The same, for a client; whoever reads much of the log is told which of its values are spelled otherwise now.
        cdef tuple found = self.settled(c.params, told)
        if self.wordy:
            for name, wanted, value in zip(self.tracked, c.params, found):
                if wanted is not None and wanted.lower() != value.lower():
                    self.post(ClientSet(c, name, wanted, value))
        return found

    cdef tuple parted(self, tuple values, tuple params, dict places):
        # Values of a session as (session, params): what is tracked stands among the parameters, at `places`.
        session, changed = sessions.parted(values, params, places)
        return self.intern(session), self.intern(changed)

    def doubted(self, tuple there, tuple told):
        """What a server has after a query that may have taken all: of what it does not report, nobody knows."""
        return self.intern(tuple([told[i] if told[i] is not None or there[i] is None else b"\0"
                                  for i in range(len(self.tracked))]))

    # ---- connections in and out

    def adopt_client(self, Pool pool, int64_t number, int fd, tls, bytes leftover, params, about, bytes key, since=None, session=()):
        """Take over a logged-in client.

        `number` is its id. `tls` is None or (SSL object of _ssl, incoming MemoryBIO, outgoing MemoryBIO); `leftover`: plain bytes read but
        not consumed; `params`: its values of the tracked parameters, in order, None where it has none; `key`: its
        eight bytes of BackendKeyData; `since`: stamp of its connection on the relay's clock; `session`: what it has asked
        for beside (see pooler/sessions.py). `about` is kept as it
        is. The first bytes are processed in the next turn of the loop, so a welcome can still be sent before. If it
        raises, nothing is left here, and `fd` is still the caller's."""
        return self.adopt(pool, number, fd, tls, leftover, self.intern(tuple(params)), about, key,
                          now_us() if since is None else since, self.intern(tuple(session)))

    cdef Client adopt(self, Pool pool, int64_t number, int fd, tls, bytes leftover, tuple params, about, bytes key,
                      int64_t since, tuple session):
        # The same, of values that are interned.
        cdef Client c = Client.__new__(Client)
        self.take_fd(c, pool, number, fd, tls, leftover, params, about, since)
        c.key = be64(key)
        c.base_params = c.params
        c.session = c.base = session
        try:
            self.enter(c)
            self.take_slot(c)
        except BaseException:
            self.retract(c)
            raise
        pool.move(c, CL_ACTIVE)
        return c

    def adopt_server(self, Pool pool, int64_t number, int fd, tls, bytes leftover, params, about, int pid, bytes key,
                     since=None, Client client=None):
        """Take over a logged-in, idle server; it is given to who waits first. See `adopt_client`.

        With `client`, adopted in the same turn, the two are bound: they belong to each other until both end."""
        cdef Server s = Server.__new__(Server)
        self.take_fd(s, pool, number, fd, tls, leftover, self.intern(tuple(params)), about, now_us() if since is None else since)
        s.session = self.intern(())
        s.told = s.params
        s.pid = pid
        s.cancel_key = key
        s.place = getattr(about, "place", None)
        self.backends[s.place, pid] = s
        s.status = IDLE
        try:
            self.enter(s)
        except BaseException:
            self.retract(s)
            raise
        if client is not None:
            self.bind(client, s)
        elif s.hold_len == 0:
            pool.make_idle(s, True)
        else:
            # Something came behind its ReadyForQuery: nobody gets it before that is read.
            pool.move(s, SV_TESTED)
            s.parting = CHECKED
        return s

    cdef int bind(self, Client c, Server s) except -1:
        s.pool.move(s, SV_ACTIVE)
        s.bound = c.bound = True
        s.link = c
        c.link = s
        c.params = s.params
        return 0

    cdef int take_fd(self, Conn c, Pool pool, int64_t number, int fd, tls, bytes leftover, tuple params, about, int64_t since) except -1:
        c.fd = fd
        c.relay = self
        c.pool = pool
        self.now = now_us()
        c.id = number
        c.connected = since
        c.requested = self.now
        c.about = about
        c.params = params
        if tls is not None:
            c.ssl, c.incoming, c.outgoing = tls
            if self.tls_direct:
                c.tls = find_ssl(c.ssl, c.incoming, c.outgoing)
            c.tls_ready = True
        if leftover:
            c.keep(<uint8_t *>PyBytes_AS_STRING(leftover), PyBytes_GET_SIZE(leftover), 0)
        return 0

    cdef int retract(self, Conn c) except -1:
        # A connection that could not be taken over: it may be watched, due to be read, and in a list already.
        epoll_ctl(self.ep, EPOLL_CTL_DEL, c.fd, NULL)
        c.lost = True
        if c.home is not None:
            c.pool.move(c, NOWHERE)
        c.fd = -1
        return 0

    cdef int watch(self, Conn c, int op, uint32_t reading) except -1:
        # `reading`: EPOLLIN, or 0 while it is read without being told.
        cdef epoll_event ev
        ev.events = reading | EPOLLOUT | EPOLLRDHUP | EPOLLET
        ev.data.ptr = <void *>c
        if epoll_ctl(self.ep, op, c.fd, &ev) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef int enter(self, Conn c) except -1:
        cdef int op = EPOLL_CTL_MOD if c.fd == self.watched else EPOLL_CTL_ADD
        self.watched = -1
        self.watch(c, op, EPOLLIN)
        if c.tls_ready or c.hold_len:
            c.wake_later()
        return 0

    def accept(self, int listener):
        """The next client of a listening TCP socket, by its descriptor; None when there is none now. Raises OSError."""
        return accept_one(self, listener)

    def welcome(self, int fd):
        """A client on TCP that another process has accepted; `fd` is the relay's. Raises OSError."""
        return newcomer_of(self, fd)

    def drop(self, Conn connection, str reason, bint tell=True, str sqlstate=None):
        """End a connection for `reason`; a ClientLost or ServerLost event follows for it, and for who was linked. A
        client is told `sqlstate` (None: the usual one)."""
        self.now = now_us()
        self.lose(connection, reason, tell, sqlstate)

    def evict(self, Server s, str reason):
        """End a server that goes for somebody else: what it is asked by us the next one will be asked."""
        if s.question is not None and s.pool.question is None:
            s.pool.question = s.question
        self.drop(s, reason)

    def stamp(self):
        """The relay's clock, now, in microseconds."""
        self.now = now_us()
        return self.now

    cdef int end_turn(self) except -1:
        # Before each look at the connections: how long ago was the last one?
        cdef int64_t lasted
        if self.looked:
            lasted = now_us() - self.looked
            if lasted > self.turn_us:
                self.turn_us = lasted
        if self.computed >= 0:
            lasted = computed_us() - self.computed
            self.computed = -1
            if lasted > self.turn_cpu_us:
                self.turn_cpu_us = lasted
        return 0

    @property
    def longest_turn(self):
        """(us between two looks at the connections, us of processor time Python took between two): the longest of this
        period and of the one before. The first exceeds the second when the machine gave the processor to others."""
        return max(self.turn_us, self.last_turn_us), max(self.turn_cpu_us, self.last_turn_cpu_us)

    def end_period(self):
        """What was the longest turn two periods ago is forgotten."""
        self.last_turn_us, self.last_turn_cpu_us = self.turn_us, self.turn_cpu_us
        self.turn_us = self.turn_cpu_us = 0

    def pace(self):
        """Breathe, if the last look at the connections is BREATH_US ago: for every step of long work."""
        if now_us() - self.looked >= BREATH_US:
            self.breathe()

    def breathe(self):
        """Forward what is ready, without waiting, in the middle of long work in Python; asyncio's turn comes later."""
        cdef epoll_event evs[EVENTS]
        cdef list put_off
        cdef int n
        self.end_turn()
        with nogil:
            n = epoll_wait(self.ep, evs, EVENTS, 0)
        self.looked = now_us()
        self.computed = computed_us()
        self.now = self.looked
        if n > 0:
            self.happen()
            # asyncio's own descriptors and newcomers are level-triggered: what is dropped here comes again in `select`.
            put_off, self.woken = self.woken, []
            self.dispatch(evs, n, [])
            self.woken = put_off
            self.knocks.clear()
        if self.lazy:
            self.run_lazy()
        if self.again:
            self.run_again()

    def find(self, bytes key):
        """The client with this cancel key, or None."""
        cdef uint64_t wanted = int.from_bytes(key, "big")
        cdef uint32_t i
        for i in range(self.slot_count):
            if self.keys_of[i] == wanted and self.slots[i] != NULL:
                return <Client>self.slots[i]
        return None

    cdef int take_slot(self, Client c) except -1:
        # Cancel keys stand side by side, so that looking one up among ten thousand takes microseconds.
        cdef uint32_t cap
        cdef void *fresh
        if self.slot_count == self.slot_cap:
            cap = self.slot_cap * 2 if self.slot_cap else 64
            fresh = realloc(self.slots, cap * sizeof(PyObject *))
            if fresh == NULL:
                raise MemoryError
            self.slots = <PyObject **>fresh
            fresh = realloc(self.keys_of, cap * sizeof(uint64_t))
            if fresh == NULL:
                raise MemoryError
            self.keys_of = <uint64_t *>fresh
            self.slot_cap = cap
        c.slot = self.slot_count
        self.slots[c.slot] = <PyObject *>c
        self.keys_of[c.slot] = c.key
        self.slot_count += 1
        return 0

    cdef int free_slot(self, Client c) except -1:
        cdef uint32_t last = self.slot_count - 1
        self.slots[c.slot] = self.slots[last]
        self.keys_of[c.slot] = self.keys_of[last]
        (<Client>self.slots[c.slot]).slot = c.slot
        self.slot_count = last
        return 0

    # ---- the selector's face

    def register(self, fileobj, events, data=None):
        cdef int fd = descriptor(fileobj)
        if fd in self.keys:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self.control(EPOLL_CTL_ADD, fd, events)
        self.keys[fd] = key
        return key

    def unregister(self, fileobj):
        cdef int fd = descriptor(fileobj)
        key = self.keys.pop(fd, None)
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        # Its descriptor may be closed already: then epoll has forgotten it by itself.
        epoll_ctl(self.ep, EPOLL_CTL_DEL, fd, NULL)
        return key

    def modify(self, fileobj, events, data=None):
        cdef int fd = descriptor(fileobj)
        old = self.keys.get(fd)
        if old is None:
            raise KeyError(f"{fileobj!r} is not registered")
        key = selectors.SelectorKey(old.fileobj, fd, events, data)
        if events != old.events:
            self.control(EPOLL_CTL_MOD, fd, events)
        self.keys[fd] = key
        return key

    cdef int control(self, int op, int fd, int events) except -1:
        cdef epoll_event ev
        ev.events = (EPOLLIN if events & selectors.EVENT_READ else 0) | (EPOLLOUT if events & selectors.EVENT_WRITE else 0)
        ev.data.u64 = (<uint64_t>fd << 1) | 1
        if epoll_ctl(self.ep, op, fd, &ev) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def get_map(self):
        return {key.fileobj: key for key in self.keys.values()} if self.ep >= 0 else None

    def get_key(self, fileobj):
        try:
            return self.keys[descriptor(fileobj)]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def close(self):
        if self.ep >= 0:
            c_close(self.ep)
            self.ep = -1
        self.batch.end("closed")
        self.keys.clear()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def select(self, timeout=None):
        ready = self.forward(timeout)
        if self.computed < 0:
            self.computed = computed_us()
        return ready

    cdef list forward(self, timeout):
        cdef epoll_event evs[EVENTS]
        cdef int n
        cdef int wait
        cdef int64_t start = now_us()
        cdef int64_t deadline = -1
        cdef bint lazily
        # Those of the last look who came in it behind what Python has heard of by now.
        cdef bint woke = self.woken and run_woken(self)
        cdef list ready = []
        self.now = start
        if timeout is None:
            wait = -1
        elif timeout <= 0:
            wait = 0
        else:
            deadline = start + <int64_t>(timeout * 1000000)
            wait = <int>min(timeout * 1000 + 1, 2000000000)
        if self.again:
            self.run_again()
        while True:
            if self.events or self.again or self.roused or woke:
                wait = 0
            lazily = self.lazy and wait != 0
            self.end_turn()
            with nogil:
                n = epoll_wait(self.ep, evs, EVENTS, LAZY_MS if lazily else wait)
            self.looked = now_us()
            if n < 0:
                if errno != EINTR:
                    raise OSError(errno, os.strerror(errno))
                # A signal, of which asyncio hears by a descriptor of its own, or work of io_uring in the kernel.
                PyErr_CheckSignals()
                n = wait = 0
            self.now = self.looked
            if n > 0:
                self.happen()
            self.dispatch(evs, n, ready)
            if self.lazy:
                self.run_lazy()
            if self.again:
                self.run_again()
            if self.graveyard:
                self.graveyard.clear()
            if self.events and self.exits is not None and self.exits.take_at_once(self):
                woke = True
            if (self.woken or self.knocks) and receive(self, ready):
                woke = True
            if self.events:
                if self.wake is not None:
                    self.wake()
                return ready
            if self.roused:
                self.roused = False
                return ready
            if ready or woke or n == 0 and wait and not self.again and not lazily or wait == 0 and timeout is not None and timeout <= 0:
                return ready
            if self.now - start > TURN_US:
                return ready
            if deadline >= 0:
                if self.now >= deadline:
                    return ready
                wait = <int>((deadline - self.now) // 1000) + 1
            else:
                wait = -1

    cdef int dispatch(self, epoll_event *evs, int n, list ready) except -1:
        cdef int i
        self.batch.gathers = self.batch.room != NULL
        try:
            for i in range(n):
                if evs[i].data.u64 & 1:
                    self.ready_for_asyncio(evs[i].data.u64 >> 1, evs[i].events, ready)
                else:
                    self.ready_for_us(<Socket>evs[i].data.ptr, evs[i].events)
        finally:
            self.send_off()
        return 0

    cdef int ready_for_asyncio(self, int fd, uint32_t events, list ready) except -1:
        cdef int mask
        key = self.keys.get(fd)
        if key is not None:
            mask = ((selectors.EVENT_READ if events & ~EPOLLOUT else 0)
                    | (selectors.EVENT_WRITE if events & ~EPOLLIN else 0))
            mask &= key.events
            if mask:
                (self.knocks if fd in self.porches else ready).append((key, mask))
        return 0

    cdef int ready_for_us(self, Socket c, uint32_t events) except -1:
        if c.lost:
            # Closed by an earlier event of this batch; the graveyard keeps it until the batch is done.
            return 0
        try:
            return c.on_event(events)
        except Exception as error:
            return self.fault(c, error)

    cdef int send_off(self) except -1:
        # The end of a turn.
        self.batch.gathers = False
        return self.batch.depart()


cdef size_t set_size(tuple params):
    # About what a set of values takes.
    cdef size_t total = 0
    for value in params:
        total += VALUE_COST + (PyBytes_GET_SIZE(value) if value is not None else 0)
    return total


cdef int descriptor(object fileobj) except -1:
    cdef int fd
    if isinstance(fileobj, int):
        fd = fileobj
    else:
        fd = fileobj.fileno()
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd
