"""The `pooler` command: which of its commands is meant, and nothing else.

Each command is a function from its arguments to an exit status, loaded only when it is called, so that `pooler serve`
does not pay for the console and the console not for the server. This and pooler/commands are the only places where
the three packages meet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

Main = Callable[[list[str]], int]

COMMANDS = {
    "serve": ("pooler.commands.serve", "run the pooler: embedded PostgreSQL, a database's URL, or an ini file"),
    "console": ("admin.repl", "the interactive console of the admin database"),
    "top": ("admin.top", "pools, clients and servers, live and full-screen"),
    "logs": ("metrics.logs", "show and follow the metrics lines of a running pooler"),
    "metrics": ("pooler.commands.foreign", "log lines, /metrics and the live page for a PgBouncer that is not ours"),
}
PLATFORM = (
    "apps",
    "apps:create",
    "apps:destroy",
    "db:register",
    "pg",
    "pg:info",
    "pg:connection-pooling:attach",
    "pg:promote",
    "pg:unfollow",
    "pg:credentials",
    "pg:credentials:create",
    "pg:credentials:destroy",
    "pg:credentials:url",
    "pg:psql",
    "pg:wait",
    "addons",
    "addons:info",
    "addons:attach",
    "addons:detach",
    "addons:destroy",
    "config",
    "config:get",
    "config:set",
    "config:unset",
    "releases",
    "authorizations",
    "authorizations:create",
    "authorizations:revoke",
    "run",
)
"""Heroku's commands, on your own PostgreSQL; `admin.platform` has them all."""
HELP = ("-h", "--help", "help")
VERSION = ("-V", "--version", "version")


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pooler COMMAND [ARGUMENT...]",
            "",
            *lines,
            "",
            "Apps, databases and attachments, as the Heroku CLI has them:",
            *(f"  {name}" for name in PLATFORM),
            "",
            "pooler COMMAND --help tells more about each.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in HELP:
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name in VERSION:
        name, rest = "serve", ["--version"]
    if name in COMMANDS:
        return _load(COMMANDS[name][0])(rest)
    if name in PLATFORM:
        return _load("admin.platform")(words)
    print(f"pooler: there is no command {name!r}; pooler --help lists them", file=sys.stderr)
    return 2


def _load(module: str) -> Main:
    found: Main = import_module(module).main
    return found


if __name__ == "__main__":
    sys.exit(main())
