# A client's socket from its accept to its hand-over. Logging in is Python's business; here is only the socket, watched
# by the relay's own epoll descriptor: a storm of logins cannot afford Python's socket objects and a registration in
# asyncio's books for each of them. For TCP; a client on a Unix socket has a socket of Python's.

cdef dict own_ports = {}
# Few, and remembered with every client: each number is one object.
cdef dict known_hosts = {}
# The texts of IPv4 addresses by their numbers: clients come from few hosts.
cdef enum:
    KNOWN_HOSTS = 1024


# Most come from the host that the one before has come from, and to the address that it has come to.
cdef uint32_t last_number = 0
cdef str last_host = None
cdef sockaddr_storage last_there
cdef tuple last_local = None


cdef class Newcomer(Socket):
    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    def receive(self, int most):
        """Up to `most` bytes, none at the end of the stream; None when nothing is here now. Raises OSError."""
        cdef ssize_t n = c_recv(self.fd, rbuf, most if most < READ_BYTES else READ_BYTES, MSG_DONTWAIT)
        if n < 0:
            if errno == EAGAIN or errno == EINTR:
                return None
            raise OSError(errno, os.strerror(errno))
        return (<char *>rbuf)[:n]

    def send(self, bytes data):
        """How much of `data` the socket takes at once. Raises OSError."""
        cdef ssize_t n = c_send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0:
            if errno == EAGAIN or errno == EINTR:
                return 0
            raise OSError(errno, os.strerror(errno))
        return n

    def watch(self, wake):
        """Call `wake` whenever something has come, until `unwatch`. For so long epoll has the address of this: it stays."""
        cdef epoll_event ev
        ev.events = EPOLLIN | EPOLLRDHUP
        ev.data.ptr = <void *>self
        if epoll_ctl(self.relay.ep, EPOLL_CTL_ADD, self.fd, &ev) < 0:
            raise OSError(errno, os.strerror(errno))
        Py_INCREF(self)
        self.wake = wake
        self.lost = False

    def unwatch(self):
        if self.wake is not None:
            self.wake = None
            self.lost = True
            self.relay.graveyard.append(self)
            epoll_ctl(self.relay.ep, EPOLL_CTL_DEL, self.fd, NULL)
            Py_DECREF(self)

    cdef int pass_on(self) except -1:
        # As `unwatch`, but its descriptor stays with epoll: the next who is watched has it.
        if self.wake is not None:
            self.wake = None
            self.lost = True
            self.relay.graveyard.append(self)
            self.relay.watched = self.fd
            Py_DECREF(self)
        return 0

    def detach(self):
        """The descriptor, no longer ours."""
        cdef int fd = self.fd
        self.unwatch()
        self.fd = -1
        return fd

    def fileno(self):
        return self.fd

    cdef int on_event(self, uint32_t events) except -1:
        # What is called is a login, a whole console command even: not in the middle of a batch of events.
        self.relay.woken.append(self)
        return 0

    @property
    def local(self):
        """(address, port) of our side."""
        return self.here()

    cdef tuple here(self):
        global last_local, last_there
        cdef sockaddr_storage there
        cdef socklen_t n = sizeof(there)
        memset(&there, 0, sizeof(there))
        if getsockname(self.fd, <sockaddr *>&there, &n) < 0:
            raise OSError(errno, os.strerror(errno))
        if last_local is None or memcmp(&there, &last_there, sizeof(there)) != 0:
            address, port = address_of(&there)
            last_local = address, own_ports.setdefault(port, port)
            last_there = there
        return last_local

    def peer(self, cls):
        """Who is at the other end, as the class of pooler.net.address has it: its methods for that are written in
        Python, and this is one login in a storm."""
        cdef tuple local = self.local, remote = self.remote
        made = cls.__new__(cls)
        PyObject_GenericSetAttr(made, "addr", remote[0])
        PyObject_GenericSetAttr(made, "port", remote[1])
        PyObject_GenericSetAttr(made, "local_addr", local[0])
        PyObject_GenericSetAttr(made, "local_port", local[1])
        PyObject_GenericSetAttr(made, "pid", -1)
        PyObject_GenericSetAttr(made, "uid", -1)
        PyObject_GenericSetAttr(made, "gid", -1)
        return made

    def tune(self, tuple choices):
        """Set each (level, option, value). Raises OSError."""
        self.choose(choices)

    cdef int choose(self, tuple choices) except -1:
        cdef int level, option, value
        for level, option, value in choices:
            if setsockopt(self.fd, level, option, &value, sizeof(value)) < 0:
                raise OSError(errno, os.strerror(errno))
        return 0


cdef Newcomer accept_one(Relay relay, int listener):
    # The next client of this listener; None when there is none now.
    cdef sockaddr_storage there
    cdef socklen_t n = sizeof(there)
    cdef Newcomer c
    cdef int fd = accept4(listener, <sockaddr *>&there, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        if errno == EAGAIN or errno == EINTR or errno == ECONNABORTED:
            return None
        raise OSError(errno, os.strerror(errno))
    c = Newcomer.__new__(Newcomer)
    c.fd = fd
    c.relay = relay
    c.remote = address_of(&there)
    return c


cdef Newcomer newcomer_of(Relay relay, int fd):
    # A client that another process has accepted; its descriptor is ours from here on.
    cdef sockaddr_storage there
    cdef socklen_t n = sizeof(there)
    cdef Newcomer c = Newcomer.__new__(Newcomer)
    c.fd = fd
    c.relay = relay
    if getpeername(fd, <sockaddr *>&there, &n) < 0:
        raise OSError(errno, os.strerror(errno))
    c.remote = address_of(&there)
    return c


cdef tuple address_of(sockaddr_storage *there):
    # (address, port). An IPv4 address behind an IPv6 socket is told as IPv4.
    cdef char text[64]
    cdef sockaddr_in *four = <sockaddr_in *>there
    cdef sockaddr_in6 *six = <sockaddr_in6 *>there
    cdef uint8_t *raw
    if there.ss_family == AF_INET:
        return host_of(<uint8_t *>&four.sin_addr), ntohs(four.sin_port)
    raw = <uint8_t *>&six.sin6_addr
    if memcmp(raw, MAPPED, 12) == 0:
        return host_of(raw + 12), ntohs(six.sin6_port)
    inet_ntop(AF_INET6, raw, text, sizeof(text))
    return sys.intern(text.decode("ascii")), ntohs(six.sin6_port)


cdef str host_of(uint8_t *raw):
    # The text of an IPv4 address.
    global last_host, last_number
    cdef char text[64]
    cdef object number, found
    if last_host is not None and be32(raw) == last_number:
        return last_host
    number = be32(raw)
    found = known_hosts.get(number)
    if found is None:
        if len(known_hosts) >= KNOWN_HOSTS:
            known_hosts.clear()
        inet_ntop(AF_INET, raw, text, sizeof(text))
        found = known_hosts[number] = sys.intern(text.decode("ascii"))
    last_host, last_number = found, be32(raw)
    return found
