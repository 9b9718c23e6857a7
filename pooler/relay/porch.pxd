@cython.final
cdef class Porch:
    cdef Relay relay
    cdef readonly object listener
    cdef int fd
    cdef object door
    # The same, if it is one.
    cdef Doorstep step_of
    cdef object accept
    cdef object theirs
    cdef object refused
    cdef object failed
    cdef bint let_in(self) except -1
    cdef bint open(self) except -1
    cdef bint take_all(self) except -1
