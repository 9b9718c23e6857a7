"""From what the state asks for to what is in force: names, users, servers and how these are spoken to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from admin.platform.desired import Database, Desired, Pool
from admin.platform.errors import PlatformError
from pooler.commands.plane import Following, added
from pooler.config.databases import Alias, OwnTls
from pooler.config.kinds import PoolMode, SslMode
from pooler.net.tls import TlsProblem
from pooler.pools.connection import ClientFacts
from pooler.process.ports import Ports
from pooler.process.service import ServiceError
from pooler.servers.dial import Target
from tests.unit.pooler.house.test_bouncer import PEER, House, inherited


def database(name: str, sslmode: str | None = None, sslrootcert: str | None = None) -> Database:
    pools = (Pool("default", f"{name}-user", f"{name}-secret", ("app::DATABASE",)),)
    place = (6433, "db.example", 5433, f"{name}-db")
    return Database(name, "data", *place, 15, "transaction", sslmode, sslrootcert, pools)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    made.log.configure = lambda settings: None  # type: ignore[attr-defined]
    yield made
    made.close()


def test_a_database_of_the_state_has_its_own_of_everything() -> None:
    made = added(Desired((database("one"), database("two", "verify-full", "/ca.crt"))))
    assert made.stats_users == {"one-user", "two-user"}
    one, two = made.databases["one"], made.databases["two"]
    assert (one.hosts, one.port, one.dbname, one.user) == (("db.example",), 5433, "one-db", None)
    assert (one.pool_size, one.max_db_connections, one.pool_mode) == (15, 15, PoolMode.transaction)
    assert one.secrets is not None
    assert {user: secret.text for user, secret in one.secrets.items()} == {"one-user": "one-secret"}
    assert one.alias == Alias(6433, "data")
    assert (one.tls, two.tls) == (OwnTls("prefer"), OwnTls("verify-full", "/ca.crt"))
    assert "one-secret" not in repr(one)


def following(house: House, look: Callable[[], Desired]) -> Following:
    plane: Any = SimpleNamespace(watch=lambda: SimpleNamespace(look=look))
    ports = Ports(house.bouncer.running, house.service(), lambda port: house.bouncer.door(aliases_only=True))
    return Following(plane, house.bouncer.running, house.bouncer.reconfiguration, ports, lambda _: None)


def test_what_is_handed_over_finds_the_databases_of_the_state(house: House) -> None:
    old, wanted = House(), Desired((database("one"),))
    old.log.configure = lambda settings: None  # type: ignore[attr-defined]
    old.bouncer.reconfiguration.add(added(wanted))
    registry = old.bouncer.running.registry
    pool = registry.pool(old.entry("one"), "one-user")
    fd, _ = old.pair()
    about = ClientFacts(PEER, "one", "one-user", number=7)
    registry.count_in(pool.database, registry.user("one-user"))
    old.relay.adopt_client(pool.engine, 7, fd, None, b"", [None] * 5, about, b"12345678")
    house.run(following(house, lambda: wanted).foresee())
    inherited(old).adopt(house.bouncer.running, house.bouncer.opener, house.bouncer.hubs)
    (client,) = house.entry("one").pools["one-user"].engine.clients()
    assert client.about.user == "one-user"
    old.close()


def test_a_state_that_cannot_be_read_is_no_reason_to_take_over_without_it(house: House) -> None:
    def fails() -> Desired:
        raise PlatformError("invalid", "the disk is gone", 500)

    with pytest.raises(ServiceError, match="the disk is gone"):
        house.run(following(house, fails).foresee())


def test_its_servers_are_spoken_to_as_its_own_url_asks(house: House, tmp_path: Path) -> None:
    wanted = Desired((database("one", "require"), database("none", "disable"), database("odd", "tls, please")))
    house.bouncer.reconfiguration.add(added(wanted))
    registry, opener = house.bouncer.running.registry, house.bouncer.opener

    def target(name: str) -> Target:
        pool = registry.pool(registry.database(house.bouncer.config.databases[name]), f"{name}-user")
        return opener.target(pool)

    def mode(name: str) -> SslMode:
        assert target(name).credentials.password == f"{name}-secret"
        return target(name).sslmode

    assert (mode("one"), mode("none")) == (SslMode.require, SslMode.disable)
    with pytest.raises(TlsProblem, match="server_tls_sslmode"):
        mode("odd")
    house.bouncer.reconfiguration.add(added(Desired((database("one", "verify-ca", str(tmp_path / "nothing")),))))
    assert mode("one") is SslMode.verify_ca
    assert "server_tls_ca_file" in target("one").tls_problem
    assert house.bouncer.running.server_tls().mode is SslMode.disable
