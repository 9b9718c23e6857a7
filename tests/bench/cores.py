"""Several workers: what 1, 2, 4 and 8 processes carry when each may have a tenth of a core.

So PostgreSQL and pgbench have the machine to themselves, and the pooler is the narrowest place, as on a large machine.
The caps are cpu control groups (version 1), which takes root; without them nothing can be said, and nothing is. Beside
it as many PgBouncers on one port (so_reuseport), and how many servers *they* open for the same pool. The load is one of
two: the same for all, which leaves each of several processes a few servers, so that it is woken for one answer where a
single one is woken for ten; or as much for each process, as where processes are added because there is more to do.
Everybody has served for a while before it is measured; the desk, which has no cap, counts in the processor time.
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
    *("load", "processes", "tps (ours)", "of one", "us a transaction", "servers"),
    *("tps (theirs)", "of one", "us", "servers"),
)  # fmt: skip
COUNTS = (1, 2, 4, 8)
WARM = 2.0
"""Seconds without a cap, before."""
LOADS: dict[str, Callable[[int], tuple[int, int]]] = {
    "the same": lambda _: (64, 20),
    "in proportion": lambda count: (16 * count, 5 * count),
}
"""By its name: how many clients and servers for so many processes."""
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


def run(port: int, pids: Sequence[int], clients: int, seconds: float, contestant: Contestant, desk: int = 0) -> Run:
    """pgbench through that port, with those processes capped; `desk`: one more that counts."""
    cluster = contestant.cluster

    def ask(seconds: float) -> str:
        command: list[str | Path] = [
            cluster.bin / "pgbench", "-S", "-n", "-c", str(clients), "-j", "2", "-T", f"{seconds:.0f}",
            "-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER, "app",
        ]  # fmt: skip
        return account.run(command)

    def spent() -> float:
        return sum(processor(pid).total for pid in {*pids, desk} - {0})

    ask(WARM)
    with capped(pids):
        before = spent()
        said = ask(seconds)
        cost = spent() - before
    servers = len(cluster.backends("app"))
    tps, count = (re.search(pattern, said) for pattern in (r"tps = ([\d.]+)", r"actually processed: (\d+)"))
    assert tps
    assert count
    return float(tps[1]), cost / int(count[1]), servers


@contextmanager
def servers_of_its_own(contestant: Contestant) -> Iterator[Callable[[Run], Run]]:
    """Servers are told less those that others have; at the end its own are gone."""
    backends = contestant.cluster.backends
    others = len(backends("app"))
    yield lambda found: (found[0], found[1], found[2] - others)
    until(lambda: len(backends("app")) <= others)


def ours(contestant: Contestant, number: int, load: tuple[int, int], seconds: float) -> Run:
    clients, size = load
    bouncer = contestant.fresh(f"workers-{next(PLACES)}", client_tls_sslmode="disable", default_pool_size=size)
    bouncer.sections = {"pooler": {"workers": number}}
    with servers_of_its_own(contestant) as own:
        bouncer.start()
        try:
            pids = [row["pid"] for row in bouncer.admin("SHOW WORKERS")]
            return own(run(bouncer.port, pids, clients, seconds, contestant, bouncer.pid))
        finally:
            bouncer.stop()


def theirs(contestant: Contestant, number: int, load: tuple[int, int], seconds: float) -> Run:
    clients, size = load
    port, started = free_port(), list[Bouncer]()
    with servers_of_its_own(contestant) as own, ExitStack() as stack:
        for _ in range(number):
            bouncer = contestant.fresh(
                f"port-{next(PLACES)}",
                client_tls_sslmode="disable",
                so_reuseport=1,
                listen_port=port,
                default_pool_size=size,
            )
            bouncer.port = port
            started.append(bouncer.start())
            stack.callback(bouncer.stop)
        return own(run(port, [bouncer.pid for bouncer in started], clients, seconds, contestant))


def table(mine: Contestant, other: Contestant, rounds: int, seconds: float, only: str, say: Callable[[str], None]) -> (
    Table | None
):
    if only not in "workers":
        return None
    if not can():
        say("workers: processes cannot be capped here (root and cpu control groups are needed): not measured")
        return None
    rows: list[tuple[str, ...]] = []
    for name, load in LOADS.items():
        first: tuple[float, float] | None = None
        for number in COUNTS if rounds > 1 else COUNTS[:2]:
            turns = [
                (ours(mine, number, load(number), seconds), theirs(other, number, load(number), seconds))
                for _ in range(rounds)
            ]
            sides = [_medians(side) for side in zip(*turns, strict=True)]
            first = first or (sides[0][0], sides[1][0])
            row = [name, str(number)]
            for (tps, cost, servers), one in zip(sides, first, strict=True):
                row += [f"{tps:,.0f}", times(tps / one), f"{cost * 1e6:.1f}", f"{servers:.0f}"]
            rows.append(tuple(row))
            say("  ".join(row))
    note = (
        "pgbench -S, 64 clients and a pool of 20, or 16 clients and 5 servers for each process; "
        f"median of {rounds} runs of {seconds:g} s; {other.name}."
    )
    return Table(TITLE, note, COLUMNS, tuple(rows))


def _medians(runs: Sequence[Run]) -> list[float]:
    return [median([run[figure] for run in runs]) for figure in range(3)]
