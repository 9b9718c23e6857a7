# Rows of SHOW CLIENTS, SERVERS and SOCKETS, ten thousand at a time: made here, since Python takes several times as long
# to ask each connection for each of its properties. Reads only. The rule: the relay may breathe after every few rows,
# and all times are those of the one instant that the caller names.
cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    void PyObject_GC_UnTrack(void *o)
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    int PyObject_GC_IsTracked(object o)

cdef enum:
    # Rows between two looks at the clock.
    BREATH = 16


cdef class Instant:
    """The two clocks at one time: the wall's in seconds, and the relay's in microseconds."""
    cdef readonly double wall
    cdef readonly int64_t stamp

    def __init__(self, double wall, int64_t stamp):
        self.wall = wall
        self.stamp = stamp

    cpdef double wall_of(self, int64_t stamp):
        return self.wall - (self.stamp - stamp) / 1e6


def plain(value):
    """`value`, which the garbage collector need not look at again: it holds nothing but texts, numbers and such values
    itself, so that no cycle can lead through it. A collection takes a few milliseconds for ten thousand objects."""
    untrack(value)
    return value


cdef int untrack(object value) except -1:
    if PyObject_GC_IsTracked(value):
        PyObject_GC_UnTrack(<void *>value)
    return 0


def socket_rows(Relay relay, list connections, row, tuple names, pointer, Instant at, user=None, database=None):
    """One `row` (pooler.stats.SocketStat, with fields `names`) for each; `pointer` names a connection by its id. Servers
    are shown under the `user` and `database` of their pool, clients under their own. Raises TypeError when `row` has a
    field that is not filled in here, or none for what is."""
    cdef Conn c
    cdef list found = []
    cdef int done = 0
    cdef int place = relay.tracked_index.get(b"application_name", -1)
    cdef object new = row.__new__
    for c in connections:
        made = new(row)
        try:
            fill(made, c, place, pointer, at, user, database)
        except AttributeError as error:
            raise TypeError(f"{row.__name__} has no field for what the relay fills in: {error}") from None
        if done == 0:
            check(made, row, names)
        plain(made)
        found.append(made)
        done += 1
        if done % BREATH == 0:
            relay.pace()
    return found


cdef int check(made, row, tuple names) except -1:
    missing = [name for name in names if not hasattr(made, name)]
    if missing:
        raise TypeError(f"{row.__name__} has fields that the relay does not fill in: {', '.join(missing)}")
    return 0


cdef inline int put(made, name, value) except -1:
    # What object.__setattr__ does: the class is frozen once it is made.
    return PyObject_GenericSetAttr(made, name, value)


cdef int fill(made, Conn c, int place, pointer, Instant at, user, database) except -1:
    cdef object about = c.about
    cdef object peer = about.peer
    cdef object name = c.params[place] if 0 <= place < len(c.params) else None
    cdef Conn other = c.partner()
    cdef bint client = isinstance(c, Client)
    cdef int64_t waited = 0
    cdef int64_t since = 0
    if client:
        since = (<Client>c).xact_start
        if c.state == CL_WAITING and at.stamp > (<Client>c).wait_start:
            waited = at.stamp - (<Client>c).wait_start
    put(made, "type", "C" if client else "S")
    put(made, "user", about.user if user is None else user)
    put(made, "database", about.database if database is None else database)
    put(made, "replication", about.replication)
    put(made, "state", c.state_name)
    put(made, "addr", peer.addr)
    put(made, "port", peer.port)
    put(made, "local_addr", peer.local_addr)
    put(made, "local_port", peer.local_port)
    put(made, "connect_time", at.wall_of(c.connected))
    put(made, "request_time", at.wall_of(c.requested))
    put(made, "wait_us", waited)
    put(made, "close_needed", True if c.close_needed else False)
    put(made, "ptr", pointer(c.id))
    put(made, "link", "" if other is None else pointer(other.id))
    put(made, "remote_pid", max(peer.pid, 0) if client else (<Server>c).pid)
    put(made, "tls", about.tls)
    put(made, "application_name", (<bytes>name).decode("utf-8", "replace") if name else "")
    put(made, "prepared_statements", len(c.stmts) if c.stmts is not None else 0)
    put(made, "id", c.id)
    put(made, "recv_pos", 0)
    put(made, "pkt_pos", 0)
    put(made, "pkt_remain", c.need)
    put(made, "send_pos", 0)
    put(made, "send_remain", c.olen)
    put(made, "pkt_avail", c.hold_len)
    put(made, "send_avail", c.olen)
    put(made, "xact_us", at.stamp - since if 0 < since < at.stamp else 0)
    return 0


def owed(list servers):
    """How many messages they were sent and have not answered."""
    cdef Server s
    cdef int found = 0
    for s in servers:
        found += s.ledger.length
    return found
