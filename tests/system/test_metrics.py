"""Counted traffic through a real pooler, found again in SHOW STATS, the log line and /metrics; a real Prometheus, the
page in a real browser, and the same fronts over Debian's PgBouncer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fixtures import stream
from tests.fixtures.bouncer import version
from tests.fixtures.browser import PROGRAM, Page
from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.process import Bouncer, StartBouncer, imports
from tests.fixtures.scrape import Scrape, get, lines
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import DEADLINE, free_port, until

APP = {"database": "app"}
POOL = {"database": "app", "user": SUPERUSER}


def measured(start: StartBouncer, tmp_path: Path, **settings: object) -> tuple[Bouncer, str, Path]:
    """A pooler with all its fronts, the address of the HTTP one, and the file its lines go to."""
    url = f"http://127.0.0.1:{free_port()}"
    log = tmp_path / "metrics.log"
    own = {"http": url.removeprefix("http://"), "metrics": str(log), "metrics_period": 0.2, "metrics_extra": "yes"}
    bouncer = start(sections={"pooler": own}, **settings)
    until(lambda: answers(url), "the HTTP front")
    return bouncer, url, log


def answers(url: str) -> bool:
    try:
        return get(url + "/healthz") == "ok\n"
    except OSError:
        return False


class Counted(Stream):
    """Counts the bytes of its queries and of their answers."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port))
        self.login()
        self.sent = self.got = 0

    def ask(self, *messages: bytes) -> None:
        self.sent += sum(map(len, messages))
        self.send(*messages)

    def answer(self) -> None:
        self.got += sum(5 + len(message.body) for message in self.until())

    def run(self, sql: str) -> None:
        self.ask(stream.query(sql))
        self.answer()


@pytest.mark.one_process("in each worker somebody waits for a first server")
def test_counted_traffic_is_the_same_on_every_front(start_pooler: StartBouncer, tmp_path: Path) -> None:
    bouncer, url, log = measured(start_pooler, tmp_path, default_pool_size=1)
    with Counted(bouncer.port) as one, Counted(bouncer.port) as two:
        for number in range(40):
            one.run(f"SELECT {number}, repeat('x', {number * 10})")
        for _ in range(10):
            for sql in ("BEGIN", "SELECT 1", "SELECT 2", "COMMIT"):
                one.run(sql)
        one.run("BEGIN")
        two.ask(stream.query("SELECT 'waits'"))
        waiting = until(
            lambda: [p for p in pools(bouncer) if p["cl_waiting"] == 1 and p["maxwait_us"] > 100_000], "wait"
        )
        assert waiting[0]["sv_active"] == 1
        one.run("COMMIT")
        two.answer()
        sent, got = one.sent + two.sent, one.got + two.got
        stats = until(lambda: settled(bouncer, queries=40 + 40 + 2 + 1), "the counts")
        scrape = Scrape(url)
        shown = until(lambda: [x for x in lines(log.read_text()) if same_average(x, stats)], "a line")[-1]

    assert (
        stats["total_xact_count"] == scrape.value("pgbouncer_stats_totals_sql_transactions_pooled_total", **APP) == 52
    )
    assert stats["total_query_count"] == scrape.value("pgbouncer_stats_totals_queries_pooled_total", **APP) == 83
    assert stats["total_received"] == scrape.value("pgbouncer_stats_totals_received_bytes_total", **APP) == sent
    assert stats["total_sent"] == scrape.value("pgbouncer_stats_totals_sent_bytes_total", **APP) == got
    assert stats["total_server_assignment_count"] == 52
    assert scrape.value("pooler_pool_queries_total", **POOL) == 83

    wait = scrape.value("pgbouncer_stats_totals_client_wait_seconds_total", **APP)
    assert wait == float(stats["total_wait_time"]) / 1e6 >= 0.1
    # And the wait for the first server, which no query was waiting for.
    assert scrape.value("pooler_client_wait_seconds_count", **APP) == 52 + 1
    assert scrape.value("pooler_client_wait_seconds_sum", **APP) == pytest.approx(wait)
    assert scrape.value("pooler_query_duration_seconds_count", **APP) == 83
    assert scrape.value("pooler_transaction_duration_seconds_count", **APP) == 52
    long = scrape.value("pooler_client_wait_seconds_bucket", **APP, le="+Inf") - scrape.value(
        "pooler_client_wait_seconds_bucket", **APP, le="0.065536"
    )
    assert 1 <= long <= 2
    assert int(shown["avg_query"]) == stats["total_query_time"] // stats["total_query_count"]
    assert [word.split("=")[0] for word in shown["extra"].split()] == [
        "sample#p50_wait", "sample#p95_wait", "sample#p99_wait", "sample#p50_query", "sample#p95_query",
        "sample#p99_query", "sample#pool_use",
    ]  # fmt: skip


def pools(bouncer: Bouncer) -> list[dict[str, int]]:
    return [row for row in bouncer.admin("SHOW POOLS") if row["database"] == "app"]


def settled(bouncer: Bouncer, queries: int) -> dict[str, int] | None:
    """The row of SHOW STATS once it has counted so many queries and their times."""
    [row] = [row for row in bouncer.admin("SHOW STATS") if row["database"] == "app"]
    return {k: int(v) for k, v in row.items() if k != "database"} if row["total_query_count"] >= queries else None


def same_average(line: dict[str, str], stats: dict[str, int]) -> bool:
    return int(line["avg_query"]) == stats["total_query_time"] // stats["total_query_count"]


@pytest.mark.slow
def test_clients_and_servers_on_the_line_are_those_of_show_pools(start_pooler: StartBouncer, tmp_path: Path) -> None:
    bouncer, url, log = measured(start_pooler, tmp_path, default_pool_size=2)
    with Counted(bouncer.port) as one, Counted(bouncer.port) as two, Counted(bouncer.port) as three:
        for busy in (one, two):
            busy.run("BEGIN")
        three.ask(stream.query("SELECT 1"))
        until(lambda: pools(bouncer)[0]["cl_waiting"] == 1, "a waiting client")
        want = {"client_active": "2", "client_waiting": "1", "server_active": "2", "server_idle": "0", "max_wait": "1"}
        until(lambda: [x for x in lines(log.read_text()) if want.items() <= x.items()], "the line that says so")
        scrape = Scrape(url)
        assert scrape.value("pgbouncer_pools_client_waiting_connections", **POOL) == 1
        assert scrape.value("pgbouncer_pools_server_active_connections", **POOL) == 2
        assert scrape.value("pgbouncer_pools_client_maxwait_seconds", **POOL) >= 1
        assert scrape.value("pooler_pool_maxwait_seconds", **POOL) > 1
        for busy in (one, two):
            busy.run("COMMIT")
        three.answer()


EVIL = 'x"} 1\nsource=pgbouncer addon=evil\t\x1b[2J\\ </script><script>alert(1)</script>'


@pytest.mark.slow
def test_no_name_a_client_gives_itself_breaks_anything(start_pooler: StartBouncer, tmp_path: Path) -> None:
    bouncer, url, log = measured(start_pooler, tmp_path)
    with bouncer.connect(application_name=EVIL) as client:
        client.execute("SELECT 1")
        names = {labels["application_name"] for labels, _ in Scrape(url).all("pgbouncer_client_connections")}
        assert any(name.startswith('x"} 1?source') for name in names)
        assert all(name.isprintable() for name in names)
        lines(log.read_text())


@pytest.mark.slow
def test_lines_survive_logrotate(start_pooler: StartBouncer, tmp_path: Path) -> None:
    bouncer, _, log = measured(start_pooler, tmp_path)
    until(lambda: log.exists() and lines(log.read_text()), "a line")
    log.rename(log.with_suffix(".1"))
    bouncer.signal(signal.SIGHUP)
    until(lambda: log.exists() and lines(log.read_text()), "a line in the new file")


def test_a_listener_that_cannot_be_had_is_told_and_fatal_when_asked_for(start_pooler: StartBouncer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bouncer = start_pooler(run=False, sections={"pooler": {"http": f"127.0.0.1:{port}", "metrics": ""}})
        bouncer.write()
        bouncer.launch()
        assert bouncer.wait() == 1
        bouncer.wait_log(f"cannot serve HTTP on 127.0.0.1:{port}: Address already in use")


def command(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pooler", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | imports() | more,
    )


@pytest.fixture
def run_command() -> Iterator[object]:
    """Start `pooler COMMAND`; ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **more: str) -> subprocess.Popen[str]:
        started.append(command(*arguments, **more))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=DEADLINE)


@pytest.mark.slow
def test_pooler_logs_follows_over_http_and_over_the_console(start_pooler, tmp_path, run_command) -> None:  # type: ignore[no-untyped-def]
    bouncer, url, _ = measured(start_pooler, tmp_path, stats_period=1)
    tail = run_command("logs", "--tail", "-n", "1", url)
    first, second = tail.stdout.readline(), tail.stdout.readline()
    assert {name for name in ("app", "other") if lines(first + second, name)} == {"app", "other"}
    console = f"postgres://{SUPERUSER}@127.0.0.1:{bouncer.port}/pgbouncer"
    until(lambda: len(bouncer.admin("SHOW HISTORY")) >= 4, "two periods of history")
    done = command("logs", "-n", "2", console)
    out, err = done.communicate(timeout=DEADLINE)
    assert (done.returncode, err) == (0, "")
    assert len(out.splitlines()) == 2
    assert {name for name in ("app", "other") if lines(out, name)} == {"app", "other"}
    over_console = run_command("logs", "--tail", "-n", "0", console)
    assert "source=pgbouncer addon=" in over_console.stdout.readline()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[object]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no Prometheus: apt-get install prometheus")
    started = []

    def run(target: str, rules: Path) -> str:
        port = free_port()
        config = tmp_path / "prometheus.yml"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(rules)],
                    "scrape_configs": [{"job_name": "pooler", "static_configs": [{"targets": [target]}]}],
                }
            )
        )
        with (tmp_path / "prometheus.out").open("wb") as output:
            started.append(
                subprocess.Popen(
                    [
                        program,
                        f"--config.file={config}",
                        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    stdout=output,
                    stderr=output,
                )
            )
        return f"http://127.0.0.1:{port}/api/v1/"

    yield run
    for process in started:
        process.terminate()
        process.wait(DEADLINE)


@pytest.mark.slow
def test_a_real_prometheus_scrapes_it(start_pooler, tmp_path, prometheus) -> None:  # type: ignore[no-untyped-def]
    rules = Path(__file__).parents[2] / "metrics/alerts/pooler.yml"
    bouncer, url, _ = measured(start_pooler, tmp_path)
    with Counted(bouncer.port) as one:
        for _ in range(25):
            one.run("SELECT 1")
    api = prometheus(url.removeprefix("http://"), rules)

    def ask(query: str) -> list[dict[str, object]]:
        try:
            found: list[dict[str, object]] = json.loads(get(f"{api}query?query={quote(query)}"))["data"]["result"]
            return found
        except OSError:
            return []

    until(lambda: ask("pgbouncer_up == 1"), "a scrape")
    [total] = ask('pgbouncer_stats_totals_queries_pooled_total{database="app"}')
    assert total["value"][1] == "25"  # type: ignore[index]
    [count] = ask('pooler_query_duration_seconds_count{database="app"}')
    assert count["value"][1] == "25"  # type: ignore[index]
    [target] = json.loads(get(api + "targets"))["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    groups = until(lambda: json.loads(get(api + "rules"))["data"]["groups"], "rules")
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}


@pytest.mark.slow
def test_with_an_ini_lines_go_nowhere_until_asked_for(start_pooler: StartBouncer) -> None:
    line = r"app\[heroku-pgbouncer\]: source=pgbouncer addon=app"
    bouncer = start_pooler(sections={"pooler": {"metrics_period": 0.1}})
    assert bouncer.admin("SHOW DRAINS") == []
    bouncer.wait_log("login attempt")
    assert not re.search(line, bouncer.log_text())
    bouncer.admin("SET metrics = 'stdout'")
    bouncer.wait_log(line)
    asked = start_pooler(run=False)
    asked.start("--metrics-period", "0.1")
    asked.wait_log(line)


@pytest.mark.slow
def test_a_pgbouncer_that_is_not_ours(start_pgbouncer, tmp_path, run_command) -> None:  # type: ignore[no-untyped-def]
    bouncer = start_pgbouncer()
    with Counted(bouncer.port) as one:
        for _ in range(30):
            one.run("SELECT 1")
        url = f"http://127.0.0.1:{free_port()}"
        process = run_command(
            "metrics", "--from", bouncer.dsn("pgbouncer"), "--http", url.removeprefix("http://"),
            "--metrics-period", "0.2", "--drain", str(tmp_path / "lines"),
        )  # fmt: skip
        until(lambda: answers(url), "the HTTP front")
        scrape = Scrape(url)
        assert scrape.value("pgbouncer_up") == 1
        assert scrape.value("pgbouncer_version_info", version=version()) == 1
        assert scrape.value("pgbouncer_stats_totals_queries_pooled_total", **APP) == 30
        assert scrape.value("pgbouncer_stats_totals_received_bytes_total", **APP) == one.sent
        assert scrape.value("pgbouncer_stats_totals_sent_bytes_total", **APP) == one.got
        assert scrape.value("pgbouncer_pools_client_active_connections", **POOL) == 1
        assert not list(scrape.all("pooler_pool_queries_total"))
        until(lambda: [x for x in lines((tmp_path / "lines").read_text()) if x["client_active"] == "1"], "a line")
        for tab, view in (("clients", "CLIENTS"), ("servers", "SERVERS")):
            shown = {row["ptr"] for row in table(url, tab) if row["database"] == "app"}
            assert shown == {row["ptr"] for row in bouncer.admin(f"SHOW {view}") if row["database"] == "app"} != set()
        settings = {row["key"]: row["value"] for row in table(url, "configuration")}
        assert settings["listen_port"] == str(bouncer.port)
    bouncer.stop()
    until(lambda: Scrape(url).value("pgbouncer_up") == 0, "its end to be told")
    bouncer.launch()
    until(lambda: Scrape(url).value("pgbouncer_up") == 1, "it to be found again")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert "Traceback" not in process.stderr.read()


def table(url: str, name: str) -> list[dict[str, object]]:
    """What a tab of the page is given."""
    told = json.loads(get(f"{url}/page/{name}"))
    return [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]]


LUMINANCE = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > .99) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const element of document.querySelectorAll("h1,h2,small,span,b,a,button,select,td,th,summary,svg text")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest(".unseen, .skip")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.closest("svg") ? style.fill : style.color)), light(ground(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push([element.tagName, element.textContent.slice(0, 20), ratio.toFixed(2)]);
  }
  return bad;
})()
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    if PROGRAM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    opened = Page(tmp_path / "chromium")
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.slow
def test_the_page_in_a_browser(start_pooler: StartBouncer, tmp_path: Path, page: Page) -> None:
    bouncer, url, _ = measured(start_pooler, tmp_path, default_pool_size=1)
    with Counted(bouncer.port) as one, Counted(bouncer.port) as two, bouncer.connect(application_name=EVIL):
        page.shape(1400, 900)
        page.open(url + "/")
        for _ in range(3):
            one.run("SELECT 1")
        one.run("BEGIN")
        two.ask(stream.query("SELECT 1"))
        page.until("document.querySelectorAll('#scroll tbody tr').length === 1")
        page.until("document.querySelector('#tiles .tile:nth-child(4) b').textContent === '1'")
        page.until("document.querySelector('#state').textContent === 'active'")
        page.run("document.querySelectorAll('.tile')[5].click()")
        page.until("document.querySelectorAll('#scroll tbody tr').length === 1 && tab === 'waiting'")
        assert page.run("document.querySelector('#scroll tbody tr').innerText").split("\t")[4] == "waiting"
        page.run("$('tab-pools').click()")
        one.run("COMMIT")
        two.answer()
        page.until("document.querySelector('#tiles .tile:nth-child(4) b').textContent === '0'")
        for dark in (False, True):
            page.shape(1400, 900, dark=dark)
            assert page.run(LUMINANCE) == []
        for width in (320, 390, 768, 1400, 2560):
            page.shape(width, 900)
            page.until(f"document.documentElement.scrollWidth <= {width}")
        page.shape(1400, 900)
        tables(page, bouncer)
        keyboard(page)
        assert {"/".join(request.split("/")[:3]) for request in page.requests} == {url}
        assert page.errors == []
    bouncer.stop()
    page.until("document.querySelector('#state').textContent.startsWith('disconnected')")


def tables(page: Page, bouncer: Bouncer) -> None:
    """What the tabs show is what the console tells."""
    for tab, view in (("clients", "CLIENTS"), ("servers", "SERVERS")):
        page.run(f"$('tab-{tab}').click()")
        page.until(f"tableOf('{tab}').asked")
        told = {row["ptr"] for row in bouncer.admin(f"SHOW {view}") if row["database"] != "pgbouncer"}
        rows = page.run(f"tableOf('{tab}').rows.filter((row) => row.database !== 'pgbouncer').map((row) => row.ptr)")
        assert set(rows) == told
    page.run("$('tab-configuration').click()")
    page.until("tableOf('configuration').asked")
    settings = page.run("Object.fromEntries(tableOf('configuration').rows.map((row) => [row.key, row.value]))")
    for row in bouncer.admin("SHOW CONFIG"):
        assert settings[row["key"]] == row["value"], row
    page.run("$('tab-log').click()")
    page.until("tableOf('log').rows.some((row) => row.text.startsWith('process up: PgBouncer'))")
    page.run("$('tab-pools').click()")


def keyboard(page: Page) -> None:
    """Everything can be reached by Tab, sorted, and a chart read by the arrow keys."""
    page.run("document.querySelector('.plot').focus()")
    page.press("ArrowLeft")
    page.until("!document.querySelector('.tip').hidden")
    page.until("document.querySelector('#spoken').textContent.includes('transactions')")
    page.press("Escape")
    page.until("document.querySelector('.tip').hidden")
    page.run("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        page.press("Tab")
        reached.add(page.run("document.activeElement.id || document.activeElement.textContent.slice(0, 20)"))
    assert {"scope", "hold", "1 hour", "Database", "app", "tab-pools", "search"} <= reached
    page.run("document.querySelector('#scroll th button').focus()")
    page.press("Enter")
    page.until("document.querySelector('#scroll th').getAttribute('aria-sort') !== 'none'")


@pytest.mark.slow
def test_two_thousand_databases(start_pooler: StartBouncer, tmp_path: Path) -> None:
    target = "host=127.0.0.1 port=1 dbname=app"
    names = [f"db{number}" for number in range(2000)]
    bouncer, url, log = measured(start_pooler, tmp_path, databases=dict.fromkeys(names, target))
    until(lambda: log.exists() and len(log.read_text().splitlines()) >= 2000, "a line for each")
    first = {word for line in log.read_text().splitlines()[:2000] for word in line.split() if word.startswith("addon=")}
    assert first == {f"addon={name}" for name in names}
    scrape = Scrape(url)
    assert len(list(scrape.all("pgbouncer_databases_pool_size"))) == 2001
    assert len(bouncer.admin("SHOW POOLS")) >= 1


@pytest.mark.slow
def test_reload_moves_the_lines_elsewhere(start_pooler: StartBouncer, tmp_path: Path) -> None:
    bouncer, _, first = measured(start_pooler, tmp_path)
    until(lambda: first.exists() and "addon=app" in first.read_text(), "lines in the first file")
    second = tmp_path / "second.log"
    bouncer.sections["pooler"] |= {"metrics": str(second), "metrics_extra": "no"}
    bouncer.write()
    bouncer.admin("RELOAD")
    until(lambda: second.exists() and "addon=app" in second.read_text(), "lines in the second file")
    assert "p50_wait" in first.read_text()
    assert "p50_wait" not in second.read_text()
    bouncer.sections["pooler"]["metrics"] = f"syslog+tls://127.0.0.1:{free_port()}"
    bouncer.write()
    bouncer.admin("RELOAD")
    drains = until(lambda: [d for d in bouncer.admin("SHOW DRAINS") if d["kind"] == "syslog+tls"], "the new drain")
    assert [d["kind"] for d in bouncer.admin("SHOW DRAINS")] == ["syslog+tls"], drains
