"""What is measured and on what: one PostgreSQL filled by pgbench, and the contestants in front of it.

A contestant runs one process for each set of settings asked for, kept until the end: idle processes cost
nothing. Both get the same ini, but for settings one of them does not know.
"""

from __future__ import annotations

import re
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures import account
from tests.fixtures.authority import Pair
from tests.fixtures.bouncer import INSTALLED, PgBouncer, version
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
PREPARING = {"max_prepared_statements": 200}
PREPARES_SINCE = (1, 21)


class Contestant:
    """One of the two programs; `process()` gives it with given settings, started at first need. `name`: with its
    version; `prepares`: whether it has prepared statements in transaction pooling."""

    def __init__(
        self, kind: type[Bouncer], name: str, prepares: bool, cluster: Cluster, pair: Pair, directory: Path
    ) -> None:
        self.kind, self.name, self.prepares, self.cluster, self.pair = kind, name, prepares, cluster, pair
        self.directory = directory / name.replace(" ", "_")
        self.directory.mkdir()
        account.own(self.directory)
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
        own = PREPARING if self.prepares else {}
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


def opponent(program: str) -> tuple[type[Bouncer], str, bool]:
    """What `Contestant` wants of that pgbouncer."""
    name = version(program)
    major, minor = re.findall(r"\d+", name)[:2]
    return type("Opponent", (PgBouncer,), {"program": program}), name, (int(major), int(minor)) >= PREPARES_SINCE


@contextmanager
def arena(program: str | None = INSTALLED, *, calibrate: bool = False) -> Iterator[tuple[Contestant, Contestant]]:
    """Ours and the pgbouncer `program` on a fresh PostgreSQL; `calibrate`: it twice, to see the machine's noise."""
    if program is None:
        raise SystemExit("pgbouncer is not installed: apt-get install pgbouncer")
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
        kind, name, prepares = opponent(program)
        ours = (kind, f"{name} again", prepares) if calibrate else (Bouncer, "pooler", True)
        for entered in (ours, (kind, name, prepares)):
            contestants.append(Contestant(*entered, cluster, pair, directory))
        yield contestants[0], contestants[1]
    finally:
        for contestant in contestants:
            contestant.stop()
        cluster.stop(signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)
