# C declarations, constants and the two smallest tools (clock, big-endian length). Nothing here holds state but the
# read buffers, which are shared by all connections: one turn of the loop reads one connection at a time.
import os
import re
import sys
from array import array
from ssl import PROTOCOL_TLS_SERVER, SSLError, SSLEOFError, SSLWantReadError, SSLWantWriteError, SSLZeroReturnError

from pooler import sessions, stats, touches
from pooler.relay.events import (ChannelsLeft, ClientLost, ClientSaid, ClientSet, ClientTouched, CodeMade, Fault, ServerAnswered, ServerFact,
                                 ServerLost, ServerPinned, ServerReady, ServerSaid, ServerSet, TextsChanged, WantChannels, WantServer)

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT, Py_XDECREF, PyObject
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec
from posix.uio cimport iovec
from posix.unistd cimport close as c_close

cdef extern from "Python.h":
    int PyBUF_READ
    int PyBUF_WRITE

cdef extern from "string.h" nogil:
    void *memmem(const void *hay, size_t n, const void *needle, size_t m)
    size_t strnlen(const char *s, size_t n)

cdef extern from "sys/socket.h" nogil:
    struct msghdr:
        void *msg_name
        size_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        int msg_flags
    ssize_t c_recv "recv"(int fd, void *buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, msghdr *msg, int flags)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int MSG_PEEK
    int c_shutdown "shutdown"(int fd, int how)
    int SHUT_RDWR
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)
    int SOL_SOCKET
    int SO_RCVBUF
    int SO_RCVLOWAT

cdef extern from *:
    """
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <arpa/inet.h>
    static const unsigned char MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    """
    const unsigned char MAPPED[12]
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        in_addr sin_addr
        unsigned short sin_port
    struct sockaddr_in6:
        in6_addr sin6_addr
        unsigned short sin6_port
    int getsockopt(int fd, int level, int name, void *value, socklen_t *n) nogil
    int accept4(int fd, sockaddr *address, socklen_t *n, int flags) nogil
    int getsockname(int fd, sockaddr *address, socklen_t *n) nogil
    int getpeername(int fd, sockaddr *address, socklen_t *n) nogil
    const char *inet_ntop(int family, const void *source, char *text, socklen_t n) nogil
    unsigned short ntohs(unsigned short) nogil
    int AF_INET
    int AF_INET6
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, int *value)
    int FIONREAD

cdef extern from "sys/epoll.h" nogil:
    int epoll_create1(int flags)
    int epoll_ctl(int ep, int op, int fd, epoll_event *event)
    int epoll_wait(int ep, epoll_event *events, int count, int timeout)
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    int EPOLL_CTL_MOD
    int EPOLL_CLOEXEC
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    uint32_t EPOLLERR
    uint32_t EPOLLHUP
    uint32_t EPOLLRDHUP
    uint32_t EPOLLET

cdef extern from "arpa/inet.h" nogil:
    uint32_t ntohl(uint32_t)
    uint32_t htonl(uint32_t)

# What one turn takes from one connection, so that a flood on one cannot starve the others.
cdef enum:
    READ_BYTES = 65536
# What READ_BYTES become at most when they are encrypted.
cdef enum:
    CIPHER_BYTES = 69632
# Of a result of which so much has come the rest is read lazily: at so many bytes, or every millisecond. A shorter one
# would wait longer for its end than it gains.
cdef enum:
    LAZY_AFTER = 4194304
    LAZY_BYTES = 196608
    LAZY_MS = 1
# It is measured for so long, and read promptly again when fewer bytes a millisecond come. After so many measurements the
# other way is tried again; twice as many when it was worse, up to so many.
cdef enum:
    GAUGE_US = 3000
    GAUGE_DRY = 4096
    GAUGE_REST = 16
    GAUGE_LONGEST_REST = 64
# What SO_RCVBUF is asked for on the way to a server on this host; the kernel makes it twice that. What it has sent on
# already when a pulled socket was emptied is nearly a segment of the loopback device, if it has more.
cdef enum:
    NARROW_BYTES = 98304
    REFILLED_BYTES = 60000
# Pieces that are shorter together are written as one.
cdef enum:
    FLAT_BYTES = 1024
# The most plaintext that one TLS record holds.
cdef enum:
    RECORD = 16384
# Microseconds until what will not be.
cdef int64_t NEVER = 1 << 62
# asyncio gets its turn when it has something to do, which select sees by itself, and at least this often.
cdef enum:
    TURN_US = 100000
    # Long work in Python looks after the connections this often.
    BREATH_US = 500
    EVENTS = 256
# Sets of parameters' values of which nobody has one may take so many bytes, those in use the same again; what one value
# takes beside its text.
cdef enum:
    PARAM_BYTES = 1048576
    VALUE_COST = 48
# The largest message that is ever collected whole (the text of a named Parse).
cdef enum:
    HELD_LIMIT = 1073741824

cdef enum:
    # Bytes of an unnamed statement that is kept although it was bound at once; for so long a statement of a server's is what
    # its text means.
    KEPT_BYTES = 1024
    TRUSTED_US = 1000000
    # So often at most the log hears, of one pool, why a server does not say what is left there.
    UNTOLD_US = 10000000
    # Of a client's batch, kept to be run again if a statement in it is found to be stale.
    KEPT_BATCH = 8192

cdef enum:
    # Texts up to so long that are kept with their Touch, and how many of any length are remembered; touches that are counted before Python takes them
    # (`Pool.take_seen`), and that one transaction collects.
    JUDGED_BYTES = 1024
    JUDGED_TEXTS = 2048
    SEEN_TEXTS = 500
    TOUCHES = 64
    # Of an answer to a look: who sets a longer value keeps the server.
    LONGEST_ROW = 1048576

cdef uint8_t *rbuf = <uint8_t *>malloc(READ_BYTES)
cdef uint8_t *cipher = <uint8_t *>malloc(CIPHER_BYTES)

SESSION, TRANSACTION, STATEMENT = range(3)
NARROW = NARROW_BYTES
OWED_BYTES = sizeof(Owed)
cdef enum:
    MODE_SESSION = 0
    MODE_TRANSACTION = 1
    MODE_STATEMENT = 2

cdef enum:
    # Bytes that a prepared statement takes beside its name and text.
    STATEMENT_COST = 512

# What becomes of a server when the bytes that were read with its last ReadyForQuery are dealt with.
cdef enum:
    STAYS = 0
    RELEASED = 1
    CHECKED = 2

cdef enum:
    NO_TASK = 0
    SET_TASK = 1
    RESET_TASK = 2
    CHECK_TASK = 3
    FENCE_TASK = 4
    # What a client has left there, when its transaction has ended.
    LOOK_TASK = 5
    # Its client has gone: in a transaction; with something of its own there.
    ROLLBACK_TASK = 6
    DISCARD_TASK = 7
    # What Python wants to know (`Pool.ask`).
    ASK_TASK = 8
    # Its channels go over to the listening server: it listens to the mark too, sets it, and listens to nothing more.
    MARK_TASK = 9
    TELL_TASK = 10
    UNLISTEN_TASK = 11
    # Whose notifications were sent up to here: see `Server.epochs`.
    EPOCH_TASK = 12
    # What its client has prepared in SQL is made there, behind SET_TASK.
    PREPARE_TASK = 13
    # Whether the values of sequences that its client asks for were drawn in its transaction.
    RECALL_TASK = 14

cdef enum:
    # For so long after a server has changed hands a notification may be of the one who had it before.
    LATE_US = 20000
    # Servers that are gone of which it is known who had them: what they have notified may come behind their end.
    DEPARTED = 256
    # Bytes that a notification takes beside its text, while it waits for its client.
    NOTIFICATION_COST = 16
    # What waits for other channels of its client, and marks of one server that have not come back, at most.
    MOST_EARLY = 10000
    MOST_EPOCHS = 1000

cdef object new_tuple = tuple.__new__
READ_MODES = ("prompt", "lazy", "pulled")
STATES = ("new", "active", "waiting", "idle", "used", "tested", "active", "being_canceled")


cdef inline int64_t now_us() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <int64_t>ts.tv_sec * 1000000 + ts.tv_nsec // 1000


cdef inline int64_t computed_us() noexcept nogil:
    # Processor time of this thread.
    cdef timespec ts
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts)
    return <int64_t>ts.tv_sec * 1000000 + ts.tv_nsec // 1000


cdef inline uint32_t be32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return ntohl(v)


cdef inline uint64_t be64(bytes text) noexcept:
    # Of eight bytes.
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(text)
    return <uint64_t>be32(p) << 32 | be32(p + 4)


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    v = htonl(v)
    memcpy(p, &v, 4)


cdef int bucket_count = stats.BUCKETS
cdef int sub_bits = stats.SUB_BITS
cdef int max_exponent = stats.MAX_EXPONENT


cdef inline int bucket(int64_t v) noexcept nogil:
    # The same log-linear buckets as pooler.stats.bucket_of; a unit test compares the two. Always below bucket_count.
    cdef int e
    if v < 1 << sub_bits:
        return <int>v if v > 0 else 0
    e = 63 - __builtin_clzll(<uint64_t>v)
    if e >= max_exponent:
        return bucket_count - 1
    return ((e - sub_bits) << sub_bits) + <int>(v >> (e - sub_bits))


cdef extern from *:
    int __builtin_clzll(unsigned long long) nogil


def bucket_index(int64_t value):
    """Bucket of a sample of `value` microseconds, as the relay computes it."""
    return bucket(value)


def clock():
    """Microseconds of the clock that all stamps of the relay come from (CLOCK_MONOTONIC)."""
    return now_us()


cdef inline void out_clear(Out *o) noexcept nogil:
    o.n = 0
    o.used = 0


cdef inline void out_add(Out *o, uint8_t *p, size_t n) noexcept nogil:
    # The caller keeps o.n below the array's end: each message adds at most four pieces, see `out_full`.
    if n == 0:
        return
    if o.n and <uint8_t *>o.iov[o.n - 1].iov_base + o.iov[o.n - 1].iov_len == p:
        o.iov[o.n - 1].iov_len += n
        return
    o.iov[o.n].iov_base = p
    o.iov[o.n].iov_len = n
    o.n += 1


cdef inline bint out_full(Out *o) noexcept nogil:
    return o.n > 36 or o.used > 3072


cdef inline uint8_t *out_scratch(Out *o, size_t n) noexcept nogil:
    # `n` bytes of scratch that live until the next flush. Callers ask for at most some hundred bytes.
    cdef uint8_t *p = o.scratch + o.used
    o.used += n
    return p


cdef inline size_t out_size(Out *o) noexcept nogil:
    cdef size_t total = 0
    cdef int i
    for i in range(o.n):
        total += o.iov[i].iov_len
    return total
