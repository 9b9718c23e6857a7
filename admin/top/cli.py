"""`pooler top`: arguments, the first connection (and its password), then the full screen.

Exit status: 0 when the person leaves, 2 usage (no terminal is usage too), 3 cannot connect.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from admin.client import address, colours
from admin.client.address import Address, BadAddress
from admin.client.connector import Connector, Manners
from admin.client.link import CannotConnect
from admin.client.terminal import UNREACHABLE, USAGE, PersonTerminal, leave, unicode_terminal

MOST = 9
"""Consoles on one screen: as many as there are digits to choose one by."""


def parser() -> argparse.ArgumentParser:
    """The command line of `pooler top`."""
    made = argparse.ArgumentParser(
        prog="pooler top",
        description="Watch a pooler (or a PgBouncer) live: its pools, their clients, servers and queues.",
        epilog="URL and exit status are those of `pooler console`. Press ? for the keys.",
    )
    made.add_argument("url", nargs="*", metavar="URL", help="the console to connect to, or several (keys 1 to 9)")
    made.add_argument("-d", "--delay", type=_seconds, default=1.0, metavar="SECONDS", help="how often to ask (1)")
    made.add_argument("--ascii", action="store_true", help="draw without block characters")
    return made


def main(argv: Sequence[str]) -> int:
    """Run `pooler top`; the exit status."""
    address.wipe_arguments(sys.orig_argv)
    told = parser().parse_intermixed_args(argv)
    try:
        consoles = [[address.parse(url)] for url in told.url] or [address.default_addresses()]
    except BadAddress as error:
        print(f"pooler top: {error}", file=sys.stderr)
        return USAGE
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("pooler top: needs a terminal; for scripts there is pooler console -c", file=sys.stderr)
        return USAGE
    if len(consoles) > MOST:
        print(f"pooler top: {MOST} consoles at most", file=sys.stderr)
        return USAGE
    found, problems = _reached(consoles)
    for problem in problems:
        print(f"pooler top: cannot connect: {problem}", file=sys.stderr)
    if len(problems) == len(consoles):
        return UNREACHABLE
    return _show(found, told)


def _reached(consoles: list[list[Address]]) -> tuple[list[Address], list[CannotConnect]]:
    """The address of each console, with the password that it took, and why some of them cannot be reached: where
    there are several those are tried on, on the screen."""
    terminal = PersonTerminal()
    found, problems = [], []
    for addresses in consoles:
        connector = Connector(addresses, Manners(terminal.say, terminal.password))
        try:
            connector.connect()
        except CannotConnect as error:
            problems.append(error)
        found.append(connector.address)
        connector.close()
    return found, problems


def _show(found: list[Address], told: argparse.Namespace) -> int:
    from prompt_toolkit.output import ColorDepth

    from admin.top.app import Top
    from admin.top.feed import Feed

    depth = None if colours.wanted(sys.stdout) else ColorDepth.DEPTH_1_BIT
    feeds = [Feed(address, told.delay) for address in found]
    threads = Top(feeds, unicode=unicode_terminal() and not told.ascii, depth=depth).run()
    return leave(threads, 0)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("from 0.2 to 3600 seconds")
    return seconds
