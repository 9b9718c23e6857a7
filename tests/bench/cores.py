"""Several workers: what 1, 2, 4 and 8 processes carry when each may have a tenth of a core.

So PostgreSQL and pgbench have the machine to themselves, and the pooler is the narrowest place, as on a large machine.
The caps are cpu control groups (version 1), which takes root; without them nothing can be said, and nothing is. Beside
it as many PgBouncers on one port (so_reuseport), and how many servers *they* open for a pool of 20.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from tests.fixtures import account
from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.process import Bouncer
from tests.fixtures.waiting import free_port, until

from .measure import median, processor
from .servers import Contestant
from .table import Table, times

TITLE = "Several workers, each with a tenth of a core"
COLUMNS = (
    "processes", "tps (ours)", "of one", "us a transaction", "servers", "tps (theirs)", "of one", "us", "servers",
)  # fmt: skip
COUNTS = (1, 2, 4, 8)
CLIENTS = 64
PERIOD_US, QUOTA_US = 10_000, 1_000
GROUPS = Path("/sys/fs/cgroup/cpu")
PLACES = count(1)
Run = tuple[float, float, int]
"""Transactions a second, processor seconds a transaction, servers."""


def can() -> bool:
    """Whether processes can be capped here."""
    return os.geteuid() == 0 and (GROUPS / "cpu.cfs_quota_us").exists()


@contextmanager
def capped(pids: Sequence[int]) -> Iterator[None]:
    """Each of these may have a tenth of a core."""
    made = []
    try:
        for pid in pids:
            group = GROUPS / f"pooler-bench-{pid}"
            group.mkdir()
            made.append(group)
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group, pid in zip(made, pids, strict=False):
            if Path(f"/proc/{pid}").exists():
                (GROUPS / "cgroup.procs").write_text(str(pid))
            group.rmdir()


def run(port: int, pids: Sequence[int], seconds: float, contestant: Contestant) -> Run:
    """pgbench through that port, with those processes capped."""
    cluster = contestant.cluster
    command: list[str | Path] = [
        cluster.bin / "pgbench", "-S", "-n", "-c", str(CLIENTS), "-j", "2", "-T", f"{seconds:.0f}",
        "-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER, "app",
    ]  # fmt: skip
    with capped(pids):
        before = sum(processor(pid).total for pid in pids)
        said = account.run(command)
        spent = sum(processor(pid).total for pid in pids) - before
    servers = len(cluster.backends("app"))
    tps, count = (re.search(pattern, said) for pattern in (r"tps = ([\d.]+)", r"actually processed: (\d+)"))
    assert tps
    assert count
    return float(tps[1]), spent / int(count[1]), servers


@contextmanager
def servers_of_its_own(contestant: Contestant) -> Iterator[Callable[[Run], Run]]:
    """Servers are told less those that others have; at the end its own are gone."""
    backends = contestant.cluster.backends
    others = len(backends("app"))
    yield lambda found: (found[0], found[1], found[2] - others)
    until(lambda: len(backends("app")) <= others)


def ours(contestant: Contestant, number: int, seconds: float) -> Run:
    bouncer = contestant.fresh(f"workers-{next(PLACES)}", client_tls_sslmode="disable")
    bouncer.sections = {"pooler": {"workers": number}}
    with servers_of_its_own(contestant) as own:
        bouncer.start()
        try:
            pids = [row["pid"] for row in bouncer.admin("SHOW WORKERS")]
            return own(run(bouncer.port, pids, seconds, contestant))
        finally:
            bouncer.stop()


def theirs(contestant: Contestant, number: int, seconds: float) -> Run:
    port, started = free_port(), list[Bouncer]()
    with servers_of_its_own(contestant) as own, ExitStack() as stack:
        for _ in range(number):
            bouncer = contestant.fresh(
                f"port-{next(PLACES)}", client_tls_sslmode="disable", so_reuseport=1, listen_port=port
            )
            bouncer.port = port
            started.append(bouncer.start())
            stack.callback(bouncer.stop)
        return own(run(port, [bouncer.pid for bouncer in started], seconds, contestant))


def table(mine: Contestant, other: Contestant, rounds: int, seconds: float, only: str, say: Callable[[str], None]) -> (
    Table | None
):
    if only not in "workers":
        return None
    if not can():
        say("workers: processes cannot be capped here (root and cpu control groups are needed): not measured")
        return None
    rows: list[tuple[str, ...]] = []
    first: tuple[float, float] | None = None
    for number in COUNTS if rounds > 1 else COUNTS[:2]:
        turns = [(ours(mine, number, seconds), theirs(other, number, seconds)) for _ in range(rounds)]
        sides = [[median([run[figure] for run in side]) for figure in range(3)] for side in zip(*turns, strict=True)]
        first = first or (sides[0][0], sides[1][0])
        row = [str(number)]
        for (tps, cost, servers), one in zip(sides, first, strict=True):
            row += [f"{tps:,.0f}", times(tps / one), f"{cost * 1e6:.1f}", f"{servers:.0f}"]
        rows.append(tuple(row))
        say("  ".join(row))
    note = f"pgbench -S, {CLIENTS} clients, a pool of 20, median of {rounds} runs of {seconds:g} s; {other.name}."
    return Table(TITLE, note, COLUMNS, tuple(rows))
