"""`\\watch`: the same statement again and again, in place on a terminal, one answer after another in a
script.

On a terminal a table stays one: turned, one row would fill the screen. With `delta` each answer is told as the
change since the one before (see rates). It ends after `c=N` answers, at Ctrl-C or `q`, never at a lost
connection, which is waited for. It asks only as often as it shows.
"""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from admin.client import colours
from admin.client.answers import Answer
from admin.client.link import CannotConnect
from admin.repl import formats
from admin.repl.rates import rates

if TYPE_CHECKING:
    from admin.repl.session import Session

DEFAULT_SECONDS = 2.0
LEAST_SECONDS = 0.1
HOME_AND_CLEAR = "\x1b[H\x1b[J"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: every `seconds`, `count` times (0: until stopped), as differences if `delta`."""

    seconds: float = DEFAULT_SECONDS
    count: int = 0
    delta: bool = False


class BadPlan(Exception):
    """An argument that \\watch does not take."""


def plan(argument: str) -> Plan:
    """`\\watch [SECONDS] [delta] [i=SECONDS] [c=COUNT]`, in any order. Raises BadPlan."""
    found = Plan()
    for word in argument.lower().split():
        name, _, value = word.rpartition("=")
        try:
            if word in ("delta", "d"):
                found = replace(found, delta=True)
            elif name in ("c", "count"):
                found = replace(found, count=int(value))
            elif name in ("", "i", "interval"):
                found = replace(found, seconds=float(value))
            else:
                raise ValueError
        except ValueError:
            raise BadPlan(f'\\watch: "{word}" is neither seconds, c=COUNT nor delta') from None
    if not found.seconds >= LEAST_SECONDS or found.seconds > 86_400 or found.count < 0:
        raise BadPlan(f"\\watch: from {LEAST_SECONDS:g} to 86400 seconds, and a count of 1 or more")
    return found


def watch(session: Session, statement: str, wanted: Plan) -> None:
    """Run it. Ctrl-C ends it for a person; a script's Ctrl-C goes on to end the script."""
    live = session.terminal.person and not session.out.redirected and session.out.stream.isatty()
    try:
        with _keys(live):
            _repeat(session, statement, wanted, live)
    except KeyboardInterrupt:
        if not session.terminal.person:
            raise
    if live:
        session.out.write("\n")


def _repeat(session: Session, statement: str, wanted: Plan, live: bool) -> None:
    before: tuple[float, Answer] | None = None
    missing = ""
    shown = 0
    while True:
        began = time.monotonic()
        answer = _ask(session, statement)
        told = _told(session, statement, wanted, before, (began, answer))
        before = (began, answer)
        if (without := "; ".join(map(str, answer.failures))) != missing and not live:
            session.terminal.say(f"without {without}" if without else "with all again")
        missing = without
        _draw(session, _heading(session, statement, wanted, without if live else ""), told, live)
        shown += 1
        if wanted.count and shown >= wanted.count:
            return
        if _stopped_within(wanted.seconds - (time.monotonic() - began), live):
            return


def _ask(session: Session, statement: str) -> Answer:
    """The answer; a person's \\watch outlives any absence of the pooler."""
    while True:
        try:
            return session.answer(statement)
        except CannotConnect as error:
            if not session.terminal.person:
                raise
            session.terminal.say(f"cannot connect: {error}; trying again")
            time.sleep(1)


def _told(
    session: Session,
    statement: str,
    wanted: Plan,
    before: tuple[float, Answer] | None,
    now: tuple[float, Answer],
) -> Answer:
    if not wanted.delta:
        return now[1]
    then, answer = before or now
    return rates(answer, now[1], now[0] - then, statement, human=session.options.human)


def _heading(session: Session, statement: str, wanted: Plan, without: str) -> str:
    mode = ", changes" if wanted.delta else ""
    clock = time.strftime("%H:%M:%S")
    said = "; without ".join(filter(None, (" ".join(statement.split()), without)))
    return f"{clock}  every {wanted.seconds:g} s{mode}: {said}"


def _draw(session: Session, heading: str, answer: Answer, live: bool) -> None:
    look = replace(session.look(), compact=live)
    body = formats.render(answer, look)
    if not live:
        heads = look.format in ("table", "expanded")
        session.out.write(f"{heading}\n{body}\n" if heads else body)
        return
    screen = session.terminal.screen()
    lines = [colours.paint(heading, colours.BOLD) if look.colour else heading, "", *body.splitlines()]
    room = screen.lines - 2
    if len(lines) > room:
        lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"]
    foot = "Ctrl-C or q stops"
    lines += [colours.paint(foot, colours.DIM) if look.colour else foot]
    session.out.write(HOME_AND_CLEAR + "\n".join(cut(line, screen.columns) for line in lines))


def cut(line: str, columns: int) -> str:
    """The line's first columns, its colours kept whole: a wrapped line would shift what is below."""
    if len(colours.stripped(line)) <= columns:
        return line
    kept, room = [], columns - 1
    for piece in colours.pieces(line):
        if colours.stripped(piece):
            kept.append(piece[: max(room, 0)])
            room -= len(piece)
        else:
            kept.append(piece)
    return "".join(kept) + "…"


def _stopped_within(seconds: float, live: bool) -> bool:
    """Wait; true as soon as the person types q."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not live:
            time.sleep(left)
            continue
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready and sys.stdin.read(1).lower() in ("q", "\x04", ""):
            return True
    return False


@contextlib.contextmanager
def _keys(live: bool) -> Iterator[None]:
    """While watching, typed keys neither echo nor wait for Enter."""
    if not live or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)
