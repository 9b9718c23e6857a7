# What comes in on a connection that logs in, taken when it is there and cut into packets, and what goes out and finds
# room at once: what of a Channel (pooler/net/channel.py) is done for every packet of a storm of logins. Its `_line` is a
# Newcomer, or has the face of one; `_incoming` is where ciphertext goes, None without TLS.
from socket import socket as PySocket

from pooler.wire import BadHeader, TooLong

cdef extern from "Python.h":
    int PyByteArray_Resize(object array, Py_ssize_t size) except -1
    char *PyByteArray_AS_STRING(object array)
    Py_ssize_t PyByteArray_GET_SIZE(object array)
    int PySequence_DelSlice(object array, Py_ssize_t start, Py_ssize_t end) except -1

cdef enum:
    TAKEN_AT_ONCE = 8192


@cython.final
cdef class Done:
    # What can be awaited and is over already.
    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


cdef Done DONE = Done()


cdef class Detached:
    """What is left of a connection for the relay. `tls` is its TLS state as the relay takes it over, None without.
    `leftover` is plaintext read from the peer and not consumed; TLS records not decrypted yet stay in the TLS state.
    `unsent` is plaintext that the peer has yet to be sent."""

    def close(self):
        """Nobody has taken it over."""
        os.close(self.fd)

    cdef Client welcome(self, Client client, Pool pool, int64_t since, bytes said):
        # It has been taken over, and is told `said`.
        client.say(self.unsent + said if self.unsent else said)
        pool.login_took(now_us() - since)
        return client


cdef class Inlet:
    def __cinit__(self, *arguments, **named):
        self._buffer = bytearray()
        self._held = b""
        self.longest = 0x7fffffff

    def __init__(self, sock, loop):
        self._line = self._face(sock, loop) if isinstance(sock, PySocket) else sock
        self._loop = loop

    cdef object line(self):
        return self._open() if self._line is None else self._line

    @property
    def closed(self):
        return self._line is None

    @property
    def peer(self):
        """Who is at the other end."""
        if self._peer is None:
            self._peer = self.line().peer(self._end_of)
        return self._peer

    def fileno(self):
        return self.number()

    cdef int number(self) except -2:
        return (<Newcomer>self._line).fd if type(self._line) is Newcomer else self.line().fileno()

    def tune(self, tuple choices):
        """Set options of the socket. Raises OSError."""
        self.line().tune(choices)

    def detach(self):
        """Hand the connection over; this is dead afterwards."""
        return self.parted()

    cdef Detached parted(self):
        cdef Detached rest = Detached.__new__(Detached)
        rest.leftover = bytes(self._buffer) if PyByteArray_GET_SIZE(self._buffer) else b""
        rest.unsent = self._held
        rest.tls = None if self._ssl is None else (self._ssl._sslobj, self._incoming, self._outgoing)
        rest.fd = self.line().detach()
        self._line = None
        if self._ssl is not None:
            self._forget()
        return rest

    def hand_over(self, Relay relay, Pool pool, about, tracked, bytes key, int64_t since, session, bytes said):
        """Let the relay go on with who has logged in to `pool`, and is told `said`; see Relay.adopt_client, which is
        given the number and the facts of `about`. What that raises is raised; the connection is closed then."""
        cdef Detached rest = self.part(about)
        try:
            client = relay.adopt_client(pool, about.number, rest.fd, rest.tls, rest.leftover, tracked, about, key, since, session)
        except BaseException:
            relay.watched = -1
            rest.close()
            raise
        return rest.welcome(client, pool, since, said)

    cdef Client pass_over(self, Relay relay, Pool pool, about, tuple tracked, bytes key, int64_t since, tuple session, bytes said):
        # The same, of values that are interned.
        cdef Detached rest = self.part(about)
        cdef Client client
        try:
            client = relay.adopt(pool, about.number, rest.fd, rest.tls, rest.leftover, tracked, about, key, since, session)
        except BaseException:
            relay.watched = -1
            rest.close()
            raise
        return rest.welcome(client, pool, since, said)

    cdef Detached part(self, about):
        if type(self._line) is Newcomer:
            (<Newcomer>self._line).pass_on()
        untrack(about.peer)
        untrack(about)
        return self.parted()

    # ---- writing

    def put(self, bytes data):
        """To be sent with the next `send`, and in any case before anything is waited for; `detach` hands it over."""
        self._held += data

    def send(self, bytes data):
        """Send what was `put` and `data`: at once what the socket takes, the rest when this is awaited."""
        cdef ssize_t n
        if self._held:
            data, self._held = self._held + data, b""
        if self._ssl is None and type(self._line) is Newcomer:
            n = c_send((<Newcomer>self._line).fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT)
            if n == PyBytes_GET_SIZE(data):
                return DONE
            if n > 0:
                data = data[n:]
            elif errno != EAGAIN and errno != EINTR:
                raise self._lost(errno)
        return self._send(data)

    # ---- reading

    def more(self):
        """More plaintext into the buffer."""
        return self._feed() if self._ssl is None else self._decrypt(self._ssl)

    cpdef _watch(self):
        if not self._watched:
            self.line().watch(self.readable)
            self._watched = True

    cpdef _feed(self):
        """More bytes from the socket into the buffer or the TLS state: at once if it is the first time. Later they are
        the answer to something, and it is too soon to look for them."""
        if self._held:
            return self._feed_later()
        if self._watched or self.heard or not self._take():
            self._watch()
            self._waiter = Wait.__new__(Wait)
            self._waiter.loop = self._loop
            self._waiter.inlet = self
            return self._waiter
        if self._end is not None:
            raise self._end
        return DONE

    cpdef bint _take(self) except -1:
        """Take what the socket has at this moment; False when that is nothing, not even an end."""
        cdef ssize_t n
        if type(self._line) is not Newcomer:
            return self.take_slowly()
        n = c_recv((<Newcomer>self._line).fd, rbuf, TAKEN_AT_ONCE, MSG_DONTWAIT)
        if n < 0:
            if errno == EAGAIN or errno == EINTR:
                return False
            self.ended(errno)
            return True
        self.heard = True
        if n == 0:
            self.ended(0)
        else:
            self.keep(rbuf, n)
        return True

    def take_slowly(self):
        cdef bytes data
        try:
            data = self._open().receive(TAKEN_AT_ONCE)
        except OSError as error:
            self.ended(error.errno or -1)
            return True
        if data is None:
            return False
        self.heard = True
        if not data:
            self.ended(0)
        else:
            self.keep(<uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return True

    cdef int keep(self, uint8_t *data, Py_ssize_t n) except -1:
        cdef Py_ssize_t had
        if self._incoming is not None:
            self._incoming.write(PyMemoryView_FromMemory(<char *>data, n, PyBUF_READ))
            return 0
        had = PyByteArray_GET_SIZE(self._buffer)
        PyByteArray_Resize(self._buffer, had + n)
        memcpy(PyByteArray_AS_STRING(self._buffer) + had, data, n)
        return 0

    cpdef readable(self):
        """The watched socket has something for who waits; with nobody waiting it is watched no more."""
        cdef Wait waiter = self._waiter
        if waiter is None or waiter.done:
            self._unwatch()
        elif self._take():
            waiter.end()

    def next_byte(self):
        """The next byte, left in place; -1 when it is not here."""
        return (<uint8_t *>PyByteArray_AS_STRING(self._buffer))[0] if PyByteArray_GET_SIZE(self._buffer) else -1

    def packet(self, Py_ssize_t at, int64_t least, int64_t most):
        """What is behind the length field at `at`, of a packet that begins the buffer, and is gone from there; None
        when it is not all here. Raises BadHeader."""
        cdef Py_ssize_t end = self.end_of(at, least, most)
        return self.out(at + 4, end) if end <= PyByteArray_GET_SIZE(self._buffer) else None

    def packet_end(self, Py_ssize_t at, int64_t least, int64_t most):
        """Where the packet ends whose length field, which counts itself, is at `at`: as far as that is known yet.
        Raises BadHeader for a length that is not between `least` and `most`."""
        return self.end_of(at, least, most)

    cdef Py_ssize_t end_of(self, Py_ssize_t at, int64_t least, int64_t most) except -1:
        cdef int64_t length
        if PyByteArray_GET_SIZE(self._buffer) < at + 4:
            return at + 4
        length = be32(<uint8_t *>PyByteArray_AS_STRING(self._buffer) + at)
        if not least <= length <= self.longest - at:
            raise BadHeader(bytes(self._buffer[:8]))
        if length > most:
            raise TooLong(bytes(self._buffer[:8]))
        return at + length

    def consume(self, Py_ssize_t start, Py_ssize_t end):
        """The bytes from `start` to `end`; they and those before are gone from the buffer."""
        return self.out(start, min(end, PyByteArray_GET_SIZE(self._buffer)))

    cdef bytes out(self, Py_ssize_t start, Py_ssize_t end):
        cdef bytes data = PyByteArray_AS_STRING(self._buffer)[start:end]
        if end == PyByteArray_GET_SIZE(self._buffer):
            PyByteArray_Resize(self._buffer, 0)
        else:
            PySequence_DelSlice(self._buffer, 0, end)
        return data
