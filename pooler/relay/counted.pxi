# Who is here, in numbers, and how an ordinary client goes: a login costs as much as its end does, and of both most is
# the same each time.

from cpython.tuple cimport PyTuple_GET_ITEM

cdef extern from *:
    """
    #include <structmember.h>
    /* Where a slot of a class is in its objects; -1 for what is none. */
    static Py_ssize_t slot_place(PyObject *descriptor) {
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
        PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    """
    Py_ssize_t slot_place(object descriptor)

cdef extern from "Python.h":
    object PyType_GenericAlloc(type kind, Py_ssize_t items)


cdef class Counted:
    pass


@cython.final
cdef class Facts:
    """What was decided by: of each an object, an attribute and its value at the time."""

    def __init__(self, tuple facts):
        cdef Py_ssize_t i
        self.facts = facts
        self.places = <Py_ssize_t *>malloc(len(facts) * sizeof(Py_ssize_t))
        if self.places == NULL:
            raise MemoryError
        for i in range(len(facts)):
            whose, name, _ = facts[i]
            self.places[i] = slot_place(getattr(type(whose), name, None))

    def __dealloc__(self):
        free(self.places)

    cdef bint stand(self) except -1:
        # Whether each object has the value that it had.
        cdef Py_ssize_t i
        cdef tuple fact
        for i in range(len(self.facts)):
            fact = self.facts[i]
            if self.places[i] >= 0:
                if (<PyObject **>(<char *>PyTuple_GET_ITEM(fact, 0) + self.places[i]))[0] != PyTuple_GET_ITEM(fact, 2):
                    return False
            elif getattr(<object>fact[0], <str>fact[1]) is not fact[2]:
                return False
        return True


cdef class Crowd:
    def __cinit__(self, *arguments, **named):
        self.silent, self.heard, self.leaving = {}, {}, {}

    cpdef int come(self, visit) except -1:
        """One more."""
        self.silent[visit.arrival.number] = visit
        return 0

    cpdef int gone(self, visit) except -1:
        """It has logged in, or its descriptor is closed."""
        cdef object number = visit.arrival.number
        if self.silent.pop(number, None) is None and self.heard.pop(number, None) is None:
            then = self.leaving.pop(number, None)
            if then is not None:
                then()
        return 0

    cpdef bint too_many(self, int64_t descriptor) except -1:
        """Whether one of them has to go for the newcomer with this descriptor."""
        cdef int64_t count = len(self.silent) + len(self.heard) + len(self.leaving)
        return count >= self.most or descriptor >= self.mark and count >= self.few


cdef class Mould:
    def __init__(self, type kind, tuple names):
        cdef int i
        if len(names) > MOST_SLOTS:
            raise TypeError(f"more slots than {MOST_SLOTS}: {kind.__name__}")
        self.kind = kind
        self.count = len(names)
        for i in range(self.count):
            self.places[i] = slot_place(vars(kind)[names[i]])
            if self.places[i] < 0:
                raise TypeError(f"no slot of {kind.__name__}: {names[i]}")

    cdef object cast(self, PyObject **values):
        cdef object made = PyType_GenericAlloc(self.kind, 0)
        cdef int i
        for i in range(self.count):
            Py_INCREF(<object>values[i])
            (<PyObject **>(<char *><PyObject *>made + self.places[i]))[0] = values[i]
        return made

    def make(self, *values):
        """One with these values."""
        cdef PyObject *raw[MOST_SLOTS]
        cdef int i
        if len(values) != self.count:
            raise TypeError(f"{self.count} values are wanted, not {len(values)}")
        for i in range(self.count):
            raw[i] = <PyObject *>values[i]
        return self.cast(raw)


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
            self.count()
            self.deal(event)
        self.count()
        if gone:
            self.changed.set()

    cdef bint take_at_once(self, Relay relay) except -1:
        # Ordinary ends that come before all other events, where nobody waits to hear of one; whether asyncio has something
        # to do for it.
        cdef Py_ssize_t n = 0
        cdef bint heard = False
        if self.registry.on_left is not None or not self.changed.is_set():
            return False
        for event in relay.events:
            try:
                if type(event) is not ClientLost or not self.goes(<tuple>event):
                    break
            except Exception as error:
                self.failed(event, error)
                heard = True
            n += 1
        self.count()
        del relay.events[:n]
        return heard

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
        if database is not self.pending_of or why is not self.pending_why:
            self.count()
            self.pending_of, self.pending_why = database, why
        self.pending += 1
        c.finish(b"")
        return True

    cdef int count(self) except -1:
        # As Running.tally does.
        cdef object database = self.pending_of
        cdef int64_t pending = self.pending
        cdef str name
        if pending:
            self.pending, self.pending_of = 0, None
            name = database.config.name
            self.tallies[self.kind, name if name in self.registry.databases else "", self.pending_why] += pending
        return 0
