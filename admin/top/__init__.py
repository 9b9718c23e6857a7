"""`pooler top`: the pooler live on a full screen, read through its console like any client.

`main` is the entry point. `feed` asks, `model` is what was answered, `control` what keys do, `screens`
what is drawn, `app` puts them on a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run `pooler top` with these arguments; the exit status."""
    from admin.top.cli import main as run

    return run(argv)
