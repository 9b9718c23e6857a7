"""What logins are answered on a port: which databases there are by which names, whose secrets count, who has room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pooler.clients.reception import Reception
from pooler.config.databases import DatabaseConfig, UserConfig
from pooler.config.kinds import AuthType
from pooler.config.users import Secret
from pooler.config.whole import Config, compose
from pooler.net.address import Peer
from pooler.pools.connection import ClientFacts
from pooler.pools.refusal import LoginError
from pooler.pools.running import Phase, Running
from pooler.relay import Footing, Mould
from tests.unit.pooler.house.test_bouncer import PEER, House

STATE = DatabaseConfig("addon-1", secrets={"u1": Secret("u1", "p1"), "bob": Secret("bob", "other")})


class Place(House):
    def config(self, port: int) -> Config:
        settings = {"max_client_conn": "3", "max_user_client_connections": "2", "max_db_client_connections": "2"}
        users = [UserConfig("vip", max_user_client_connections=3)]
        return compose(settings, [DatabaseConfig("app"), STATE], secrets=[Secret("bob", "secret")], users=users)

    def reception(self, *, aliases_only: bool = False) -> Reception:
        made = self.bouncer.door(aliases_only=aliases_only).reception
        made.aliases = {"data": "addon-1"}
        return made

    def secret(self, database: str | None, user: str) -> str | None:
        config = None if database is None else self.bouncer.config.databases[database]
        found: list[Secret | None] = []

        async def ask() -> None:
            found.append(await self.reception().find_secret(config, ClientFacts(PEER, user=user), None))  # type: ignore

        self.run(ask())
        return found[0].text if found[0] else None


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def test_a_database_has_its_name_and_on_its_port_the_one_it_goes_by(place: Place) -> None:
    def names(reception: Reception) -> dict[str, str | None]:
        found = {name: reception.find_database(name) for name in ("app", "data", "addon-1", "nothere")}
        return {name: entry.name if entry else None for name, entry in found.items()}

    assert names(place.reception()) == {"app": "app", "data": "addon-1", "addon-1": "addon-1", "nothere": None}
    only = place.reception(aliases_only=True)
    assert names(only) == {"app": None, "data": "addon-1", "addon-1": None, "nothere": None}


def test_a_secret_is_good_for_its_own_database_and_the_console(place: Place) -> None:
    assert place.secret("app", "bob") == "secret"
    assert place.secret("app", "u1") is None
    assert place.secret("addon-1", "u1") == "p1"
    assert place.secret("addon-1", "bob") == "other"
    assert place.secret("addon-1", "eve") is None
    assert place.secret(None, "bob") == "secret"
    assert place.secret(None, "u1") == "p1"
    assert place.secret(None, "eve") is None


@pytest.mark.parametrize("auth", [AuthType.trust, AuthType.any, AuthType.md5])
def test_a_port_of_databases_alone_always_asks_for_a_password(place: Place, auth: AuthType) -> None:
    registry = place.bouncer.running.registry
    registry.config = replace(registry.config, settings=replace(registry.config.settings, auth_type=auth))
    assert place.reception().config is registry.config
    asked = place.reception(aliases_only=True).config.settings.auth_type
    assert asked is (AuthType.md5 if auth is AuthType.md5 else AuthType.scram_sha_256)


@pytest.mark.parametrize(
    ("addr", "needed"),
    [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("unix", False), ("10.0.0.1", True)],
)
def test_from_elsewhere_nobody_comes_in_plain_where_that_is_asked(place: Place, addr: str, needed: bool) -> None:
    bouncer, peer = place.bouncer, Peer(addr, 1, "", 0)
    made = Reception(bouncer.running, bouncer.lookup, bouncer.strangers, plain_on_loopback_only=True)
    assert made.tls_required(peer) is needed
    assert not place.reception().tls_required(peer)


def refused(place: Place, database: str | None, user: str) -> str:
    config = None if database is None else place.bouncer.config.databases[database]
    try:
        place.reception().check_limits(config, user)
    except LoginError as error:
        return error.message
    return ""


def test_limits_are_of_the_user_the_database_and_all(place: Place) -> None:
    registry = place.bouncer.running.registry
    app = registry.database(place.bouncer.config.databases["app"])
    other = registry.database(STATE)
    for _ in range(2):
        assert refused(place, "app", "bob") == ""
        registry.count_in(app, registry.user("bob"))
    assert refused(place, "app", "eve") == "client connections exceeded (max_db_client_connections)"
    assert refused(place, "addon-1", "bob") == "client connections exceeded (max_user_client_connections)"
    assert refused(place, "addon-1", "vip") == ""
    registry.count_in(other, registry.user("vip"))
    assert refused(place, "addon-1", "vip") == "no more connections allowed (max_client_conn)"
    assert refused(place, None, "vip") == ""


def test_nobody_new_comes_in_at_the_end_or_where_it_is_disabled(place: Place) -> None:
    running = place.bouncer.running
    place.entry().disabled = True
    assert refused(place, "app", "bob") == 'database "app" is disabled'
    running.phase = Phase.WAIT_FOR_CLIENTS
    assert refused(place, "addon-1", "bob") == "pooler is shutting down"


# ---- what shows that the answers are the same


def footing(place: Place, name: str = "app") -> Footing | None:
    reception = place.bouncer.door().reception
    return reception.footing(reception.config, name, reception.find_database(name))


CHANGES: dict[str, Callable[[Running], None]] = {
    "the configuration": lambda running: setattr(running.registry, "config", replace(running.config)),
    "tls": lambda running: setattr(running, "tls", replace(running.tls)),
    "colleagues": lambda running: setattr(running, "colleagues", object()),
    "what is logged": lambda running: setattr(running.log_file, "wordy", True),
    "a database that goes": lambda running: setattr(running.registry.databases["app"], "removed", True),
    "a database that is another": lambda running: setattr(
        running.registry.databases["app"], "config", replace(running.registry.databases["app"].config)
    ),
}


@pytest.mark.parametrize("what", [*CHANGES, ""])
def test_whatever_an_answer_rests_on_is_looked_at(place: Place, what: str) -> None:
    place.pool()
    found = footing(place)
    assert found is not None
    assert found.stands
    if what:
        CHANGES[what](place.bouncer.running)
    assert found.stands is not bool(what)


def test_one_that_nobody_knows_stands_on_the_same(place: Place) -> None:
    found = footing(place, "nothere")
    assert found is not None
    assert found.stands


def test_where_it_counts_who_asks_and_where_there_is_nothing_to_stand_on(place: Place) -> None:
    aliased = place.reception()
    assert aliased.footing(aliased.config, "app", aliased.find_database("app")) is None
    reception = place.bouncer.door().reception
    assert reception.footing(reception.config, "app", DatabaseConfig("app", user="other")) is None
    place.bouncer.running.registry.config = replace(
        place.bouncer.config, settings=replace(place.bouncer.config.settings, auth_type=AuthType.hba)
    )
    assert footing(place) is None


def test_facts_that_are_cast_are_those_that_are_made() -> None:
    ends = Mould(Peer, ("addr", "port", "local_addr", "local_port", "pid", "uid", "gid"))
    assert ends.make("10.0.0.1", 1, "10.0.0.2", 2, -1, -1, -1) == Peer("10.0.0.1", 1, "10.0.0.2", 2)
    facts = Mould(ClientFacts, ("peer", "database", "user", "tls", "replicates", "number"))
    made = ClientFacts(PEER, number=7)
    assert facts.make(PEER, made.database, made.user, made.tls, made.replicates, 7) == made
    with pytest.raises(TypeError, match="no slot of ClientFacts: replication"):
        Mould(ClientFacts, ("replication",))
