"""What `pooler serve` prints when it is ready and no ini was given: the URLs and commands to copy.

The rule: a password goes to a terminal only. What reads a pipe or a file keeps it, as journals and collectors do; it is
told where the password is instead.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from urllib.parse import quote

from pooler.commands.sources import Source, unbindable
from pooler.config.databases import RESERVED
from pooler.config.settings import Settings
from pooler.outlet import announce, for_a_person

MASK = "****"
EVERYWHERE = ("*", "0.0.0.0", "::")
WIDTH = 9


def greet(settings: Settings, source: Source | None, page: tuple[str, int] | None, *, secure: bool) -> None:
    """`page` is where the live page shall be, `secure` whether by TLS."""
    text = "\n".join(lines(settings, source, _page(page, secure), shown=for_a_person()))
    announce(f"{text}\n\n")


def lines(settings: Settings, source: Source | None, page: str, *, shown: bool) -> Iterator[str]:
    """All of it; `shown`: with the password."""
    host, port = settings.listen_addr[0], settings.listen_port
    host = "127.0.0.1" if host in EVERYWHERE else host
    if source is None:
        host, user, passfile = settings.unix_socket_dir, RESERVED, ""
        yield "Pooling what the control plane's state asks for, and no database beside it."
    else:
        user = source.user
        passfile = f"PGPASSFILE={shlex.quote(str(source.embedded.pgpass))} " if source.embedded else ""
        what = "an embedded PostgreSQL" if source.embedded else f"the database at {source.where}"
        size = settings.default_pool_size
        yield f"Pooling {what} in transaction mode, {size} server connections at most."
    yield ""
    if source is not None:
        url = source.url(host, port, source.dbname)
        if source.password and not shown:
            where = f"in {source.embedded.pgpass}" if source.embedded else "that of the database's URL"
            yield f"  DATABASE_CONNECTION_POOL_URL={_masked(source, url)}"
            yield f"  (the password is {where}; it is shown on a terminal only)"
        else:
            yield f"  DATABASE_CONNECTION_POOL_URL={url}"
    yield f'  {passfile}psql "host={_quoted(host)} port={port} user={_quoted(user)} dbname={RESERVED}"'
    yield ""
    place = f"postgres://{quote(user, safe='')}@{_in_url(host)}:{port}/{RESERVED}"
    yield f"  {'console':<{WIDTH}}{passfile}pooler console {place}"
    yield f"  {'top':<{WIDTH}}{passfile}pooler top {place}"
    yield f"  {'page':<{WIDTH}}{page}"
    if source is not None and source.embedded is not None:
        yield f"  {'data':<{WIDTH}}{source.embedded.pgpass.parent}"


def _masked(source: Source, url: str) -> str:
    secret = quote(source.password or "", safe="")
    return url.replace(f":{secret}@", f":{MASK}@", 1)


def _page(page: tuple[str, int] | None, secure: bool) -> str:
    if page is None:
        return "none (--http HOST:PORT)"
    host, port = page
    if why := unbindable(host, port):
        return f"none: {_in_url(host)}:{port} cannot be had ({why}); --http HOST:PORT names another"
    host = "127.0.0.1" if host in EVERYWHERE else host
    return f"http{'s' if secure else ''}://{_in_url(host)}:{port}/"


def _in_url(host: str) -> str:
    return quote(host, safe="") if host.startswith("/") else f"[{host}]" if ":" in host else host


def _quoted(value: str) -> str:
    """A value of a connection string."""
    if value and all(c.isalnum() or c in "_-./" for c in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
