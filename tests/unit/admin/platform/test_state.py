"""The state: private, migrated once, all or nothing, several writers at once, and a clear line when it cannot be
used."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.platform import state as state_module
from admin.platform.errors import PlatformError
from admin.platform.operations.apps import create_app
from admin.platform.operations.config import change_config
from admin.platform.schema import HEAD, METADATA, VERSION_TABLE
from admin.platform.state import State, default_location, file_path, is_postgres
from tests.fixtures.platform import ROOT, Commands, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "deep" / "state.db")
    yield made
    made.state.close()


def test_the_file_and_what_lies_beside_it_are_private(world: World) -> None:
    world.app("example-app")
    assert stat.S_IMODE(world.place.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in world.place.parent.iterdir()} == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    place.touch(mode=0o644)
    State.open(str(place)).close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_postgres("postgres://u:p@h/d")
    assert not is_postgres("/var/lib/state.db")
    assert file_path("sqlite:///tmp/x.db") == Path("tmp/x.db")
    assert file_path("sqlite:////tmp/x.db") == Path("/tmp/x.db")
    assert file_path("/tmp/x.db") == Path("/tmp/x.db")
    with pytest.raises(PlatformError, match="mysql://"):
        file_path("mysql://u:sesame@h/d")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert default_location() == "/somewhere/pooler/platform.db"


def test_migrations_build_what_the_tables_say(world: World) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with world.state._transaction(writing=False) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, METADATA) == []


def test_a_state_of_a_newer_pooler_is_refused(world: World) -> None:
    world.state.close()
    with sqlite3.connect(world.place) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.close()
    with pytest.raises(PlatformError, match="newer pooler"):
        State.open(str(world.place))


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever it is called" * 99, b"SQLite format 3\0" + b"x" * 4096]
)
def test_what_is_no_state_is_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "state.db"
    place.write_bytes(content)
    with pytest.raises(PlatformError, match="The state cannot be used") as caught:
        State.open(str(place))
    assert "\n" not in caught.value.message
    assert place.read_bytes() == content


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match="cannot be used"):
        State.open(str(tmp_path / "file" / "state.db"))


def test_an_operation_that_fails_changes_nothing(world: World) -> None:
    app = world.app("example-app")
    before = world.state.counter()

    def change_and_fail() -> None:
        with world.state.write() as store:
            change_config(store, ROOT, app, {"A": "1"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert world.config("example-app") == {}
    assert world.releases("example-app") == ["Initial release"]
    assert world.state.counter() == before


def test_the_counter_moves_with_changes_only(world: World) -> None:
    app = world.app("example-app")
    before = world.state.counter()
    with world.state.write() as store:
        change_config(store, ROOT, app, {"A": "1"})
    assert world.state.counter() == before + 1
    with world.state.write() as store:
        assert change_config(store, ROOT, app, {"A": "1"}) is None
    assert world.state.counter() == before + 1


def test_opening_a_new_state_at_once_migrates_it_once(tmp_path: Path) -> None:
    place, failures = str(tmp_path / "state.db"), []

    def open_it(name: str) -> None:
        try:
            state = State.open(place)
            with state.write() as store:
                create_app(store, ROOT, name)
            state.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it, args=(f"app-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    state = State.open(place)
    with state.read() as store:
        assert [app.name for app in store.apps()] == [f"app-{n}" for n in range(8)]
    state.close()


@pytest.fixture
def being_made(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A new file whose journal is no WAL yet, in the middle of another's transaction."""
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("CREATE TABLE something (x int)")
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_a_file_that_another_is_making_is_waited_for(
    being_made: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself does not wait when a journal becomes a WAL."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: being_made.execute("COMMIT"))
    State.open(str(tmp_path / "state.db")).close()
    assert not being_made.in_transaction


def test_a_file_that_another_never_lets_go_is_said(
    being_made: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "BUSY_TIMEOUT", 0.05)
    with pytest.raises(PlatformError, match="database is locked"):
        State.open(str(tmp_path / "state.db"))
    assert being_made.in_transaction


WRITER = """
import sys
from admin.platform.operations.access import Actor
from admin.platform.operations.config import change_config
from admin.platform.state import State
state = State.open(sys.argv[1])
print("ready", flush=True)
for n in range(int(sys.argv[2])):
    with state.write() as store:
        change_config(store, Actor("writer"), store.app("example-app"), {"A": str(n), "B": str(n), sys.argv[3]: str(n)})
"""


def writer(world: World, count: int, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(world.place), str(count), name],
        env=Commands(str(world.place)).environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_writers_in_several_processes_lose_nothing(world: World) -> None:
    world.app("example-app")
    writers = [writer(world, 20, name) for name in ("C", "D", "E")]
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    found = world.config("example-app")
    assert found["A"] == found["B"]
    assert {found[name] for name in "CDE"} == {"19"}
    with world.state.read() as store:
        app = store.app("example-app")
        assert app is not None
        assert [release.version for release in store.releases(app.id)] == list(range(1, 62))


@pytest.mark.parametrize("attempt", range(3))
def test_killed_in_the_middle_of_writing(world: World, attempt: int) -> None:
    """Whatever the kill hits, both values of one change and its release are there, or none of them."""
    world.app("example-app")
    process = writer(world, 100_000, "C")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while not world.config("example-app") or world.config("example-app")["A"] < str(attempt):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    found = world.config("example-app")
    assert found["A"] == found["B"] == found["C"]
    assert len(world.releases("example-app")) == int(found["A"]) + 2
    world.app("another-app")
