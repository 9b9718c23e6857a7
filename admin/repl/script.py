"""Commands from `-c`, a pipe or a file: one after another, the first failure ends it with its exit status.

Nobody is asked anything. Answers are on stdout, everything else on stderr.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from admin.repl.session import Quit, Session, Trouble, at_line
from admin.repl.statements import Item, Splitter, split

STDIN = "<stdin>"


def run(session: Session, items: Iterable[Item], source: str = "") -> int:
    """Carry the items out; the exit status. `source` is what a complaint calls the text they are of."""
    try:
        for item in items:
            with at_line(source, item):
                session.run(item)
    except Quit:
        return 0
    except Trouble as trouble:
        session.terminal.say(str(trouble))
        return trouble.status
    finally:
        session.out.reset()
    return 0


def of_commands(commands: Iterable[str]) -> Iterator[Item]:
    """The items of several -c arguments."""
    for command in commands:
        yield from split(command)


def of_lines(lines: Iterable[str]) -> Iterator[Item]:
    """The items of a pipe, each as soon as it is complete."""
    splitter = Splitter()
    for line in lines:
        yield from splitter.feed(line)
    yield from splitter.finish()
