"""Several consoles as one: a command goes to all of them at once, and what they answer is one table that begins with
the column `pooler`.

Rows of SHOW stand below each other; of a verb each pooler's answer is a row. The rule: one that cannot be reached, or
does not answer in time, is named and not waited for. A verb may take its time, as PAUSE does until servers are
released: it is waited for as long as the pooler answers others meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from admin.client.address import Address, BadAddress
from admin.client.answers import Answer, Column, Failure, Notice
from admin.client.connector import READING, Connector, Manners
from admin.client.link import CANCEL_SECONDS, CONNECT_SECONDS, CannotConnect, CommandFailed, Link, Lost
from admin.fieldtypes import TEXT
from pooler.lexer import first_word

PATIENCE = 5.0
"""Seconds in which an answer has to come, or a sign of life."""
NAME = "pooler"
"""Of the column that says whose a row is."""
OWN_IDS = {"KILL_CLIENT": "ids of clients are each pooler's own: say it to that pooler alone"}
"""What makes no sense for all of them."""


class Late(Exception):
    """No answer in time."""


class Union:
    """In the place of a Connector. `consoles`: the addresses of each, as a Connector takes them."""

    several = True

    def __init__(self, consoles: Sequence[Sequence[Address]], manners: Manners, name: str = "pooler console") -> None:
        self._manners = manners
        self._name = name
        self._connectors = {each[0].place: Connector(each, manners, name) for each in consoles}

    @staticmethod
    def check(consoles: Sequence[Sequence[Address]]) -> None:
        """Raises BadAddress when two have the same name."""
        twice = [place for place, count in Counter(each[0].place for each in consoles).items() if count > 1]
        if twice:
            raise BadAddress(f"{twice[0]} is named twice")

    @property
    def address(self) -> Address:
        """That of the first one, which the toolbar and the completion are of."""
        return next(iter(self._connectors.values())).address

    @property
    def label(self) -> str:
        return ", ".join(self._connectors)

    @property
    def place(self) -> str:
        return f"{len(self._connectors)} poolers"

    @property
    def link(self) -> Link | None:
        """The first of those that are open."""
        links = (connector.link for connector in self._connectors.values())
        return next((link for link in links if link is not None and not link.closed), None)

    def told(self) -> str:
        return "\n".join(connector.told() for connector in self._connectors.values())

    def connect(self) -> Link:
        """To all of them; a person is asked for a password only here. Raises CannotConnect when none can be reached."""
        problems = []
        for name, connector in self._connectors.items():
            try:
                connector.connect()
            except CannotConnect as error:
                problems.append(f"{name}: {error}")
            connector.manners = replace(self._manners, ask_password=None, patience=0.0)
        link = self.link
        if link is None:
            raise CannotConnect("\n".join(problems))
        for problem in problems:
            self._manners.say(f"cannot connect to {problem}")
        return link

    def switch(self, addresses: Sequence[Address]) -> Link:
        raise CannotConnect(f"these are {self.place}: leave, and name the others")

    def close(self) -> None:
        for connector in self._connectors.values():
            connector.close()

    def ask(self, statement: str, on_wait: Callable[[float], None] | None = None) -> Answer:
        """Run a command everywhere. Raises CommandFailed or CannotConnect when it has succeeded nowhere."""
        word = first_word(statement)
        if word in OWN_IDS:
            raise CommandFailed(OWN_IDS[word], "0A000")
        asked = [_Asked(name, connector, statement) for name, connector in self._connectors.items()]
        try:
            _wait(asked, PATIENCE + CONNECT_SECONDS if word in READING else None, on_wait)
        except KeyboardInterrupt:
            _give_up(asked)
            raise
        for each in asked:
            if not each.over:  # it still has the connector
                addresses, manners = [each.connector.address], each.connector.manners
                self._connectors[each.pooler] = Connector(addresses, manners, self._name)
        return merged([(each.pooler, each.outcome) for each in asked])


class _Asked(threading.Thread):
    """One console that is asked, on a thread of its own."""

    def __init__(self, name: str, connector: Connector, statement: str) -> None:
        super().__init__(name=f"console {name}", daemon=True)
        self.pooler, self.connector = name, connector
        self.outcome: Answer | Exception = Late("no answer in time")
        self._statement = statement
        self._reads = first_word(statement) in READING
        self._alive_at = 0.0
        self._done = threading.Event()
        self.start()

    @property
    def over(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def run(self) -> None:
        try:
            self.outcome = self.connector.ask(self._statement, self._look)
        except Late as late:
            self.connector.close()
            self.outcome = late
        except Exception as error:
            self.outcome = error
        finally:
            self._done.set()

    def _look(self, gone: float) -> None:
        """There is no answer yet. Raises Late when there is no hope either."""
        if gone - self._alive_at < PATIENCE:
            return
        if self._reads or not _lives(self.connector.address):
            raise Late(f"no answer within {PATIENCE:g} s")
        self._alive_at = gone


def _lives(address: Address) -> bool:
    """Whether it answers somebody else."""
    try:
        with contextlib.closing(Link.open(address)) as link:
            link.ask("SHOW VERSION", seconds=PATIENCE)
    except (CannotConnect, CommandFailed, Lost):
        return False
    return True


def _wait(asked: Sequence[_Asked], seconds: float | None, on_wait: Callable[[float], None] | None) -> None:
    began = time.monotonic()
    while not all(each.wait(0.5) for each in asked):
        gone = time.monotonic() - began
        if seconds is not None and gone > seconds:
            return
        if on_wait is not None:
            on_wait(gone)


def _give_up(asked: Sequence[_Asked]) -> None:
    """Have the command cancelled where it is not over; who does not obey loses its connection."""
    left = [(each, each.connector.link) for each in asked if not each.over]
    for _, link in left:
        if link is not None:
            link.cancel()
    for each, link in left:
        if not each.wait(CANCEL_SECONDS) and link is not None:
            link.abort()


def merged(outcomes: Sequence[tuple[str, Answer | Exception]]) -> Answer:
    """One answer of all, each with its pooler's name. Raises what they have failed with, if all have."""
    answers = [(name, found) for name, found in outcomes if isinstance(found, Answer)]
    errors = [(name, found) for name, found in outcomes if isinstance(found, Exception)]
    for _, error in errors:
        if not isinstance(error, CommandFailed | CannotConnect | Late):
            raise error
    if not answers:
        raise _alike(errors)
    failures = tuple(Failure(name, str(error), not isinstance(error, CommandFailed)) for name, error in errors)
    notices = _noted(answers)
    if any(answer.columns for _, answer in answers):
        columns, rows = _below_each_other(answers)
        return Answer(columns, rows, answers[0][1].tag, notices, failures)
    if answers[0][1].tag == "SHOW":  # SHOW HELP is a notice
        return Answer((), (), "SHOW", notices, failures)
    columns = (Column(NAME, TEXT), Column("answer", TEXT))
    return Answer(columns, [(name, answer.tag) for name, answer in answers], answers[0][1].tag, notices, failures)


def _alike(errors: Sequence[tuple[str, Exception]]) -> Exception:
    """The error of all: as it is if they have all said the same."""
    first = errors[0][1]
    text = "\n".join(f"{name}: {error}" for name, error in errors)
    if all(isinstance(error, CommandFailed) for _, error in errors):
        return first if len({str(error) for _, error in errors}) == 1 else CommandFailed(text)
    return CannotConnect(text)


def _below_each_other(answers: Iterable[tuple[str, Answer]]) -> tuple[tuple[Column, ...], list[tuple[Any, ...]]]:
    """Columns by their names, the first one's first: releases differ. What one does not have is NULL."""
    found: dict[str, Column] = {NAME: Column(NAME, TEXT)}
    for _, answer in answers:
        found |= {column.name: column for column in answer.columns if column.name not in found}
    rows = []
    for name, answer in answers:
        for row in answer.records():
            rows.append(tuple({NAME: name, **row}.get(column) for column in found))
    return tuple(found.values()), rows


def _noted(answers: Sequence[tuple[str, Answer]]) -> tuple[Notice, ...]:
    """What all have said is said once, what some have with their names."""
    first = answers[0][1].notices
    if all(answer.notices == first for _, answer in answers):
        return first
    said = ((name, notice) for name, answer in answers for notice in answer.notices)
    return tuple(replace(notice, message=f"{name}: {notice.message}") for name, notice in said)
