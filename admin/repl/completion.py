"""What may come next: commands, views, columns, names, ids, settings and their values.

`candidates` is a function of the text and of what is known (Facts); prompt-toolkit's Completer below only
wraps it. It never asks the server: it tells the background which topics it used, for the next time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from admin.client.vocabulary import SELECTS
from admin.commands import Takes
from admin.repl import backslash
from admin.repl.background import Facts
from admin.repl.settings import VALUES
from pooler.lexer import KEYWORDS, SILENT, Kind, Token, pieces, spoken

CLAUSES = ("WHERE", "ORDER BY", "LIMIT", "GROUP BY", "HAVING")
AFTER_FROM = ("JOIN", "LEFT JOIN", "USING", "ON", *CLAUSES)
FUNCTIONS = ("count(*)", "sum(", "max(", "min(", "avg(", "group_concat(", "round(", "coalesce(")
COMPARISONS = frozenset({"=", "<", ">", "<=", ">=", "<>", "!=", "LIKE", "ILIKE"})
"""Operators behind which a column's values make sense."""
BEFORE_FROM = ("DISTINCT", "FROM", "AS")
FIRST_VIEWS = ("pools", "clients", "servers", "databases", "stats")
"""Whose columns come first while nothing says which view is meant."""
OPERATORS = ("AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "IS NULL", "DESC", "ASC", *CLAUSES)
STATES = ("active", "waiting", "idle", "used", "tested", "new", "active_cancel_req", "waiting_cancel_req")
PATHS = frozenset({"i", "o", "g"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completion: its text, what it is, and how many characters before the cursor it replaces."""

    text: str
    meta: str = ""
    replaces: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Candidates, and the topics of the background they came from."""

    found: list[Candidate]
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """The cursor's place: the statement's tokens before it, the word being typed, the whole statement."""

    said: tuple[Token, ...]
    typed: str
    whole: str

    def word(self, place: int) -> str:
        """The place-th word in upper case, empty if there is none. Negative places count from the cursor."""
        try:
            return self.said[place].upper
        except IndexError:
            return ""


class ConsoleCompleter(Completer):
    """prompt-toolkit's face of `candidates`."""

    def __init__(self, facts: Callable[[], Facts], want: Callable[..., object]) -> None:
        self._facts = facts
        self._want = want

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        if complete_event.text_inserted and not document.on_first_line and not document.current_line.strip():
            return  # an empty line is for ending the statement; who wants completions there presses Tab
        asked = candidates(document.text, document.cursor_position, self._facts())
        if asked.topics:
            self._want(*asked.topics)
        for candidate in asked.found:
            yield Completion(candidate.text, -candidate.replaces, display_meta=candidate.meta)


def candidates(text: str, cursor: int, facts: Facts) -> Asked:
    """What may be typed at the cursor."""
    line = text[:cursor].rpartition("\n")[2].lstrip()
    if line.startswith("\\"):
        return _backslash(line, facts)
    spot = _spot(text, cursor)
    if not spot.said:
        return _matching(spot, _first_words(facts))
    if spot.said[-1].kind is Kind.BACKSLASH or any(token.kind is Kind.BACKSLASH for token in spot.said):
        return _backslash(text[:cursor][text[:cursor].rindex("\\") :], facts)
    if spot.typed.startswith("\\"):
        return _backslash(spot.typed, facts)
    first = spot.word(0)
    if first in SELECTS:
        return _select(spot, facts)
    if first == "SHOW":
        return _show(spot, facts)
    if first == "SET":
        return _set(spot, facts)
    return _verb(spot, facts)


def _spot(text: str, cursor: int) -> Spot:
    """The statement around the cursor, cut at semicolons."""
    before = list(pieces(text[:cursor]))
    start = max((token.end for token in before if token == ";"), default=0)
    ends = [token.start for token in pieces(text) if token == ";" and token.start >= cursor]
    whole = text[start : min(ends, default=len(text))]
    said = [token for token in before if token.start >= start and token.kind not in SILENT]
    typed = ""
    if said and _unfinished(said[-1], cursor):
        typed = said.pop().text
    return Spot(tuple(said), typed, whole)


def _unfinished(token: Token, cursor: int) -> bool:
    """Whether the cursor is in or right behind the token."""
    if token.kind in (Kind.STRING, Kind.QUOTED):
        return bool(token.open)
    return token.end == cursor and token.kind in (Kind.WORD, Kind.NUMBER, Kind.BACKSLASH)


def _matching(spot: Spot, offered: Iterable[Candidate], *topics: str) -> Asked:
    """Those that begin with what is typed, else those that contain it; in the case it is typed in."""
    typed = spot.typed.lower().lstrip('"')
    every = list(offered)
    found = [one for one in every if one.text.lower().lstrip('"').startswith(typed)]
    if not found and len(typed) > 1:
        found = [one for one in every if typed in one.text.lower()]
    exact = len(found) == 1 and found[0].text.lower() == typed
    if exact:
        return Asked([], topics)
    return Asked([Candidate(_cased(one.text, spot), one.meta, len(spot.typed)) for one in found], topics)


def _cased(text: str, spot: Spot) -> str:
    """Keywords follow the typist: lower case once lower case is typed."""
    if not text.isupper() and not text.replace(" ", "").isupper():
        return text
    sample = spot.typed or "".join(token.text for token in spot.said if token.kind is Kind.WORD)
    letters = [letter for letter in sample if letter.isalpha()]
    return text.lower() if letters and letters[-1].islower() else text


def _backslash(line: str, facts: Facts) -> Asked:
    name, blank, argument = line[1:].partition(" ")
    if not blank:
        found = [c for c in backslash.COMMANDS if c.name.startswith(name)]
        return Asked([Candidate(f"\\{c.name}", c.help, len(line)) for c in found])
    argument = argument.lstrip()
    if name in PATHS:
        return Asked(_paths(argument))
    command = backslash.BY_NAME.get(name)
    if command is None:
        return Asked([])
    offered = {**dict.fromkeys(command.values, ""), **command.words(facts.vocabulary)}
    start = argument.lower()
    return Asked([Candidate(value, meta, len(argument)) for value, meta in offered.items()
                  if value.lower().startswith(start)])  # fmt: skip


def _paths(typed: str) -> list[Candidate]:
    folder, _, start = typed.rpartition("/")
    place = os.path.expanduser(f"{folder}/" if "/" in typed else ".")
    try:
        found = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError:
        return []
    return [
        Candidate(entry.name + ("/" if entry.is_dir() else ""), "", len(start))
        for entry in found
        if entry.name.startswith(start) and (start or not entry.name.startswith("."))
    ]


def _first_words(facts: Facts) -> list[Candidate]:
    words = [Candidate(word.name, word.help) for word in facts.vocabulary.commands.values()]
    return [*words, Candidate("SELECT", "SQL over the views"), Candidate("WITH", "SQL over the views")]


def _show(spot: Spot, facts: Facts) -> Asked:
    if len(spot.said) == 1:
        views = facts.vocabulary.views.values()
        return _matching(spot, [Candidate(view.name, view.help) for view in views])
    if len(spot.said) == 2:
        return _matching(spot, [Candidate(word) for word in CLAUSES if word not in ("GROUP BY", "HAVING")])
    return _expression(spot, facts, [spot.said[1].value.lower()])


def _set(spot: Spot, facts: Facts) -> Asked:
    if len(spot.said) == 1:
        found = [
            Candidate(name, _setting_meta(setting.value, setting.default))
            for name, setting in facts.settings.items()
            if setting.changeable
        ]
        return _matching(spot, found, "settings")
    if len(spot.said) == 2:
        return Asked([Candidate("=")] if not spot.typed else [], ("settings",))
    return _setting_values(spot, facts, spot.said[1].value.lower())


def _setting_meta(value: str, default: str) -> str:
    return f"{value or 'empty'}" + (f" (default {default or 'empty'})" if value != default else "")


def _setting_values(spot: Spot, facts: Facts, name: str) -> Asked:
    if len(spot.said) > 3 and not spot.typed:
        return Asked([])
    setting = facts.settings.get(name)
    now, default = (setting.value, setting.default) if setting else ("", "")
    offered = dict.fromkeys((*VALUES.get(name, ()), *filter(None, (now, default))))
    metas = {default: "default", now: "now"}
    stem = "" if spot.typed.startswith("'") else spot.typed
    found = [Candidate(_value(value), metas.get(value, ""), len(spot.typed)) for value in offered]
    return Asked([one for one in found if one.text.strip("'").startswith(stem.strip("'"))], ("settings",))


def _value(value: str) -> str:
    """A value as SET takes it: a plain word, or quoted."""
    plain = value.replace("_", "").isalnum() and value.isascii()
    return value if plain else "'" + value.replace("'", "''") + "'"


def _verb(spot: Spot, facts: Facts) -> Asked:
    word = facts.vocabulary.commands.get(spot.word(0))
    if word is None or len(spot.said) > 1:
        return Asked([])
    if word.takes in (Takes.DATABASE, Takes.ANY_DATABASE):
        paused = facts.paused
        names = [Candidate(_name(name), "paused" if name in paused else "") for name in facts.databases]
        return _matching(spot, names, "databases")
    if word.takes is Takes.CLIENT:
        return _matching(spot, [Candidate(id, meta) for id, meta in facts.clients], "clients")
    if word.takes is Takes.MODE:
        modes = word.takes.value.strip("[]").split("|")
        return _matching(spot, [Candidate(mode) for mode in modes])
    return Asked([])


def _name(name: str) -> str:
    """A name as the console's grammar takes it."""
    plain = name.replace("_", "").isalnum() and name.isascii()
    return name if plain else '"' + name.replace('"', '""') + '"'


def _select(spot: Spot, facts: Facts) -> Asked:
    last = spot.word(-1)
    if last in ("FROM", "JOIN") or (last == "," and _in_from(spot)):
        views = [Candidate(view.name.lower(), view.help) for view in facts.vocabulary.views.values()]
        return _matching(spot, views)
    named = list(_views_named(spot.whole, facts))
    if named or "FROM" in (token.upper for token in spot.said):
        return _expression(spot, facts, named)
    return _expression(spot, facts, _all_views(facts))


def _all_views(facts: Facts) -> list[str]:
    """Before FROM any column may be meant; those of the views most asked for come first."""
    views = [view.lower() for view in facts.vocabulary.views]
    return sorted(views, key=lambda view: FIRST_VIEWS.index(view) if view in FIRST_VIEWS else len(FIRST_VIEWS))


def _in_from(spot: Spot) -> bool:
    clauses = ("SELECT", "FROM", "WHERE", "ORDER", "GROUP")
    clause = [token.upper for token in spot.said if token.upper in clauses]
    return clause[-1:] == ["FROM"]


def _views_named(statement: str, facts: Facts) -> dict[str, str]:
    """Views of the statement, by view, with their aliases: FROM and JOIN tell."""
    said = spoken(statement)
    named: dict[str, str] = {}
    for place, token in enumerate(said[:-1]):
        view = said[place + 1]
        if token.upper not in ("FROM", "JOIN", ",") or not facts.vocabulary.has_view(view.value):
            continue
        after = [one for one in said[place + 2 : place + 4] if one.upper != "AS"]
        alias = after[0].text if after and after[0].kind is Kind.WORD and after[0].value not in KEYWORDS else ""
        named[view.value.lower()] = alias.lower()
    return named


def _expression(spot: Spot, facts: Facts, views: list[str]) -> Asked:
    """Columns of the views named, after `alias.` only that view's; after `column =` the column's values."""
    if spot.word(-1) == "." and len(spot.said) > 1:
        views = _of_alias(spot.said[-2].value.lower(), spot, facts)
        return _matching(spot, _columns(views, facts))
    values = _column_values(spot, facts)
    if values is not None:
        return values
    keywords = [Candidate(word) for word in dict.fromkeys(_keywords(spot))]
    functions = [Candidate(name, "function") for name in FUNCTIONS]
    return _matching(spot, [*_columns(views, facts), *functions, *keywords])


def _keywords(spot: Spot) -> tuple[str, ...]:
    if spot.word(0) == "SHOW":
        return (*CLAUSES, *OPERATORS)
    if "FROM" in (token.upper for token in spot.said):
        return (*AFTER_FROM, *OPERATORS)
    return ("DISTINCT",) if spot.word(-1) == "SELECT" else () if spot.word(-1) == "," else BEFORE_FROM


def _of_alias(alias: str, spot: Spot, facts: Facts) -> list[str]:
    named = _views_named(spot.whole, facts)
    return [view for view, short in named.items() if alias in (view, short)]


def _columns(views: list[str], facts: Facts) -> list[Candidate]:
    known = facts.vocabulary.columns
    named: dict[str, list[str]] = {}
    for view in views:
        for column in known.get(view, ()):
            named.setdefault(column, []).append(view)
    return [Candidate(column, f"column of {_some(of)}") for column, of in named.items()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _column_values(spot: Spot, facts: Facts) -> Asked | None:
    """Values of the column that is compared: database and user names, states."""
    column = _compared(spot.said)
    kinds = {
        "database": (facts.databases, "databases"), "name": (facts.databases, "databases"),
        "user": (facts.users, "users"), "state": (STATES, ""), "pool_mode": (VALUES["pool_mode"], ""),
    }  # fmt: skip
    if column is None or column.value.lower() not in kinds:
        return None
    values, topic = kinds[column.value.lower()]
    offered = [Candidate("'" + value.replace("'", "''") + "'") for value in values]
    stem = spot.typed.lstrip("'")
    found = [one for one in offered if one.text[1:].startswith(stem)]
    return Asked([Candidate(one.text, "", len(spot.typed)) for one in found], (topic,) if topic else ())


def _compared(said: tuple[Token, ...]) -> Token | None:
    """The column whose value is about to be typed: behind an operator, or in the list of an IN."""
    place = len(said) if said and said[-1].upper in COMPARISONS else _opened(said)
    if not place or said[place - 1].upper not in COMPARISONS | {"IN"}:
        return None
    before = [token for token in said[: place - 1] if token.upper != "NOT"]
    return before[-1] if before and before[-1].kind in (Kind.WORD, Kind.QUOTED) else None


def _opened(said: tuple[Token, ...]) -> int:
    """The place of the last parenthesis that is still open; 0 when none is."""
    closed = 0
    for place in range(len(said) - 1, -1, -1):
        if said[place] == ")":
            closed += 1
        elif said[place] == "(":
            if not closed:
                return place
            closed -= 1
    return 0
