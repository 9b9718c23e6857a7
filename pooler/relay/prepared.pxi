# Named prepared statements in transaction and statement mode. A client's names are its own; on the servers a statement
# is known by its text, under a name of ours, and is shared by all clients. Every client message stays one server
# message, so that answers keep their order without bookkeeping of what lies between: a Parse that the server does
# not need is sent as the Close of a statement that never exists, and its CloseComplete is handed on as ParseComplete.

cdef bytes NOBODY = b"PGBOUNCER_0"


@cython.no_gc
cdef class Statement:
    @property
    def text(self):
        """Query and parameter types as they stand in the Parse message, behind the name."""
        return self.body

    @property
    def server_name(self):
        return self.name


cdef class Held:
    pass


cdef Statement share_statement(Relay relay, bytes body):
    # The one Statement for this text. It lasts as long as a client or a server has it.
    cdef Statement stmt = relay.statements.get(body)
    if stmt is None:
        relay.next_statement += 1
        stmt = Statement.__new__(Statement)
        stmt.id = relay.next_statement
        stmt.body = body
        stmt.name = b"PGBOUNCER_%d" % relay.next_statement
        relay.statements[body] = stmt
    return stmt


cdef int put_close(Out *out, bytes name) except -1:
    # Close of statement `name`; at most 64 bytes of scratch.
    cdef size_t n = PyBytes_GET_SIZE(name)
    cdef uint8_t *p = out_scratch(out, n + 7)
    p[0] = c'C'
    put32(p + 1, <uint32_t>(n + 6))
    p[5] = c'S'
    memcpy(p + 6, PyBytes_AS_STRING(name), n + 1)
    out_add(out, p, n + 7)
    return 0


cdef int put_parse(Out *out, Statement stmt) except -1:
    cdef size_t n = PyBytes_GET_SIZE(stmt.name)
    cdef size_t body = PyBytes_GET_SIZE(stmt.body)
    cdef uint8_t *p = out_scratch(out, n + 6)
    p[0] = c'P'
    put32(p + 1, <uint32_t>(4 + n + 1 + body))
    memcpy(p + 5, PyBytes_AS_STRING(stmt.name), n + 1)
    out_add(out, p, n + 6)
    out_add(out, <uint8_t *>PyBytes_AS_STRING(stmt.body), body)
    return 0
