cdef class Detached


cdef class Inlet:
    cdef public object _line
    cdef public object _loop
    cdef public object _peer
    cdef public object _ssl
    cdef public object _incoming
    cdef public object _outgoing
    cdef public bytearray _buffer
    cdef public bytes _held
    cdef public object _end
    cdef public Wait _waiter
    cdef public bint _watched
    cdef public bint heard
    cdef public bint at_work
    cdef public int64_t longest
    cdef object line(self)
    cdef int number(self) except -2
    cdef Detached parted(self)
    cdef Detached part(self, about)
    cdef Client pass_over(self, Relay relay, Pool pool, about, tuple tracked, bytes key, int64_t since, tuple session, bytes said)
    cpdef bint _take(self) except -1
    cdef int keep(self, uint8_t *data, Py_ssize_t n) except -1
    cpdef readable(self)
    cpdef _watch(self)
    cpdef _feed(self)
    cdef Py_ssize_t end_of(self, Py_ssize_t at, int64_t least, int64_t most) except -1
    cdef bytes out(self, Py_ssize_t start, Py_ssize_t end)


cdef class Detached:
    cdef readonly int fd
    cdef readonly tuple tls
    cdef readonly bytes leftover
    cdef readonly bytes unsent
    cdef Client welcome(self, Client client, Pool pool, int64_t since, bytes said)
