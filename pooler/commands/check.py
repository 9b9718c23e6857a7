"""`pooler check FILE`: all that is wrong with an ini and the files that it names, before anything is started with it.

The rule: what a start would stop at, or the log would tell of as an error, is an error here, and the exit status says
so; what would start, but is perhaps meant otherwise, is a warning. Nothing is bound, written or connected to. Lines are
as compilers write them, `FILE:LINE: error: …`, which editors and CI know how to follow.
"""

from __future__ import annotations

import argparse
import dataclasses
import grp
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

from pooler.config.ini import Problem
from pooler.config.settings import Settings
from pooler.config.whole import Config, examine, shut_out
from pooler.net import tls

WRONG, USAGE = 1, 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="pooler check",
        description="Tell all that is wrong with an ini file and the files that it names, without starting anything.",
        epilog="Exit status: 0 it can be used, 1 it cannot (with --strict: not without a warning), 2 wrong usage.",
    )
    made.add_argument("ini", metavar="FILE", help="the ini file")
    made.add_argument("--strict", action="store_true", help="warnings count as errors")
    made.add_argument("-q", "--quiet", action="store_true", help="say nothing when all is well")
    return made


def main(words: list[str]) -> int:
    given = parser().parse_args(words)
    found = [dataclasses.replace(problem, file=problem.file or given.ini) for problem in problems(given.ini)]
    for problem in found:
        print(line(problem))
    errors = sum(problem.level == "ERROR" for problem in found)
    warnings = len(found) - errors
    if found:
        print(f"{given.ini}: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}", file=sys.stderr)
    elif not given.quiet:
        print(f"{given.ini}: all is well")
    return WRONG if errors or (given.strict and warnings) else 0


def line(problem: Problem) -> str:
    """One problem, as compilers write them."""
    kind = "error" if problem.level == "ERROR" else "warning"
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return f"{place}: {kind}: {dataclasses.replace(problem, file='')}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def problems(path: str) -> list[Problem]:
    """Of the ini file at `path`, by file and line; those without a line come last."""
    examined = examine(path)
    found = [*examined.problems, *examined.config.warnings]
    # Of a file that could not even be read nothing more is known.
    if not any(problem.file == path and not problem.line for problem in examined.problems):
        found += _beyond(examined.config)
    return sorted(found, key=lambda problem: (problem.file != path, problem.file, problem.line or sys.maxsize))


def _beyond(config: Config) -> Iterator[Problem]:
    """What only a look at the machine tells."""
    try:
        if trouble := tls.start(config.settings).server.problem:
            yield Problem("", 0, f"TLS setup failed: {trouble}", level="WARNING")
    except tls.TlsProblem as error:
        yield Problem("", 0, error.log)
    for sentence in _missing(config.settings):
        yield Problem("", 0, sentence)
    if not (config.databases or config.fallback):
        yield Problem("", 0, "there is no database: [databases] has no entry", level="WARNING")
    if sentence := shut_out(config):
        yield Problem("", 0, sentence, level="WARNING")


def _missing(settings: Settings) -> Iterator[str]:
    """Accounts and directories that are not there."""
    if settings.user and not _known(pwd.getpwnam, settings.user):
        yield f"user = {settings.user}: there is no such account"
    if settings.unix_socket_group and not _known(grp.getgrnam, settings.unix_socket_group):
        yield f"unix_socket_group = {settings.unix_socket_group}: there is no such group"
    for key in ("logfile", "pidfile"):
        path = getattr(settings, key)
        if path and not Path(path).absolute().parent.is_dir():
            yield f"{key} = {path}: there is no directory {os.path.dirname(path)}"
    directory = settings.unix_socket_dir
    if directory and not directory.startswith("@") and not os.path.isdir(directory):
        yield f"unix_socket_dir = {directory}: there is no such directory"
    if not (settings.listen_addr or directory):
        yield "nowhere to listen on: set listen_addr or unix_socket_dir"


def _known(look: object, name: str) -> bool:
    assert callable(look)
    try:
        look(name)
    except KeyError:
        return False
    return True
