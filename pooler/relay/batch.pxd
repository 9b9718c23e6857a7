cdef extern from *:
    ctypedef struct ring:
        int fd


cdef enum:
    # Pieces that one turn puts off at most, and bytes of each.
    BATCH = 64
    BATCH_BYTES = 8192


cdef struct Piece:
    # What is to be sent to one connection at the end of the turn: `n` bytes of the batch's room.
    PyObject *conn
    size_t n


@cython.final
cdef class Batch:
    """What is sent during one turn of the loop, and leaves at its end."""
    cdef ring ring
    cdef uint8_t *room
    cdef Piece pieces[BATCH]
    cdef int count
    cdef bint gathers
    cdef str why_not
    cdef int begin(self) except -1
    cdef int end(self, str why) except -1
    cdef bint put_off(self, Conn c, iovec *iov, int n) except -1
    cdef int depart(self) except -1
