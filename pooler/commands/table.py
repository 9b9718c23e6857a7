"""The commands of `pooler` as one table: what --help lists, what completion offers and what the manual describes.

Nothing of a command is loaded here until it is run or described. Those of the control plane have a table of their own,
which is read when it is needed. The rule: a command is written down once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    import argparse

    from pooler.deploy.listed import Listed

Main = Callable[[list[str]], int]


class Command(NamedTuple):
    """`module` has its `main`, `parser` is the module that has its `parser`."""

    name: str
    topic: str
    help: str
    module: str
    parser: str


RUN, LOOK, PREPARE = "Run it", "Look into it", "Take it along"
OWN = {
    command.name: command
    for command in (
        Command(
            "serve", RUN, "the pooler: an ini file, a database's URL, or a PostgreSQL of its own",
            "pooler.commands.serve", "pooler.commands.options",
        ),
        Command("check", RUN, "all that is wrong with an ini file", "pooler.commands.check", "pooler.commands.check"),
        Command("console", LOOK, "the admin database, interactive or in scripts", "admin.repl", "admin.repl.cli"),
        Command("top", LOOK, "pools, clients and servers, live and full-screen", "admin.top", "admin.top.cli"),
        Command(
            "logs", LOOK, "the metrics lines of a running pooler",
            "metrics.foreign.logs", "metrics.foreign.logs",
        ),
        Command(
            "metrics", LOOK, "log lines, /metrics and the live page for a PgBouncer that is not ours",
            "pooler.commands.foreign", "metrics.foreign.command",
        ),
        Command(
            "print", PREPARE, "a sample ini, units and recipes, alerts, manuals, completion",
            "pooler.commands.shipped", "pooler.commands.shipped",
        ),
    )
}  # fmt: skip
PLATFORM = "admin.platform"
HEROKU = "Heroku's commands, "


def listed() -> list[Listed]:
    """All of them, by topic."""
    from admin.platform.cli.parsing import parser_of
    from admin.platform.cli.table import COMMANDS, TOPICS
    from pooler.deploy.listed import Listed

    own = [Listed(command.name, command.topic, command.help, _parser(command)) for command in OWN.values()]
    heroku = [
        Listed(command.name, HEROKU + TOPICS[command.topic], command.help, lambda command=command: parser_of(command))  # type: ignore[misc]
        for command in COMMANDS.values()
    ]
    return own + sorted(heroku, key=lambda command: list(TOPICS.values()).index(command.topic.removeprefix(HEROKU)))


def _parser(command: Command) -> Callable[[], argparse.ArgumentParser]:
    return lambda: cast("argparse.ArgumentParser", import_module(command.parser).parser())


def find(name: str) -> Main | None:
    """What runs a command of this name, given its arguments."""
    if name in OWN:
        # What is loaded is no garbage.
        gc.disable()
        try:
            return cast(Main, import_module(OWN[name].module).main)
        finally:
            gc.enable()
    from admin.platform.cli.table import COMMANDS

    if name not in COMMANDS:
        return None
    run = cast(Main, import_module(PLATFORM).main)
    return lambda arguments: run([name, *arguments])
