"""`pooler console`: arguments, and which of the two ways to run: a person's prompt or a script.

Exit status: 0 all is well, 1 a command failed, 2 usage, 3 no connection.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from admin.client import address
from admin.client.address import Address, BadAddress
from admin.client.connector import Connector, Manners
from admin.client.link import CannotConnect
from admin.client.terminal import FAILED, UNREACHABLE, USAGE, PersonTerminal, Terminal, leave
from admin.client.union import Union
from admin.repl import backslash, formats, script
from admin.repl.session import Options, Session
from pooler.ending import unread

if TYPE_CHECKING:
    from admin.repl.background import Background

PERSON_PATIENCE, SCRIPT_PATIENCE = 30.0, 5.0
"""Seconds for which a lost connection is tried again."""

EPILOG = """\
URL is postgresql://user@host:port/pgbouncer, host:port, or libpq's key=value words; PG* variables and
~/.pgpass are used as by psql. Without any, the pooler of this machine is meant (port 5433). Of several URLs
each command goes to all of them, and rows begin with whose they are, in the column `pooler`.
Exit status: 0 all is well, 1 a command failed, 2 usage, 3 cannot connect."""


def parser() -> argparse.ArgumentParser:
    """The command line of `pooler console`."""
    made = argparse.ArgumentParser(
        prog="pooler console",
        description="An interactive console for the pooler, and for PgBouncer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("url", nargs="*", metavar="URL", help="the console to connect to, or several as one")
    made.add_argument("-c", "--command", action="append", metavar="COMMAND", help="run this and leave; may be repeated")
    made.add_argument("-f", "--format", choices=formats.NAMES, default="table", help="how answers are written (table)")
    made.add_argument("-x", "--expanded", action="store_true", help="one line per column, as \\x on")
    made.add_argument("--human", action="store_true", help="durations, bytes and thousands readable")
    made.add_argument("--vi", action="store_true", help="vi's editing keys")
    made.add_argument("--no-pager", action="store_true", help="never page")
    return made


def main(argv: Sequence[str]) -> int:
    """Run `pooler console`; the exit status."""
    address.wipe_arguments(sys.orig_argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows a question mark
    told = parser().parse_intermixed_args(argv)
    try:
        consoles = [[address.parse(url)] for url in told.url] or [address.default_addresses()]
        connecting = _connecting(consoles)
    except BadAddress as error:
        print(f"pooler console: {error}", file=sys.stderr)
        return USAGE
    person = not told.command and sys.stdin.isatty()
    try:
        return _person(told, connecting) if person else _script(told, connecting)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        unread()
        return FAILED


Connecting = Callable[[Manners], Connector | Union]


def _connecting(consoles: list[list[Address]]) -> Connecting:
    """One console, or several as one. Raises BadAddress."""
    if len(consoles) == 1:
        return lambda manners: Connector(consoles[0], manners)
    Union.check(consoles)
    return lambda manners: Union(consoles, manners)


def _script(told: argparse.Namespace, connecting: Connecting) -> int:
    terminal = Terminal()
    session = Session(
        connecting(Manners(terminal.say, patience=SCRIPT_PATIENCE)),
        terminal,
        backslash.run,
        _options(told, expanded="off"),
    )
    if not _connected(session):
        return UNREACHABLE
    try:
        if told.command:
            return script.run(session, script.of_commands(told.command))
        return script.run(session, script.of_lines(sys.stdin), script.STDIN)
    finally:
        session.connector.close()


def _person(told: argparse.Namespace, connecting: Connecting) -> int:
    from admin.repl.background import Background
    from admin.repl.prompt import Prompt, prefers_vi

    terminal = PersonTerminal()
    manners = Manners(terminal.say, terminal.password, PERSON_PATIENCE)
    options = _options(told, expanded="auto")
    options.vi = told.vi or prefers_vi()
    session = Session(connecting(manners), terminal, backslash.run, options)
    if not _connected(session):
        return UNREACHABLE
    background = Background(lambda: session.connector.address)
    session.on_change = lambda word: _changed(background, word)
    session.on_view = background.learn
    session.paused = lambda: background.facts.paused
    background.start()
    try:
        _greet(session)
        status = Prompt(session, background).run()
    finally:
        background.stop()
        session.out.reset()
        session.connector.close()
    return leave([background], status)


def _options(told: argparse.Namespace, expanded: str) -> Options:
    return Options(
        format=told.format,
        expanded="on" if told.expanded else expanded,
        human=told.human,
        pager=not told.no_pager,
    )


def _connected(session: Session) -> bool:
    try:
        session.connector.connect()
    except CannotConnect as error:
        print(f"pooler console: cannot connect: {error}", file=sys.stderr)
        return False
    return True


def _greet(session: Session) -> None:
    session.terminal.say(f"{session.connector.told()} \\? tells what can be typed.")


def _changed(background: Background, word: str) -> None:
    """A verb was carried out: what is known may be old."""
    if word == "\\c":
        background.move()
    elif word in ("SET", "RELOAD"):
        background.expire("settings", "databases", "users")
    else:
        background.expire("databases")
