cdef enum:
    MOST_SLOTS = 8


cdef class Counted:
    """What clients are counted of."""
    cdef public int64_t clients


cdef class Counting(Counted):
    """What counts them: all of them, those of a database and those of a user. Whoever is one has `config`, what is in
    force, and a method `user`, which finds a user by name or makes one."""
    cdef public object config
    cdef public dict databases
    cdef public dict users
    cdef public object on_left
    cpdef int count_in(self, Counted database, Counted user) except -1
    cpdef int count_out(self, Counted database, Counted user) except -1


cdef class Crowd:
    """Who has not logged in yet; see pooler/clients/strangers.py."""
    cdef public dict silent
    cdef public dict heard
    cdef public dict leaving
    cdef public int64_t most
    cdef public int64_t mark
    cdef public int64_t few
    cpdef int come(self, visit) except -1
    cpdef int gone(self, visit) except -1
    cpdef bint too_many(self, int64_t descriptor) except -1


@cython.final
cdef class Facts:
    cdef tuple facts
    # Where in the object the value is; -1: that has to be asked.
    cdef Py_ssize_t *places
    cdef bint stand(self) except -1


cdef class Mould:
    """Makes objects of a class of Python's whose `names` are slots, without a call of Python's."""
    cdef type kind
    cdef Py_ssize_t places[MOST_SLOTS]
    cdef int count
    cdef object cast(self, PyObject **values)


@cython.final
cdef class Exits:
    """How clients go. Whoever goes as most do, by itself, with nothing to be said of it or to it, is gone in here; all
    else that the relay tells is dealt with by `deal`. `reasons`: those by which clients go by themselves, by their
    sentences; `tallies`: where ends are counted, as this `kind`; `ordinary`: the class of an ordinary client's facts;
    `noted`: dicts that may have something of a client, by its number; `changed`: called when somebody has gone;
    `failed`: called with an event and an error."""
    cdef Counting registry
    cdef object tallies
    cdef dict reasons
    cdef object kind
    cdef object ordinary
    cdef tuple noted
    cdef object changed
    cdef object deal
    cdef object failed
    cdef object config
    cdef bint silent
    cdef bint goes(self, tuple event) except -1
    # How many have gone of one database and for one reason, to be counted.
    cdef int64_t pending
    cdef object pending_of
    cdef object pending_why
    cdef int count(self) except -1
    cdef bint take_at_once(self, Relay relay) except -1
