"""What a statement may leave behind in its session: settings, a role, locks, temporary tables, and so on.

A text in, a Touch or None out; no I/O, nothing kept. The relay asks when it has seen a suspicious word, and remembers
the answer with the text. The rule: what is said here is where to look, never what is there: whether a SET has
lasted only the server knows, which is asked when the transaction has ended. So too much said costs a question, and
too little would cost the next client its ignorance: who hides a word in an escape, or runs code of which nothing is
seen from here (DO, CALL), is looked at whole. (PostgreSQL documentation, "SQL Commands", "System Administration
Functions".)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntFlag
from itertools import pairwise
from typing import NamedTuple

from pooler.lexer import Kind, Token, TooMuch, Unterminated, split, tokenize


class Held(IntFlag):
    """What a session can hold beyond its transactions, one bit a kind; by their names they are spoken of everywhere."""

    SETTING = 1
    ROLE = 2
    PREPARE = 4
    LOCK = 8
    TEMP = 16
    HOLD = 32
    LISTEN = 64
    SEQUENCE = 128
    LOAD = 256
    UNSEEN = 512
    """Code ran of which nothing is seen from here."""


ALL = "*"
"""Every name, in `resets`."""
WORDS: dict[Held, str] = {
    Held.SETTING: "setting",
    Held.ROLE: "role",
    Held.PREPARE: "prepare",
    Held.LOCK: "advisory_lock",
    Held.TEMP: "temp",
    Held.HOLD: "cursor_hold",
    Held.LISTEN: "listen",
    Held.SEQUENCE: "sequence",
    Held.LOAD: "load",
    Held.UNSEEN: "code",
}
LONGEST_NAME = 63
"""Bytes of a name."""
SHOWN = 200
"""Characters of a statement that are shown."""
MOST_TOKENS = 20_000
"""A text of more is looked at whole."""
MOST_NAMES = 100
"""Of parameters, in one text."""
OF_TRANSACTION = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable", "seed"})
"""What is set for one transaction, or cannot be read back."""
CHARACTERISTICS = ("default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable")
PHRASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("local",): (),
    ("transaction",): (),
    ("constraints",): (),
    ("session", "characteristics"): CHARACTERISTICS,
    ("session", "authorization"): ("session_authorization",),
    ("time", "zone"): ("TimeZone",),
    ("names",): ("client_encoding",),
    ("schema",): ("search_path",),
    ("xml", "option"): ("xmloption",),
    ("seed",): (),
    ("all",): (ALL,),
}
"""What stands behind SET and RESET, and the parameters that are meant by it."""
RUNNERS = frozenset({"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite"}) | {
    f"{what}_to_xml{schema}" for what in ("table", "schema", "database") for schema in ("", "_and_xmlschema")
}
"""Functions that carry out a text, or read views that are not named in it."""
SETTINGS_VIEW = "pg_settings"
"""By a rule of PostgreSQL's own its UPDATE is a SET, of names that nobody can tell from the text."""
ROLES = frozenset({"role", "session_authorization"})
MEANINGS = ROLES | {"search_path"}
"""Parameters by which a text means something else."""


class Touch(NamedTuple):
    """What a text may leave behind. `kinds`: what it makes; `looks`: what is to be looked for, that which it may have
    ended too; `names`: parameters whose values are to be asked for; `resets`: those of them that were put back, ALL for
    all: what was put back last, not set again behind it; `statement`: the first that does so, with its constants left
    out; `silences`: channels that are no longer listened to behind it, ALL for all; `valued`: "2 work_mem" where that
    gets the second value of a Bind, by a NULL it is put back; "2 $1" where its name is the first; `others`: the
    statements behind that one which make a kind first, with their kinds."""

    kinds: int
    looks: int
    statement: str
    names: frozenset[str] = frozenset()
    resets: frozenset[str] = frozenset()
    silences: frozenset[str] = frozenset()
    valued: frozenset[str] = frozenset()
    others: tuple[tuple[int, str], ...] = ()

    def said(self, kinds: int) -> str:
        """The first statement that makes one of `kinds`."""
        return next((text for made, text in self.others if made & kinds), self.statement)


class Effect(NamedTuple):
    """What calling something of the database's own may leave behind. `written`: only a text that writes calls it;
    `function`: by f(…) or x.f, else any mention may."""

    touch: Touch
    written: bool
    function: bool = False


Effects = Mapping[str, Sequence[Effect]]
"""By the name, in lower case."""
WRITERS = frozenset({"insert", "update", "delete", "merge", "copy", "truncate"})


class _Findings:
    def __init__(self, *, in_code: bool = False) -> None:
        self.in_code = in_code
        self.kinds = Held(0)
        self.looks = 0
        self.names: set[str] = set()
        self.resets: set[str] = set()
        self.silences: set[str] = set()
        self.valued: dict[str, str] = {}
        """By a parameter's name: the number of its value in a Bind."""
        self.draws = False
        """Whether a sequence has given a value so far."""

    def parameter(self, written: str, *, reset: bool = False) -> None:
        name = lowered(written)
        if name in OF_TRANSACTION:
            return
        kind = Held.ROLE if name in ROLES else Held.SETTING
        self.valued.pop(name, None)
        if reset:
            self.looks |= kind
            self.resets |= {name} if name != ALL else {ALL, *self.names}
        else:
            self.makes(kind)
            self.resets.discard(name)
        if name != ALL:
            self.names.add(name)

    def makes(self, kind: Held) -> None:
        self.kinds |= kind
        self.looks |= kind

    def recalls(self) -> None:
        self.makes(Held.SEQUENCE)
        if not self.draws:
            self.looks |= RECALLS

    def adds(self, touch: Touch) -> None:
        self.kinds |= touch.kinds
        self.looks |= touch.looks
        self.names |= touch.names


def lowered(name: str) -> str:
    """As PostgreSQL compares names of parameters: ASCII letters only."""
    return name.translate(_LOWERED)


_LOWERED = {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def judge(text: bytes, effects: Effects | None = None) -> Touch | None:
    """What the statements of a Query or Parse may leave behind in their session; None: nothing. `effects`: of what the
    database has of its own."""
    written = text.decode("utf-8", "replace")
    found, shown = _Findings(), list[tuple[int, str]]()
    try:
        statements = split(written, MOST_TOKENS)
    except (Unterminated, TooMuch):
        return Touch(Held.UNSEEN, Held.UNSEEN, "(not understood)", frozenset(_hints(written)))
    if _is_unsure(written):
        found.makes(Held.UNSEEN)
        found.names.update(_hints(written), *(_own_names(statement.tokens) for statement in statements))
    for statement in statements:
        before = found.kinds
        _examine(statement.tokens, found)
        if effects:
            _call(statement.tokens, effects, found)
        made = found.kinds & ~before
        if made or (found.looks and not shown):
            shown.append((int(made), _plain(statement.tokens)))
    return _touch(found, shown)


def _is_unsure(written: str) -> bool:
    """Whether what is quoted, and what is not, depends on a setting of the server's; or a name is spelled by numbers,
    or in another encoding."""
    return "\\'" in written or 'u&"' in written.lower() or "\ufffd" in written


def judge_body(source: str) -> Touch | None:
    """What the body of a function in SQL or PL/pgSQL may leave behind, whatever way it takes; None: nothing."""
    found = _Findings(in_code=True)
    try:
        tokens = tokenize(source, MOST_TOKENS)
    except (Unterminated, TooMuch):
        return Touch(Held.UNSEEN, Held.UNSEEN, "", frozenset(_hints(source)))
    if _is_unsure(source):
        found.makes(Held.UNSEEN)
        found.names.update(_hints(source))
    starts = [at for at in range(len(tokens)) if at == 0 or tokens[at - 1].value in STARTS]
    for start, end in pairwise([*starts, len(tokens)]):
        statement = tokens[start:end]
        _examine(statement, found)
        if any(token == "execute" for token in statement):
            _code(statement, found)
    if FORGETTING in source.lower():
        found.looks |= FORGETS | Held.PREPARE
    if found.resets:
        # Nobody knows what is set then.
        found.makes(Held.UNSEEN)
        found.resets.clear()
    found.looks &= ~(NAMED_LATER | DRAWS | REDEFINES)
    return _touch(found, [])


STARTS = frozenset({";", "begin", "then", "else", "loop", ">>", "atomic"})
"""Behind these a statement begins, in a body."""


def _touch(found: _Findings, shown: Sequence[tuple[int, str]]) -> Touch | None:
    if not found.looks:
        return None
    if len(found.names) > MOST_NAMES:
        found.makes(Held.UNSEEN)
    names = frozenset(sorted(found.names)[:MOST_NAMES])
    silences = frozenset(found.silences)
    first, others = shown[0][1] if shown else "", tuple(shown[1:])
    valued = frozenset(f"{number} {name}" for name, number in found.valued.items())
    return Touch(int(found.kinds), int(found.looks), first, names, frozenset(found.resets), silences, valued, others)


def _plain(tokens: Sequence[Token]) -> str:
    """The statement, its constants left out: they may be secrets, and are different each time."""
    said: list[str] = []
    for before, token in zip((None, *tokens), tokens, strict=False):
        if before is not None and token.start > before.end:
            said.append(" ")
        said.append("?" if token.kind in (Kind.STRING, Kind.NUMBER) else token.text)
    return "".join(said)[:SHOWN]


def _examine(tokens: Sequence[Token], found: _Findings) -> None:
    first = tokens[0].value if tokens[0].kind is Kind.WORD else ""
    if first in FIRST:
        FIRST[first](tokens, found)
    words = [token.value for token in tokens if token.kind is Kind.WORD]
    for at, token in enumerate(tokens):
        if token.kind not in (Kind.WORD, Kind.QUOTED):
            continue
        word = token.value
        if word == "set_config":
            _set_config(tokens, at, found)
        elif "advisory_unlock" in word:
            found.looks |= Held.LOCK
        elif "advisory" in word and "xact" not in word:
            found.makes(Held.LOCK)
        elif word in RUNNERS or (word == "execute" and first in ("explain", "create") and at):
            _code(tokens, found)
        elif word == SETTINGS_VIEW and "update" in words:
            found.makes(Held.SETTING)
            found.looks |= Held.UNSEEN
        elif word in RECALLING and recalls(tokens, at, in_code=found.in_code):
            found.recalls()
        elif word in DRAWING:
            found.looks |= DRAWS | (_sets(tokens, at) if word == "setval" else 0)
            found.draws = True
        elif word in ("temp", "temporary") or word.startswith("pg_temp"):
            found.makes(Held.TEMP)
    if "restart" in words:
        found.looks |= SETS
    fills = not FILLING.isdisjoint(words)
    found.draws |= fills
    if fills and first not in FILLING:
        found.looks |= DRAWS
    if _makes_table(words):
        found.looks |= REDEFINES


def recalls(tokens: Sequence[Token], at: int, *, in_code: bool = False) -> bool:
    """Whether currval or lastval is called there, or may be: a column may have that name. (`($1).currval` is a call
    too, and in a function's body `name.currval`.)"""
    token, before, of = tokens[at], tokens[at - 1] if at else None, tokens[at - 2] if at > 1 else None
    if token.kind not in (Kind.WORD, Kind.QUOTED) or token.value.lower() not in RECALLING:
        return False
    if at + 1 < len(tokens) and tokens[at + 1] == "(":
        return True
    return before == "." and (in_code or of is None or of.kind not in (Kind.WORD, Kind.QUOTED))


def _sets(tokens: Sequence[Token], at: int) -> int:
    """What setval leaves that is called there: with two arguments, currval gives its session the second one."""
    depth = commas = 0
    for token in tokens[at + 1 :]:
        depth += (token in ("(", "[")) - (token in (")", "]"))
        commas += depth == 1 and token == ","
        if depth <= 0:
            break
    return SETS_ONE if commas == 1 and depth == 0 else SETS


def _makes_table(words: Sequence[str]) -> bool:
    """Whether it is a SELECT INTO or CREATE TABLE AS, by its words."""
    first = words[0] if words else ""
    if first == "create" or (first == "explain" and "create" in words):
        return "as" in words and not _MADE.isdisjoint(words)
    return first in _READERS and any(word == "into" and before not in FILLING for before, word in pairwise(words))


_MADE = frozenset({"table", "materialized"})
_READERS = frozenset({"select", "with", "explain"})


def _call(tokens: Sequence[Token], effects: Effects, found: _Findings) -> None:
    """By name, whatever it is the name of in this statement."""
    words: dict[str, bool] = {}
    for at, token in enumerate(tokens):
        if token.kind in (Kind.WORD, Kind.QUOTED):
            word, behind = token.value.lower(), tokens[at + 1] if at + 1 < len(tokens) else None
            calls = behind == "(" or (at > 0 and tokens[at - 1] == ".")
            words[word] = words.get(word, False) or calls
    writes = not words.keys().isdisjoint(WRITERS)
    called = [
        effect.touch
        for word, calls in words.items()
        for effect in effects.get(word, ())
        if (writes or not effect.written) and (calls or not effect.function)
    ]
    for touch in called:
        found.adds(touch)
        if touch.kinds & Held.UNSEEN:
            found.names.update(_own_names(tokens))


def _set_config(tokens: Sequence[Token], at: int, found: _Findings) -> None:
    """set_config(name, value, is_local): the name if it is a constant, else nobody knows."""
    depth, arguments = 0, [[]]  # type: tuple[int, list[list[Token]]]
    for token in tokens[at + 1 :]:
        depth += (token == "(") - (token == ")")
        if depth <= 0:
            break
        if token == "," and depth == 1:
            arguments.append([])
        elif not (token == "(" and depth == 1):
            arguments[-1].append(token)
    name = arguments[0]
    known = _constant(name)
    if len(arguments) == 3 and [token.value for token in arguments[2]] in (["true"], ["t"], ["on"], ["1"]):
        if not known or lowered(name[0].value) in MEANINGS:
            found.looks |= STRAYS
        if not known or lowered(name[0].value) == "search_path":
            _path(arguments[1], found, sure=_constant(arguments[1]))
        return
    if known:
        found.parameter(name[0].value, reset=len(arguments) == 3 and _is_null(arguments[1]))
    else:
        found.makes(Held.UNSEEN)
        found.names.update(_own_names(tokens))
        if any(token.kind is Kind.PARAMETER for token in name):
            found.looks |= NAMED_LATER
    number = _number(arguments[1]) if len(arguments) == 3 else ""
    if number and (known or _number(name)):
        found.looks |= NAMED_LATER
        found.valued[lowered(name[0].value) if known else "$" + _number(name)] = number


def _constant(argument: Sequence[Token]) -> bool:
    return bool(argument) and argument[0].kind is Kind.STRING and (len(argument) == 1 or argument[1] == "::")


def _is_null(argument: Sequence[Token]) -> bool:
    """Without a value it is put back."""
    return bool(argument) and argument[0] == "null" and (len(argument) == 1 or argument[1] == "::")


def _number(argument: Sequence[Token]) -> str:
    """Of a value that is one of a Bind's as it is, be it cast; else nothing."""
    value = [token for token in argument if token not in ("(", ")")]
    if not value or value[0].kind is not Kind.PARAMETER or (len(value) > 1 and value[1] != "::"):
        return ""
    return value[0].text[1:] if all(token.kind is Kind.WORD or token == "." for token in value[2:]) else ""


def _path(value: Sequence[Token], found: _Findings, *, sure: bool) -> None:
    """A search_path, be it for the transaction only: what is made by it may be temporary."""
    if any("pg_temp" in token.value.lower() for token in value):
        found.makes(Held.TEMP)
    elif not sure:
        found.looks |= Held.TEMP | MAY_LEAD


def _set(tokens: Sequence[Token], found: _Findings) -> None:
    rest = list(tokens[1:])
    phrase = _phrase(rest)
    if phrase is None and rest and rest[0] == "session":
        rest = rest[1:]
        phrase = _phrase(rest)
    if rest and rest[0] == "local":
        _local(rest[1:], found)
    names = (_dotted(rest),) if phrase is None else phrase
    reset = bool(rest) and (tokens[0] == "reset" or rest[-1] == "default" or _is_default(rest))
    for name in names:
        if lowered(name) == "search_path":
            _path(rest, found, sure="&" not in [token.value for token in rest])
        if name:
            found.parameter(name, reset=reset)


def _is_default(rest: Sequence[Token]) -> bool:
    """Other words for it."""
    return (rest[0] == "role" and rest[-1] == "none") or (rest[0] == "time" and rest[-1] == "local")


def _local(rest: Sequence[Token], found: _Findings) -> None:
    phrase = _phrase(rest)
    if any(lowered(name) in MEANINGS for name in ((_dotted(rest),) if phrase is None else phrase)):
        found.looks |= STRAYS
    if rest and (rest[0] == "schema" or lowered(_dotted(rest)) == "search_path"):
        _path(rest, found, sure="&" not in [token.value for token in rest])


def _phrase(rest: Sequence[Token]) -> tuple[str, ...] | None:
    """`role` is a parameter like others, and so it is named."""
    for words, names in PHRASES.items():
        if tuple(token.value for token in rest[: len(words)] if token.kind is Kind.WORD) == words:
            return names
    return None


def _dotted(rest: Sequence[Token]) -> str:
    """A parameter's name, in parts."""
    parts: list[str] = []
    for at, token in enumerate(rest):
        if at % 2 == 0 and token.kind in (Kind.WORD, Kind.QUOTED):
            parts.append(token.value if token.kind is Kind.QUOTED else token.text)
        elif not (at % 2 and token == "."):
            break
    return ".".join(parts)


def _discard(tokens: Sequence[Token], found: _Findings) -> None:
    what = tokens[1].value if len(tokens) > 1 else ""
    if what == "all":
        found.looks |= Held.SETTING | Held.ROLE | Held.LISTEN | Held.PREPARE | PINNING
        found.silences.add(ALL)
        found.resets |= {ALL, *ROLES, *found.names}
    elif what in ("temp", "temporary"):
        found.looks |= Held.TEMP


def _unlisten(tokens: Sequence[Token], found: _Findings) -> None:
    """What is listened to again behind it the server tells."""
    found.looks |= Held.LISTEN
    if len(tokens) > 1:
        found.silences.add(ALL if tokens[1] == "*" else _channel(tokens[1]))


def _channel(token: Token) -> str:
    """The name as PostgreSQL has it: without quotes in lower case, and cut."""
    name = token.value if token.kind is Kind.QUOTED else lowered(token.text)
    return name.encode()[:LONGEST_NAME].decode("utf-8", "ignore")


def _prepare(tokens: Sequence[Token], found: _Findings) -> None:
    if len(tokens) > 1 and tokens[1] == "transaction":
        return
    found.makes(Held.PREPARE)


def _declare(tokens: Sequence[Token], found: _Findings) -> None:
    for before, token in pairwise(tokens):
        if token == "hold" and before == "with":
            found.makes(Held.HOLD)


def _code(tokens: Sequence[Token], found: _Findings) -> None:
    """DO, CALL, and EXECUTE of what was prepared long ago: of what runs there only names can be guessed."""
    found.makes(Held.UNSEEN)
    found.names.update(_own_names(tokens))
    for token in tokens:
        if token.kind is Kind.STRING:
            found.names.update(_hints(token.value))
            _by_words(token.value.lower(), found)


def _by_words(code: str, found: _Findings) -> None:
    """What is not read: by words alone, in their order."""
    if FORGETTING in code:
        found.looks |= FORGETS | Held.PREPARE
    at = min((code.find(word) for word in RECALLING if word in code), default=-1)
    found.draws |= at >= 0 and any(word in code[:at] for word in (*DRAWING, *FILLING))
    if at >= 0:
        found.recalls()
    found.looks |= DRAWS
    found.draws = True


def _kind(kind: Held) -> Callable[[Sequence[Token], _Findings], None]:
    def note(tokens: Sequence[Token], found: _Findings) -> None:
        found.makes(kind)

    return note


_HINT = re.compile(
    r"""\bset\s++(?:session\s++)?([\w.]++)\s*+(?:=|to\b)|set_config\s*+\(\s*+'([\w.]++)'""", re.IGNORECASE
)


def _hints(text: str) -> Iterator[str]:
    """Names of parameters in code that is not read."""
    for number, match in enumerate(_HINT.finditer(text)):
        if number >= MOST_NAMES:
            return
        name = lowered(match[1] or match[2])
        if name not in OF_TRANSACTION:
            yield name


_OWN_NAME = re.compile(r"[^\W\d][\w$]*+(?:\.[^\W\d][\w$]*+)++")


def _own_names(tokens: Sequence[Token]) -> Iterator[str]:
    """Constants that may be names of the client's own."""
    for token in tokens[: 10 * MOST_NAMES]:
        if token.kind is Kind.STRING and _OWN_NAME.fullmatch(token.value):
            yield lowered(token.value)


LARGE_OBJECTS = frozenset(
    {715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172, 3457, 3458, 3459, 3460}
)
"""Functions that drivers call by their number, and which leave nothing behind (pg_proc.dat of PostgreSQL)."""


def judge_call(number: int) -> Touch | None:
    """What the function of this number, in a FunctionCall, may leave behind."""
    if number in LARGE_OBJECTS:
        return None
    if number in RECALLING_NUMBERS:
        return Touch(Held.SEQUENCE, Held.SEQUENCE | RECALLS, f"(function {number})")
    return Touch(Held.UNSEEN, Held.UNSEEN, f"(function {number})")


FIRST: dict[str, Callable[[Sequence[Token], _Findings], None]] = {
    "set": _set,
    "reset": _set,
    "discard": _discard,
    "prepare": _prepare,
    "declare": _declare,
    "listen": _kind(Held.LISTEN),
    "unlisten": _unlisten,
    "load": _kind(Held.LOAD),
    "do": _code,
    "call": _code,
    "execute": _code,
}
"""By a statement's first word: the only places where these words mean what they say."""
PINNING = Held.LOCK | Held.TEMP | Held.HOLD | Held.LOAD
"""What stays with the server where it was made."""
STICKY = Held.LOAD
"""What does not end before its server does."""
MAY_LEAD = 1 << 12
"""In `looks`: of a search_path that may lead to temporary tables."""
NAMED_LATER = 1 << 13
"""In `looks`: a parameter's name, or what it is set to, is a value of the Bind (`bound_names`)."""
UNREAD = 1 << 14
"""In `looks`, of a text that was not read to its end: what it sets nobody knows, as long as its client is there."""
UNTOLD = 1 << 24
"""Of what keeps a server with its client: that the server has not said what is there. Nobody else gets it."""
FOLLOWING = Held.SETTING | Held.ROLE | Held.PREPARE | Held.UNSEEN | UNREAD
"""What is asked for by name, or as a whole: it may have ended anywhere."""
DRAWS = 1 << 15
"""In `looks`: a sequence gives a value by name, or code runs that may have one given."""
RECALLS = 1 << 16
"""In `looks`: currval or lastval tells of a value that nothing in this text ahead of it was given."""
STRAYS = 1 << 17
"""In `looks`: up to the end of the transaction a text may mean something else."""
FORGETS = 1 << 18
"""In `looks`: code that may deallocate statements, without a tag that tells so."""
REDEFINES = 1 << 19
"""In `looks`: a table is made, of which the tag tells as of a SELECT."""
SETS = 1 << 20
"""In `looks`: a sequence may be set or begun anew, which locks it as a draw does, and leaves no value."""
SETS_ONE = 1 << 21
"""In `looks`: a sequence is set, and has a value for its session by that; lastval is still that of another one."""
FORGETTING = "deallocate"
RECALLING = frozenset({"currval", "lastval"})
RECALLING_NUMBERS = frozenset({1575, 2559})
DRAWING = frozenset({"nextval", "setval"})
FILLING = frozenset({"insert", "merge", "copy"})
"""What may have a column's default draw from a sequence."""
TEMPORARY_PATH = Touch(0, Held.TEMP | MAY_LEAD, "")
"""Of a client that came with pg_temp in its search_path."""


def bound_names(touch: Touch, message: bytes) -> Touch:
    """With the names of the client's own that are among the values of a Bind message, as far as it is here, and those
    that are put back by a NULL. The Touch itself where there are none."""
    try:
        at = message.index(b"\0", message.index(b"\0", 5) + 1) + 1
        (formats,) = _INT16.unpack_from(message, at)
        at += 2 + 2 * formats
        (values,) = _INT16.unpack_from(message, at)
        at += 2
        names, bound = set(touch.names), dict[str, str | None]()
        for number in range(1, min(values, MOST_NAMES) + 1):
            (size,) = _INT32.unpack_from(message, at)
            at += 4 + max(size, 0)
            value = message[at - max(size, 0) : at].decode("utf-8", "replace")
            bound[str(number)] = None if size < 0 else lowered(value)
            if touch.kinds & Held.UNSEEN and _OWN_NAME.fullmatch(value):
                names.add(lowered(value))
    except (ValueError, struct.error):
        # What is not to be understood the server refuses; what is not here whole is no name.
        return touch
    put_back: set[str] = set()
    for place, _, name in (each.partition(" ") for each in touch.valued):
        if place in bound and bound[place] is None:
            put_back.add((bound.get(name[1:]) or "") if name[0] == "$" else name)
    if not put_back and len(names) == len(touch.names):
        return touch
    return touch._replace(names=frozenset(names), resets=touch.resets | put_back)


_INT16, _INT32 = struct.Struct("!h"), struct.Struct("!i")
