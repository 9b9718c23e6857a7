"""`pooler logs`: what is shown, in which colours, and what happens when the pooler goes and comes back."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metrics.foreign import logs
from metrics.foreign.logs import Wanted, follow, once, open_source
from metrics.foreign.past import line_of
from metrics.foreign.tail import Lost, Refused
from metrics.heroku import LogLine, lines
from metrics.period import Reporter
from metrics.web.http import build_app, serve_http
from pooler.stats import Averages
from tests.fixtures.figures import database, pool, snapshot

ALL = Wanted(100, tail=True, source="", app="")


def line(when: float, body: str = "", process: str = "heroku-pgbouncer", addon: str = "app") -> LogLine:
    return LogLine(when, body or f"m{when}", "app", process, addon)


@contextmanager
def pooler_with(kept: list[LogLine]) -> Iterator[str]:
    """A front with these lines on a port of its own, in a thread; its URL."""
    ready, ended = threading.Event(), threading.Event()
    url: list[str] = []

    async def serve() -> None:
        reporter = Reporter(lambda **_: snapshot())
        reporter.publish(kept)
        server = await serve_http(build_app(lambda **_: snapshot(), reporter), "127.0.0.1", 0)
        url.append(server.url)
        ready.set()
        while not ended.is_set():
            await asyncio.sleep(0.01)
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield url[0]
    finally:
        ended.set()
        thread.join(10)


def test_the_last_lines_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pooler_with([line(n) for n in range(5)]) as url:
        assert logs.main(["-n", "2", url]) == 0
        assert capsys.readouterr().out == (
            "1970-01-01T00:00:03.000000+00:00 app[heroku-pgbouncer]: m3\n"
            "1970-01-01T00:00:04.000000+00:00 app[heroku-pgbouncer]: m4\n"
        )
        assert logs.main(["--json", "-n", "1", url + "/"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert (value["time"], value["message"], value["addon"]) == (4.0, "m4", "app")


def test_only_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    kept = [line(1), line(2, addon="other"), line(3, process="pooler", addon="")]
    with pooler_with(kept) as url:
        assert logs.main(["--source", "heroku-pgbouncer", "-a", "app", url]) == 0
        assert capsys.readouterr().out.count("\n") == 1
        assert logs.main(["-p", "pooler", url]) == 0
        assert capsys.readouterr().out.endswith(": m3\n")


@pytest.mark.parametrize("name", ["app", "heroku-pgbouncer", "pgbouncer"])
def test_a_line_is_from_each_of_the_sources_it_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, news = lines(snapshot(databases=(database("app"),)))[0], "started, not source=pgbouncer at all"
    with pooler_with([LogLine(1, metrics), LogLine(2, news, source="else", process="pooler")]) as url:
        assert logs.main(["-s", name, url]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [one.endswith(metrics) for one in shown] == [True]


def run(arguments: list[str]) -> object:
    """The exit status, whichever way it is given."""
    try:
        return logs.main(arguments)
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["http://127.0.0.1:1"], 1, "127.0.0.1:1: Connection refused"),
        (["http://127.0.0.1:x"], 1, "is no address"),
        (["ftp://host"], 2, "give the pooler's http://"),
        (["-n", "-3", "http://127.0.0.1:1"], 2, "not a number of lines"),
    ],
)
def test_faults_are_one_line(arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == status
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_somebody_elses_port() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello\n")

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        source = open_source(f"http://127.0.0.1:{server.server_port}", ALL)
        with pytest.raises(Refused, match="not a pooler's"):
            list(once(source, ALL))
        thread.join()


def test_a_tail_comes_back_and_shows_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines of one moment, a line missed while away, a source that goes three times."""
    lives = [
        [line(1), line(2, "a"), line(2, "b")],
        None,
        [line(1), line(2, "a"), line(2, "b"), line(2, "c"), line(3)],
        [line(3), None, line(4)],
    ]
    pauses: list[float] = []

    def source(count: int) -> Iterator[LogLine | None]:
        life = lives.pop(0)
        if life is None:
            raise Lost("127.0.0.1:9: no answer")
        return iter(life)

    shown = follow(source, ALL, pause=pauses.append)
    assert [next(shown).body for _ in range(6)] == ["m1", "a", "b", "c", "m3", "m4"]
    assert pauses == [0.5, 1.0, 0.5]
    assert capsys.readouterr().err.count("trying again") == 3


def test_a_tail_that_never_reached_anybody_says_so() -> None:
    def source(count: int) -> Iterator[LogLine | None]:
        raise Lost("nobody there")
        yield

    with pytest.raises(Lost, match="nobody there"):
        next(follow(source, ALL))


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    head = "1970-01-01T00:00:01.000000+00:00 app[heroku-pgbouncer]: "
    assert logs.as_text(io.StringIO())(line(1)) == head + "m1"
    write = logs.as_text(Terminal())
    assert write(line(1)) == f"\x1b[36m{head}\x1b[0mm1"
    assert write(line(1, process="other")).startswith("\x1b[33m")
    assert write(line(1, "x\x1b]0;evil\x07\n")).endswith("x\\x1b]0;evil\\x07\\n")
    monkeypatch.setenv("NO_COLOR", "1")
    assert logs.as_text(Terminal())(line(1)) == head + "m1"


def test_history_makes_the_same_line() -> None:
    averages = Averages(query_time=8751, bytes_received=37568, bytes_sent=1339005)
    one = snapshot(databases=(database("a b", averages=averages),), pools=(pool("a b"),))
    row = {
        "time": "2026-11-22 07:46:00+00", "database": "a b", "cl_active": 56, "cl_waiting": 2,
        "sv_active": 5, "sv_idle": 16, "maxwait_us": 1_999_999, "avg_query_time": 8751,
        "bytes_received": 37568, "bytes_sent": 1339005,
    }  # fmt: skip
    assert line_of(row).body == lines(one)[0]
    assert line_of(row).when == 1795333560
