"""What a session has beside its transaction, and how it follows a client from server to server.

Values in, SQL and values out; no I/O. The relay asks a server with `question`, when its client has touched something
(`touches`), reads the answer with `settled`, and makes another server the same with `alignment`. The rule: what is
there the server has said; nothing of the client's own (its search_path, its operators, its functions) is called by
what we ask.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from pooler import wire
from pooler.lexer import Kind, Token, TooMuch, Unterminated, split
from pooler.touches import ALL, MOST_TOKENS, STICKY, WORDS, Held, Touch, recalls

Session = tuple[bytes, ...]
"""Parameters by name, in lower case and in order: name, value, name, value. And statements of PREPARE, by PREPARED and
their name: the text that makes them."""
Row = tuple[bytes | None, ...]
GONE = b"\0"
"""As a value: not known."""
HIDDEN = b"*"
"""As a name: code of which nothing is seen has run, and may have set names of its own choosing; the value says whose.
Whoever else comes resets all. The client who ran it keeps what is known of it."""
PREPARED = b"\1"
"""The first byte of the name of a statement of PREPARE: no parameter's is."""
OF_BEFORE = "(before the restart)"
"""As a statement: the process that has handed its client over knew it, and has told of it."""
MOST_PREPARED_BYTES = 65_536
"""Of the texts of those that follow one client."""
_ROLE, _USER = b"role", b"session_authorization"
_WHO = (_USER, _ROLE)
"""What says by whose right the rest is set: put back first, taken on last, in this order."""
_PIN_QUERIES: dict[Held, bytes] = {
    Held.LOCK: b"SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' "
    b"AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
    Held.TEMP: b"SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615::pg_catalog.oid "
    b"AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()",
    Held.HOLD: b"SELECT FROM pg_catalog.pg_cursors WHERE is_holdable",
}
"""Whether there is any, by kind; 2615 is pg_namespace. Nothing that a client may have put in the way is called."""
_CHANNELS_QUERY = b"SELECT '%d', n, NULL FROM pg_catalog.pg_listening_channels() AS heard(n)" % Held.LISTEN
"""By the names that notifications have there, in the client's encoding."""
_CHANNEL = b"%d" % Held.LISTEN
_VALUE = b"pg_catalog.encode(pg_catalog.convert_to(%s, pg_catalog.getdatabaseencoding()), 'escape')"
"""The bytes that the server has, whatever client_encoding says."""
_USER_QUERY = (
    b"SELECT '1', 'session_authorization', CASE WHEN pg_catalog.current_setting('session_authorization') "
    b"OPERATOR(pg_catalog.<>) u::pg_catalog.text THEN pg_catalog.current_setting('session_authorization') END "
    b"FROM (SELECT pg_catalog.pg_get_userbyid(usesysid) "
    b"FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())) AS logged_in(u)"
)
"""NULL for the one who has logged in."""


def question(looks: int, names: Sequence[str], *, reported: bool = False) -> bytes:
    """The query whose rows, (kind, name, value), `settled` reads. `reported`: the server tells by itself whose session
    it is."""
    parts: list[bytes] = []
    asked = [name.encode() for name in names if name.encode() not in (*_WHO, HIDDEN) and name[:1] != "\1"]
    if asked:
        values = b",".join(b"(%s::pg_catalog.text)" % _literal(name) for name in asked)
        value = _VALUE % b"pg_catalog.current_setting(n, true)"
        parts.append(b"SELECT '1', n, %s FROM (VALUES %s) AS asked(n)" % (value, values))
    if looks & Held.UNSEEN:
        parts.append(
            b"SELECT '512', name, %s FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'"
            % (_VALUE % b"setting")
        )
    if looks & (Held.UNSEEN | Held.ROLE):
        parts.append(b"SELECT '1', 'role', %s" % (_VALUE % b"pg_catalog.current_setting('role', true)"))
        if not reported:
            parts.append(_USER_QUERY)
    if looks & (Held.UNSEEN | Held.LISTEN):
        parts.append(_CHANNELS_QUERY)
    if looks & (Held.UNSEEN | Held.PREPARE):
        parts.append(
            b"SELECT '4', name, %s FROM pg_catalog.pg_prepared_statements WHERE from_sql" % (_VALUE % b"statement")
        )
    for kind, query in _PIN_QUERIES.items():
        if looks & (kind | Held.UNSEEN):
            parts.append(b"SELECT '%d', NULL, NULL WHERE EXISTS (%s)" % (kind, query))
    return b" UNION ALL ".join(parts)


def settled(
    session: Session,
    rows: Sequence[Row],
    touches: Sequence[Touch],
    base: Session,
    followed: frozenset[bytes],
    undone: bool,
    whose: bytes = b"",
    most: int = 0,
) -> tuple[Session, Session, int]:
    """What a server has now, what its client shall have, and what keeps them together (Held).

    `session`: what the server had; `base`: what the client had from its startup; `followed`: names that the server
    reports by itself; `undone`: something has failed or was rolled back meanwhile, so that a RESET may not have
    happened; `whose`: the client's mark; `most`: how many statements of PREPARE may follow it."""
    before = dict(zip(session[::2], session[1::2], strict=True))
    own = dict(zip(base[::2], base[1::2], strict=True))
    put_back, everything = PutBack(touches), looks_at_all(touches, undone)
    hidden = before.pop(HIDDEN, None)
    pins = 0
    whole = read_whole(rows)
    made = [(name, unescaped(value or b"")) for kind, name, value in rows if kind == b"4" and name is not None]
    following = followed_statements(made, most)
    if following is None:
        pins |= Held.PREPARE
    there = {name: value for name, value in before.items() if name[:1] != PREPARED}
    for kind, name, value in rows:
        assert kind is not None
        if name is None:
            pins |= int(kind)
        elif int(kind) == Held.PREPARE or name.lower() in followed or int(kind) == Held.UNSEEN:
            continue
        elif value is None or (name == _ROLE and value == b"none"):
            there.pop(name, None)
        else:
            there[name] = unescaped(value)
            if name not in _WHO and put_back.has_changed(name, before.get(name), there[name], everything):
                del there[name]
    if everything:
        asked = {name: value for name, value in there.items() if b"." in name or name in _WHO}
        there = asked | {name: value for name, value in whole.items() if name not in followed}
    if looks_for_statements(session, touches):
        there |= following or {}
    else:
        there |= {name: value for name, value in before.items() if name[:1] == PREPARED}
    wanted = {name: value for name, value in own.items() if everything or put_back.holds(name)} | there
    if any(touch.looks & Held.UNSEEN for touch in touches):
        there[HIDDEN] = wanted[HIDDEN] = whose
    elif hidden is not None and (undone or not put_back.all):
        there[HIDDEN] = wanted[HIDDEN] = hidden
    if b"pg_temp" in there.get(b"search_path", b""):
        # Whatever it makes next may be temporary.
        pins |= Held.TEMP
    for touch in touches:
        pins |= touch.kinds & STICKY
    return _flat(there), _flat(wanted), pins


def channels(rows: Sequence[Row]) -> tuple[list[Row], list[bytes]]:
    """The other rows of an answer, and the channels that the server listens to."""
    return [row for row in rows if row[0] != _CHANNEL], [row[1] or b"" for row in rows if row[0] == _CHANNEL]


def still_heard(there: Collection[bytes], touches: Sequence[Touch], undone: bool) -> set[bytes]:
    """Of the channels that its client had elsewhere, those that no UNLISTEN has ended. `undone`: whether one
    has nobody knows, since something failed or was rolled back meanwhile, or no server has said so. They stay."""
    silenced = set() if undone else {name for touch in touches for name in touch.silences}
    return set() if ALL in silenced else {name for name in there if name.decode("utf-8", "replace") not in silenced}


def looks_for_statements(session: Session, touches: Sequence[Touch]) -> bool:
    """Whether a look asks for statements of PREPARE: where there are any, or may be."""
    return any(touch.looks & (Held.PREPARE | Held.UNSEEN) for touch in touches) or any(
        name[:1] == PREPARED for name in session[::2]
    )


def followed_statements(made: Sequence[tuple[bytes, bytes]], most: int) -> dict[bytes, bytes] | None:
    """(name, text as the server tells it) -> what a Session has of them; None where one cannot be made elsewhere."""
    found: dict[bytes, bytes] = {}
    for name, statement in made:
        text = _statement_of(name, statement)
        if text is None:
            return None
        found[PREPARED + name] = text
    return found if len(found) <= most and sum(map(len, found.values())) <= MOST_PREPARED_BYTES else None


def _statement_of(name: bytes, statement: bytes) -> bytes | None:
    """The PREPARE of this name, of the Query that it came in; None if that is not certain, or if it reads otherwise by
    other settings."""
    if not name.isascii() or not statement.isascii() or name.startswith(b"PGBOUNCER_"):
        return None
    if b"\\" in statement or b"u&" in statement.lower():
        return None
    written = statement.decode()
    try:
        parts = [part.tokens for part in split(written, MOST_TOKENS)]
    except (Unterminated, TooMuch):
        return None
    named = [part for part in parts if len(part) > 1 and part[0] == "prepare" and part[1].value == name.decode()]
    return written[named[0][0].start : named[0][-1].end].encode() if len(named) == 1 else None


def statements_to_make(wanted: Session, there: Session) -> list[tuple[bytes, bytes]]:
    """(name, text) of the statements of PREPARE that a server does not have."""
    old = dict(zip(there[::2], there[1::2], strict=True))
    pairs = zip(wanted[::2], wanted[1::2], strict=True)
    return [(name[1:], text) for name, text in pairs if name[:1] == PREPARED and old.get(name) != text]


def with_unmade(wanted: Session, before: Session, names: Sequence[bytes]) -> Session:
    """And with those that could not be made where its client has just been, as it has had them."""
    had = {n: v for n, v in zip(before[::2], before[1::2], strict=True) if n[:1] == PREPARED and n[1:] in names}
    return _flat(had | dict(zip(wanted[::2], wanted[1::2], strict=True)))


def without(session: Session, names: Sequence[bytes]) -> Session:
    """Without these statements of PREPARE."""
    gone = {PREPARED + name for name in names}
    return _flat({n: v for n, v in zip(session[::2], session[1::2], strict=True) if n not in gone})


def looks_at_all(touches: Sequence[Touch], undone: bool) -> bool:
    """Whether all settings are asked for: code of which nothing is seen has run, or nobody knows whether a RESET has
    happened."""
    return any(touch.looks & Held.UNSEEN or (undone and touch.resets) for touch in touches)


def read_whole(rows: Sequence[Row]) -> dict[bytes, bytes]:
    """All that was set in the session, but names of the client's own."""
    return {name.lower(): unescaped(value or b"") for kind, name, value in rows if name is not None and kind == b"512"}


class PutBack:
    """Which parameters were reset last, and not set again behind it."""

    def __init__(self, touches: Sequence[Touch]) -> None:
        self.all = False
        self._reset: set[str] = set()
        self._set: set[str] = set()
        for touch in touches:
            if ALL in touch.resets:
                self.all = True
                self._set.clear()
            self._reset = self._reset - touch.names | touch.resets
            self._set = self._set - touch.resets | (touch.names - touch.resets)

    def __bool__(self) -> bool:
        return bool(self._reset)

    def has_changed(self, name: bytes, before: bytes | None, value: bytes, everything: bool) -> bool:
        """Whether this value is what a RESET has left. One of the client's own is empty then."""
        if everything:
            # What else has been put back is not among all that is set.
            return not value and before != value and name.decode("utf-8", "replace") not in self._set
        return self.holds(name) and before != value

    def holds(self, name: bytes) -> bool:
        written = name.decode("utf-8", "replace")
        return written in self._reset or (self.all and written not in self._set and name not in _WHO)


_ESCAPED = re.compile(rb"\\(?:([0-7]{3})|\\)")


def unescaped(value: bytes) -> bytes:
    """From the format `escape`."""
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 8),)) if found[1] else b"\\", value)


def _flat(values: dict[bytes, bytes]) -> Session:
    return tuple(part for name in sorted(values) for part in (name, values[name]))


def hides(wanted: Session, there: Session) -> bool:
    """Whether somebody else may have left names behind that are not known."""
    old, new = (dict(zip(session[::2], session[1::2], strict=True)) for session in (there, wanted))
    return HIDDEN in old and new.get(HIDDEN) != old[HIDDEN]


def alignment(wanted: Session, there: Session, others: bytes, user: bytes | None = None) -> bytes:
    """The statements by which a server that has `there` gets `wanted`, but for `statements_to_make`.

    `others`: those of the tracked parameters, of all of them where something `hides`; `user`: session_authorization,
    if that is tracked and another. What needs the right of the role that has logged in comes before another role is
    taken on; what may end all of it by a time limit is put back first."""
    old = dict(zip(there[::2], there[1::2], strict=True))
    new = dict(zip(wanted[::2], wanted[1::2], strict=True))
    unmade = [name for name, text in old.items() if name[:1] == PREPARED and new.get(name) != text]
    old, new = ({name: value for name, value in each.items() if name[:1] != PREPARED} for each in (old, new))
    who = {name: new[name] for name in _WHO if name in new} | ({} if user is None else {_USER: user})
    said = [b"RESET ROLE;"] if _ROLE in old or _USER in old or user is not None else []
    if _USER in old or user is not None:
        said.append(b"RESET SESSION AUTHORIZATION;")
    if hides(wanted, there):
        said.append(b"RESET ALL;")
        old = {}
    gone = [name for name in old if name not in new and name not in (*_WHO, HIDDEN)]
    said += [_reset(name) for name in sorted(gone, key=lambda name: name != b"statement_timeout")]
    said.append(others)
    changed = [(name, value) for name, value in new.items() if name not in (*_WHO, HIDDEN) and old.get(name) != value]
    said += [given(name, value) for name, value in changed]
    said += [given(name, who[name]) for name in _WHO if name in who]
    return _unmaking(unmade, there) + b"".join(said)


def _unmaking(names: Sequence[bytes], there: Session) -> bytes:
    """Where it is not known whether they are there, all go, those of the protocol as well."""
    if any(name in names and value == GONE for name, value in zip(there[::2], there[1::2], strict=True)):
        return b"DEALLOCATE ALL;"
    return b"".join(b'DEALLOCATE "%s";' % name[1:].replace(b'"', b'""') for name in names)


def given(name: bytes, value: bytes) -> bytes:
    """By the function, which takes a value as the server has told it: SET would quote a list again."""
    return b"SELECT pg_catalog.set_config(%s,%s,false);" % (_literal(name), _literal(value))


def _reset(name: bytes) -> bytes:
    if not name.isascii():
        # One of the client's own, which is empty when it is reset.
        return given(name, b"")
    return b"RESET %s;" % b".".join(b'"%s"' % part.replace(b'"', b'""') for part in name.split(b"."))


_SPECIAL = re.compile(rb"[\\\x80-\xff]")


def _literal(value: bytes) -> bytes:
    """One that reads the same whatever standard_conforming_strings and client_encoding say."""
    text = value.replace(b"'", b"''")
    if not _SPECIAL.search(text):
        return b"'" + text + b"'"
    return b" E'" + _SPECIAL.sub(lambda found: b"\\%03o" % found[0][0], text) + b"'"


def startup_session(given: Mapping[str, str]) -> Session:
    """Parameters of a client's startup packet, as a Session."""
    return _flat({name.lower().encode(): value.encode("utf-8", "surrogateescape") for name, value in given.items()})


def doubted(session: Session) -> Session:
    """What a server has after a query that may have taken all."""
    return _flat({name: GONE for name in session[::2]})


Values = tuple[bytes | None, ...]
"""Of the tracked parameters, in the relay's order."""


def joined(session: Session, places: Mapping[bytes, int], params: Values) -> Session:
    """A session with those tracked parameters that stand at `places`."""
    tracked = {name: params[place] for name, place in places.items()}
    own = dict(zip(session[::2], session[1::2], strict=True))
    return _flat(own | {name: value for name, value in tracked.items() if value is not None})


def parted(values: Session, params: Values, places: Mapping[bytes, int]) -> tuple[Session, Values]:
    """The opposite of `joined`: a session, and the tracked parameters."""
    known = dict(zip(values[::2], values[1::2], strict=True))
    changed = list(params)
    for name, place in places.items():
        changed[place] = known.pop(name, None)
    return _flat(known), tuple(changed)


def restored(
    params: Values, base: Values, tracked: Sequence[bytes], touches: Sequence[Touch], rows: Sequence[Row], undone: bool
) -> Values:
    """A client's tracked parameters after a RESET: those of its startup again."""
    put_back, everything = PutBack(touches), looks_at_all(touches, undone)
    if not put_back and not everything:
        return params
    whole = read_whole(rows)
    return tuple(
        own
        if own is not None
        and name not in _WHO
        and (name.lower() not in whole if everything else put_back.holds(name.lower()))
        else now
        for name, own, now in zip(tracked, base, params, strict=True)
    )


def refusal(kinds: int, statement: str, by_policy: bool) -> bytes:
    """ErrorResponse of a statement that is not carried out: nobody could take back what it leaves behind, or what
    it asks for may be another's."""
    if kinds == Held.SEQUENCE and not by_policy:
        return wire.error_response(
            "ERROR",
            "55000",
            f"currval and lastval of an earlier transaction are not known on this server: {statement}",
            detail="Other clients may have drawn from the sequence here since.",
            hint="Draw again, by INSERT or nextval: from now on this pool keeps the server for the client's next "
            "transaction.",
        )
    names = ", ".join(WORDS[kind] for kind in Held if kinds & kind)
    why = "session_state = refuse" if by_policy else "max_pinned servers of this pool are pinned already"
    hint = (
        "Use a transaction's own means (SET LOCAL, pg_advisory_xact_lock), or a pool in session mode."
        if by_policy
        else "Wait until others have let go, or raise max_pinned."
    )
    return wire.error_response(
        "ERROR", "0A000", f"session state is refused in this pool ({names}): {statement}", detail=why, hint=hint
    )


TAKEN_BACK = b"ROLLBACK TO SAVEPOINT pooler_asks; RELEASE SAVEPOINT pooler_asks"
"""Behind a question of `asks_whose` that has failed: a transaction goes on where it was."""
_TOUCHED = (
    "SELECT (SELECT pg_catalog.string_agg(relation::pg_catalog.text, ',' ORDER BY relation::pg_catalog.text)"
    " FROM pg_catalog.pg_locks WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    " AND locktype OPERATOR(pg_catalog.=) 'relation' AND mode OPERATOR(pg_catalog.=) 'RowExclusiveLock')"
)
"""Whoever draws from a sequence locks it up to the end of the transaction, and so does who asks for its value."""
_OF_ARGUMENTS = {"regclass": "c", "text": "t", "pg_get_serial_sequence": "p"}
_SHAPES = {"lastval": r"\(\)", "currval": r"\((?:s|p\(s(?:::t)?,s(?:::t)?\))(?:::[ct])*\)"}
"""Behind the name, what is asked for as it is: constants (s), the words of _OF_ARGUMENTS, and marks. What else there is
may be a syntax error, ahead of the savepoint, or has another meaning."""


def asks_whose(text: bytes, *, sets_one: bool = False) -> bytes | None:
    """What tells, in a transaction, whether the values that currval and lastval in `text` are to give were drawn in it;
    None where that cannot be asked without doing more than `text` does: their arguments are no constants, or may mean
    another one behind what else it does. `sets_one`: one was set in it, which no lastval tells of."""
    try:
        statements = [statement.tokens for statement in split(text.decode("ascii"), MOST_TOKENS) if statement.tokens]
    except (UnicodeDecodeError, Unterminated, TooMuch):
        return None
    tokens = statements[0] if len(statements) == 1 else []
    calls = {_call(tokens, at) for at in range(len(tokens)) if recalls(tokens, at)}
    calls |= {""} if sets_one and any(call.endswith("lastval()") for call in calls) else set()
    if not calls or "" in calls or b"\\" in text or any(token == "set_config" for token in tokens):
        return None
    asked = "; ".join(f"SELECT {call}" for call in sorted(calls))
    lone = f", {str(len(calls) == 1).lower()}"
    return f"SAVEPOINT pooler_asks; {_TOUCHED}{lone}; {asked}; {_TOUCHED}{lone}; RELEASE SAVEPOINT pooler_asks".encode()


def _call(tokens: Sequence[Token], at: int) -> str:
    """The call that begins there, by names that nothing can be in the way of; empty where it may be anything."""
    name, said, shape, depth = tokens[at].value, [f"pg_catalog.{tokens[at].value}"], "", 0
    if tokens[at].kind is not Kind.WORD or (at > 1 and tokens[at - 1] == "." and tokens[at - 2] != "pg_catalog"):
        return ""
    for token in tokens[at + 1 :]:
        depth += (token == "(") - (token == ")")
        if token.kind is Kind.STRING or token.value in ("(", ")", ",", "::"):
            said.append(token.text)
            shape += "s" if token.kind is Kind.STRING else token.value
        elif token.kind is Kind.WORD and token.value in _OF_ARGUMENTS:
            said.append(f"pg_catalog.{token.value}")
            shape += _OF_ARGUMENTS[token.value]
        elif token.value not in ("pg_catalog", "."):
            return ""
        if depth <= 0:
            return "".join(said) if re.fullmatch(_SHAPES[name], shape) else ""
    return ""


def is_drawn_here(rows: Sequence[Row]) -> bool:
    """Of the whole answer to `asks_whose`: asking has touched nothing that the transaction had not."""
    return len(rows) > 1 and rows[0] == rows[-1]


def draws_nothing(rows: Sequence[Row], said: bytes) -> bool:
    """Of an answer that is an error: nobody has drawn from the one that was asked for."""
    return len(rows) == 1 and rows[0][1] == b"t" and b"\0C55000\0" in said
