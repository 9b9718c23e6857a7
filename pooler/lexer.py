"""Words of a query text: PostgreSQL's lexical structure, and nothing of its grammar.

Knows quotes ('', E'', "", $$), comments (-- and nested /* */), numbers, parameters ($1) and operators well
enough to find where statements end and what is a word and what is quoted. One reading for all: the server takes
statements (`split`), who types is shown every piece of the line (`pieces`), a backslash command among them. The
rule: every text can be read, and the pieces joined are the text; a quote or a comment that does not end takes the
rest, `open`, which raises where a statement is wanted. (PostgreSQL documentation, "Lexical Structure".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import cache
from itertools import chain, islice

from pooler.values import dataclass


class Kind(Enum):
    SPACE = auto()
    COMMENT = auto()
    WORD = auto()
    QUOTED = auto()
    """A name in double quotes."""
    STRING = auto()
    NUMBER = auto()
    PARAMETER = auto()
    OPERATOR = auto()
    MARK = auto()
    """One of ( ) [ ] , . : ; or a character that belongs nowhere."""
    BACKSLASH = auto()
    """The name of a backslash command, as psql has them; only in what is typed."""


SILENT = frozenset({Kind.SPACE, Kind.COMMENT})
"""They say nothing."""


_RESERVED = """
    all and any array as asc between both by case cast collate cross desc distinct else end except
    exists false fetch filter for from full group having ilike in inner intersect interval is isnull
    join lateral leading left like limit natural not notnull null nulls offset on only operator or order
    outer over partition recursive right rows select similar some symmetric table then to trailing true
    union using values when where window with within
"""
KEYWORDS = frozenset(_RESERVED.split())
"""Words that are never a name without quotes."""


class Unterminated(ValueError):
    """A quote or comment without an end; `message` is PostgreSQL's."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.message = f"unterminated {what}"


class TooMuch(ValueError):
    """More tokens than there may be."""


@dataclass(frozen=True, slots=True)
class Token:
    """`text` as written; `value` without quotes, words in lower case; `start` and `end` are its place. `open` says what
    has no end, where it still waits for its closing quote or `*/`."""

    kind: Kind
    text: str
    value: str
    start: int
    end: int
    open: str = ""

    @property
    def upper(self) -> str:
        """As written, in upper case: so the console's commands and views are named."""
        return self.text.upper()

    def __eq__(self, other: object) -> bool:
        """Equal to a string that is the unquoted word, operator or mark: `token == "select"`."""
        if isinstance(other, str):
            return self.value == other and self.kind not in (Kind.QUOTED, Kind.STRING)
        return self is other

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a query: its tokens without the closing semicolon. `text` is as written, `plain` has
    a blank for each comment; `start` is where `text` begins in the query."""

    text: str
    plain: str
    tokens: tuple[Token, ...]
    start: int = 0


@cache
def _expression() -> re.Pattern[str]:
    """Compiled when the first text is read, which takes as long as half of asyncio does to load."""
    return re.compile(
        r"""
        (?P<space>[ \t\n\r\f\v]++)
      | (?P<remark>--[^\n\r]*)
      | (?P<comment>/\*)
      | (?P<escaped>[eE]'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+')
      | (?P<string>'[^']*+(?:''[^']*+)*+')
      | (?P<quoted>"[^"]*+(?:""[^"]*+)*+")
      | (?P<open>[eE]?'|")
      | (?P<parameter>\$[0-9]+)
      | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
      | (?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.(?!\.)[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
      | (?P<mark>::|:=|[()\[\],.;:])
      | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
      | (?P<backslash>\\(?:[A-Za-z_]++|[?!])?)
      | (?P<other>.)
        """,
        re.VERBOSE | re.DOTALL,
    )


_SPECIAL = frozenset("~!@#%^&|`?")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|(.))|''", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_KINDS = {
    "word": Kind.WORD,
    "space": Kind.SPACE,
    "remark": Kind.COMMENT,
    "comment": Kind.COMMENT,
    "backslash": Kind.BACKSLASH,
    "number": Kind.NUMBER,
    "parameter": Kind.PARAMETER,
    "mark": Kind.MARK,
    "other": Kind.MARK,
}


def split(text: str, most: int | None = None) -> list[Statement]:
    """The statements of a query; empty ones are left out. Raises Unterminated, and TooMuch for more than `most`
    tokens."""
    statements: list[Statement] = []
    tokens: list[Token] = []
    start = 0
    for number, token in enumerate(chain(lexed(text), (Token(Kind.MARK, "", ";", len(text), len(text)),))):
        if most is not None and number > most:
            raise TooMuch
        if token != ";":
            tokens.append(token)
            continue
        if tokens:
            statements.append(_statement(text, start, token.start, tokens))
        tokens, start = [], token.end
    return statements


def _statement(text: str, start: int, end: int, tokens: list[Token]) -> Statement:
    plain, at = [], tokens[0].start
    for token in tokens:
        if token.start > at:
            plain.append(" ")
        plain.append(token.text)
        at = token.end
    within = text[start:end]
    begin = start + len(within) - len(within.lstrip())
    return Statement(within.strip(), "".join(plain), tuple(tokens), begin)


def tokenize(text: str, most: int | None = None) -> list[Token]:
    """All tokens, comments and blanks left out. Raises Unterminated, and TooMuch for more than `most` of them."""
    tokens = list(islice(lexed(text), None if most is None else most + 1))
    if most is not None and len(tokens) > most:
        raise TooMuch
    return tokens


def lexed(text: str) -> Iterator[Token]:
    """The tokens one by one, as far as they are asked for. Raises Unterminated."""
    for token in _scanned(text, typed=False):
        if token.open:
            raise Unterminated(token.open)
        if token.kind not in SILENT:
            yield token


def pieces(text: str) -> Iterator[Token]:
    """Everything of a text that is typed: blanks, comments and backslash commands too."""
    return _scanned(text, typed=True)


def spoken(text: str) -> list[Token]:
    """Of a text that is typed what says something: neither blanks nor comments."""
    return [token for token in pieces(text) if token.kind not in SILENT]


def first_word(statement: str) -> str:
    """The statement's first word in upper case; empty for an empty statement."""
    said = spoken(statement)
    return said[0].upper if said else ""


def without_comments(text: str) -> str:
    """The text with each comment as one blank (PgBouncer's grammar has none) and without its semicolon."""
    kept = "".join(" " if token.kind is Kind.COMMENT else token.text for token in pieces(text)).strip()
    return kept.removesuffix(";").rstrip()


def _scanned(text: str, *, typed: bool) -> Iterator[Token]:
    at, match = 0, _expression().match
    while at < len(text):
        found = match(text, at)
        assert found is not None  # the last alternative takes any character
        kind, start, at = found.lastgroup or "other", at, found.end()
        if kind == "operator":
            yield from _operators(found[0], start)
            continue
        if kind == "backslash" and not typed:
            kind, at = "other", start + 1
        missing = ""
        if kind in _ENDS:
            at, missing = _ENDS[kind](text, at, found[0])
        yield _token(kind, text[start:at], start, at, found[0], missing)


def _token(kind: str, text: str, start: int, end: int, head: str, missing: str) -> Token:
    match kind:
        case "quoted":
            return Token(Kind.QUOTED, text, text[1:-1].replace('""', '"'), start, end)
        case "string":
            return Token(Kind.STRING, text, text[1:-1].replace("''", "'"), start, end)
        case "escaped":
            return Token(Kind.STRING, text, _ESCAPE.sub(_unescape, text[2:-1]), start, end)
        case "dollar":
            inner = text[len(head) :] if missing else text[len(head) : -len(head)]
            return Token(Kind.STRING, text, inner, start, end, missing)
        case "open":
            inner = text[len(head) :]
            if head == '"':
                return Token(Kind.QUOTED, text, inner.replace('""', '"'), start, end, missing)
            return Token(Kind.STRING, text, inner.replace("''", "'"), start, end, missing)
    return Token(_KINDS[kind], text, text.lower(), start, end, missing)


def _operators(run: str, start: int) -> Iterator[Token]:
    """A run of operators' signs as the operators it is. PostgreSQL's rule: `+` or `-` ends one only when one of
    ~!@#%^&|`? is in it (`2*-1` is two)."""
    whole = run if not _SPECIAL.isdisjoint(run) else run.rstrip("+-")
    for text in (whole, *run[len(whole) :]) if whole else run:
        yield Token(Kind.OPERATOR, text, text, start, start + len(text))
        start += len(text)


def _unescape(found: re.Match[str]) -> str:
    hexadecimal, octal, unicode, letter = found.groups()
    if hexadecimal or unicode:
        return chr(int(hexadecimal or unicode, 16))
    if octal:
        return chr(int(octal, 8) & 0xFF)
    return _LETTERS.get(letter, letter) if letter else "'"


Ended = tuple[int, str]
"""Where something ends, and what has no end if that is the end of the text."""


def _end_of_comment(text: str, at: int, head: str) -> Ended:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end(), ""
    return len(text), "/* comment"


def _end_of_dollar(text: str, at: int, head: str) -> Ended:
    end = text.find(head, at)
    return (end + len(head), "") if end >= 0 else (len(text), "dollar-quoted string")


def _end_of_open(text: str, at: int, head: str) -> Ended:
    return len(text), "quoted identifier" if head == '"' else "quoted string"


_ENDS: dict[str, Callable[[str, int, str], Ended]] = {
    "comment": _end_of_comment,
    "dollar": _end_of_dollar,
    "open": _end_of_open,
}
