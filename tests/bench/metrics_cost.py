"""`python -m tests.bench.metrics_cost`: what metrics cost the pooler, as a share of what the benchmark costs it.

Measured apart, since a hundredth would drown in the noise of a loaded run: first the pooler's processor time a second
under pgbench, then, with the same clients connected and silent, its processor time a second with the fronts at work
(a line with all keys a minute, a scrape a second, a live page) less that with none. Nanoseconds come from
/proc/PID/task/*/schedstat.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fixtures.process import Bouncer
from tests.fixtures.waiting import free_port, until

from .servers import POOL, QUIET, arena

CLIENTS = 16
SECONDS = 15.0


def computed(pid: int) -> float:
    """Seconds of processor time of all threads so far."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in stats) / 1e9


def per_second(pid: int, during: Callable[[], object]) -> float:
    began, before = time.monotonic(), computed(pid)
    during()
    return (computed(pid) - before) / (time.monotonic() - began)


def pgbench(port: int, seconds: float) -> None:
    subprocess.run(
        ["pgbench", "-n", "-S", "-c", str(CLIENTS), "-j", "2", "-T", str(int(seconds)), "-h", "127.0.0.1",
         "-p", str(port), "-U", "postgres", "app"],
        check=True, capture_output=True,
    )  # fmt: skip


@contextlib.contextmanager
def watched(url: str, *, scrape: bool, page: bool) -> Iterator[None]:
    """A scrape each second, and somebody looking at the live page."""
    done = threading.Event()

    def scrapes() -> None:
        """On one connection, as Prometheus does."""
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        while not done.wait(1.0):
            connection.request("GET", "/metrics")
            connection.getresponse().read()
        connection.close()

    def looks() -> None:
        with urllib.request.urlopen(url + "/events", timeout=10) as events:
            while not done.is_set():
                events.readline()

    threads = [threading.Thread(target=t) for t, wanted in ((scrapes, scrape), (looks, page)) if wanted]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def quiet(bouncer: Bouncer, url: str, *, scrape: bool, page: bool) -> float:
    """Processor time a second with silent clients."""
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(bouncer.connect()).execute("SELECT 1")
        stack.enter_context(watched(url, scrape=scrape, page=page))
        time.sleep(2)
        return per_second(bouncer.pid, lambda: time.sleep(SECONDS))


def up(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url + "/healthz", timeout=5).read())
    except OSError:
        return False


def main() -> None:
    with arena() as (ours, _), contextlib.ExitStack() as stack:

        def start(own: dict[str, object]) -> Bouncer:
            place = ours.directory / f"cost{free_port()}"
            place.mkdir()
            cluster = ours.cluster
            databases = {"app": f"host={cluster.host} port={cluster.port} dbname=app"}
            settings = {**QUIET, "default_pool_size": POOL, "max_client_conn": 1000}
            bouncer = Bouncer(place, databases=databases, settings=settings, sections={"pooler": own})
            stack.callback(bouncer.stop)
            return bouncer.start()

        bare = start({"metrics_period": 0})
        url = f"http://127.0.0.1:{free_port()}"
        full = start({"http": url.removeprefix("http://"), "metrics": "/dev/null", "metrics_period": 60,
                      "metrics_extra": "yes"})  # fmt: skip
        until(lambda: up(url), "the HTTP front")
        loaded = per_second(bare.pid, lambda: pgbench(bare.port, SECONDS))
        nothing = quiet(bare, url, scrape=False, page=False)
        for name, wanted in {
            "a log line each minute": (False, False),
            "and a scrape each second": (True, False),
            "and the live page open": (True, True),
        }.items():
            cost = quiet(full, url, scrape=wanted[0], page=wanted[1]) - nothing
            print(
                f"{name:<26} {cost * 1000:6.2f} ms a second, {100 * cost / loaded:5.2f} % of {loaded:.2f} s under load"
            )


if __name__ == "__main__":
    main()
