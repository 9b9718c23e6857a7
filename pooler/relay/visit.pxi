# A client from its accept to its hand-over, and what carries it on. An ordinary login is taken by steps, here: a startup
# packet that is one piece, and answers that are. Python is asked who that is (`door.regular`), for each answer what is said
# to it (the exchange), and to let it in (`door.enter`). For all that is not ordinary Python has a coroutine, which finds
# every byte where it was and is carried on as by any LightTask.

cdef enum:
    # Bytes of a startup packet that is ordinary, its length among them.
    LONGEST_GREETING = 516
    PROTOCOL_3_0 = 0x30000
    SSL_REQUEST = 80877103
    GSSENC_REQUEST = 80877104
    # Requests for encryption that are refused before it is no ordinary login any more.
    REFUSALS = 3
    # Where the user is in what a Place counts.
    USER = 2


@cython.final
cdef class Place:
    """Where one who was let in has gone, and by what: whoever comes in the same way goes there as long as all of that is the
    same, and nothing of it has to be found again. `facts`: of each an object, an attribute and its value at the time, every one
    that had a part in it; `counted`: who counts its `clients`, and how many it may have (0: any number): the registry, the
    database, and the user, of the `users` that are known. `peer`: our number
    among peers, 0 for none; `crowd`: who knows of which descriptor there is room for nobody; `silent`: the log hears nothing of it."""

    def __init__(self, Relay relay, Pool pool, tuple facts, tuple counted, dict users, credentials, str database, str user,
                 tuple tracked, session, bytes greeting, bytes ending, int peer, Crowd crowd, bint silent):
        self.relay = relay
        self.pool = pool
        self.facts = Facts(facts)
        self.counted = counted
        self.users = users
        self.credentials = credentials
        self.database = database
        self.user = user
        # What is in use stays interned.
        self.tracked = relay.intern(tuple(tracked))
        self.session = relay.intern(tuple(session))
        self.greeting = greeting
        self.ending = ending
        self.peer = peer
        self.crowd = crowd
        self.silent = silent

    @property
    def stands(self):
        """Whether all is as it was."""
        return self.holds()

    cdef bint holds(self) except -1:
        if not self.facts.stand():
            return False
        known = self.users.get(self.user)
        return known is None or known is self.counted[USER][0]

    cdef bint has_room(self, Inlet inlet) except -1:
        # Nobody's limit is reached.
        cdef Counted whose
        cdef int64_t most
        if inlet.number() >= self.crowd.mark:
            return False
        for whose, most in self.counted:
            if most and whose.clients >= most:
                return False
        return True

    cdef bytes new_key(self):
        # See pooler/clients/peers.py.
        cdef bytes key = random_bytes(8)
        cdef uint8_t *raw = <uint8_t *>PyBytes_AS_STRING(key)
        if self.peer:
            # It is nobody's yet.
            raw[0] = self.peer & 0xff
            raw[1] = self.peer >> 8 & 0xff
            raw[7] |= 3
        return key

    cdef bytes said(self, bytes farewell, bytes key):
        # All that it is told, in one piece.
        cdef Py_ssize_t first = PyBytes_GET_SIZE(farewell), second = first + PyBytes_GET_SIZE(self.greeting)
        cdef Py_ssize_t third = second + PyBytes_GET_SIZE(key)
        cdef bytes text = PyBytes_FromStringAndSize(NULL, third + PyBytes_GET_SIZE(self.ending))
        cdef char *at = PyBytes_AS_STRING(text)
        memcpy(at, PyBytes_AS_STRING(farewell), first)
        memcpy(at + first, PyBytes_AS_STRING(self.greeting), second - first)
        memcpy(at + second, PyBytes_AS_STRING(key), third - second)
        memcpy(at + third, PyBytes_AS_STRING(self.ending), PyBytes_GET_SIZE(self.ending))
        return text

    cdef int admit(self, Visit visit, bytes farewell) except -1:
        # Counted in, and out again unless it is handed over: then its end does that.
        cdef object about = visit.arrival
        cdef Counted whose
        cdef bytes key = self.new_key()
        about.database = self.database
        about.user = self.user
        # Who had nothing here any more was forgotten.
        self.users[self.user] = self.counted[USER][0]
        for whose, _ in self.counted:
            whose.clients += 1
        try:
            visit.channel.pass_over(self.relay, self.pool, about, self.tracked, key, visit.since, self.session,
                                    self.said(farewell, key))
        except BaseException:
            for whose, _ in self.counted:
                whose.clients -= 1
            raise
        return 0


@cython.final
cdef class Footing:
    """What a regular stands on who has a proof to give, up to the question: `facts` as a Place's, `most`: how many clients
    there may be; `name` and `database`: what it asks for, and what that is in the configuration."""

    def __init__(self, tuple facts, Counting registry, int64_t most, Crowd crowd, str name, database, bint silent):
        self.facts = Facts(facts)
        self.registry = registry
        self.most = most
        self.crowd = crowd
        self.name = name
        self.database = database
        self.silent = silent

    @property
    def stands(self):
        """Whether all is as it was."""
        return self.facts.stand() and self.finds()

    cdef bint finds(self) except -1:
        # Whether its database is the one that it was. Of one that nobody is in the configuration tells, which is a fact.
        known = self.registry.databases.get(self.name)
        return known is None or not known.removed and known.config is self.database

    cdef bint holds(self, Inlet inlet) except -1:
        return (self.registry.clients < self.most and inlet.number() < self.crowd.mark and self.facts.stand()
                and self.finds())


# Of a process that is not known.
cdef object NO_PROCESS = -1


cdef extern from *:
    """
    /* As CLASS.__new__(CLASS), which is found for each of them anew. */
    static PyObject *bare(PyObject *kind) {
        static PyObject *nothing = NULL;
        if (nothing == NULL && (nothing = PyTuple_New(0)) == NULL) return NULL;
        return ((PyTypeObject *)kind)->tp_new((PyTypeObject *)kind, nothing, NULL);
    }
    """
    object bare(object kind)


cdef class Doorstep:
    """Where those arrive who have been accepted: what of a Door (pooler/clients/door.py) is done for everybody. `nobody`:
    what is known of who has said nothing, as values of `facts` between its first and its last; `choices`: what is set on
    a socket of TCP, and `longest`: how long a packet may be, both by the settings in force (`settle`)."""

    def __init__(self, running, Crowd strangers, set tasks, type kind, type facts, type ends, tuple nobody):
        self.running = running
        self.relay = running.relay
        self.loop = running.loop
        self.registry = running.registry
        self.log_file = running.log_file
        self.strangers = strangers
        self.tasks = tasks
        self.kind = kind
        self.facts = Mould(facts, ("peer", "database", "user", "tls", "replicates", "number"))
        self.ends = Mould(ends, ("addr", "port", "local_addr", "local_port", "pid", "uid", "gid"))
        self.nobody = nobody

    def arrived(self, sock):
        """A client has been accepted; False when the next one should be accepted in another turn."""
        return self.let_in(sock)

    cdef bint let_in(self, sock) except -1:
        cdef Visit visit
        if self.registry.config is not self.config:
            self.settle(self.registry.config.settings)
            self.config = self.registry.config
        try:
            visit = self.visit_of(<Newcomer>sock) if type(sock) is Newcomer else self.local_visit(sock)
        except OSError:
            # It left before we could look at it.
            os.close(sock.detach())
            return True
        if self.log_file.wordy:
            self.say_arrival(visit)
        if self.strangers.too_many(visit.channel.number()) and self.make_way(visit):
            return self.strangers.at_ease
        # Often all that is needed is here already: then it is let in at once.
        visit.go_on()
        return True

    cdef Visit visit_of(self, Newcomer line):
        # Of one who has come by TCP. Raises OSError.
        cdef Visit made = Visit.__new__(Visit)
        cdef Inlet channel = bare(self.kind)
        cdef tuple local, nobody = self.nobody
        cdef PyObject *values[MOST_SLOTS]
        cdef object number, peer
        cdef int i
        channel._line = line
        channel._loop = self.loop
        channel.longest = self.longest
        line.choose(self.choices)
        local = line.here()
        values[0], values[1] = PyTuple_GET_ITEM(line.remote, 0), PyTuple_GET_ITEM(line.remote, 1)
        values[2], values[3] = PyTuple_GET_ITEM(local, 0), PyTuple_GET_ITEM(local, 1)
        values[4] = values[5] = values[6] = <PyObject *>NO_PROCESS
        channel._peer = peer = self.ends.cast(values)
        number = self.running.next_number()
        values[0], values[5] = <PyObject *>peer, <PyObject *>number
        for i in range(4):
            values[1 + i] = PyTuple_GET_ITEM(nobody, i)
        made.begin(self, channel, self.facts.cast(values), now_us())
        return made

    def came(self, Visit visit):
        """There is one more stranger."""
        self.strangers.come(visit)

    cpdef no_stranger(self, Visit visit):
        """It has logged in, or is gone."""
        visit.stranger = False
        self.strangers.gone(visit)


cdef class Visit(LightTask):
    """`since` is on the relay's clock. `steps`: the coroutine about it, once there is one, and `task`, who carries that on if
    not this. `stranger`: it has not logged in, and is counted; `cancels`: it wants to cancel a query, which has its own
    time limit, and no answer; `sentence`: why it has to go, because its time is over or others need its place."""

    def __init__(self, door, Inlet channel, arrival, int64_t since):
        self.begin(door, channel, arrival, since)

    cdef int begin(self, door, Inlet channel, arrival, int64_t since) except -1:
        self.door = door
        self.step_of = door if isinstance(door, Doorstep) else None
        self.channel = channel
        self.arrival = arrival
        self.since = since
        self.tasks = door.tasks if self.step_of is None else self.step_of.tasks
        self.loop = channel._loop
        return 0

    def end(self, why):
        """Have it refused, in the next turn of the loop."""
        self.sentence = why
        if self.task is not None:
            self.task.cancel()
        else:
            self.cancel()

    cpdef go_on(self, _=None):
        cdef Relay relay = None if self.step_of is None else self.step_of.relay
        if relay is not None:
            relay.loud += 1
        self.asked = False
        self.carry_on()
        if relay is not None and not self.asked and self.whose is None and (self.waits_for is None or type(self.waits_for) is Wait):
            # Only bytes of its own are waited for, if anything, and for those the relay looks.
            relay.loud -= 1
            relay.quiet += 1

    cdef int carry_on(self) except -1:
        cdef object steps
        if self.coroutine is not None or self.ended:
            self.asked = True
            LightTask.go_on(self)
            return 0
        try:
            steps = self.step()
        except Exception as error:
            steps = self.door.failing(self, error)
        if steps is None:
            if self.waits_for is None:
                self.over()
            return 0
        self.asked = True
        if not self.proved:
            self.settle()
        self.steps = steps
        self.coroutine = self.door.receive(self, steps)
        LightTask.go_on(self)
        return 0

    cdef object step(self):
        # The coroutine for the rest; None: it waits, or that was all.
        cdef Wait wait = self.waits_for
        if wait is not None:
            self.waits_for = None
            wait.close()
        if self.doomed or wait is not None and wait.cancelled:
            self.doomed = False
            return self.door.failing(self, CancelledError())
        if wait is not None and self.channel._end is not None:
            return self.door.failing(self, self.channel._end)
        return self.greet() if self.exchange is None else self.prove()

    cdef object greet(self):
        # The startup packet.
        cdef Inlet inlet = self.channel
        cdef Py_ssize_t n
        cdef uint8_t *b
        cdef bytes packet
        cdef dict known
        cdef Place place
        if not PyByteArray_GET_SIZE(inlet._buffer) and not self.something():
            return None
        n = PyByteArray_GET_SIZE(inlet._buffer)
        b = <uint8_t *>PyByteArray_AS_STRING(inlet._buffer)
        if n == 8 and be32(b) == 8 and self.is_refused(be32(b + 4)):
            PyByteArray_Resize(inlet._buffer, 0)
            self.refused += 1
            return self.say(b"N", self.door.begin)
        if self.refused == REFUSALS or n < 9 or n > LONGEST_GREETING or n > inlet.longest or be32(b) != <uint32_t>n or be32(b + 4) != PROTOCOL_3_0:
            return self.door.begin(self)
        packet = (<char *>b)[4:n]
        known = self.door.known if self.step_of is None else self.step_of.known
        self.regular = known.get(packet)
        # Who has a proof to give waits for the question as long as somebody whom nobody knows.
        place = None if self.regular is None or self.regular.exchange is not None else self.place()
        if place is not None:
            # It has its names by being there, if nobody hears of it before.
            if not place.silent:
                self.name_it(False)
        elif not self.stands():
            self.asked = True
            self.regular = self.door.regular(self, packet)
            if self.regular is None:
                return self.door.begin(self)
        PyByteArray_Resize(inlet._buffer, 0)
        if self.regular.exchange is None:
            return self.enter(place)
        self.exchange = self.regular.exchange()
        return self.say(self.exchange.begin(), self.door.carry_on)

    cdef int name_it(self, bint silent) except -1:
        self.arrival.database = self.regular.name
        self.arrival.user = self.regular.user
        if not silent:
            self.asked = True
            self.door.say_attempt(self.arrival)
        return 0

    cdef bint stands(self) except -1:
        # Whether this regular, who has a proof to give, may try as the last one did.
        cdef Footing footing
        if self.regular is None or self.regular.exchange is None:
            return False
        footing = self.regular.footing
        if footing is None or not footing.holds(self.channel):
            return False
        self.name_it(footing.silent)
        return True

    cdef bint is_refused(self, uint32_t request) except -1:
        # A request for encryption that cannot be had here. Nothing may be behind it.
        return self.refused < REFUSALS and (request == GSSENC_REQUEST or request == SSL_REQUEST and not self.door.speaks_tls(self))

    cdef object prove(self):
        # An answer of the client's.
        cdef Inlet inlet = self.channel
        cdef Py_ssize_t n = PyByteArray_GET_SIZE(inlet._buffer)
        cdef uint8_t *b = <uint8_t *>PyByteArray_AS_STRING(inlet._buffer)
        cdef int64_t most = self.exchange.most
        cdef object said
        if n < 5 or b[0] != c"p" or n > inlet.longest or n > most + 1 or be32(b + 1) + <uint32_t>1 != <uint32_t>n:
            return self.door.carry_on(self, None)
        said = self.exchange.take(inlet.out(5, n))
        return self.enter(self.place()) if said is None else self.say(said, self.door.carry_on)

    cdef Place place(self):
        # Where this regular has gone before, if that stands, there is room, and nothing has to be said of it.
        cdef Place found = self.regular.place
        return found if found is not None and found.holds() and found.has_room(self.channel) else None

    cdef object enter(self, Place place):
        # It has proved who it is, and is no stranger any more, whatever it waits for.
        cdef bytes farewell = b""
        self.proved = True
        if self.exchange is not None:
            proof = self.exchange.proof
            farewell = proof.farewell
            if place is not None and proof.credentials is not place.credentials:
                place = None
        if place is None:
            self.asked = True
            return self.door.enter(self)
        if self.stranger:
            if self.step_of is not None:
                # Somebody may wait for one who has to go.
                self.asked = self.asked or len(self.step_of.strangers.leaving) > 0
                self.step_of.no_stranger(self)
            else:
                self.door.no_stranger(self)
        place.admit(self, farewell)
        return None

    cdef object say(self, bytes data, long_way):
        # And wait for what it says to that; `long_way` where the socket does not take it at once.
        cdef object sent = self.channel.send(data)
        if sent is not DONE:
            return long_way(self, sent)
        self.something()
        return None

    cdef bint something(self) except -1:
        # Whether there is something to read; else it is waited for. Raises what ends the connection.
        cdef object awaited = self.channel._feed()
        if awaited is DONE:
            return True
        self.settle()
        self.wait(awaited)
        return False

    cdef int settle(self) except -1:
        # It is counted from the first time that something is to be waited for: an ordinary login by trust is over before.
        if not self.stranger:
            self.stranger = True
            if self.step_of is not None:
                self.step_of.strangers.come(self)
            else:
                self.door.came(self)
        return 0
