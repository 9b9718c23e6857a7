"""A row of the table of commands as a parser of its arguments. Errors do not repeat values, which may be secrets."""

from __future__ import annotations

import argparse
from typing import NoReturn

from admin.platform.cli.table import Command


class Usage(Exception):
    """The command was not understood; exit status 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}\n{self.format_usage().strip()}")


def parser_of(command: Command) -> Parser:
    made = Parser(prog=f"pooler {command.name}", description=command.help, allow_abbrev=False)
    for item in command.arguments:
        made.add_argument(*item.names, **item.options)
    made.add_argument(
        "--state", metavar="URL", help="state file or postgres:// URL (default: POOLER_STATE, or the user's)"
    )
    if command.rest:
        made.usage = f"{made.format_usage().removeprefix('usage: ').strip()} -- {command.rest}".replace("%", "%%")
    return made


def parse(command: Command, argv: list[str]) -> argparse.Namespace:
    """The command's arguments; what stands after `--` is `rest`."""
    parser = parser_of(command)
    before, rest = argv, []
    if "--" in argv:
        at = argv.index("--")
        before, rest = argv[:at], argv[at + 1 :]
    found, unknown = parser.parse_known_intermixed_args(before)
    if command.rest:
        rest = unknown + rest
    elif unknown or rest:
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        parser.error(f"unknown flag {flag}" if flag else "too many arguments")
    found.rest = rest
    return found
