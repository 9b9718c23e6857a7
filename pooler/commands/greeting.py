"""What `pooler serve` prints when it is ready and no ini was given: the URLs and commands to copy."""

from __future__ import annotations

import shlex

from pooler.bouncer import Bouncer
from pooler.commands.sources import Source
from pooler.databases import RESERVED


def greet(bouncer: Bouncer, source: Source) -> None:
    settings = bouncer.config.settings
    host, port = settings.listen_addr[0], settings.listen_port
    host = "127.0.0.1" if host in ("*", "0.0.0.0", "::") else host
    what = "an embedded PostgreSQL" if source.embedded else f"the database at {source.where}"
    conninfo = f"host={host} port={port} user={_quoted(source.user)} dbname={RESERVED}"
    pgpass = f"PGPASSFILE={shlex.quote(str(source.embedded.pgpass))} " if source.embedded else ""
    print(
        f"Pooling {what} in transaction mode, {settings.default_pool_size} server connections at most.\n"
        f"\n"
        f"  DATABASE_CONNECTION_POOL_URL={source.url(host, port, source.dbname)}\n"
        f'  {pgpass}psql "{conninfo}"\n',
        flush=True,
    )


def _quoted(value: str) -> str:
    """A value of a connection string."""
    if value and all(c.isalnum() or c in "_-." for c in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
