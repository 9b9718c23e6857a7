"""The `pooler` command: which of its commands is meant, and nothing else.

Each command is a function from its arguments to an exit status, loaded only when it is called, so that `pooler serve`
does not pay for the console and the console not for the server. This and pooler/commands are the only places where
the three packages meet.
"""

from __future__ import annotations

import sys
from itertools import groupby

from pooler.commands.table import find, listed
from pooler.ending import leave, unread

HELP = ("-h", "--help", "help")
VERSION = ("-V", "--version", "version")


def usage() -> str:
    commands = listed()
    width = max(len(command.name) for command in commands)
    lines = ["usage: pooler COMMAND [ARGUMENT...]"]
    for topic, group in groupby(commands, key=lambda command: command.topic):
        lines += ["", f"{topic}:", *(f"  {command.name:<{width}}  {command.help}" for command in group)]
    return "\n".join([*lines, "", "pooler COMMAND --help tells more about each."])


def tell_usage(*, asked: bool) -> int:
    try:
        print(usage(), file=sys.stdout if asked else sys.stderr, flush=True)
    except BrokenPipeError:
        unread()
    return 0 if asked else 2


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in HELP:
        if words[1:] and find(words[1]):
            words = [words[1], "--help"]
        else:
            return tell_usage(asked=bool(words))
    name, rest = words[0], words[1:]
    if name in VERSION:
        name, rest = "serve", ["--version"]
    run = find(name)
    if run is not None:
        return leave(run(rest))
    print(f"pooler: there is no command {name!r}; {_hint(name)}", file=sys.stderr)
    return 2


def _hint(name: str) -> str:
    from pooler.hints import did_you_mean

    meant = did_you_mean(name, [command.name for command in listed()])
    return meant or "pooler --help lists them"


if __name__ == "__main__":
    sys.exit(main())
