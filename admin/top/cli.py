"""`pooler top`: arguments, the first connection (and its password), then the full screen.

Exit status: 0 when the person leaves, 2 usage (no terminal is usage too), 3 cannot connect.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from admin.repl import address, colours
from admin.repl.address import BadAddress
from admin.repl.connector import Connector, Manners
from admin.repl.link import CannotConnect
from admin.repl.session import UNREACHABLE, USAGE
from admin.repl.terminal import PersonTerminal, leave, unicode_terminal


def parser() -> argparse.ArgumentParser:
    """The command line of `pooler top`."""
    made = argparse.ArgumentParser(
        prog="pooler top",
        description="Watch a pooler (or a PgBouncer) live: its pools, their clients, servers and queues.",
        epilog="URL and exit status are those of `pooler console`. Press ? for the keys.",
    )
    made.add_argument("url", nargs="?", metavar="URL", help="the console to connect to")
    made.add_argument("-d", "--delay", type=_seconds, default=1.0, metavar="SECONDS", help="how often to ask (1)")
    made.add_argument("--ascii", action="store_true", help="draw without block characters")
    return made


def main(argv: Sequence[str]) -> int:
    """Run `pooler top`; the exit status."""
    address.wipe_arguments(sys.orig_argv)
    told = parser().parse_args(argv)
    try:
        addresses = [address.parse(told.url)] if told.url else address.default_addresses()
    except BadAddress as error:
        print(f"pooler top: {error}", file=sys.stderr)
        return USAGE
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("pooler top: needs a terminal; for scripts there is pooler console -c", file=sys.stderr)
        return USAGE
    terminal = PersonTerminal()
    connector = Connector(addresses, Manners(terminal.say, terminal.password))
    try:
        connector.connect()
    except CannotConnect as error:
        print(f"pooler top: cannot connect: {error}", file=sys.stderr)
        return UNREACHABLE
    found = connector.address
    connector.close()
    return _show(found, told)


def _show(found: address.Address, told: argparse.Namespace) -> int:
    from prompt_toolkit.output import ColorDepth

    from admin.top.app import Top
    from admin.top.feed import Feed

    depth = None if colours.wanted(sys.stdout) else ColorDepth.DEPTH_1_BIT
    feed = Feed(found, told.delay)
    threads = Top(found, feed, unicode=unicode_terminal() and not told.ascii, depth=depth).run()
    return leave(threads, 0)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("from 0.2 to 3600 seconds")
    return seconds
