# From one process to another: all that a connection is, besides its socket, as plain values, and the connection made
# again from them. Reading the values changes nothing, so that a handing over that fails leaves everything as it was.
# TLS cannot be handed over: its state is OpenSSL's own.

cdef dict WAYS = {CL_WAITING: (CL_ACTIVE, CL_WAITING), SV_USED: (SV_IDLE, SV_USED), SV_BEING_CANCELED: (SV_IDLE,)}
# Through which states a connection made again gets to its own; one that was being cancelled is free by now.


def record(Conn c, dict table):
    """The state of a connection as a dict of numbers, bytes, lists and None. Statements are named by their id; `table`
    gets (text, whether new clients share it) for each."""
    state = {
        "id": c.id, "state": c.state, "params": list(c.params), "hold": (<char *>c.hold)[:c.hold_len] if c.hold_len else b"",
        "unsent": (<char *>c.obuf + c.ohead)[:c.olen] if c.olen else b"", "need": c.need, "dropping": c.dropping,
        "connected": c.connected, "requested": c.requested, "close_needed": c.close_needed, "bound": c.bound,
        "broken": c.broken,
    }
    return record_client(<Client>c, state, table) if isinstance(c, Client) else record_server(<Server>c, state, table)


cdef int note_statement(Relay relay, Statement stmt, dict table) except -1:
    table[stmt.id] = (stmt.body, relay.statements.get(stmt.body) is stmt)
    return 0


cdef dict record_client(Client c, dict state, dict table):
    cdef Statement stmt
    names = []
    for name, stmt in (c.stmts or {}).items():
        note_statement(c.relay, stmt, table)
        names.append((name, stmt.id))
    state.update(
        statements=names, key=c.key.to_bytes(8, "big"), query_start=c.query_start, xact_start=c.xact_start,
        wait_start=c.wait_start, notified=c.notified, server=c.link.id if c.link is not None else None,
    )
    return state


cdef dict record_server(Server s, dict state, dict table):
    cdef Held held
    cdef Owed *o
    cdef int i
    owed = []
    there = sorted((s.stmts or {}).values(), key=last_use)
    for held in there:
        note_statement(s.relay, held.stmt, table)
    for i in range(s.owed_len):
        o = &s.owed[(s.owed_head + i) & (s.owed_cap - 1)]
        if o.stmt != NULL:
            note_statement(s.relay, <Statement>o.stmt, table)
        owed.append((o.kind, o.act, (<Statement>o.stmt).id if o.stmt != NULL else None,
                     <bytes>o.name if o.name != NULL else None))
    state.update(
        statements=[(<Held>each).stmt.id for each in there], owed=owed, pid=s.pid, cancel_key=s.cancel_key,
        status=s.status, task=s.task, task_error=s.task_error, parting=s.parting, copy_in=s.copy_in,
        extended=s.extended, released=s.released,
        wary=s.wary,
    )
    return state


def last_use(Held held):
    return held.used


def statement(Relay relay, int64_t number, bytes body, bint shared):
    """A statement under the number, and so the name on servers, that it has had."""
    cdef Statement stmt = Statement.__new__(Statement)
    stmt.id = number
    stmt.body = body
    stmt.name = b"PGBOUNCER_%d" % number
    if shared:
        relay.statements[body] = stmt
    return stmt


def number_statements_from(Relay relay, int64_t number):
    """No new statement gets a number that some server may know already."""
    relay.next_statement = max(relay.next_statement, number)


def last_statement(Relay relay):
    return relay.next_statement


def revive_client(Pool pool, int fd, dict state, params, about, dict table):
    """The client of this `record`, not linked yet. `table`: id -> `statement`. If it raises, nothing is left here, and
    `fd` is still the caller's."""
    cdef Client c = Client.__new__(Client)
    revive(c, pool, fd, state, params, about)
    c.key = int.from_bytes(state["key"], "big")
    c.query_start, c.xact_start, c.wait_start = state["query_start"], state["xact_start"], state["wait_start"]
    c.notified = state["notified"]
    for name, number in state["statements"]:
        c.remember(name, table[number])
    settle(c, state["state"])
    return c


def revive_server(Pool pool, int fd, dict state, params, about, dict table):
    """The server of this `record`, not linked yet. See `revive_client`."""
    cdef Server s = Server.__new__(Server)
    cdef int lowat = 1
    revive(s, pool, fd, state, params, about)
    s.pid, s.cancel_key, s.status, s.task = state["pid"], state["cancel_key"], state["status"], state["task"]
    s.task_error, s.parting, s.released = state["task_error"], state["parting"], state["released"]
    s.copy_in, s.extended, s.wary = state["copy_in"], state["extended"], state["wary"]
    for number in state["statements"]:
        s.hold_statement(table[number])
    for kind, act, number, name in state["owed"]:
        s.owe(kind, act, table[number] if number is not None else None, name)
    settle(s, state["state"])
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat))
    if s.parting != STAYS:
        s.wake_later()
    return s


cdef int revive(Conn c, Pool pool, int fd, dict state, params, about) except -1:
    cdef bytes unsent = state["unsent"]
    pool.relay.take_fd(c, pool, state["id"], fd, None, state["hold"], params, about, state["connected"])
    c.requested = state["requested"]
    c.need, c.dropping, c.broken = state["need"], state["dropping"], state["broken"]
    c.close_needed, c.bound = state["close_needed"], state["bound"]
    if unsent:
        c.queue(<uint8_t *>PyBytes_AS_STRING(unsent), PyBytes_GET_SIZE(unsent))
    return 0


cdef int settle(Conn c, uint8_t state) except -1:
    # Into its list, and watched: or nowhere at all.
    try:
        place(c, state)
        c.relay.enter(c)
        if isinstance(c, Client):
            c.relay.take_slot(<Client>c)
    except BaseException:
        c.relay.retract(c)
        raise
    return 0


cdef int place(Conn c, uint8_t state) except -1:
    for step in WAYS.get(state, (state,)):
        c.pool.move(c, step)
    if c.state == SV_IDLE:
        # They come in the order of their list.
        c.home.remove(c)
        c.pool.idle_servers.append(c)
    return 0


def tie(Client c, Server s):
    """These two were linked."""
    c.link = s
    s.link = c


def abandon(Conn c):
    """Another process has this connection now: forget it, and neither say nor log anything."""
    cdef Relay relay = c.relay
    if c.lost:
        return
    epoll_ctl(relay.ep, EPOLL_CTL_DEL, c.fd, NULL)
    c.lost = True
    c.pool.move(c, NOWHERE)
    relay.graveyard.append(c)
    if isinstance(c, Client):
        (<Client>c).link = None
        relay.free_slot(<Client>c)
    else:
        (<Server>c).link = None
        (<Server>c).settle_loss()
    c_close(c.fd)
    c.fd = -1
