"""Cursors named in SQL: DECLARE, FETCH and MOVE as drivers use them for answers they take in pieces.

Grammar only; a cursor itself is a portal of its session (`portals`). The rule: forward only, as far as a statement's
rows come once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from admin.lexer import Kind, Statement, Token
from pooler.verbs import CommandError

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Declaration:
    """`statement` is what the cursor is for; a `held` one outlives its transaction."""

    name: str
    statement: Statement
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


def declaration(statement: Statement) -> Declaration | None:
    """DECLARE name [...] CURSOR [WITH HOLD] FOR ...; None for any other statement."""
    tokens = statement.tokens
    if tokens[0] != "declare" or len(tokens) < 5 or tokens[1].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    words = [token.value for token in tokens]
    if "cursor" not in words or "for" not in words[words.index("cursor") :]:
        return None
    cursor = words.index("cursor")
    begin = words.index("for", cursor) + 1
    if begin == len(tokens):
        return None
    start = tokens[begin].start - tokens[0].start
    inner = replace(statement, plain=_plain(tokens[begin:]), text=statement.text[start:], tokens=tokens[begin:])
    return Declaration(tokens[1].value, inner, words[cursor + 1 : cursor + 3] == ["with", "hold"])


def _plain(tokens: Sequence[Token]) -> str:
    return " ".join(token.text for token in tokens)


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
