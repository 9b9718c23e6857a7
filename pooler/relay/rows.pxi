# Rows of SHOW CLIENTS, SERVERS and SOCKETS, ten thousand at a time: made here, since Python takes several times as long
# to ask each connection for each of its properties. Reads only. The rule: the relay may breathe after every few rows,
# and all times are those of the one instant that the caller names.
cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    void PyObject_GC_UnTrack(void *o)
    int PyObject_GC_IsTracked(object o)

cdef enum:
    # Rows between two looks at the clock.
    BREATH = 16
    # Its place among the tracked parameters.
    APPLICATION_NAME = 4


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
    if PyObject_GC_IsTracked(value):
        PyObject_GC_UnTrack(<void *>value)
    return value


def socket_rows(Relay relay, list connections, row, tuple names, pointer, Instant at, user=None, database=None):
    """One `row` (pooler.stats.SocketStat, with fields `names`) for each; `pointer` names a connection by its id. Servers
    are shown under the `user` and `database` of their pool, clients under their own."""
    cdef Conn c
    cdef list found = []
    cdef int done = 0
    cdef int i
    cdef tuple values
    cdef int width = len(names)
    cdef object new = row.__new__
    for c in connections:
        values = socket_row(c, pointer, at, user, database)
        made = new(row)
        for i in range(width):
            # What object.__setattr__ does: the class is frozen once it is made.
            PyObject_GenericSetAttr(made, names[i], values[i])
        plain(made)
        found.append(made)
        done += 1
        if done % BREATH == 0:
            relay.pace()
    return found


cdef tuple socket_row(Conn c, pointer, Instant at, user, database):
    cdef object about = c.about
    cdef object peer = about.peer
    cdef object name = c.params[APPLICATION_NAME]
    cdef Conn other = c.partner()
    cdef bint client = isinstance(c, Client)
    return (
        "C" if client else "S",
        about.user if user is None else user,
        about.database if database is None else database,
        about.replication,
        c.state_name,
        peer.addr,
        peer.port,
        peer.local_addr,
        peer.local_port,
        at.wall_of(c.connected),
        at.wall_of(c.requested),
        at.stamp - (<Client>c).wait_start if client and c.state == CL_WAITING and at.stamp > (<Client>c).wait_start else 0,
        True if c.close_needed else False,
        pointer(c.id),
        "" if other is None else pointer(other.id),
        max(peer.pid, 0) if client else (<Server>c).pid,
        about.tls,
        (<bytes>name).decode("utf-8", "replace") if name else "",
        len(c.stmts) if c.stmts is not None else 0,
        c.id,
        0,
        0,
        c.need,
        0,
        c.olen,
        c.hold_len,
        c.olen,
    )
