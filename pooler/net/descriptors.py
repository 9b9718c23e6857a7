"""How many descriptors this process may need.

PgBouncer's account: every client that max_client_conn lets in, and a pool of full size for each user of each database,
or for the database's own. The rule: this process has as many as the system lets, and whoever raises the need says how
many that is.
"""

from __future__ import annotations

from pooler.config.databases import RESERVED
from pooler.config.whole import Config
from pooler.kernel import limits, raise_limit
from pooler.log import LOG, WARNING

OWN = 12
"""What PgBouncer adds for itself."""


def expected(config: Config) -> int:
    """By PgBouncer's account, without what it adds for itself."""
    users = len({*config.secrets, *config.users, RESERVED})
    shared = config.settings.default_pool_size
    sizes = ((db, shared if db.pool_size is None else db.pool_size) for db in config.databases.values())
    return config.settings.max_client_conn + sum(size * (1 if db.user else users) for db, size in sizes)


def provide(config: Config) -> tuple[str, str]:
    """Raise the limit, whether `config` needs that or not: a level and a line for the log."""
    raise_limit()
    limit, hard = limits()
    needed = expected(config) + OWN
    level = LOG if limit >= needed else WARNING
    kernel = f"kernel file descriptor limit: {limit} (hard: {hard})"
    return level, f"{kernel}; max_client_conn: {config.settings.max_client_conn}, max expected fd use: {needed}"
