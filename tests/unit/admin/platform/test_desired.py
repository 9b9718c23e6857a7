"""The watch over a state: what is wanted, the same while nothing else is, and another when it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from admin.platform.desired import Desired, Watch
from admin.platform.errors import PlatformError
from admin.platform.operations.access import find_app, find_attachment
from admin.platform.operations.attachments import attach, detach
from admin.platform.operations.config import change_config
from admin.platform.plane import Plane, exists
from tests.fixtures.platform import ROOT, World


def attach_pool(world: World, name: str) -> None:
    with world.state.write() as store:
        attach(
            store, ROOT, app="example-app", addon="postgresql-a-1", name=name, namespace="connection-pooling:default"
        )


def detach_pool(world: World, name: str) -> None:
    with world.state.write() as store:
        app = find_app(store, ROOT, "example-app")
        detach(store, ROOT, find_attachment(store, ROOT, app, name))


def set_config(world: World) -> None:
    with world.state.write() as store:
        change_config(store, ROOT, find_app(store, ROOT, "example-app"), {"A": "1"})


def test_attaching_and_detaching_are_seen(tmp_path: Path) -> None:
    world = World(tmp_path / "state.db")
    world.app("example-app")
    world.database("example-app", "postgresql-a-1")
    watch = Watch(world.state)
    nothing = watch.look()
    assert nothing == Desired()
    assert watch.look() is nothing
    attach_pool(world, "ONE")
    opened = watch.look()
    assert [(database.name, database.exposed) for database in opened.databases] == [("postgresql-a-1", "data")]
    assert opened.ports == (2,)
    assert "sesame" not in repr(opened)
    set_config(world)
    assert watch.look() is opened
    attach_pool(world, "TWO")
    assert [pool.names for pool in watch.look().databases[0].pools] == [("example-app::ONE", "example-app::TWO")]
    detach_pool(world, "ONE")
    detach_pool(world, "TWO")
    assert watch.look() == Desired()
    world.state.close()


def test_a_state_that_was_away_is_read_when_it_is_back(tmp_path: Path) -> None:
    world = World(tmp_path / "state.db")
    world.app("example-app")
    world.database("example-app", "postgresql-a-1")
    attach_pool(world, "ONE")
    watch, away = Watch(world.state), tmp_path / "away"
    assert len(watch.look().databases) == 1
    (tmp_path / "state.db").rename(away)
    with pytest.raises(PlatformError, match="cannot be used"):
        watch.look()
    away.rename(tmp_path / "state.db")
    detach_pool(world, "ONE")
    assert watch.look() == Desired()
    world.state.close()


def test_the_first_start_makes_a_token_and_shows_it_once(tmp_path: Path) -> None:
    place = str(tmp_path / "state.db")
    assert not exists(place)
    plane = Plane.open(place)
    assert exists(place)
    token = plane.token
    assert token is not None
    lines = plane.environment("https://127.0.0.1:9127", authority="/ca.pem")
    assert f"export HEROKU_API_KEY={token}" in lines
    assert "export HEROKU_DATA_HOST=127.0.0.1" in lines
    assert "export NODE_EXTRA_CA_CERTS=/ca.pem" in lines
    plane.close()
    again = Plane.open(place)
    assert again.token is None
    assert token not in "\n".join(again.environment("http://127.0.0.1:9127"))
    again.close()


def test_whose_lines_are_an_apps(tmp_path: Path) -> None:
    world = World(tmp_path / "state.db")
    world.app("example-app")
    world.database("example-app", "postgresql-a-1")
    plane = Plane(world.state, None)
    assert plane.addons("example-app") == frozenset({"postgresql-a-1"})
    assert plane.addons("no-app") is None
    plane.close()
