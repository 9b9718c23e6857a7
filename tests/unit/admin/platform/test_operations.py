"""The rules of attaching, detaching, sharing and promoting, and what the pooler shall serve after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admin.platform.desired import Desired, desired
from admin.platform.errors import PlatformError
from admin.platform.model import Credential
from admin.platform.operations.access import Actor, find_app, find_attachment
from admin.platform.operations.apps import create_app, destroy_app
from admin.platform.operations.attachments import Attached, attach, detach
from admin.platform.operations.config import change_config
from admin.platform.operations.databases import destroy_addon
from admin.platform.operations.promote import Promotion, promote
from admin.platform.store import Store
from tests.fixtures.platform import ROOT, World

POOLING = "connection-pooling:default"
SILVER = "HEROKU_POSTGRESQL_SILVER"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state.db")
    made.app("example-app")
    made.app("other-app")
    made.database(
        "example-app", "postgresql-octagonal-12345", "postgres://u:one@db1.example.com/data", connection_limit=400
    )
    made.database(
        "example-app",
        "postgresql-flat-54321",
        "postgres://u:two@db2.example.com/data2",
        connection_limit=500,
        attachment=SILVER,
    )
    yield made
    made.state.close()


def attached(world: World, addon: str, app: str = "example-app", actor: Actor = ROOT, **more: Any) -> Attached:
    with world.state.write() as store:
        return attach(store, actor, app=app, addon=addon, **more)


def detached(world: World, name: str, app: str = "example-app") -> int:
    with world.state.write() as store:
        return detach(store, ROOT, find_attachment(store, ROOT, find_app(store, ROOT, app), name))


def promoted(world: World, name: str) -> Promotion:
    with world.state.write() as store:
        app = find_app(store, ROOT, "example-app")
        return promote(store, ROOT, app, find_attachment(store, ROOT, app, name))


def wanted(world: World) -> Desired:
    with world.state.read() as store:
        return desired(store)


def refused(do: Callable[[], object], identity: str, status: int) -> str:
    with pytest.raises(PlatformError) as caught:
        do()
    assert (caught.value.id, caught.value.status) == (identity, status)
    return caught.value.message


def test_the_first_database_is_DATABASE_and_the_next_a_colour(world: World) -> None:
    found = world.config("example-app")
    assert found["DATABASE_URL"] == "postgres://u:one@db1.example.com:5432/data"
    world.database("example-app", "postgresql-third-1")
    (third,) = set(world.config("example-app")) - set(found)
    assert third.startswith("HEROKU_POSTGRESQL_")
    assert world.releases("example-app")[1] == "Attach DATABASE (@ref:postgresql-octagonal-12345)"


@pytest.mark.slow
@pytest.mark.parametrize("name", [SILVER, f"{SILVER}_URL", "postgresql-flat-54321", f"example-app::{SILVER}"])
def test_a_leader_by_any_of_its_names(world: World, name: str) -> None:
    follower = world.database("example-app", "postgresql-third-1", "postgres://u:x@db3/d", follow=name)
    with world.state.read() as store:
        leader = store.addon("postgresql-flat-54321")
    assert leader
    assert follower.following == leader.id


def test_no_leader_is_told(world: World) -> None:
    def follow() -> None:
        world.database("example-app", "postgresql-third-1", "postgres://u:x@db3/d", follow="NOPE")

    assert refused(follow, "not_found", 404) == "Couldn't find that add-on."


def test_a_pool_is_attached_under_its_default_name(world: World) -> None:
    done = attached(world, "postgresql-octagonal-12345", namespace=POOLING)
    assert done.attachment.name == "DATABASE_CONNECTION_POOL"
    assert world.config("example-app")["DATABASE_CONNECTION_POOL_URL"] == "postgres://u:one@db1.example.com:5433/data"
    assert world.releases("example-app")[-1] == "Attach DATABASE_CONNECTION_POOL (@ref:postgresql-octagonal-12345)"


def test_a_pooled_url_has_no_query_but_its_servers_keep_the_sslmode(world: World) -> None:
    world.database("other-app", "postgresql-tls-1", "postgres://u:x@db3:5432/d?sslmode=require")
    attached(world, "postgresql-tls-1", app="other-app", namespace=POOLING)
    assert world.config("other-app")["DATABASE_URL"].endswith("/d?sslmode=require")
    assert world.config("other-app")["DATABASE_CONNECTION_POOL_URL"] == "postgres://u:x@db3:5433/d"
    assert wanted(world).databases[0].sslmode == "require"


def test_attaching_again_changes_nothing(world: World) -> None:
    first = attached(world, "postgresql-octagonal-12345", name="POOL", namespace=POOLING)
    again = attached(world, "postgresql-octagonal-12345", name="POOL", namespace=POOLING)
    assert first.created
    assert not again.created
    assert again.attachment == first.attachment
    assert again.version == first.version


def test_several_names_are_one_pool_that_closes_with_the_last(world: World) -> None:
    for name in ("FIRST", "SECOND"):
        attached(world, "postgresql-octagonal-12345", name=name, namespace=POOLING)
    attached(world, "postgresql-octagonal-12345", app="other-app", name="THIRD", namespace=POOLING)
    (database,) = wanted(world).databases
    assert [pool.names for pool in database.pools] == [
        ("example-app::FIRST", "example-app::SECOND", "other-app::THIRD")
    ]
    assert (database.server_limit, database.listen_port, database.host) == (300, 5433, "db1.example.com")
    detached(world, "FIRST")
    detached(world, "SECOND_URL")
    assert len(wanted(world).databases) == 1
    detached(world, "THIRD", app="other-app")
    assert wanted(world) == Desired()
    assert world.releases("other-app")[-1] == "Detach THIRD (@ref:postgresql-octagonal-12345)"


@pytest.mark.parametrize(("limit", "servers"), [(400, 300), (500, 375), (200, 150), (120, 90), (1, 1), (3, 2)])
def test_three_quarters_of_the_limit(world: World, limit: int, servers: int) -> None:
    assert world.database("other-app", "postgresql-x-1", connection_limit=limit).server_limit == servers


def test_a_name_in_use_needs_a_confirmation(world: World) -> None:
    def take(confirm: str | None = None) -> Attached:
        return attached(world, "postgresql-flat-54321", name="POOL", confirm=confirm)

    attached(world, "postgresql-octagonal-12345", name="POOL")
    assert "postgresql-octagonal-12345" in refused(take, "confirmation_required", 423)
    refused(lambda: take("other-app"), "confirmation_required", 423)
    assert take("example-app").created
    assert world.config("example-app")["POOL_URL"].startswith("postgres://u:two@")


def test_the_last_attachment_of_the_owner_stays(world: World) -> None:
    message = refused(lambda: detached(world, "DATABASE"), "forbidden", 403)
    assert message == "Cannot destroy last attachment to billing app for resource postgresql-octagonal-12345"
    take = lambda: attached(world, "postgresql-flat-54321", name="DATABASE", confirm="example-app")  # noqa: E731
    refused(take, "forbidden", 403)
    attached(world, "postgresql-octagonal-12345", name="SPARE")
    detached(world, "DATABASE")
    assert "DATABASE_URL" not in world.config("example-app")


def test_a_config_var_is_nobodys_twice(world: World) -> None:
    with world.state.write() as store:
        change_config(store, ROOT, find_app(store, ROOT, "example-app"), {"MINE_URL": "x"})
    refused(lambda: attached(world, "postgresql-flat-54321", name="MINE"), "invalid_params", 422)
    with world.state.write() as store:
        app = find_app(store, ROOT, "example-app")
        message = refused(lambda: change_config(store, ROOT, app, {"DATABASE_URL": "x"}), "invalid_params", 422)
    assert message == "Cannot overwrite attachment values DATABASE_URL."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "identity", "status"),
    [
        ({"app": "no-app"}, "not_found", 404),
        ({"addon": "no-addon"}, "not_found", 404),
        ({"name": "lower"}, "invalid_params", 422),
        ({"namespace": "credential:nobody"}, "not_found", 404),
        ({"namespace": "connection-pooling:nobody"}, "not_found", 404),
        ({"namespace": "nonsense"}, "invalid_params", 422),
        ({"namespace": "connection-pooling:"}, "invalid_params", 422),
    ],
)
def test_bad_attachments(world: World, more: dict[str, str], identity: str, status: int) -> None:
    request: dict[str, Any] = {"addon": "postgresql-octagonal-12345", "name": "POOL"} | more
    refused(lambda: attached(world, **request), identity, status)
    assert len(world.releases("example-app")) == 3


@pytest.mark.parametrize(("plan", "tier"), [("essential-0", "Essential"), ("advanced-4g", "Advanced")])
def test_plans_without_pools(world: World, plan: str, tier: str) -> None:
    world.database("other-app", "postgresql-small-1", plan=plan)
    message = refused(
        lambda: attached(world, "postgresql-small-1", app="other-app", namespace=POOLING), "invalid_params", 422
    )
    assert message == f"You can't perform this operation on {tier}-tier databases."


def add_credential(world: World, addon: str, name: str) -> None:
    with world.state.write() as store:
        found = store.addon(addon)
        assert found is not None
        store.add_credential(Credential(found.id, name, name, "its own", store.now))


def test_a_credential_has_a_pool_of_its_own_within_the_database(world: World) -> None:
    add_credential(world, "postgresql-octagonal-12345", "readonly")
    attached(world, "postgresql-octagonal-12345", app="other-app", name="RO", namespace="credential:readonly")
    attached(world, "postgresql-octagonal-12345", namespace=POOLING)
    found = world.config("other-app")
    assert found["RO_URL"] == "postgres://readonly:its%20own@db1.example.com:5432/data"
    assert found["RO_CONNECTION_POOL_URL"] == "postgres://readonly:its%20own@db1.example.com:5433/data"
    (database,) = wanted(world).databases
    assert [(pool.credential, pool.user) for pool in database.pools] == [("default", "u"), ("readonly", "readonly")]
    assert database.server_limit == 300


def test_promotion_moves_DATABASE_and_the_default_pool_and_nothing_else(world: World) -> None:
    for name in ("DATABASE_CONNECTION_POOL", "SECOND_POOL"):
        attached(world, "postgresql-octagonal-12345", name=name, namespace=POOLING)
    done = promoted(world, SILVER)
    assert done.pool_moved
    assert done.alias is not None
    found = world.config("example-app")
    assert "db2" in found["DATABASE_URL"]
    assert "db2" in found["DATABASE_CONNECTION_POOL_URL"]
    assert "db1" in found["SECOND_POOL_URL"]
    assert "db1" in found[f"{done.alias}_URL"]
    assert [database.exposed for database in wanted(world).databases] == ["data2", "data"]


def test_promoting_twice_is_refused(world: World) -> None:
    name = SILVER
    promoted(world, name)
    message = refused(lambda: promoted(world, name), "invalid_params", 422)
    assert message == "postgresql-flat-54321 is already promoted on example-app"


@pytest.mark.slow
def test_a_promotion_that_the_pool_cannot_follow_changes_nothing(world: World) -> None:
    attached(world, "postgresql-octagonal-12345", namespace=POOLING)
    world.database("example-app", "postgresql-small-1", plan="essential-0", attachment="SMALL")
    before = world.config("example-app"), world.releases("example-app")
    refused(lambda: promoted(world, "SMALL"), "invalid_params", 422)
    assert (world.config("example-app"), world.releases("example-app")) == before


def test_two_databases_of_one_name_at_one_port_are_told_apart(world: World) -> None:
    world.database("other-app", "postgresql-twin-1", "postgres://u:x@db9.example.com/data")
    for addon, app in (("postgresql-octagonal-12345", "example-app"), ("postgresql-twin-1", "other-app")):
        attached(world, addon, app=app, namespace=POOLING)
    assert [database.exposed for database in wanted(world).databases] == ["data", "postgresql-twin-1"]
    assert world.config("other-app")["DATABASE_CONNECTION_POOL_URL"].endswith(":5433/postgresql-twin-1")


def test_a_database_is_registered_once(world: World) -> None:
    again = lambda: world.database("other-app", "postgresql-twin-1", "postgres://v:y@db1.example.com/data")  # noqa: E731
    refused(again, "invalid_params", 422)


def test_a_url_without_its_own_pool_port() -> None:
    from admin.platform.operations.databases import registration

    refused(lambda: registration("postgres://u:p@h:65535/d", "standard-0"), "invalid_params", 422)
    assert registration("postgres://u:p@h:65535/d", "standard-0", pool_port=6432).pool_port == 6432


def test_destroying_takes_every_attachment_with_it(world: World) -> None:
    attached(world, "postgresql-octagonal-12345", app="other-app", namespace=POOLING)
    with world.state.write() as store:
        refused(lambda: destroy_app(store, ROOT, "example-app", "example-app"), "invalid_params", 422)
    with world.state.write() as store:
        refused(lambda: destroy_addon(store, ROOT, "postgresql-octagonal-12345", None), "confirmation_required", 423)
        destroy_addon(store, ROOT, "postgresql-octagonal-12345", "example-app")
    assert world.config("other-app") == {}
    assert wanted(world) == Desired()
    with world.state.write() as store:
        destroy_app(store, ROOT, "example-app", "example-app")
        assert [app.name for app in store.apps()] == ["other-app"]


def scoped(world: World, app: str) -> Actor:
    with world.state.read() as store:
        found = store.app(app)
        assert found is not None
        return Actor("scoped", frozenset({found.id}))


def test_an_actor_of_one_app_cannot_take_anothers_database(world: World) -> None:
    outsider = scoped(world, "other-app")
    refused(lambda: attached(world, "postgresql-octagonal-12345", app="other-app", actor=outsider), "not_found", 404)
    refused(lambda: attached(world, "postgresql-octagonal-12345", actor=outsider), "forbidden", 403)
    with world.state.write() as store:
        refused(lambda: create_app(store, outsider, "third-app"), "forbidden", 403)


def test_an_actor_with_a_shared_credential_gets_no_other(world: World) -> None:
    add_credential(world, "postgresql-octagonal-12345", "readonly")
    attached(world, "postgresql-octagonal-12345", app="other-app", name="RO", namespace="credential:readonly")
    guest = scoped(world, "other-app")

    def take(namespace: str | None) -> Attached:
        return attached(
            world, "postgresql-octagonal-12345", app="other-app", actor=guest, name="MORE", namespace=namespace
        )

    refused(lambda: take(None), "forbidden", 403)
    refused(lambda: take(POOLING), "forbidden", 403)
    assert take("connection-pooling:readonly").created


def describe(store: Store, app_id: str) -> str:
    return store.releases(app_id)[-1].description


def test_releases_say_what_changed(world: World) -> None:
    with world.state.write() as store:
        app = find_app(store, ROOT, "other-app")
        change_config(store, ROOT, app, {"A": "1", "B": "2"})
        assert describe(store, app.id) == "Set A, B config vars"
        change_config(store, ROOT, app, {"A": None, "NEVER": None})
        assert describe(store, app.id) == "Remove A config vars"
        change_config(store, ROOT, app, {"B": None, "C": "3"})
        assert describe(store, app.id) == "Set C and remove B config vars"
        assert change_config(store, ROOT, app, {"C": "3", "NEVER": None}) is None
