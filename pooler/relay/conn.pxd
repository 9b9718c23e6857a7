@cython.final
cdef class ConnList:
    """A queue of connections, linked through the connections themselves."""
    cdef Conn head
    cdef Conn tail
    cdef readonly int count
    cdef void append(self, Conn c)
    cdef void prepend(self, Conn c)
    cdef void remove(self, Conn c)


cdef class Socket:
    """A socket that the relay's epoll descriptor watches. `lost`: not watched any more; events that are still in the batch
    at work are nothing to it."""
    cdef Relay relay
    cdef readonly int64_t id
    cdef readonly int fd
    cdef bint lost
    cdef int on_event(self, uint32_t events) except -1


cdef class Conn(Socket):
    """A connection in the query phase: one socket, its unread and its unsent bytes, and its link."""
    cdef Conn prev
    cdef Conn next
    cdef ConnList home
    cdef readonly Pool pool
    cdef object ssl
    cdef object incoming
    cdef object outgoing
    cdef void *tls
    cdef tuple params
    cdef tuple session
    cdef dict stmts
    cdef uint8_t *hold
    cdef uint8_t *obuf
    cdef size_t hold_len
    cdef size_t hold_cap
    cdef size_t ohead
    cdef size_t olen
    cdef size_t ocap
    cdef uint64_t need
    cdef ssize_t last_read
    cdef int64_t connected
    cdef int64_t requested
    cdef uint8_t state
    cdef uint8_t put_off
    cdef bint dropping
    cdef bint deaf
    cdef bint broken
    cdef bint tls_ready
    cdef bint tls_partial
    cdef bint again
    cdef bint more
    cdef bint hup
    cdef public bint close_needed
    cdef readonly bint bound
    cdef readonly object about
    cdef ssize_t fill(self, uint8_t *buf, size_t cap) except -3
    cdef ssize_t fill_tls(self, uint8_t *buf, size_t cap) except -3
    cdef int keep(self, uint8_t *p, size_t n, size_t want) except -1
    cdef int write(self, iovec *iov, int n) except -1
    cdef int say(self, bytes data) except -1
    cdef int write_tls(self, iovec *iov, int n) except -1
    cdef int sent_part(self, uint8_t *p, size_t n, int sent) except -1
    cdef int give_up(self) except -1
    cdef int queue(self, uint8_t *p, size_t n) except -1
    cdef int flush(self) except -1
    cdef bint must_wait(self)
    cdef int go_deaf(self) except -1
    cdef int take_in(self, uint8_t *b, size_t n) except -1
    cdef int digest(self) except -1
    cdef int wake_later(self) except -1
    cdef bint encrypt(self, uint8_t *p, size_t n) except -1
    cdef int push_tls(self) except -1
    cdef int shut_tls(self) except -1
    cdef int on_read(self) except -1
    cdef bint goes_on(self) noexcept
    cdef int on_drained(self) except -1
    cdef int on_eof(self) except -1
    cdef ssize_t process(self, uint8_t *b, size_t n) except -1
    cdef size_t wanted(self, uint8_t *b, size_t n) noexcept
    cdef int listen_again(self) except -1
    cdef Conn partner(self)
    cdef bint waits_for_answer(self) noexcept
    cdef bint read_by_the_clock(self) noexcept
