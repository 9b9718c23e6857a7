"""What must be known of a statement before PostgreSQL reads it: which views it names, and where it is not PostgreSQL's.

Words and signs only; the grammar is PostgreSQL's. Three things are spelled as on a console: SHOW of a view with
clauses, COPY of a view by its name, and the column `user`, which PostgreSQL's reserved word would hide. The rule: a
name that might be a view's counts as one, and every place PostgreSQL tells of is one in the text as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pooler.lexer import Kind, Token

QUERIES = frozenset({"select", "with", "values", "table", "("})
"""First words of what has rows."""

CLAUSES = frozenset({"where", "group", "having", "order", "limit", "offset", "fetch", "window"})
"""With which SHOW of a view goes on when it is more than SHOW."""

Views = Mapping[str, Sequence[str]]
"""Columns by view, both named in lower case."""


class Edit(NamedTuple):
    """Characters of the text from `start` to `end` are others in what PostgreSQL reads."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A statement as PostgreSQL is to read it. `views` may be more than it reads; a `copy` has no rows but data."""

    sql: str
    views: tuple[str, ...]
    tag: str
    edits: tuple[Edit, ...] = ()
    copy: bool = False

    def position(self, told: int) -> int:
        """A place in the text as it was written (both counted from 1), 0 for none."""
        if not told:
            return 0
        place = told - 1
        for start, end, text in self.edits:
            if place < start:
                break
            if place < start + len(text):
                place = start
                break
            place += (end - start) - len(text)
        return place + 1


def read(text: str, tokens: Sequence[Token], views: Views) -> Reading | None:
    """None: it is no query. `tokens` are those of `text`."""
    first = tokens[0]
    if first.kind is Kind.QUOTED:
        return None
    named = tuple(sorted({token.value for token in tokens if token.kind in (Kind.WORD, Kind.QUOTED)} & views.keys()))
    if first.value in QUERIES:
        return _edited(text, tokens, named, views, "SELECT", ())
    if clauses_of(tokens) in views:
        head = Edit(first.start, tokens[1].end, f"SELECT * FROM {tokens[1].value}")
        return _edited(text, tokens[2:], named, views, "SHOW", (head,))
    if first == "copy" and _to_stdout(tokens):
        return _edited(text, tokens, named, views, "COPY", _copied(text, tokens, views))
    return None


def clauses_of(tokens: Sequence[Token]) -> str | None:
    """The view of a SHOW with clauses, None for any other statement."""
    if len(tokens) < 3 or tokens[0] != "show" or tokens[1].kind is not Kind.WORD or tokens[2].kind is not Kind.WORD:
        return None
    return tokens[1].value if tokens[2].value in CLAUSES else None


def _edited(
    text: str, tokens: Sequence[Token], named: tuple[str, ...], views: Views, tag: str, edits: tuple[Edit, ...]
) -> Reading:
    if any("user" in views[name] for name in named):
        edits += tuple(_users(tokens, edits))
    parts, at = [], 0
    for start, end, instead in edits:
        parts += [text[at:start], instead]
        at = end
    return Reading("".join((*parts, text[at:])), named, tag, edits, tag == "COPY")


def _users(tokens: Sequence[Token], edits: Sequence[Edit]) -> list[Edit]:
    """The word `user` where it stands for a column: neither behind a table's name nor before a bracket."""
    done = edits[-1].end if edits else 0
    found = []
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else None
        after = tokens[place + 1] if place + 1 < len(tokens) else None
        if token == "user" and token.kind is Kind.WORD and token.start >= done:
            if (before is not None and before == ".") or (after is not None and after == "("):
                continue
            found.append(Edit(token.start, token.end, f'"{token.value}"'))
    return found


def _to_stdout(tokens: Sequence[Token]) -> bool:
    return any(one == "to" and other == "stdout" for one, other in pairwise(tokens))


def _copied(text: str, tokens: Sequence[Token], views: Views) -> tuple[Edit, ...]:
    """`COPY pools (database) TO` as COPY of a SELECT: a view has no other."""
    if len(tokens) < 3 or tokens[1].kind not in (Kind.WORD, Kind.QUOTED) or tokens[1].value not in views:
        return ()
    name, columns, end = tokens[1], "*", tokens[1].end
    if tokens[2] == "(":
        closing = next((token for token in tokens if token == ")"), tokens[2])
        columns, end = text[tokens[2].end : closing.start], closing.end
        columns = ", ".join(f'"{part.strip()}"' if part.strip() == "user" else part for part in columns.split(","))
    return (Edit(name.start, end, f"(SELECT {columns} FROM {name.text})"),)
