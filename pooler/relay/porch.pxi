# Whoever waits at a listening socket is let in within the relay's own turn: asyncio's, which is a hundred logins' worth of
# Python for one login, comes behind it only where there is something to do for it. The rule: who has gone is counted out
# before others come in.

cdef enum:
    # Clients accepted at one socket in one turn.
    ACCEPTS = 64


@cython.final
cdef class Porch:
    """A listening socket and the `door` behind it. asyncio watches it, with `take` as its reader, for as long as anybody is to
    be let in; the relay knows it, until `close`, as one that it may look after by itself. `accept`: how one is accepted, with
    the face of Relay.accept; None: as there. `theirs`: numbers of errors that are of one connection; `refused`: called with an
    error of ours; `failed`: with one of the door's, which is a bug."""

    def __init__(self, Relay relay, listener, door, accept, theirs, refused, failed):
        self.relay = relay
        self.listener = listener
        self.fd = listener.fileno()
        self.door = door
        self.step_of = door if isinstance(door, Doorstep) else None
        self.accept = accept
        self.theirs = theirs
        self.refused = refused
        self.failed = failed
        relay.porches[self.fd] = self

    def close(self):
        """Nobody comes here any more."""
        if self.relay.porches.get(self.fd) is self:
            del self.relay.porches[self.fd]

    def take(self):
        """Let in who waits."""
        self.let_in()

    cdef bint let_in(self) except -1:
        # The same; whether asyncio may have something to do.
        try:
            return self.take_all()
        except Exception as error:
            self.failed(error)
            return True

    cdef bint open(self) except -1:
        # Not any more where who has just been let in has closed it, or has all listeners wait.
        return self.relay.porches.get(self.fd) is self and self.fd in self.relay.keys

    cdef bint take_all(self) except -1:
        cdef int64_t quiet, loud
        cdef bint heard = False
        cdef bint another = True
        cdef int turn = 0
        while another and turn < ACCEPTS and self.open():
            turn += 1
            try:
                client = accept_one(self.relay, self.fd) if self.accept is None else self.accept()
            except OSError as error:
                if error.errno in self.theirs:
                    continue
                self.refused(error)
                return True
            if client is None:
                break
            quiet, loud = self.relay.quiet, self.relay.loud
            another = self.door.arrived(client) if self.step_of is None else self.step_of.let_in(client)
            if not self.relay.was_quiet(quiet, loud):
                heard = True
        return heard


cdef bint receive(Relay relay, list ready) except -1:
    # All newcomers, those first who are here already: they wait for the next look where Python has yet to hear of an end.
    cdef bint heard = run_woken(relay) if relay.woken and not relay.events else False
    if relay.knocks and answer_knocks(relay, ready):
        heard = True
    if ready:
        # What was called here may have closed some, or have others wait for them: asyncio would ask for their descriptors.
        ready[:] = [(key, mask) for key, mask in ready if relay.keys.get(key.fd) is key]
    return heard


cdef bint answer_knocks(Relay relay, list ready) except -1:
    # Let in who waits at the sockets that have been found readable; whether asyncio may have something to do. As long as
    # Python has yet to hear of an end, they are asyncio's, which lets it hear of that first.
    cdef list knocks = relay.knocks
    cdef bint heard = False
    cdef Porch porch
    relay.knocks = []
    if relay.events:
        ready.extend(knocks)
        return True
    if relay.computed < 0:
        relay.computed = computed_us()
    for key, _ in knocks:
        # What was called here may have closed one, or has it rest.
        porch = relay.porches.get(key.fd)
        if porch is not None and relay.keys.get(key.fd) is key and porch.let_in():
            heard = True
    return heard


cdef bint run_woken(Relay relay) except -1:
    # Newcomers that have something to receive; whether asyncio may have something to do.
    cdef Newcomer c
    cdef list turn = relay.woken
    cdef int64_t quiet, loud
    cdef bint heard = False
    relay.woken = []
    for c in turn:
        if c.wake is None:
            continue
        quiet, loud = relay.quiet, relay.loud
        try:
            c.wake()
        except Exception as error:
            relay.fault(c, error)
        if not relay.was_quiet(quiet, loud):
            heard = True
    return heard
