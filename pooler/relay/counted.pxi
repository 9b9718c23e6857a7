# Who is here, in numbers, and how an ordinary client goes: a login costs as much as its end does, and of both most is
# the same each time.

cdef class Counted:
    pass


cdef class Counting(Counted):
    def __cinit__(self, *arguments, **named):
        self.databases, self.users = {}, {}

    cpdef int count_in(self, Counted database, Counted user) except -1:
        """One more client; `database` None: of the console."""
        self.clients += 1
        user.clients += 1
        if database is not None:
            database.clients += 1
        return 0

    cpdef int count_out(self, Counted database, Counted user) except -1:
        """One less."""
        self.clients -= 1
        user.clients -= 1
        if database is not None:
            database.clients -= 1
        if self.on_left is not None:
            self.on_left(None if database is None else database.name, user.name)
        if not user.clients:
            self.forget_if_unused(user)
        return 0


cdef class Exits:
    def __init__(self, Counting registry, tallies, dict reasons, kind, ordinary, tuple noted, changed, deal, failed):
        self.registry = registry
        self.tallies = tallies
        self.reasons = reasons
        self.kind = kind
        self.ordinary = ordinary
        self.noted = noted
        self.changed = changed
        self.deal = deal
        self.failed = failed

    def take(self, list events):
        """Deal with all of them, in order."""
        cdef bint gone = False
        for event in events:
            try:
                if type(event) is ClientLost and self.goes(<tuple>event):
                    gone = True
                    continue
            except Exception as error:
                self.failed(event, error)
                continue
            self.deal(event)
        if gone:
            self.changed()

    cdef bint goes(self, tuple event) except -1:
        # Whether this is an ordinary end. Then it is the end.
        cdef Client c = event[0]
        cdef object why = self.reasons.get(event[1])
        cdef Counting registry = self.registry
        cdef object about = c.about
        cdef object database
        if why is None or event[2] or type(about) is not self.ordinary:
            return False
        if registry.config is not self.config:
            self.silent = not registry.config.settings.log_disconnections
            self.config = registry.config
        if not self.silent:
            return False
        for known in self.noted:
            if known:
                known.pop(c.id, None)
        database = c.pool.owner.database
        user = registry.users.get(about.user)
        registry.count_out(database, user if user is not None else registry.user(about.user))
        self.count(database, why)
        c.finish(b"")
        return True

    cdef int count(self, object database, object why) except -1:
        # As Running.tally does.
        cdef str name = database.config.name
        self.tallies[self.kind, name if name in self.registry.databases else "", why] += 1
        return 0
