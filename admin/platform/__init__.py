"""The control plane: apps, databases, attachments and releases, behind Heroku's commands and Heroku's API.

Nothing heavy is imported here; `main` loads what a command needs. The pooler learns what it must serve from
`desired`, the command line lives in `cli`, the HTTP API in `api`, and both do everything through
`operations`.
"""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run one control-plane command (`argv[0]` is its name, such as `pg:info`) and return the exit status."""
    from admin.platform.cli import run_command

    return run_command(argv)
