"""A command as it is described in help, manuals and completion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Listed(NamedTuple):
    """`parser` makes the one that reads its arguments: what that knows is not written down again."""

    name: str
    topic: str
    help: str
    parser: Callable[[], argparse.ArgumentParser]


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Its flags and operands in the order of its help, without those that are not shown."""
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            yield action


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Its sentence, as --help has it."""
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def value_of(action: argparse.Action) -> str:
    """What stands behind a flag, or for an operand; empty for a flag that takes nothing."""
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()
