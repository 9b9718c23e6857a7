"""Cursors named in SQL: DECLARE, FETCH and MOVE as drivers use them for answers they take in pieces.

Grammar only; a cursor itself is a portal of its session (`portals`). The rule: forward only, as far as a statement's
rows come once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from pooler import lexer
from pooler.lexer import Kind, Statement
from pooler.verbs import CommandError

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Declaration:
    """`text` is the statement the cursor is for; a `held` one outlives its transaction."""

    name: str
    text: str
    held: bool


@dataclass(frozen=True, slots=True)
class Declare(Generic[P]):
    """A Declaration whose statement was read."""

    name: str
    plan: P
    held: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """The next `count` rows of a cursor, None for all; a `move` only passes over them."""

    name: str
    count: int | None
    move: bool

    @property
    def tag(self) -> str:
        return "MOVE" if self.move else "FETCH"


MOST_WORDS = 16
"""Before the statement that a cursor is for."""


def declaration(text: str) -> Declaration | None:
    """DECLARE name [...] CURSOR [WITH HOLD] FOR ...; None for any other statement. No more of it is looked at than
    stands before the statement within."""
    head = list(islice(lexer.lexed(text), MOST_WORDS))
    words = [token.value for token in head]
    if len(head) < 5 or head[0] != "declare" or head[1].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    if "cursor" not in words or "for" not in words[words.index("cursor") :]:
        return None
    cursor = words.index("cursor")
    begin = head[words.index("for", cursor)].end
    held = words[cursor + 1 : cursor + 3] == ["with", "hold"]
    return Declaration(head[1].value, text[begin:], held) if text[begin:].strip() else None


def fetch(statement: Statement) -> Fetch | None:
    """FETCH or MOVE [FORWARD] [count | ALL | NEXT] [FROM | IN] name; None for any other statement.
    Raises CommandError for a direction that is not forward."""
    first, *tokens = statement.tokens
    if first not in ("fetch", "move") or not tokens or tokens[-1].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    name = tokens.pop().value
    words = [token.value for token in tokens if token not in ("from", "in")]
    if any(word in _BACKWARD for word in words):
        raise CommandError("cursor can only scan forward", "55000")
    words = [word for word in words if word not in ("forward", "next")]
    if not words:
        return Fetch(name, 1, first == "move")
    if words == ["all"]:
        return Fetch(name, None, first == "move")
    if len(words) == 1 and words[0].isascii() and words[0].isdecimal() and len(words[0]) < 19:
        return Fetch(name, int(words[0]), first == "move")
    return None


_BACKWARD = frozenset({"backward", "prior", "first", "last", "absolute", "relative", "-"})
