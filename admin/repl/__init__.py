"""The interactive console, `pooler console`: a prompt on any PgBouncer-like console, and a tool for
scripts.

An ordinary wire client (psycopg, simple protocol) that knows nothing of the server's code but its table of
commands and the columns of its views. `main` is its entry point; everything heavy is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run `pooler console` with these arguments; the exit status."""
    from admin.repl.cli import main as run

    return run(argv)
