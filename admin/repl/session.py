"""A console session: takes items (statements and backslash commands), has them answered, shows the answers.

It neither reads keys nor parses; the prompt and the script runner hand it items. SELECT over views is
answered by the console when that can do it, else here, by PostgreSQL over what SHOW gives. The rule: every item
either succeeds or raises `Trouble`, whose text is for a person and whose exit status is for a script.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from admin.client import colours, vocabulary
from admin.client.answers import Answer, Failure
from admin.client.connector import READING, Connector
from admin.client.link import CannotConnect, CommandFailed, Link
from admin.client.terminal import FAILED, UNREACHABLE, Terminal
from admin.client.union import Union
from admin.client.vocabulary import HURTING, HURTING_ALL, SELECTS, Vocabulary
from admin.repl import formats, sink
from admin.repl.formats import Look
from admin.repl.statements import Backslash, Item
from pooler.lexer import first_word, spoken

QUITTING = frozenset({"EXIT", "QUIT"})
SECRET_VIEWS = frozenset({"fds"})
"""Views that SELECT does not read: they hand out descriptors and passwords."""


class Trouble(Exception):
    """An item that failed: what to tell, and a script's exit status."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


@contextlib.contextmanager
def at_line(source: str, item: Item) -> Iterator[None]:
    """Trouble inside tells of which file (or other source) and line the item is; nothing without a source."""
    try:
        yield
    except Trouble as trouble:
        if not source:
            raise
        raise Trouble(f"{source}:{item.line}: {trouble}", trouble.status) from None


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

    connector: Connector | Union
    terminal: Terminal
    commands: Callable[[Session, Backslash], None]
    """Carries out a backslash command."""
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
        try:
            if isinstance(item, Backslash):
                self.commands(self, item)
            else:
                self.execute(item.text)
        except CommandFailed as error:
            raise Trouble(self._told(error)) from None
        except CannotConnect as error:
            where = "" if self.connector.several else f" to {self.connector.label}"
            raise Trouble(f"cannot connect{where}: {error}", UNREACHABLE) from None
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
        if word not in READING:
            self.on_change(word)
        if answer.failures:
            unreachable = any(failure.unreachable for failure in answer.failures)
            raise Trouble("\n".join(map(str, answer.failures)), UNREACHABLE if unreachable else FAILED)
        return None

    def _teach(self, statement: str, answer: Answer) -> None:
        said = spoken(statement)
        if len(said) == 2 and said[0].upper == "SHOW" and answer.columns:
            self.on_view(said[1].value, answer.names)

    def answer(self, statement: str) -> Answer:
        """The statement's answer, from the console or from PostgreSQL over its views."""
        found = self._over_views(statement) if self._is_ours(statement) else None
        return found or self.connector.ask(statement, self._waiting(statement))

    def _over_views(self, statement: str) -> Answer | None:
        """The answer of a SELECT over what the console shows; None when the statement is none."""
        from admin.repl import viewsql  # most consoles know SELECT: who needs none of it does not wait for its loading
        from admin.sql.backend import Told

        link = self.connector.link
        version = f"PgBouncer {link.version}" if link else ""
        told = Told(version, time.time(), time.time(), os.getpid(), {})
        failures: dict[str, Failure] = {}
        found = viewsql.answer(statement, lambda name: self._view(name, failures), told, self.connector.address.user)
        return replace(found, failures=tuple(failures.values())) if found and failures else found

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
        """How answers are to be shown now. What goes to a file or program looks the same whatever the terminal's width
        is and however answers are turned on it; for the other there is the format `expanded`."""
        options = self.options
        turning = {"on": True, "off": False, "auto": None}
        away = self.out.redirected
        return Look(
            format=options.format,
            vertical=False if away else turning[options.expanded],
            human=options.human,
            colour=not away and colours.wanted(self.out.stream),
            width=formats.FILE_WIDTH if away else self.terminal.screen().columns,
            paused=self.paused(),
        )

    def vocabulary(self) -> Vocabulary:
        """The words of the console we are connected to, asked for once per connection."""
        link = self.connector.link
        if link is not None and link is not self._told_by:
            self._vocabulary = vocabulary.own().told(self.connector.ask("SHOW HELP").notices)
            self._told_by = link
        return self._vocabulary

    def _is_ours(self, statement: str) -> bool:
        """Whether it may be a SELECT to be answered here, since the console itself knows no SELECT, or none over those
        of others."""
        said = spoken(statement)
        if first_word(statement) not in SELECTS and not (first_word(statement) == "SHOW" and len(said) > 2):
            return False
        if self.connector.link is None or self.connector.link.closed:
            self.connector.ask("SHOW VERSION")  # connects, or says why not
        words = self.vocabulary()
        return (self.connector.several or not words.sql) and not _synonym(statement, words)

    def _view(self, name: str, failures: dict[str, Failure]) -> Answer | None:
        """`failures`: of the poolers that are not in it, by their names."""
        if name in SECRET_VIEWS or not self.vocabulary().has_view(name):
            return None
        shown = self.connector.ask(f"SHOW {name.upper()}")
        failures.update((failure.pooler, failure) for failure in shown.failures)
        return shown

    def _sure(self, statement: str, word: str) -> bool:
        said = spoken(statement)
        hurts = word in HURTING or (word in HURTING_ALL and len(said) == 1)
        if not hurts or not self.terminal.person:
            return True
        where = f" on {self.connector.label}" if self.connector.several else ""
        return self.terminal.confirm(f"{statement}{where}: {_CONSEQUENCES[word]}. Really?")

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
    "PAUSE": "holds back all work of every database until RESUME",
    "SUSPEND": "stops all traffic until RESUME",
    "DISABLE": "refuses new clients until ENABLE",
}


def _synonym(statement: str, words: Vocabulary) -> bool:
    """`SELECT pools`, which PgBouncer takes for SHOW POOLS."""
    said = spoken(statement)
    return len(said) == 2 and said[0].upper == "SELECT" and words.has_view(said[1].value)


def _long(text: str, lines: int, columns: int) -> bool:
    shown = text.splitlines()
    return len(shown) > lines - 2 or any(len(colours.stripped(line)) > columns for line in shown)
