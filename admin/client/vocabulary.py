"""The words a console understands: its commands, its views and their columns.

Starts as the table this project's own console is made of; what a console says of itself (SHOW HELP) and the
columns seen in its answers replace that, so that an older PgBouncer is completed with its own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from admin.client.answers import Notice
from admin.commands import COMMANDS, Takes

SELECTS = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "EXPLAIN"})
"""First words of statements that only read, may run over many lines and end with a semicolon."""

HURTING = frozenset({"KILL", "KILL_CLIENT", "SHUTDOWN", "SUSPEND", "DISABLE"})
"""Verbs that take something away from clients: a person is asked before they are sent."""

HURTING_ALL = frozenset({"PAUSE"})
"""Verbs that a person is asked about only where they name no database and so mean all."""

_SHOWN = re.compile(r"SHOW\s+([A-Z_|]+)")
_VERB = re.compile(r"^\s*([A-Z_]+)\b", re.M)


@dataclass(frozen=True, slots=True)
class Word:
    """A command or view, what it takes, and a line of help."""

    name: str
    takes: Takes = Takes.NOTHING
    help: str = ""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Commands and views by upper-case name; columns by lower-case view."""

    commands: Mapping[str, Word]
    views: Mapping[str, Word]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sql: bool = True
    """Whether the console itself answers SELECT over its views."""

    def with_columns(self, known: Mapping[str, tuple[str, ...]]) -> Vocabulary:
        """With these columns for the views that have not shown theirs."""
        return replace(self, columns={**known, **self.columns})

    def told(self, notices: Iterable[Notice]) -> Vocabulary:
        """Only what SHOW HELP lists, in the table's order; words of it that the table does not have come last, and
        without help."""
        text = "\n".join(notice.detail for notice in notices)
        views = {name for found in _SHOWN.findall(text) for name in found.split("|") if name}
        if not views:
            return self
        verbs = set(_VERB.findall(text)) - {"SELECT"}
        commands = {name: self.commands.get(name) or Word(name) for name in _ordered(verbs | {"SHOW"}, self.commands)}
        return replace(
            self,
            commands=commands,
            views={name: self.views.get(name) or Word(name) for name in _ordered(views, self.views)},
            sql="SELECT ... FROM" in text,
        )

    def learnt(self, view: str, columns: tuple[str, ...]) -> Vocabulary:
        """With the columns a SHOW of this view has just given."""
        if not columns or self.columns.get(view.lower()) == columns:
            return self
        return replace(self, columns={**self.columns, view.lower(): columns})

    def has_view(self, name: str) -> bool:
        return name.upper() in self.views


def _ordered(names: Iterable[str], table: Iterable[str]) -> list[str]:
    place = {name: number for number, name in enumerate(table)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


@cache
def own() -> Vocabulary:
    """The vocabulary of this project's console."""
    commands = {"SHOW": Word("SHOW", help="one of the views")}
    views = {}
    for command in COMMANDS:
        if command.view:
            views[command.view] = Word(command.view, help=command.help)
        else:
            commands[command.name] = Word(command.name, command.takes, command.help)
    return Vocabulary(commands, views)


@cache
def own_columns() -> Mapping[str, tuple[str, ...]]:
    """The columns of this project's views, as data; imported only where somebody is typing."""
    from admin.views import VIEWS

    return {view.name.lower(): tuple(column.name for column in view.columns) for view in VIEWS}
