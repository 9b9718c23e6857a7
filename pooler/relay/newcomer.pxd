cdef class Newcomer(Socket):
    """A client that has not logged in yet."""
    cdef object wake
    cdef readonly tuple remote
    cdef int pass_on(self) except -1
    cdef int choose(self, tuple choices) except -1
    cdef tuple here(self)
