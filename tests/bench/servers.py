"""What is measured and on what: one PostgreSQL filled by pgbench, and the contestants in front of it.

A contestant runs one process for each set of settings asked for, kept until the end: idle processes cost
nothing. Both get the same ini, but for settings one of them does not know.
"""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures import account
from tests.fixtures.authority import Pair
from tests.fixtures.bouncer import PgBouncer
from tests.fixtures.cluster import SUPERUSER, Cluster, scratch
from tests.fixtures.process import Bouncer

SCALE = 10
"""pgbench's scale: a million rows in pgbench_accounts."""
POOL = 20
MAX_CLIENTS = 10_000
DESCRIPTORS = 20_000

POSTGRESQL = {
    "max_connections": "300",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "log_connections": "off",
    "log_disconnections": "off",
    "jit": "off",
}
QUIET = {"log_connections": 0, "log_disconnections": 0, "log_pooler_errors": 0, "stats_period": 3600}
OURS_ONLY = {"max_prepared_statements": 200}


class Contestant:
    """One of the two programs; `process()` gives it with given settings, started at first need."""

    def __init__(self, kind: type[Bouncer], name: str, cluster: Cluster, pair: Pair, directory: Path) -> None:
        self.kind, self.name, self.cluster, self.pair = kind, name, cluster, pair
        self.directory = directory / name.replace(" ", "_")
        self.directory.mkdir()
        account.own(self.directory)
        self.prepares = kind is Bouncer
        self._running: dict[tuple[tuple[str, object], ...], Bouncer] = {}

    def process(self, *, users: dict[str, str] | None = None, **settings: object) -> Bouncer:
        key = tuple(sorted(settings.items(), key=str))
        if key not in self._running:
            self._running[key] = self.fresh(str(len(self._running)), users=users, **settings).start()
        return self._running[key]

    def fresh(self, name: str, *, users: dict[str, str] | None = None, **settings: object) -> Bouncer:
        """One more, not started; who starts it stops it."""
        place = self.directory / name
        place.mkdir()
        account.own(place)
        target = f"host={self.cluster.host} port={self.cluster.port} dbname=app user={SUPERUSER}"
        own = OURS_ONLY if self.prepares else {}
        known: dict[str, object] = {
            "default_pool_size": POOL,
            "max_client_conn": MAX_CLIENTS,
            "client_tls_sslmode": "allow",
            "server_tls_sslmode": "disable",
            "client_tls_cert_file": self.pair.cert,
            "client_tls_key_file": self.pair.key,
            "listen_backlog": 4096,
        }
        return self.kind(place, databases={"app": target}, settings=QUIET | known | own | settings, users=users)

    def stop(self) -> None:
        for bouncer in self._running.values():
            bouncer.stop()


@contextmanager
def arena(*, calibrate: bool) -> Iterator[tuple[Contestant, Contestant]]:
    """Ours and theirs on a fresh PostgreSQL; `calibrate`: pgbouncer twice, to see the machine's noise."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    directory = scratch()
    cluster = Cluster(directory, settings=POSTGRESQL)
    contestants: list[Contestant] = []
    try:
        cluster.create()
        server: list[str | Path] = ["-h", cluster.host, "-p", str(cluster.port), "-U", SUPERUSER]
        account.run([cluster.bin / "pgbench", "-i", "-q", "-s", str(SCALE), *server, "app"])
        cluster.sql("VACUUM (FREEZE, ANALYZE)", dbname="app")
        cluster.sql("CHECKPOINT")
        pair = cluster.authority.sign("localhost", names=("localhost", "127.0.0.1"), file="bench")
        account.own(pair.key)
        ours = (PgBouncer, "pgbouncer again") if calibrate else (Bouncer, "pooler")
        for kind, name in (ours, (PgBouncer, "pgbouncer")):
            contestants.append(Contestant(kind, name, cluster, pair, directory))
        yield contestants[0], contestants[1]
    finally:
        for contestant in contestants:
            contestant.stop()
        cluster.stop(signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)
