# From one process to another: all that a connection is, besides its socket, as plain values, and the connection made
# again from them. Reading the values changes nothing, so that a handing over that fails leaves everything as it was.
# TLS cannot be handed over: its state is OpenSSL's own. Between two workers servers alone go, that are free (`may_pass`).

cdef dict WAYS = {CL_WAITING: (CL_ACTIVE, CL_WAITING), SV_USED: (SV_IDLE, SV_USED), SV_BEING_CANCELED: (SV_IDLE,)}
# Through which states a connection made again gets to its own; one that was being cancelled is free by now.


def record(Conn connection, dict table):
    """The state of a connection as a dict of numbers, bytes, lists and None. Statements are named by their id; `table`
    gets the rest of what `statement` takes for each."""
    state = {
        "id": connection.id, "state": connection.state, "params": list(connection.params), "hold": (<char *>connection.hold)[:connection.hold_len] if connection.hold_len else b"",
        "unsent": (<char *>connection.obuf + connection.ohead)[:connection.olen] if connection.olen else b"", "need": connection.need, "dropping": connection.dropping,
        "connected": connection.connected, "requested": connection.requested, "close_needed": connection.close_needed, "bound": connection.bound,
        "broken": connection.broken, "session": list(connection.session), "recalled": connection.pool.recalls,
    }
    return record_client(<Client>connection, state, table) if isinstance(connection, Client) else record_server(<Server>connection, state, table)


cdef list recorded_touch(touch):
    # A Touch as plain values; None of none.
    if touch is None:
        return None
    return [touch.kinds, touch.looks, touch.statement.encode("utf-8", "surrogatepass"), [name.encode("utf-8", "surrogatepass") for name in sorted(touch.names)],
            [name.encode("utf-8", "surrogatepass") for name in sorted(touch.resets)],
            [name.encode("utf-8", "surrogatepass") for name in sorted(touch.silences)],
            [name.encode("utf-8", "surrogatepass") for name in sorted(touch.valued)]]


cdef object revived_touch(state):
    if state is None:
        return None
    kinds, looks, statement, *sets = state
    return touches.Touch(kinds, looks, statement.decode("utf-8", "surrogatepass"),
                         *[frozenset([name.decode("utf-8", "surrogatepass") for name in names]) for names in sets])


cdef dict UNTOUCHED = {
    "session": (), "base": (), "told_kinds": 0, "judgement": None, "reading": (False, 0, 0), "quoting": UNCLEAR, "refused": (), "pinned": 0, "pinned_since": 0,
    "undone": False, "silenced": False, "look_failed": False, "touches": None, "rows": None, "doubted": (), "checked": (), "types": None, "redefines": False, "strays": False, "forgets_all": False, "defines": False,
    "unnamed": (0, b"", None, None, None), "unnamed_there": (0, 0), "hub": None, "marks": [], "inbox": [], "channels": [], "mark": None,
    "marked": False, "last_pid": 0, "early": None, "early_at": -1, "epochs": None, "notified": False, "to_make": None, "made": 0, "said": None,
    "unmade": (), "unproven": (), "known": None, "counted": (), "draws": False, "recalls": False, "vouched": UNASKED, "sets_one": False, "sole": SEVERAL, "asked": False, "heard_at": None, "taken": 0,
    "recalled": None, "home": 0,
}
# The state of a connection that comes from a process which knows nothing of session state.


def begin_part(Relay relay):
    """What is revived from here on was another process's: its counts, each of which means something by itself, go on
    behind all that are here."""
    relay.shift = relay.tick


cdef int64_t counted_here(Relay relay, int64_t number) noexcept:
    # What that process counted as `number`; 0 is nothing there too. Statements without a name on servers are below it.
    return number + relay.shift if number > 0 else number - relay.shift if number < 0 else 0


cdef tuple recorded_unnamed(Client c):
    kept = (<char *>c.kept)[:c.kept_len] if c.kept_len else b""
    return c.unnamed, kept, recorded_touch(c.unnamed_touch), *recorded_shown(c.shown)


cdef tuple recorded_shown(Statement shown):
    return (None, None) if shown is None else (shown.told, shown.fixed)


cdef Statement revived_shown(Relay relay, bytes kept, told, fixed):
    # How an unnamed statement was described; one whose answer is to come the ledger has (`find_watched`).
    cdef Statement stmt
    if told is None:
        return None
    stmt = missing_statement(relay)
    stmt.name, stmt.body, stmt.key, stmt.told, stmt.fixed = b"", kept, (kept,), told, fixed
    return stmt


cdef object recorded_name(uint8_t act, name):
    # Of an UNNAMED, what there was before.
    if act != UNNAMED or name is None:
        return name
    number, was, kept, shown, touch, there = name
    return [number, was, kept, *recorded_shown(shown), recorded_touch(touch), there]


cdef object revived_name(Relay relay, uint8_t act, name):
    if act != UNNAMED or name is None:
        return name
    number, was, kept, told, fixed, touch, there = name
    number, was, there = [counted_here(relay, each) for each in (number, was, there)]
    relay.tick = max(relay.tick, number)
    return number, was, kept, revived_shown(relay, kept, told, fixed), revived_touch(touch), there


cdef int revive_unnamed(Client c, state) except -1:
    cdef bytes kept
    number, kept, touch, told, fixed = state
    c.unnamed = counted_here(c.relay, number)
    c.unnamed_touch = revived_touch(touch)
    c.relay.tick = max(c.relay.tick, c.unnamed)
    if kept:
        keep_unnamed(c, <uint8_t *>PyBytes_AS_STRING(kept), PyBytes_GET_SIZE(kept))
    c.shown = revived_shown(c.relay, kept, told, fixed)
    return 0


cdef int note_statement(Relay relay, Statement stmt, dict table) except -1:
    # Its key is told, but for the text, if new clients share it.
    table[stmt.id] = (stmt.body, list(stmt.key[1:]) if relay.statements.get(stmt.key) is stmt else None, stmt.told, stmt.fixed)
    return 0


cdef dict record_client(Client c, dict state, dict table):
    cdef Statement stmt
    names = []
    for name, stmt in (c.stmts or {}).items():
        note_statement(c.relay, stmt, table)
        names.append((name, stmt.id))
    state.update(
        statements=names, key=c.key.to_bytes(8, "big"), query_start=c.query_start, xact_start=c.xact_start,
        wait_start=c.wait_start, notified=c.notified, base=list(c.base), base_params=list(c.base_params), told_kinds=c.told_kinds,
        judgement=recorded_touch(c.judgement), unnamed=recorded_unnamed(c), reading=[c.reading, c.first_word, c.anywhere], quoting=c.quoting,
        refused=list((c.refusals or {}).items()), server=c.link.id if c.link is not None else None,
        hub=c.hub.marker if c.hub is not None else None, marks=c.hub.marks_of(c) if c.hub is not None else [], inbox=c.inbox or [], early=c.early,
        early_at=c.early_at, unproven=sorted(c.unproven or ()), home=c.home,
    )
    return state


cdef dict record_server(Server s, dict state, dict table):
    cdef Held held
    there = sorted((s.stmts or {}).values(), key=last_use)
    for held in there:
        note_statement(s.relay, held.stmt, table)
    ledger = s.ledger.record()
    for place, (kind, act, skipped, stmt, name) in enumerate(ledger["entries"]):
        if stmt is not None:
            note_statement(s.relay, stmt, table)
        ledger["entries"][place] = (kind, act, skipped, (<Statement>stmt).id if stmt is not None else None, recorded_name(act, name))
    state.update(
        told=list(s.told), statements=[(<Held>each).stmt.id for each in there], doubted=[(<Held>each).stmt.id for each in there if (<Held>each).state in (STALE_THERE, DOUBTED)],
        checked=[(<Held>each).stmt.id for each in there if (<Held>each).state == BEING_READ], known=[(<Held>each).known for each in there],
        counted=[(<Held>each).stmt.id for each in there if (<Held>each).counted], types=s.types, redefines=s.redefines, strays=s.strays, forgets_all=s.forgets_all, unnamed_there=(s.unnamed, s.unnamed_state),
        to_make=None if s.to_make is None else [list(pair) for pair in s.to_make], made=s.made, said=s.said, unmade=list((s.unmade or {}).items()), ledger=ledger, pid=s.pid, cancel_key=s.cancel_key,
        status=s.status, task=s.task, task_error=s.task_error, parting=s.parting, released=s.released,
        unsure=s.unsure, said_farewell=s.said_farewell, pinned=s.pinned, pinned_since=s.pinned_since, undone=s.undone, silenced=s.silenced,
        look_failed=s.look_failed, defines=s.defines,
        touches=None if s.touches is None else [recorded_touch(touch) for touch in s.touches],
        rows=None if s.rows is None else [list(row) for row in s.rows],
        channels=list(s.channels), hub=s.hub.marker if s.hub is not None else None, mark=s.mark, marked=s.marked, last_pid=s.last_pid,
        epochs=s.epochs, notified=s.notified, draws=s.draws, recalls=s.recalls,
        vouched=UNASKED if s.vouched == OWN else s.vouched, sets_one=s.sets_one, sole=s.sole, asked=s.asked, heard_at=s.heard_at, taken=s.taken,
    )
    return state


def statement(Relay relay, int64_t number, bytes body, key, bytes told=None, bytes fixed=None):
    """A statement under the number, and so the name on servers, that it has had. `key`: of whom it is shared, beside its
    text; None, and the truth values of older versions, of nobody who comes. `told`, `fixed`: how it was described."""
    cdef Statement stmt = Statement.__new__(Statement)
    stmt.body = body
    stmt.name = b"" if number < 0 and body else b"PGBOUNCER_%d" % number
    if number < 0:
        number = counted_here(relay, number)
        relay.tick = max(relay.tick, -number)
    stmt.id = number
    stmt.touch = touches.judge(text_of(body))
    stmt.notifies = speaks_of_notify(<uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    stmt.key = (body, *(key if isinstance(key, (list, tuple)) else ()))
    stmt.told, stmt.fixed = told, fixed
    if len(stmt.key) > 1:
        relay.statements[stmt.key] = stmt
    if relay.numbered is not None:
        relay.numbered[number] = stmt
    return stmt


def number_statements_from(Relay relay, int64_t number):
    """No new statement gets a number that some server may know already."""
    while relay.next_statement < number:
        relay.next_statement += max(1, (number - relay.next_statement) // relay.statement_step) * relay.statement_step


def share_numbers(Relay relay, int64_t number, int64_t step):
    """Statements are numbered from there on in such steps: the numbers between are other workers'."""
    relay.next_statement, relay.statement_step = number, step
    relay.numbered = WeakValueDictionary()


def same_statement(Relay relay, int64_t number, bytes body, key, bytes told=None, bytes fixed=None):
    """The statement of this number, which another worker has named: ours, if it came from here or was here before. Of
    two for the same text the one with the lower number is everybody's, so that all workers come to name it alike."""
    cdef Statement found = relay.numbered.get(number)
    cdef Statement ours
    if found is not None:
        return found
    ours = relay.statements.get((body, *key)) if key is not None else None
    found = statement(relay, number, body, key, told, fixed)
    if ours is not None and (ours.id < number or told is None):
        relay.statements[ours.key] = ours
    return found


def doubt_texts(Relay relay):
    """A client of another worker may have changed what they mean: who prepares one gets a statement of its own."""
    relay.statements.clear()


def may_pass(Server s):
    """Whether another worker can go on with it: it is free, and nothing of a client is there, or on its way from or to it."""
    return (not s.lost and s.state in (SV_IDLE, SV_USED) and s.shared() and s.clean() and s.task == NO_TASK and s.cancels == 0
            and not (s.in_mid_message() or s.hold_len or s.put_off or s.again or s.deaf or s.read_mode != PROMPT)
            and not (s.ssl is not None or s.broken or s.close_needed or s.parting != STAYS or s.defines)
            and not (s.pinned or s.touches is not None or s.channels or s.hub is not None or s.epochs or s.notified))


def receive_server(Pool pool, int fd, dict state, params, about, dict table):
    """The server of this `record`, that another worker has handed over: who waits may have it. See `revive_client`."""
    cdef Server s
    # Who parsed the unnamed statement there is told by numbers of that worker's own.
    s = revive_server(pool, fd, {**state, "unnamed_there": (0, 0)}, params, about, table)
    stirs(pool)
    return s


def last_statement(Relay relay):
    return relay.next_statement


def revive_client(Pool pool, int fd, dict state, params, about, dict table):
    """The client of this `record`, not linked yet. `table`: id -> `statement`. If it raises, nothing is left here, and
    `fd` is still the caller's."""
    cdef Client c = Client.__new__(Client)
    state = UNTOUCHED | state
    revive(c, pool, fd, state, params, about)
    c.key = int.from_bytes(state["key"], "big")
    c.query_start, c.xact_start, c.wait_start = state["query_start"], state["xact_start"], state["wait_start"]
    c.notified = state["notified"]
    c.base, c.base_params = pool.relay.intern(tuple(state["base"])), pool.relay.intern(tuple(state["base_params"]))
    revive_unnamed(c, state["unnamed"])
    c.told_kinds, c.judgement = state["told_kinds"], revived_touch(state["judgement"])
    if state["recalled"] is None and c.told_kinds & SEQUENCES:
        # It may be one that asks.
        pool.recalls = BEHIND
    c.unproven = set(state["unproven"]) or None
    if c.told_kinds:
        pool.relay.post(ClientTouched(c, touches.Touch(c.told_kinds, 0, sessions.OF_BEFORE)))
    c.reading, c.first_word, c.anywhere = state["reading"]
    c.quoting = state["quoting"]
    c.refusals = dict(state["refused"]) or None
    if state["hub"] in pool.relay.hubs:
        (<Hub>pool.relay.hubs[state["hub"]]).take_back(c, state["marks"])
    c.inbox, c.early, c.early_at, c.home = state["inbox"] or None, state["early"], state["early_at"], state["home"]
    c.inbox_bytes = sum([len(message) + NOTIFICATION_COST for message in state["inbox"]])
    for name, number in state["statements"]:
        c.remember(name, table[number])
        touch = (<Statement>table[number]).touch
        c.named_late = c.named_late or touch is not None and (<int>touch.looks) & NAMED_LATER
    settle(c, state["state"])
    return c


def revive_server(Pool pool, int fd, dict state, params, about, dict table):
    """The server of this `record`, not linked yet. See `revive_client`."""
    cdef Server s = Server.__new__(Server)
    cdef int lowat = 1
    state = UNTOUCHED | state
    revive(s, pool, fd, state, params, about)
    s.told = pool.relay.intern(tuple(state["told"]))
    s.pid, s.cancel_key, s.status, s.task = state["pid"], state["cancel_key"], state["status"], state["task"]
    s.place = getattr(about, "place", None)
    pool.relay.backends[s.place, s.pid] = s
    s.task_error, s.parting, s.released = state["task_error"], state["parting"], state["released"]
    s.unsure, s.said_farewell = state["unsure"], state["said_farewell"]
    s.undone, s.silenced, s.look_failed, s.pinned_since = state["undone"], state["silenced"], state["look_failed"], state["pinned_since"]
    s.defines = state["defines"]
    s.touches = None if state["touches"] is None else [revived_touch(touch) for touch in state["touches"]]
    s.rows = None if state["rows"] is None else [tuple(row) for row in state["rows"]]
    s.channels, s.mark, s.marked, s.last_pid = tuple(state["channels"]), state["mark"], state["marked"], state["last_pid"]
    s.hub, s.epochs, s.notified = pool.relay.hubs.get(state["hub"]), state["epochs"], state["notified"]
    s.draws, s.recalls, s.sole, s.asked, s.taken = state["draws"], state["recalls"], state["sole"], state["asked"], state["taken"]
    s.vouched, s.sets_one = state["vouched"], state["sets_one"]
    s.heard_at = pool.relay.now if state["heard_at"] is None else state["heard_at"]
    pin(s, state["pinned"])
    for touch in s.touches or ():
        if touch.kinds & pool.kept & pinning(pool):
            weigh(s, True)
    revive_statements(s, state, table)
    s.types, s.redefines, s.strays = state["types"], state["redefines"], state["strays"]
    s.forgets_all = state["forgets_all"]
    number, s.unnamed_state = state["unnamed_there"]
    s.unnamed = counted_here(pool.relay, number)
    s.to_make = None if state["to_make"] is None else [tuple(pair) for pair in state["to_make"]]
    s.made, s.said, s.unmade = state["made"], state["said"], dict(state["unmade"]) or None
    pool.relay.tick = max(pool.relay.tick, s.unnamed)
    entries = [(kind, act, skipped, table[number] if number is not None else None, revived_name(pool.relay, act, name))
               for kind, act, skipped, number, name in state["ledger"]["entries"]]
    s.ledger.revive({**state["ledger"], "entries": entries})
    settle(s, state["state"])
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat))
    if s.parting != STAYS:
        s.wake_later()
    return s


cdef int revive_statements(Server s, dict state, dict table) except -1:
    # Of one whose process did not say when it was looked at, that was long ago.
    cdef Held held
    cdef size_t place
    for place, number in enumerate(state["statements"]):
        hold_statement(s, table[number])
        held = s.stmts[table[number]]
        held.state = BEING_READ if number in state["checked"] else DOUBTED if number in state["doubted"] else HOLDS
        held.known = 0 if state["known"] is None else state["known"][place]
        held.counted = number in state["counted"]
    return 0


cdef int revive(Conn c, Pool pool, int fd, dict state, params, about) except -1:
    cdef bytes unsent = state["unsent"]
    pool.relay.take_fd(c, pool, state["id"], fd, None, state["hold"], pool.relay.intern(tuple(params)), about,
                       state["connected"])
    c.requested = state["requested"]
    c.need, c.dropping, c.broken = state["need"], state["dropping"], state["broken"]
    c.close_needed, c.bound = state["close_needed"], state["bound"]
    c.session = pool.relay.intern(tuple(state["session"]))
    pool.recalls = max(pool.recalls, state["recalled"] or 0)
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


def link_again(Client client, Server server):
    """These two were linked."""
    if server.pinned & SEQUENCES:
        server.sole = client.id
        client.home = server.id
    client.link = server
    server.link = client
    find_watched(client, server)
    if client.reading:
        # By what names the rest of its text was looked through nobody knows here.
        touched(client, server, UNREAD_CODE)
    if server.pinned & ~(LISTENS | SEQUENCES):
        client.relay.post(ServerPinned(server, client, server.pinned))
    if server.channels:
        client.relay.post(WantChannels(server, server.channels))


cdef int find_watched(Client c, Server s) except -1:
    # The statement without a name of which it is to be told what it is.
    cdef Owed *o
    cdef int i
    for i in range(s.ledger.length):
        o = s.ledger.at(i)
        if o.kind == DESCRIBE and o.act == WATCHED and c.shown is None and (<Statement>o.stmt).body == (<char *>c.kept)[:c.kept_len]:
            c.shown = <Statement>o.stmt
    return 0


def abandon(Conn connection):
    """Another process has this connection now: forget it, and neither say nor log anything."""
    cdef Relay relay = connection.relay
    if connection.lost:
        return
    epoll_ctl(relay.ep, EPOLL_CTL_DEL, connection.fd, NULL)
    connection.lost = True
    connection.pool.move(connection, NOWHERE)
    relay.graveyard.append(connection)
    if isinstance(connection, Client):
        (<Client>connection).link = None
        relay.free_slot(<Client>connection)
    else:
        (<Server>connection).link = None
        (<Server>connection).settle_loss()
    c_close(connection.fd)
    connection.fd = -1
