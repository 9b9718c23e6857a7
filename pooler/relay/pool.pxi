# One pool: who waits, who is free, who is linked to whom. Clients are served first come, first served; servers last
# in, first out, so that few get most of the work (round_robin turns that over). Whether a server may be opened is not
# decided here: the pool asks (WANT_SERVER), and goes on when one is adopted. It asks for no more than are missing: who
# waits may have a server that is about to be free (`coming`), and used ones are tested, as many as there are who wait.

cdef uint32_t legal[8]
# To which states, as bits, a connection may go from each.
legal[NOWHERE] = 1 << CL_ACTIVE | 1 << SV_IDLE | 1 << SV_TESTED | 1 << SV_BEING_CANCELED | 1 << SV_ACTIVE
legal[CL_ACTIVE] = 1 << CL_WAITING | 1 << NOWHERE
legal[CL_WAITING] = 1 << CL_ACTIVE | 1 << NOWHERE
legal[SV_IDLE] = 1 << SV_ACTIVE | 1 << SV_USED | 1 << SV_TESTED | 1 << NOWHERE
legal[SV_USED] = 1 << SV_TESTED | 1 << SV_IDLE | 1 << NOWHERE
legal[SV_TESTED] = 1 << SV_IDLE | 1 << SV_BEING_CANCELED | 1 << NOWHERE
legal[SV_ACTIVE] = 1 << SV_IDLE | 1 << SV_USED | 1 << SV_TESTED | 1 << SV_BEING_CANCELED | 1 << NOWHERE
legal[SV_BEING_CANCELED] = 1 << SV_IDLE | 1 << SV_USED | 1 << SV_TESTED | 1 << NOWHERE


cdef inline int stirs(Pool pool) except -1:
    # What has happened here is looked at once, however often it has.
    if not pool.stirred:
        pool.stirred = True
        pool.relay.stirred.append(pool)
        pool.relay.happen()
    return 0


cdef inline int64_t life_left(Pool pool, Server s) noexcept:
    if pool.lifetime < 0:
        return NEVER
    return max(0, max(s.connected + pool.lifetime, pool.retired + pool.lifetime_gap) - pool.relay.now)


cdef inline bint retires(Pool pool, Server s) noexcept:
    if life_left(pool, s):
        return False
    pool.retired = pool.relay.now
    return True


cdef class Pool:
    def __init__(self, Relay relay, str database, str user):
        self.relay = relay
        self.database = database
        self.user = user
        self.active_clients = ConnList()
        self.waiting_clients = ConnList()
        self.idle_servers = ConnList()
        self.used_servers = ConnList()
        self.tested_servers = ConnList()
        self.active_servers = ConnList()
        self.canceled_servers = ConnList()
        self.mode = MODE_SESSION
        self.lifetime = -1
        self.retired = -(1 << 60)
        self.reset_query = b""
        self.check_query = None
        self.watches = True
        self.max_pinned = -1
        self.hears = True
        self.seen = {}
        self.judged = {}
        self.unread = True

    def __dealloc__(self):
        free(self.wait_hist)
        free(self.query_hist)
        free(self.xact_hist)
        free(self.login_hist)

    cdef ConnList list_of(self, uint8_t state):
        if state == CL_ACTIVE:
            return self.active_clients
        if state == CL_WAITING:
            return self.waiting_clients
        if state == SV_ACTIVE:
            return self.active_servers
        if state == SV_IDLE:
            return self.idle_servers
        if state == SV_USED:
            return self.used_servers
        if state == SV_TESTED:
            return self.tested_servers
        if state == SV_BEING_CANCELED:
            return self.canceled_servers
        return None

    def stir(self):
        """Something has happened here: whoever looks after what lasts too long has to look again."""
        stirs(self)

    cdef int move(self, Conn c, uint8_t state) except -1:
        # The one place where a connection changes its state, and so its list.
        cdef ConnList there
        if legal[c.state] >> state & 1 == 0:
            raise RuntimeError("illegal move of a connection from %s to %s" % (STATES[c.state], STATES[state]))
        if c.home is not None:
            c.home.remove(c)
        c.state = state
        stirs(self)
        there = self.list_of(state)
        if there is None:
            return 0
        if state == SV_IDLE and not self.round_robin:
            there.prepend(c)
        else:
            there.append(c)
        return 0

    # ---- link, queue, release

    cdef bint take(self, Client c) except -1:
        # A server for `c`, linked and ready for its query: False when it has to wait.
        cdef Server s
        if self.waiting_clients.count == 0 and not self.paused and not self.yielding:
            s = self.free_server()
            if s is not None:
                return self.link(c, s)
        if self.failing is not None and self.server_count == 0 and not self.paused:
            # No server, and the last attempt to get one failed: say so at once, and have another try made.
            self.relay.lose(c, self.failing, True)
            self.want()
            return False
        c.wait_start = self.relay.now
        c.notified = False
        self.move(c, CL_WAITING)
        self.call_up()
        return False

    cdef int want(self) except -1:
        if not self.full and not self.paused:
            self.relay.post(WantServer(self))
        return 0

    cdef int call_up(self) except -1:
        # Nothing is free for those who wait: test used servers, one for each, and ask for what is missing then.
        cdef int missing
        if self.paused:
            return 0
        missing = self.waiting_clients.count - self.coming()
        while missing > 0 and self.used_servers.head is not None:
            (<Server>self.used_servers.head).check()
            missing -= 1
        return self.want() if missing > 0 else 0

    cdef int coming(self) noexcept:
        # Servers that are about to be free: they answer a query of ours, or are in the middle of a message for nobody. One
        # that has not been heard of for long (`Relay.patience`) may be dead, and keeps nobody waiting.
        cdef int count = 0
        cdef Server s = <Server>self.tested_servers.head
        while s is not None:
            count += not s.silent()
            s = <Server>s.next
        s = <Server>self.idle_servers.head
        while s is not None:
            count += s.in_mid_message() and not s.silent()
            s = <Server>s.next
        return count

    cdef Server free_server(self):
        # One that has nothing half said: the rest of that would be read as the head of an answer.
        cdef Server s = <Server>self.idle_servers.head
        while s is not None:
            if s.close_needed:
                self.relay.lose(s, "obsolete connection", True)
                s = <Server>self.idle_servers.head
            elif s.in_mid_message():
                s = <Server>s.next
            else:
                return s
        return None

    cdef bint link(self, Client c, Server s) except -1:
        cdef int64_t waited = 0
        if c.state == CL_WAITING:
            waited = self.relay.now - c.wait_start
            self.move(c, CL_ACTIVE)
        c.wait_start = 0
        self.move(s, SV_ACTIVE)
        c.link = s
        s.link = c
        s.asked = False
        s.requested = s.heard_at = s.taken = self.relay.now
        s.notified = False
        if s.sole != c.id or c.home != s.id:
            change_hands(s, c)
        self.counts.assignments += 1
        self.counts.wait_time += waited
        self.measure(&self.wait_hist, waited)
        return self.align(c, s)

    cdef bint align(self, Client c, Server s) except -1:
        # Whether the server has the client's parameters; if not, it is told to take them on.
        cdef bytes sql
        if c.params is s.params and c.session is s.session and not s.forgets:
            return True
        there = s.params
        told = s.told
        if c.session is not s.session and sessions.hides(c.session, s.session):
            there = told = (None,) * len(there)
        sql = alignment(self.relay, c.params, there, told)
        place = self.relay.tracked_index.get(b"session_authorization")
        user = c.params[place] if place is not None and c.params[place] != s.params[place] else None
        if c.session is not s.session or user is not None:
            sql = sessions.alignment(c.session, s.session, sql, user)
            s.unmade = None
            s.to_make = sessions.statements_to_make(c.session, s.session)
        if s.forgets:
            s.forgets = False
            sql = b"DISCARD SEQUENCES;" + sql
        if not sql:
            c.params = self.relay.settled(c.params, s.params)
            if not s.to_make:
                return True
            make_statements(s)
            return False
        if self.relay.wordy:
            self.relay.post(ServerSet(s, sql))
        if (self.kept | self.refused) & touches.Held.TEMP and s.shared() and b"pg_temp" in sql:
            # What this client makes by a name alone may be temporary.
            s.touches = [touches.TEMPORARY_PATH]
        s.run_task(SET_TASK, sql)
        return False

    cdef bint cares(self) noexcept:
        # Whether anything depends on what a text leaves behind, but counts.
        return self.watches and self.kept | self.refused != 0

    cdef bint may_refuse(self) noexcept:
        # Whether a statement that was prepared may be carried out no longer.
        return self.refused != 0 or 0 <= self.max_pinned <= self.pinned_count

    cdef int unlink(self, Server s) except -1:
        # The client goes on without; the server waits for the end of what is being read, then is released.
        cdef Client c = s.link
        c.link = None
        s.link = None
        s.last_pid = <uint32_t>(c.key >> 32)
        s.parting = RELEASED
        if c.inbox is not None and may_be_told(c):
            empty_inbox(c)
        return c.go_on() if c.held else 0

    cdef int release(self, Server s) except -1:
        if s.unmade is not None:
            s.unmade = None
        if s.close_needed:
            return self.relay.lose(s, "close_needed", True)
        if s.status != IDLE:
            # Its client went in a transaction.
            self.move(s, SV_TESTED)
            return s.run_task(ROLLBACK_TASK, b"ROLLBACK")
        if retires(self, s):
            return self.relay.lose(s, "server lifetime over", True)
        if s.pinned & ~SEQUENCES or s.touches is not None:
            return self.clean_up(s)
        if s.pinned:
            pin(s, 0)
        if self.reset_query and (self.mode == MODE_SESSION or self.reset_always):
            self.move(s, SV_TESTED)
            return s.run_task(RESET_TASK, self.reset_query)
        return self.make_idle(s, False)

    cdef int clean_up(self, Server s) except -1:
        # Its client has gone, and something of it may be left.
        if sticking(s):
            return self.relay.lose(s, "a library was loaded", True)
        if s.pinned & <int>touches.UNTOLD:
            return self.relay.lose(s, TASK_FAILED[LOOK_TASK], True)
        if s.state != SV_TESTED:
            self.move(s, SV_TESTED)
        return s.run_task(DISCARD_TASK, b"DISCARD ALL")

    cdef int make_idle(self, Server s, bint proven) except -1:
        # `proven`: it has just answered a query of ours, or logged in. With no delay all others are tested before use.
        s.released = self.relay.now
        if self.question is not None and s.cancels == 0 and not (s.close_needed or self.paused):
            return ask(s)
        if s.cancels > 0:
            self.move(s, SV_BEING_CANCELED)
            return 0
        self.move(s, SV_IDLE if proven or self.check_delay or self.check_query is None else SV_USED)
        if self.paused or self.yields():
            self.relay.post(ServerReady(s))
            return 0
        return self.serve_waiting()

    cdef bint yields(self) noexcept:
        # Whether somebody in another pool, who has waited for longer than all of ours, may have what comes free here. Python
        # decides: until it has (`resume`), nobody takes anything.
        if self.rival == 0:
            return False
        if self.waiting_clients.head is None or (<Client>self.waiting_clients.head).wait_start > self.rival:
            self.rival = 0
            self.yielding = True
        return self.yielding

    cdef int serve_waiting(self) except -1:
        # Give free servers to those who wait, in order. A client that is lost in its turn frees its server, which leads
        # back here: the loop goes on then, rather than deeper with each of them.
        cdef Client c
        cdef Server s
        if self.waiting_clients.head is None or self.serving or self.yielding:
            return 0
        self.serving = True
        try:
            while self.waiting_clients.head is not None and not self.paused:
                s = self.free_server()
                if s is None:
                    self.call_up()
                    break
                c = <Client>self.waiting_clients.head
                try:
                    if self.link(c, s):
                        c.resume()
                except Exception as error:
                    self.relay.fault(c, error)
        finally:
            self.serving = False
        return 0

    cdef int measure(self, uint64_t **hist, int64_t value) except -1:
        if hist[0] == NULL:
            hist[0] = <uint64_t *>calloc(bucket_count, sizeof(uint64_t))
            if hist[0] == NULL:
                raise MemoryError
        hist[0][bucket(value)] += 1
        return 0

    # ---- for Python

    def take_seen(self):
        """What clients may have left in their sessions since the last call: a dict of Touch to how often."""
        seen, self.seen = self.seen, {}
        return seen


    def ask(self, bytes sql):
        """Have this asked by a server that is free, or the next that comes free. The answer is a ServerAnswered."""
        cdef Server s
        self.question = sql
        for s in self.idle_servers.all():
            if not (s.close_needed or s.in_mid_message() or self.paused):
                ask(s)
                return

    def know(self, effects, Names names):
        """What names of the database's own code may leave behind, as `touches.judge` takes it, and as an automaton."""
        self.effects, self.names = effects, names
        self.relay.tick += 1
        self.known = self.relay.tick
        self.judged = {}

    cpdef login_took(self, int64_t microseconds):
        """Count a login of a client."""
        self.counts.logins += 1
        self.login_time += microseconds
        self.measure(&self.login_hist, microseconds)

    def waited(self, int64_t microseconds):
        """Count the wait of a client that no query has come from: for its first server, or for one of its own."""
        self.counts.wait_time += microseconds
        self.measure(&self.wait_hist, microseconds)

    def resume(self):
        """Serve those who wait: after a pause, when limits were raised, when nobody else wants what has come free."""
        self.yielding = False
        stirs(self)
        self.serve_waiting()

    def retires(self, Server s):
        """Whether a free server has lived for long enough (`lifetime`; 0: is used once; below: lives for ever), and the
        last one to retire went at least `lifetime_gap` ago: a pool does not lose all its servers at once."""
        return retires(self, s)

    def retires_in(self, Server s):
        """In how many microseconds it does, if nothing happens; NEVER when it does not."""
        return life_left(self, s)

    def age_idle(self):
        """Move servers that have been free for longer than check_delay to `used`: they are tested before use."""
        cdef Server s
        if self.check_query is None:
            return
        for s in self.idle_servers.all():
            if self.relay.now - s.released >= self.check_delay:
                self.move(s, SV_USED)

    def ages_in(self):
        """In how many microseconds there will be such a server; NEVER if there is none."""
        cdef Server s = <Server>self.idle_servers.head if self.check_query is not None else None
        cdef int64_t least = NEVER
        while s is not None:
            least = min(least, s.released + self.check_delay - self.relay.now)
            s = <Server>s.next
        return least

    def rejuvenate(self):
        """After a change of check_query or check_delay: servers that need no test any more are idle again."""
        cdef Server s
        for s in self.used_servers.all():
            if self.check_query is None or self.relay.now - s.released < self.check_delay:
                self.move(s, SV_IDLE)

    def try_one(self):
        """Test a used server although nobody waits for it: it may have news."""
        if not self.paused and self.tested_servers.count == 0 and self.used_servers.head is not None:
            (<Server>self.used_servers.head).check()

    @property
    def missing(self):
        """How many wait for whom no server is about to be free."""
        return 0 if self.waiting_clients.count == 0 else max(0, self.waiting_clients.count - self.coming() - self.used_servers.count)

    def hanging(self, int64_t limit):
        """Servers that are nobody's and cannot be anybody's, with the log's word for it: for `limit` microseconds they have
        not answered a reset or check query, or not gone on with the message that they are in the middle of."""
        cdef Server s
        found = []
        for s in self.tested_servers.all() + self.active_servers.all() + self.idle_servers.all():
            if s.link is not None or self.relay.now - s.last_sign() <= limit:
                continue
            if s.state == SV_TESTED:
                found.append((s, TASK_FAILED[s.task]))
            elif s.in_mid_message():
                found.append((s, "incomplete packet from server"))
        return found

    def idle_clients(self, int64_t limit):
        """Clients without a server whose last request is older than `limit` microseconds."""
        cdef Client c = <Client>self.active_clients.head
        found = []
        while c is not None:
            if c.link is None and self.relay.now - c.requested > limit:
                found.append(c)
            c = <Client>c.next
        return found

    def next_idle_client(self, int64_t limit):
        """In how many microseconds there will be another one than those; NEVER if there is none."""
        cdef Client c = <Client>self.active_clients.head
        cdef int64_t left
        cdef int64_t least = NEVER
        while c is not None:
            left = c.requested + limit - self.relay.now
            if c.link is None and 0 <= left < least:
                least = left
            c = <Client>c.next
        return least

    def long_servers(self, int64_t query_limit, int64_t idle_limit, int64_t xact_limit):
        """Linked servers beyond a limit in microseconds (0: none), with the limit's name. A bound one has no limits: its
        stream is one long query."""
        cdef Server s = <Server>self.active_servers.head
        cdef int64_t now = self.relay.now
        found = []
        while s is not None:
            if s.link is not None and not s.bound:
                if query_limit and s.link.query_start and now - s.link.query_start > query_limit:
                    found.append((s, "query timeout"))
                elif idle_limit and s.task == NO_TASK and now - s.heard_at > idle_limit and (
                        s.in_transaction and s.ledger.is_idle() or s.ledger.may_be_over()):
                    found.append((s, "idle transaction timeout"))
                elif xact_limit and s.link.xact_start and now - s.link.xact_start > xact_limit:
                    found.append((s, "transaction timeout"))
            s = <Server>s.next
        return found

    def next_long_server(self, int64_t query_limit, int64_t idle_limit, int64_t xact_limit):
        """In how many microseconds one more may be beyond a limit; NEVER if none will be."""
        cdef Server s = <Server>self.active_servers.head
        cdef int64_t least = NEVER
        while s is not None:
            if s.link is not None and not s.bound:
                if query_limit and s.link.query_start:
                    least = min(least, s.link.query_start + query_limit)
                if idle_limit and (s.in_transaction or s.ledger.may_be_over()):
                    least = min(least, s.heard_at + idle_limit)
                if xact_limit and s.link.xact_start:
                    least = min(least, s.link.xact_start + xact_limit)
            s = <Server>s.next
        return least if least == NEVER else max(0, least - self.relay.now)

    def idle_pins(self, int64_t limit):
        """Servers that stay with their clients and were asked for nothing for longer than `limit` microseconds, each with
        for how long."""
        cdef Server s = <Server>self.active_servers.head if self.pinned_count else None
        found = []
        while s is not None:
            idle = self.relay.now - s.last_sign()
            if s.pinned and s.link is not None and s.clean() and s.task == NO_TASK and idle > limit:
                found.append((s, idle))
            s = <Server>s.next
        return found

    def release_sequences(self, int64_t limit):
        """Servers that stay with their clients for what these have drawn from sequences, and were asked for nothing for `limit`
        microseconds, go free. In how many microseconds there will be another; NEVER if there is none."""
        return let_sequences_go(self, limit)

    @property
    def oldest_wait(self):
        """How long the first in the queue has been waiting, in microseconds; 0 with nobody waiting."""
        if self.waiting_clients.head is None:
            return 0
        return self.relay.now - (<Client>self.waiting_clients.head).wait_start

    @property
    def server_lists(self):
        """The servers by the name of their state."""
        return {STATES[SV_IDLE]: self.idle_servers, STATES[SV_USED]: self.used_servers,
                STATES[SV_TESTED]: self.tested_servers, STATES[SV_ACTIVE]: self.active_servers,
                STATES[SV_BEING_CANCELED]: self.canceled_servers}

    @property
    def server_count(self):
        """Servers in any state but logging in."""
        return (self.idle_servers.count + self.used_servers.count + self.tested_servers.count
                + self.active_servers.count + self.canceled_servers.count)

    def servers(self):
        return (self.active_servers.all() + self.canceled_servers.all() + self.idle_servers.all()
                + self.used_servers.all() + self.tested_servers.all())

    def clients(self):
        return self.active_clients.all() + self.waiting_clients.all()

    def counted(self):
        """The counts, in the order of pooler.stats.Counters."""
        cdef Counts *k = &self.counts
        return (k.assignments, k.xacts, k.queries, k.received, k.sent, k.xact_time, k.query_time, k.wait_time,
                k.client_parses, k.server_parses, k.binds, k.logins, k.hits, k.misses)

    def histograms(self):
        """(counts, total microseconds) of waits, queries, transactions and logins; counts as array('Q'), maybe empty."""
        return ((histogram_array(self.wait_hist), self.counts.wait_time),
                (histogram_array(self.query_hist), self.counts.query_time),
                (histogram_array(self.xact_hist), self.counts.xact_time),
                (histogram_array(self.login_hist), self.login_time))


cdef histogram_array(uint64_t *hist):
    counts = array("Q")
    if hist != NULL:
        counts.frombytes((<char *>hist)[:bucket_count * sizeof(uint64_t)])
    return counts
