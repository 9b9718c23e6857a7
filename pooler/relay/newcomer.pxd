cdef class Newcomer(Socket):
    """A client that has not logged in yet."""
    cdef object wake
    cdef readonly tuple remote
    cdef int pass_on(self) except -1
