@cython.final
cdef class Hub:
    """Who listens to what on one listening server, whose connection is Python's (pooler/servers/hubs.py)."""
    cdef object __weakref__
    cdef Relay relay
    # The channel of its own by which streams are told where they are; what the other side of it is (Conn.place); Python's.
    cdef readonly bytes marker
    cdef readonly object place
    cdef readonly object owner
    # Of which database; whether there is a connection, and what that listens to.
    cdef readonly str database
    cdef readonly bint up
    cdef readonly set there
    # channel -> {client: the mark behind which it is told, None: it is}; mark -> (client, when it was set).
    cdef dict listeners
    cdef dict pending
    cdef int claim(self, Client c, tuple names, bytes mark) except -1
    cdef int leave(self, Client c, names) except -1
    cdef list marks_of(self, Client c)
    cdef int take_back(self, Client c, list marks) except -1
    cdef int epoch_is_over(self, bytes number) except -1
    cdef int arrived(self, bytes mark) except -1
