"""What was asked for on the command line of `pooler serve`: PgBouncer's flags, and ours.

The rule: an ini and nothing else, as a service is started, needs no parser; one is a tenth of a fast start.
"""

from __future__ import annotations

from dataclasses import field

from pooler.config.kinds import LogFormat
from pooler.values import dataclass


@dataclass(frozen=True, slots=True)
class Flags:
    """What was asked for on the command line. None: not given."""

    ini: str | None = None
    daemon: bool = False
    quiet: bool = False
    verbose: int = 0
    user: str | None = None
    reboot: bool = False
    version: bool = False
    database_url: str | None = field(default=None, repr=False)
    connection_limit: int | None = None
    listen: str | None = None
    port: int | None = None
    data_dir: str | None = None
    plain: bool = False
    session_state: str | None = None
    embedded: bool = False
    log_format: LogFormat | None = None
    metrics_period: float | None = None
    metrics_extra: bool = False
    drains: tuple[str, ...] = ()
    http: tuple[str, int] | str | None = None
    http_cert: str | None = None
    http_key: str | None = None
    state: str | None = field(default=None, repr=False)
    workers: int | None = None


def parse(arguments: list[str]) -> Flags:
    """Exits with status 2 on wrong usage, as argparse does."""
    if len(arguments) == 1 and arguments[0][:1] not in ("", "-"):
        return Flags(ini=arguments[0])
    from pooler.commands.options import read

    return Flags(**read(arguments))
