"""A console that answers from a table, in the place of a connection: for tests of what stands above the wire."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from admin.client.address import Address
from admin.client.answers import Answer, Column, Notice
from admin.client.connector import Connector, Manners
from admin.client.link import CommandFailed, Link
from admin.client.terminal import Screen, Terminal
from admin.fieldtypes import INT4, TEXT
from admin.repl import backslash
from admin.repl.session import Options, Session
from admin.repl.sink import Sink
from admin.repl.statements import split

HELP_1_18 = """
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tKILL <db>
\tSUSPEND
\tSHUTDOWN
"""

HELP_OURS = HELP_1_18 + "\tSHOW STATE|LATENCY\n\tKILL_CLIENT <client_id>\n\tSELECT ... FROM <view> ...\n"


def rows(names: str, *values: tuple[Any, ...], tag: str = "SHOW") -> Answer:
    """An answer with these columns; the type of each is that of its first value."""
    first = values[0] if values else ("",) * len(names.split())
    columns = tuple(
        Column(name, INT4 if isinstance(value, int) else TEXT) for name, value in zip(names.split(), first, strict=True)
    )
    return Answer(columns, list(values), tag)


POOLS = rows(
    "database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode",
    ("app", "alice", 5, 2, 3, 1, 0, 0, 0, 1, 500000, "transaction"),
    ("billing", "bob", 1, 0, 0, 1, 1, 0, 1, 0, 0, "session"),
    ("pgbouncer", "pgbouncer", 1, 0, 0, 0, 0, 0, 0, 0, 0, "statement"),
)

Answers = dict[str, Answer | Exception | Callable[[], Answer]]


class Console:
    """What the other end says, by statement in upper case; `asked` is what was said to it."""

    def __init__(self, help: str = HELP_OURS, **answers: Answer | Exception | Callable[[], Answer]) -> None:
        self.asked: list[str] = []
        self.opened: list[Address] = []
        self.refusals: list[Exception] = []
        self.answers: Answers = {
            "SHOW HELP": Answer(tag="SHOW", notices=(Notice("NOTICE", "Console usage", help),)),
            "SHOW VERSION": rows("version", ("PgBouncer 1.26.1",)),
            "SHOW POOLS": POOLS,
            "RELOAD": Answer(tag="RELOAD"),
        }
        self.answers |= {name.replace("_", " ", 1): answer for name, answer in answers.items()}

    def open(self, address: Address, name: str = "") -> Any:
        """In the place of Link.open."""
        self.opened.append(address)
        if self.refusals:
            raise self.refusals.pop(0)
        return FakeLink(self, address)


class FakeLink:
    """In the place of a Link."""

    version = "1.26.1"

    def __init__(self, console: Console, address: Address) -> None:
        self.console, self.address, self.closed = console, address, False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def ask(self, statement: str, **_: object) -> Answer:
        self.console.asked.append(statement)
        answer = self.console.answers.get(statement.upper())
        if answer is None:
            raise CommandFailed(f"invalid command '{statement}', use SHOW HELP;", "08P01")
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


class Person(Terminal):
    """Somebody who answers every question with the next of `replies`, and remembers what was said to them."""

    person = True

    def __init__(self, *replies: bool, columns: int = 80, lines: int = 24) -> None:
        super().__init__(io.StringIO())
        self.replies, self.asked, self.heard = list(replies), list[str](), list[str]()
        self._screen = Screen(columns, lines)

    def say(self, text: str) -> None:
        self.heard.append(text)

    def tell(self, text: str) -> None:
        self.heard.append(text)

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.replies.pop(0)

    def screen(self) -> Screen:
        return self._screen


def session(console: Console, terminal: Terminal | None = None, **options: Any) -> tuple[Session, io.StringIO]:
    """A connected session that writes into the second value. Link.open must already be the console's."""
    out = io.StringIO()
    said = terminal or Terminal(io.StringIO())
    made = Session(
        Connector([Address({"host": "h", "port": "1"})], Manners(said.say, patience=0.0)),
        said,
        backslash.run,
        Options(**options),
        Sink(out),
    )
    made.connector.connect()
    return made, out


def replace_link(monkeypatch: Any, console: Console) -> Console:
    """Have everything connect to this console."""
    monkeypatch.setattr(Link, "open", console.open)
    return console


def say(made: Session, text: str) -> None:
    for item in split(text):
        made.run(item)
