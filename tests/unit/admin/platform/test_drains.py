"""Log drains: whose they are, where they may lead, what the pooler is told of them, and which lines go there."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from admin.platform.api import build
from admin.platform.desired import Watch
from admin.platform.errors import PlatformError
from admin.platform.operations.attachments import attach
from admin.platform.operations.drains import MOST, add_drain
from admin.platform.state import State
from metrics.drains.only import Only
from metrics.heroku import LogLine
from pooler.stats import DrainStat
from tests.fixtures.platform import ROOT, Api, Commands, World

URL = "https://me:sesame@logs.example/in?a=b"
PATH = "/apps/example-app/log-drains"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state.db")
    made.app("example-app")
    made.app("other-app")
    made.database("example-app", "postgresql-octagonal-12345", "postgres://u:p@127.0.0.1:1/data")
    made.database("other-app", "postgresql-flat-54321", "postgres://u:p@127.0.0.1:2/data")
    yield made
    made.state.close()


def test_over_the_api(world: World) -> None:
    api = Api(build(world.state), world.token())
    assert api("GET", PATH).json == []
    made = api("POST", PATH, {"url": URL})
    assert (made.status, made.json["url"], made.json["addon"]) == (201, URL, None)
    assert made.json["token"].startswith("d.")
    again = api("POST", PATH, {"url": URL})
    assert (again.status, again.json["message"]) == (422, "Url has already been taken")
    assert [drain["id"] for drain in api("GET", PATH).json] == [made.json["id"]]
    for name in (URL, made.json["token"], made.json["id"]):
        assert api("GET", f"{PATH}/{quote(name, safe='')}").json == made.json
    assert api("DELETE", f"{PATH}/{quote(URL, safe='')}").json == made.json
    gone = api("DELETE", f"{PATH}/{quote(URL, safe='')}")
    assert (gone.status, gone.json["message"]) == (404, "Couldn't find that log drain.")


def test_a_token_of_another_app_reaches_none(world: World) -> None:
    api = Api(build(world.state), world.token("other-app"))
    assert {api("GET", PATH).status, api("POST", PATH, {"url": URL}).status} == {403}
    assert api("DELETE", f"{PATH}/x").status == 403


@pytest.mark.parametrize(
    "url",
    [
        "stdout", "/etc/passwd", "file:///etc/passwd", "statsd://host", "https://", "https://:1/", "syslog://h:0",
        "https://[::1/", "https://h/\u00e9", "https://h/a b", "https://h/a\nb", "gopher://h", "https://h/" + "x" * 3000,
    ],
)  # fmt: skip
def test_what_is_no_drain_for_an_app(world: World, url: str) -> None:
    with world.state.write() as store, pytest.raises(PlatformError, match="Url is invalid") as refused:
        add_drain(store, ROOT, "example-app", url)
    assert "passwd" not in refused.value.message


def test_there_are_not_any_number(world: World) -> None:
    with world.state.write() as store:
        for number in range(MOST):
            add_drain(store, ROOT, "example-app", f"syslog://h{number}")
        add_drain(store, ROOT, "other-app", "syslog+tls://h")
        with pytest.raises(PlatformError, match=f"limit of {MOST} log drains"):
            add_drain(store, ROOT, "example-app", "syslog://more")


def test_by_command(tmp_path: Path) -> None:
    pooler = Commands(str(tmp_path / "state.db"))
    pooler("apps:create", "example-app")
    assert pooler("drains", "-a", "example-app").out == ""
    assert pooler("drains:add", URL, "-a", "example-app").out == f"Successfully added drain {URL}\n"
    listed = pooler("drains", "-a", "example-app").out
    assert listed.startswith(f"=== Drains\n\n{URL} (d.")
    token = listed.rpartition("(")[2].rstrip(")\n")
    assert pooler("drains:remove", token, "-a", "example-app").out == f"Successfully removed drain {URL}\n"
    assert pooler("drains", "--json", "-a", "example-app").out == "[]\n"


def test_what_the_pooler_is_told(world: World) -> None:
    watch = Watch(world.state)
    assert watch.look().drains == ()
    with world.state.write() as store:
        add_drain(store, ROOT, "example-app", URL)
    (drain,) = watch.look().drains
    assert (drain.app, drain.url) == ("example-app", URL)
    assert drain.databases == {"postgresql-octagonal-12345"}
    assert "sesame" not in repr(drain)
    with world.state.write() as store:
        attach(store, ROOT, app="example-app", addon="postgresql-flat-54321", name="SHARED")
    (drain,) = watch.look().drains
    assert drain.databases == {"postgresql-octagonal-12345", "postgresql-flat-54321"}


def test_a_state_of_before_has_none(tmp_path: Path) -> None:
    """It is brought up to date, with what it holds."""
    place = tmp_path / "state.db"
    world = World(place)
    world.app("example-app")
    world.state.close()
    with sqlite3.connect(place) as before:
        before.execute("DROP TABLE pooler_log_drains")
        before.execute("DROP TABLE pooler_named_pools")
        before.execute("UPDATE pooler_schema_version SET version_num = '0001'")
    before.close()
    state = State.open(str(place))
    with state.write() as store:
        assert store.log_drains() == []
        assert add_drain(store, ROOT, "example-app", URL).url == URL
    state.close()


class Kept:
    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.said: list[Any] = []

    def emit(self, lines: Sequence[LogLine]) -> None:
        self.bodies += [line.body for line in lines]

    def reopen(self) -> None:
        self.said.append("reopen")

    def stats(self) -> DrainStat:
        return DrainStat("https", "h", "idle", 0, len(self.bodies), 0, 0, "")

    async def close(self, timeout: float = 1.0) -> None:
        self.said.append(timeout)


def test_only_lines_about_its_databases() -> None:
    kept = Kept()
    only = Only(kept, frozenset({"a"}))
    only.emit([LogLine(0, "one", addon="a"), LogLine(0, "two", addon="b"), LogLine(0, "three")])
    only.databases = frozenset({"b"})
    only.emit([LogLine(0, "four", addon="a"), LogLine(0, "five", addon="b")])
    assert kept.bodies == ["one", "five"]
    only.reopen()
    asyncio.run(only.close(0.5))
    assert kept.said == ["reopen", 0.5]
    assert only.stats().delivered == 2
