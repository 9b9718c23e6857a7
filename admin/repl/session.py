"""A console session: takes items (statements and backslash commands), has them answered, shows the answers.

It neither reads keys nor parses; the prompt and the script runner hand it items. SELECT over views is
answered by the console when that can do it, else here, by SQLite over what SHOW gives. The rule: every item
either succeeds or raises `Trouble`, whose text is for a person and whose exit status is for a script.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from admin.repl import colours, formats, sink, viewsql, vocabulary
from admin.repl.answers import Answer
from admin.repl.connector import Connector
from admin.repl.formats import Look
from admin.repl.link import CannotConnect, CommandFailed, Link
from admin.repl.statements import SELECTS, Backslash, Item, Statement, first_word
from admin.repl.terminal import Terminal
from admin.repl.vocabulary import HURTING, Vocabulary
from admin.repl.words import spoken

FAILED, USAGE, UNREACHABLE = 1, 2, 3
"""Exit statuses besides 0."""

QUITTING = frozenset({"EXIT", "QUIT"})
SECRET_VIEWS = frozenset({"fds"})
"""Views that SELECT does not read: they hand out descriptors and passwords."""


class Trouble(Exception):
    """An item that failed: what to tell, and a script's exit status."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


class Quit(Exception):
    """The person or script wants to leave."""


@dataclass(slots=True)
class Options:
    """What backslash commands change."""

    format: str = "table"
    expanded: str = "off"
    human: bool = False
    timing: bool = False
    pager: bool = True
    vi: bool = False


@dataclass(slots=True)
class Session:
    """One person's or script's conversation with one console."""

    connector: Connector
    terminal: Terminal
    options: Options = field(default_factory=Options)
    out: sink.Sink = field(default_factory=sink.Sink)
    last: str = ""
    """The statement that `\\g`, `\\watch` and `\\e` take when none stands before them."""
    prefill: str = ""
    """Text for the next prompt, left by `\\e`."""
    on_change: Callable[[str], None] = lambda word: None
    """Told the first word of each verb that was carried out, so that caches can be refreshed."""
    on_view: Callable[[str, tuple[str, ...]], None] = lambda view, columns: None
    """Told the columns of each view that was shown."""
    paused: Callable[[], frozenset[str]] = frozenset
    """The databases known to be paused."""
    _told_by: Link | None = None
    _vocabulary: Vocabulary = field(default_factory=vocabulary.own)

    def run(self, item: Item) -> None:
        """Carry out one item. Raises Trouble, Quit or KeyboardInterrupt."""
        from admin.repl import backslash

        try:
            if isinstance(item, Backslash):
                backslash.run(self, item)
            else:
                self.execute(item.text)
        except CommandFailed as error:
            raise Trouble(self._told(error)) from None
        except CannotConnect as error:
            raise Trouble(f"cannot connect to {self.connector.address.label}: {error}", UNREACHABLE) from None
        except sink.SinkError as error:
            raise Trouble(str(error)) from None

    def execute(self, statement: str, look: Look | None = None) -> None:
        """Run a statement and show its answer."""
        word = first_word(statement)
        if word in QUITTING and len(spoken(statement)) == 1:
            raise Quit
        if word == "HELP":
            return self.run(Backslash("?"))
        if not self._sure(statement, word):
            self.terminal.say("not done")
            return None
        self.last = statement
        began = time.perf_counter()
        answer = self.answer(statement)
        gone = time.perf_counter() - began
        self.show(answer, look or self.look())
        self._teach(statement, answer)
        if self.options.timing:
            self.terminal.say(f"Time: {gone * 1000:.3f} ms")
        if not answer.columns and word not in SELECTS:
            self.on_change(word)
        return None

    def _teach(self, statement: str, answer: Answer) -> None:
        said = spoken(statement)
        if len(said) == 2 and said[0].upper == "SHOW" and answer.columns:
            self.on_view(said[1].plain, answer.names)

    def answer(self, statement: str) -> Answer:
        """The statement's answer, from the console or from SQLite over its views."""
        query = self._local_query(statement)
        if query is None:
            return self.connector.ask(statement, self._waiting(statement))
        try:
            return Answer.of(viewsql.select(query, self._view, functions=self._functions()))
        except viewsql.SqlError as error:
            raise CommandFailed(error.message, error.sqlstate) from None

    def show(self, answer: Answer, look: Look) -> None:
        """Write an answer where answers go; its notices go to stderr."""
        for notice in answer.notices:
            lines = (f"{notice.severity}:  {notice.message}", notice.detail)
            self.terminal.say("\n".join(filter(None, lines)))
        text = formats.render(answer, look)
        screen = self.terminal.screen()
        command = sink.pager() if self._may_page() else None
        if command and _long(text, screen.lines, screen.columns):
            sink.page(text, command)
        else:
            self.out.write(text)

    def look(self) -> Look:
        """How answers are to be shown now."""
        options = self.options
        turning = {"on": True, "off": False, "auto": None}
        return Look(
            format=options.format,
            vertical=turning[options.expanded],
            human=options.human,
            colour=not self.out.redirected and colours.wanted(self.out.stream),
            width=self.terminal.screen().columns,
            paused=self.paused(),
        )

    def vocabulary(self) -> Vocabulary:
        """The words of the console we are connected to, asked for once per connection."""
        link = self.connector.link
        if link is not None and link is not self._told_by:
            self._vocabulary = vocabulary.own().told(self.connector.ask("SHOW HELP").notices)
            self._told_by = link
        return self._vocabulary

    def _local_query(self, statement: str) -> str | None:
        """The SELECT to be answered here, when the console itself knows no SELECT."""
        shorthand = viewsql.from_shorthand(statement)
        if shorthand is None and first_word(statement) not in SELECTS:
            return None
        if self.connector.link is None or self.connector.link.closed:
            self.connector.ask("SHOW VERSION")  # connects, or says why not
        words = self.vocabulary()
        if words.sql or _synonym(statement, words):
            return None
        return shorthand or statement

    def _view(self, name: str) -> viewsql.Relation | None:
        if name in SECRET_VIEWS or not self.vocabulary().has_view(name):
            return None
        return self.connector.ask(f"SHOW {name.upper()}").relation()

    def _functions(self) -> Mapping[str, viewsql.Function]:
        address = self.connector.address
        return {
            "version": (0, lambda: str(self.connector.ask("SHOW VERSION").rows[0][0])),
            "now": (0, lambda: time.strftime("%Y-%m-%d %H:%M:%S %Z")),
            "current_database": (0, lambda: address.parameters.get("dbname", "")),
        }

    def _sure(self, statement: str, word: str) -> bool:
        if word not in HURTING or not self.terminal.person:
            return True
        return self.terminal.confirm(f"{statement}: {_CONSEQUENCES[word]}. Really?")

    def _waiting(self, statement: str) -> Callable[[float], None] | None:
        """For a person: a word when a command takes its time, as PAUSE does until servers are released."""
        if not self.terminal.person:
            return None
        told = False

        def on_wait(gone: float) -> None:
            nonlocal told
            if gone >= 1 and not told:
                told = True
                self.terminal.say(f"{first_word(statement)} waits; Ctrl-C gives up")

        return on_wait

    def _may_page(self) -> bool:
        return self.terminal.person and self.options.pager and not self.out.redirected and self.out.stream.isatty()

    def _told(self, error: CommandFailed) -> str:
        """An error as psql shows it, with a guess at what was meant."""
        lines = [f"ERROR:  {error.message}"]
        if error.detail:
            lines.append(f"DETAIL:  {error.detail}")
        hint = error.hint or self._guess(error.message)
        if hint:
            lines.append(f"HINT:  {hint}")
        return "\n".join(lines)

    def _guess(self, message: str) -> str:
        if not self.terminal.person or not message.startswith("invalid command"):
            return ""
        said = [token.upper for token in spoken(self.last)][:2]
        words = self._vocabulary
        if said[:1] == ["SHOW"] and len(said) == 2:
            near = difflib.get_close_matches(said[1], words.views, 1, 0.6)
            return f"Did you mean SHOW {near[0]}?" if near and near[0] != said[1] else ""
        near = difflib.get_close_matches(said[0], words.commands, 1, 0.6) if said else []
        return f"Did you mean {near[0]}?" if near and near[0] != said[0] else ""

    def with_format(self, **changes: Any) -> Look:
        """The present look with some of it changed, for one answer."""
        return replace(self.look(), **changes)


_CONSEQUENCES = {
    "KILL": "drops clients and servers at once and holds new work back until RESUME",
    "KILL_CLIENT": "drops this client in whatever it is doing",
    "SHUTDOWN": "stops the pooler",
    "SUSPEND": "stops all traffic until RESUME",
    "DISABLE": "refuses new clients until ENABLE",
}


def _synonym(statement: str, words: Vocabulary) -> bool:
    """`SELECT pools`, which PgBouncer takes for SHOW POOLS."""
    said = spoken(statement)
    return len(said) == 2 and said[0].upper == "SELECT" and words.has_view(said[1].plain)


def _long(text: str, lines: int, columns: int) -> bool:
    shown = text.splitlines()
    return len(shown) > lines - 2 or any(len(colours.stripped(line)) > columns for line in shown)


__all__ = ["FAILED", "UNREACHABLE", "USAGE", "Options", "Quit", "Session", "Statement", "Trouble"]
