"""Pools of their own: what they take from the default one, who may have them, and under which names they are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.platform.desired import Database, Desired, desired, served_for
from admin.platform.errors import PlatformError
from admin.platform.operations.access import Actor, find_app, find_attachment
from admin.platform.operations.attachments import Attached, attach, detach
from admin.platform.operations.pools import WantedPool
from tests.fixtures.platform import ROOT, World

ADDON = "postgresql-octagonal-12345"
POOLING = "connection-pooling:default"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A database with 15 server connections (20 of PostgreSQL's)."""
    made = World(tmp_path / "state.db")
    made.app("example-app")
    made.app("other-app")
    made.database("example-app", ADDON, "postgres://u:one@db1.example.com:5432/data")
    yield made
    made.state.close()


def pooled(
    world: World,
    pool: str | None = None,
    mode: str | None = None,
    size: int | None = None,
    *,
    app: str = "example-app",
    actor: Actor = ROOT,
    name: str | None = None,
    addon: str = ADDON,
) -> Attached:
    namespace = POOLING if pool is None else f"{POOLING}:{pool}"
    wanted = WantedPool(pool, mode, size)
    wanted.check()
    with world.state.write() as store:
        return attach(store, actor, app=app, addon=addon, name=name, namespace=namespace, wanted=wanted)


def detached(world: World, name: str) -> None:
    with world.state.write() as store:
        detach(store, ROOT, find_attachment(store, ROOT, find_app(store, ROOT, "example-app"), name))


def wanted(world: World) -> Desired:
    with world.state.read() as store:
        return desired(store)


def served(world: World) -> dict[str, tuple[str, str, int]]:
    """(what clients ask for, mode, server connections) by the pooler's name."""
    return {d.name: (d.exposed, d.mode, d.server_limit) for d in wanted(world).databases}


def only(world: World) -> Database:
    (found,) = wanted(world).databases
    return found


def refused(world: World, *arguments: object, words: str, **more: object) -> None:
    before = (wanted(world), world.releases("example-app"))
    with pytest.raises(PlatformError, match=words) as caught:
        pooled(world, *arguments, **more)  # type: ignore[arg-type]
    assert caught.value.status in (403, 422)
    assert (wanted(world), world.releases("example-app")) == before


def test_a_pool_of_its_own_takes_its_part_from_the_default_one(world: World) -> None:
    pooled(world)
    assert served(world) == {ADDON: ("data", "transaction", 15)}
    pooled(world, "sessions", "session", 4)
    pooled(world, "reports")
    assert served(world) == {
        ADDON: ("data", "transaction", 8),
        f"{ADDON}.reports": ("data.reports", "transaction", 3),
        f"{ADDON}.sessions": ("data.sessions", "session", 4),
    }
    urls = world.config("example-app")
    assert urls["DATABASE_SESSIONS_POOL_URL"] == "postgres://u:one@db1.example.com:5433/data.sessions"
    assert urls["DATABASE_CONNECTION_POOL_URL"] == "postgres://u:one@db1.example.com:5433/data"


def test_it_goes_with_its_last_attachment(world: World) -> None:
    pooled(world)
    pooled(world, "sessions", "session", 4, name="ONE")
    pooled(world, "sessions", app="other-app", name="TWO")
    detached(world, "ONE")
    assert served(world)[f"{ADDON}.sessions"] == ("data.sessions", "session", 4)
    with world.state.write() as store:
        detach(store, ROOT, find_attachment(store, ROOT, find_app(store, ROOT, "other-app"), "TWO"))
    assert served(world) == {ADDON: ("data", "transaction", 15)}
    pooled(world, "sessions")
    assert served(world)[f"{ADDON}.sessions"] == ("data.sessions", "transaction", 3)


def test_names_of_one_pool_share_it_and_what_is_said_again_changes_it(world: World) -> None:
    first = pooled(world, "sessions", "session", 4)
    assert not pooled(world, "sessions", "session", 4).created
    assert not pooled(world, "sessions").created
    assert only(world).server_limit == 4
    again = pooled(world, "sessions", size=6)
    assert (again.created, again.attachment) == (False, first.attachment)
    assert (only(world).mode, only(world).server_limit) == ("session", 6)
    pooled(world, "sessions", "transaction")
    assert (only(world).mode, only(world).server_limit) == ("transaction", 6)


def test_no_more_than_there_is(world: World) -> None:
    refused(world, "a", None, 15, words="14 are left for a")
    pooled(world, "a", None, 14)
    refused(world, "b", words="0 are left for b")
    refused(world, "b", None, 1, words="0 are left for b")
    refused(world, "a", None, 15, words="14 are left for a")
    pooled(world, "a", None, 13)
    pooled(world, "b")
    pooled(world)
    assert sum(limit for _, _, limit in served(world).values()) == 15


def test_who_has_no_database_of_his_own_shares_but_does_not_take(world: World) -> None:
    guest = _guest(world)
    pooled(world, app="other-app", name="GUESTS")
    refused(world, "mine", app="other-app", actor=guest, words="access")
    pooled(world, "sessions", "session", 4)
    pooled(world, "sessions", app="other-app", actor=guest)
    refused(world, "sessions", None, 5, app="other-app", actor=guest, words="access")


def _guest(world: World) -> Actor:
    with world.state.read() as store:
        app = store.app("other-app")
        assert app is not None
        return Actor("guest@test", frozenset({app.id}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, "session"), "give it a name"),
        ((None, None, 3), "give it a name"),
        (("a", "statement"), "transaction or session"),
        (("a", None, 0), "at least 1"),
        (("a", None, -1), "at least 1"),
        (("A",), "lowercase"),
        (("a.b",), "lowercase"),
        (("a:b",), "lowercase"),
        (("ä",), "lowercase"),
        (("a" * 31,), "lowercase"),
    ],
)
def test_bad_input(world: World, arguments: tuple[object, ...], words: str) -> None:
    refused(world, *arguments, words=words)


def test_no_two_are_served_under_one_name(world: World) -> None:
    world.database("example-app", "postgresql-dotted-1", "postgres://u:two@db2.example.com:5432/data.taken")
    refused(world, "taken", words="another database's name")
    pooled(world, "sessions")
    later = world.database("example-app", "postgresql-dotted-2", "postgres://u:two@db3.example.com:5432/data.sessions")
    assert later.exposed == "postgresql-dotted-2"
    longest = world.database("example-app", "postgresql-long-1", f"postgres://u:x@db4.example.com:5432/{'d' * 61}")
    refused(world, "ab", addon=longest.name, words="too long")
    pooled(world, "a", addon=longest.name)


def test_an_apps_lines_are_those_of_all_pools_of_what_it_holds(world: World) -> None:
    pooled(world, "sessions")
    pooled(world, app="other-app")
    world.app("third-app")
    with world.state.read() as store:
        apps = {app.name: served_for(store, app.id) for app in store.apps()}
    both = frozenset({ADDON, f"{ADDON}.sessions"})
    assert apps == {"example-app": both, "other-app": both, "third-app": frozenset()}
