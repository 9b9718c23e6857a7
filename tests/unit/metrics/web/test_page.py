"""The live page in a real browser, over figures made up for it: what it draws, marks, finds, and leads to.

One Chromium for all tests of this file, and for each a server of its own with its own figures.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from metrics.period import Reporter
from metrics.source import Unavailable
from metrics.web.details import Told
from metrics.web.http import build_app, serve_http
from pooler.history import History
from pooler.stats import ZERO, Counters, Event, PoolStat, Snapshot
from tests.fixtures.browser import PROGRAM, Page
from tests.fixtures.figures import client, database, distributions, pool, snapshot
from tests.fixtures.waiting import DEADLINE, until

WHERE = "db-1.example:6432"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if PROGRAM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    opened = Page(tmp_path_factory.mktemp("chromium"))
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def page(chromium: Page) -> Iterator[Page]:
    chromium.requests.clear()
    chromium.errors.clear()
    chromium.shape(1280, 900)
    yield chromium
    chromium.open("about:blank")


class Scene:
    """A server in a thread of its own. `figures` makes the Snapshot of now; `ring` is the hour before."""

    def __init__(self, figures: Callable[[], Snapshot], ring: History | None = None) -> None:
        self.figures = figures
        self.ring = ring
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Scene:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        told = Told(
            WHERE,
            self.ring.everything if self.ring is not None else None,
            lambda: [("pgbouncer", "pool_mode", "transaction", "session", "yes")],
            lambda after: [line for line in LINES if line[0] > after],
            sessions=lambda: [
                ("app", "bob", "psql", "10.0.0.1", 5, 11, "temp", "pins", "CREATE TEMP TABLE t ()", 1.0, 10**6, 42)
            ],
        )
        app = build_app(self._source, Reporter(self._source), told=told, unwatched=0.05)
        server = await serve_http(app, "127.0.0.1", 0)
        self.url = server.url
        self._ready.set()
        await self._end.wait()
        await server.close()

    def _source(self, **_: bool) -> Snapshot:
        return self.figures()


LINES = [(1, time.time(), "LOG", "process up"), (2, time.time(), "ERROR", "S-0x1: <script>alert(1)</script>")]


@contextmanager
def shown(page: Page, scene: Scene, path: str = "/") -> Iterator[Scene]:
    """The page of a scene, once it has figures."""
    with scene:
        page.open(scene.url + path)
        page.until("typeof last !== 'undefined' && last !== null")
        yield scene
        assert page.errors == []
        assert {request.split("/", 3)[2] for request in page.requests} == {scene.url.removeprefix("http://")}


def calm(**changes: Any) -> Callable[[], Snapshot]:
    """A pool at work, as far as nothing else is said."""
    return lambda: replace(snapshot(now=time.time(), steady=time.monotonic()), **changes)


def quiet(database: str = "app", user: str = "u", **changes: Any) -> PoolStat:
    return replace(pool(database, user, cl_waiting=0, maxwait_us=0, sv_active=2, counters=ZERO), **changes)


def text(page: Page, selector: str) -> Any:
    return page.run(f"document.querySelector({selector!r}).textContent")


PAINTED = """((chart, t, value) => {
  const drawn = charts[chart].drawn, x = Math.round(drawn.valToPos(t, "x", true));
  const y = Math.round(drawn.valToPos(value, "y", true));
  const seen = drawn.ctx.getImageData(x, y - 2, 1, 5).data, wanted = getComputedStyle(document.documentElement)
    .getPropertyValue("--one").match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
  for (let at = 0; at < seen.length; at += 4)
    if (seen[at + 3] > 100 && wanted.every((part, place) => Math.abs(part - seen[at + place]) < 60)) return true;
  return false;
})"""
"""Whether a chart's first line passes through a moment and a value."""
CLIENTS = 3


@pytest.mark.slow
def test_gauges_are_steps_and_gaps_are_gaps(page: Page) -> None:
    """A minute's sample holds until the next one, and where there was none, nothing is drawn."""
    now = time.time()
    ring = History(now - 3000)
    for minute, clients in ((40, 10), (39, 75), (38, 75), (20, 30), (19, 30)):
        ring._new = None if minute in (40, 20) else ring._new
        ring._began = now - 60 * (minute + 1)
        ring.record(replace(snapshot(now - 60 * minute), pools=(quiet(cl_active=clients),)))
    with shown(page, Scene(calm(pools=(quiet(cl_active=5),)), ring), "/#range=3600"):
        page.until("charts[3].drawn && charts[3].drawn.data[0].length > 8")

        def painted(minutes_ago: float, clients: int) -> str:
            return f"{PAINTED}({CLIENTS}, {now - 60 * minutes_ago}, {clients})"

        page.until(painted(39.5, 10))
        assert not page.run(painted(39.5, 42))  # no slope from 10 to 75
        assert page.run(painted(38.5, 75))
        assert not any(page.run(painted(30, clients)) for clients in (30, 42, 52, 75))
        assert page.run(painted(19.5, 30))


@pytest.mark.slow
def test_a_gauge_is_not_held_where_nobody_has_read_it(page: Page) -> None:
    """What another PgBouncer has counted unasked is known afterwards; how many clients it had meanwhile is not."""
    now = time.time()
    ring = History(now - 3000)
    for minute, clients in ((40, 10), (39, 10), (20, 30), (19, 30)):
        ring.record(replace(snapshot(now - 60 * minute), pools=(quiet(cl_active=clients),)))
    with shown(page, Scene(calm(pools=(quiet(cl_active=5),)), ring), "/#range=3600"):
        page.until(f"{PAINTED}({CLIENTS}, {now - 60 * 39.5}, 10)")
        assert not page.run(f"{PAINTED}({CLIENTS}, {now - 60 * 30}, 10)")
        assert page.run(f"{PAINTED}({CLIENTS}, {now - 60 * 19.5}, 30)")


@pytest.mark.slow
def test_the_seconds_before_it_was_opened_are_there(page: Page) -> None:
    asked: list[Snapshot] = []

    def figures() -> Snapshot:
        asked.append(calm(pools=(quiet(cl_active=5),))())
        return asked[-1]

    with Scene(figures) as scene:
        until(lambda: len(asked) > 8, "some ticks that nobody looks at")
        page.open(scene.url + "/")
        page.until("typeof all !== 'undefined' && all.length > 5 && trends.size === 1")


@pytest.mark.slow
def test_marks_are_at_even_distances(page: Page) -> None:
    with shown(page, Scene(calm(pools=(quiet(),)))):
        page.until("charts[0].drawn && charts[0].drawn.axes[0]._splits")
        marks = page.run("charts.map((chart) => chart.drawn.axes[0]._splits)")
        for splits in marks:
            assert len({round(b - a, 3) for a, b in pairwise(splits)}) == 1
            assert splits[0] % 60 == 0


@pytest.mark.slow
def test_which_pooler_this_is_and_how_it_counts(page: Page) -> None:
    with shown(page, Scene(calm(pools=(quiet(),)))):
        page.until(f"document.title.startsWith('{WHERE} · ')")
        assert text(page, "#where") == WHERE
        facts = text(page, "#facts")
        assert " · 1 database · up to 10,000 clients · " in facts
        assert text(page, "#count") == "1 pool"
        assert "the wait for a server included" in text(page, "#note")


def long_names(count: int) -> tuple[PoolStat, ...]:
    long = "customer_relations_and_analytics_production_eu_central"
    return tuple(quiet(f"{long}_{n:03d}", "reporting_service_account") for n in range(count))


@pytest.mark.slow
def test_forty_pools_with_long_names_fit_and_are_found(page: Page) -> None:
    with shown(page, Scene(calm(pools=long_names(40)))):
        page.until("document.querySelectorAll('#scroll tbody tr').length === 40")
        assert page.run("$('scroll').scrollWidth <= $('scroll').clientWidth")
        assert page.run("document.querySelector('td.trend').getBoundingClientRect().right <= innerWidth - 20")
        assert page.run("document.documentElement.scrollWidth") == 1280
        page.run("$('search').value = 'eu_central_017 REPORT'; $('search').dispatchEvent(new Event('input'))")
        assert page.run("document.querySelectorAll('#scroll tbody tr').length") == 1
        assert text(page, "#count") == "1 of 40 pools"
        page.run("$('search').value = ''; $('search').dispatchEvent(new Event('input'))")
        page.run("document.querySelector('th button').click()")
        assert text(page, "#scroll tbody td").endswith("_000")
        page.run("document.querySelector('th button').click()")
        assert text(page, "#scroll tbody td").endswith("_039")


@pytest.mark.slow
def test_four_hundred_pools_are_all_found(page: Page) -> None:
    with shown(page, Scene(calm(pools=long_names(400)))):
        page.until("document.querySelectorAll('#scroll tbody tr').length === 100")
        assert text(page, "#more") == "Show more: these are 100 of 400"
        page.run("$('search').value = '_399'; $('search').dispatchEvent(new Event('input'))")
        assert text(page, "#count") == "1 of 400 pools"


@pytest.mark.slow
def test_what_is_paused_looks_it(page: Page) -> None:
    stats = (database("app"), database("shop", paused=True), database("pgbouncer"))
    with shown(page, Scene(calm(databases=stats, pools=(quiet(), quiet("shop"))))):
        page.until("document.querySelector('tr.halted') !== null")
        assert text(page, "tr.halted td") == "shoppaused"
        assert page.run("document.querySelectorAll('tr.halted').length") == 1
        assert text(page, "#state") == "active, 1 database paused"


@pytest.mark.slow
def test_figures_that_are_old_look_it(page: Page) -> None:
    state: dict[str, Any] = {"answer": calm(pools=(quiet(),))}

    def figures() -> Snapshot:
        answer: Snapshot = state["answer"]()
        return answer

    def gone() -> Snapshot:
        raise Unavailable("the console does not answer")

    colour = "getComputedStyle(document.querySelector('.tile b')).color"
    with Scene(figures) as scene:
        page.open(scene.url + "/")
        page.until(
            "typeof last !== 'undefined' && last !== null && document.querySelector('#scroll tbody tr') !== null"
        )
        fresh = page.run(colour)
        assert page.run("$('asof').hidden")
        state["answer"] = gone
        page.until("$('state').textContent === 'no figures: the console does not answer'")
        assert page.run("/^as of \\d\\d:\\d\\d:\\d\\d$/.test($('asof').textContent) && !$('asof').hidden")
        assert page.run(colour) != fresh
        state["answer"] = calm(pools=(quiet(),))
        page.until("$('state').textContent === 'active'")
        assert page.run(colour) == fresh
        scene.stop()
        page.until("$('state').textContent.startsWith('disconnected')")
        assert not page.run("$('asof').hidden")
        assert page.run("document.title").endswith("no figures")
        assert page.run(colour) != fresh


WAITING = tuple(
    client(f"app {number}", "app", "waiting" if number % 2 else "idle", ptr=f"0x{number}", port=40000 + number,
           wait_us=number * 100_000 if number % 2 else 0)
    for number in range(20)
)  # fmt: skip


def test_one_click_leads_from_the_longest_wait_to_the_client(page: Page) -> None:
    busy = quiet(cl_waiting=10, maxwait_us=1_900_000)
    with shown(page, Scene(calm(pools=(busy, quiet("shop")), clients=WAITING))):
        page.until("document.querySelectorAll('.tile')[5].textContent.endsWith('1.90 s')")
        page.run("document.querySelectorAll('.tile')[5].click()")
        page.until("tab === 'waiting' && document.querySelectorAll('#scroll tbody tr').length === 10")
        assert text(page, "#scroll tbody td") == "127.0.0.1:40019"
        assert page.run("location.hash") == "#tab=waiting"
        page.run("document.querySelector('#tab-pools').click()")
        page.run("[...document.querySelectorAll('.pick')].find((button) => button.textContent === '1.90 s').click()")
        page.until("tab === 'waiting' && $('search').value === 'app u'")


@pytest.mark.slow
def test_every_tab_shows_its_rows_and_nothing_in_them_runs(page: Page) -> None:
    server = replace(WAITING[0], type="S", ptr="0xs", link="0x2")
    evil = client("<img src=x onerror=alert(1)>", "app", ptr="0x99")
    figures = calm(
        pools=(quiet(counters=Counters(query_count=1), distributions=distributions([5])),), clients=(*WAITING, evil),
        servers=(server,), events=(Event("error", "app", "server connect", 3),),
    )  # fmt: skip
    rows = {"clients": 21, "servers": 1, "waiting": 10, "sessions": 1, "events": 1, "log": 2, "configuration": 2}
    with shown(page, Scene(figures)):
        for name, count in rows.items():
            page.run(f"$('tab-{name}').click()")
            page.until(f"document.querySelectorAll('#scroll tbody tr').length === {count}")
            assert page.run(f"$('tab-{name}').getAttribute('aria-selected')") == "true"
        assert page.run("document.querySelectorAll('img, #scroll script').length") == 0
        page.run("$('tab-servers').click()")
        page.until("document.querySelector('#scroll .pick') !== null")
        page.run("document.querySelector('#scroll .pick').click()")
        page.until("tab === 'clients' && document.querySelectorAll('#scroll tbody tr').length === 1")
        page.run("$('tab-clients').focus()")
        page.press("ArrowRight")
        page.until("tab === 'servers' && document.activeElement.id === 'tab-servers'")


@pytest.mark.slow
def test_an_address_opens_what_somebody_looked_at(page: Page) -> None:
    with shown(page, Scene(calm(clients=WAITING)), "/#tab=clients&search=app+40007&pool=app%2Fu&range=3600"):
        page.until("tab === 'clients' && document.querySelectorAll('#scroll tbody tr').length === 1")
        assert page.run("$('scope').value") == '["app","u"]'
        assert page.run("document.querySelector('[data-range=\"3600\"]').getAttribute('aria-pressed')") == "true"


OBSERVED = """(window.long = [], new PerformanceObserver(
  (list) => long.push(...list.getEntries().map((one) => one.duration))).observe({ entryTypes: ["longtask"] }))"""


@pytest.mark.slow
def test_ten_thousand_clients_do_not_hold_it_up(page: Page) -> None:
    many = tuple(replace(WAITING[n % 20], ptr=f"0x{n:x}", port=n) for n in range(10_000))
    with shown(page, Scene(calm(clients=many))):
        page.run(f"{OBSERVED}; $('tab-clients').click()")
        page.until("$('count').textContent === '10,000 clients'")
        assert page.run("document.querySelectorAll('#scroll tbody tr').length") == 100
        for script in ("sort(0)", "sort(5)", "search('app 0.0.1:7777')"):
            page.run(f"tableOf('clients').{script}")
        page.until("$('count').textContent === '1 of 10,000 clients'")
        assert page.run("Math.max(0, ...long)") < 500


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_it_fits_every_width(page: Page, width: int) -> None:
    page.shape(width, 900)
    with shown(page, Scene(calm(pools=long_names(3), clients=WAITING))):
        for name in ("waiting", "pools"):
            page.run(f"open('{name}')")
            page.until("document.querySelectorAll('#scroll tbody tr').length > 0")
            assert page.run("document.documentElement.scrollWidth") == width


def test_what_draws_the_charts_is_as_its_package_has_it() -> None:
    place = Path(__file__).parents[4] / "metrics" / "web" / "page" / "uplot"
    assert sorted(path.name for path in place.iterdir()) == ["LICENSE", "uPlot.iife.min.js", "uPlot.min.css"]
    assert (
        place.joinpath("uPlot.iife.min.js").read_text().startswith("/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    )
    assert place.joinpath("LICENSE").read_text().startswith("The MIT License (MIT)")
