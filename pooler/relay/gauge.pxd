cdef enum:
    # How a server is read; see Server.set_read_mode.
    PROMPT = 0
    LAZY = 1
    PULLED = 2


@cython.final
cdef class Gauge:
    """Finds out whether a long result comes faster when it is read LAZY or PULLED."""
    cdef bint narrow
    cdef bint trying
    cdef bint settled
    cdef uint8_t read_mode
    cdef int left
    cdef int rest
    cdef int64_t before
    cdef int64_t since
    cdef int64_t gained
    cdef int start(self, int64_t now) noexcept
    cdef int count_from(self, int64_t now) noexcept
    cdef int change(self) noexcept
    cpdef int gain(self, ssize_t n) noexcept
    cpdef uint8_t look(self, int64_t now) noexcept
