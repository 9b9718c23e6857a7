"""A new configuration meets what is running: what goes, what stays, and what is in force of two layers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pooler.config.databases import DatabaseConfig
from pooler.config.kinds import LogFormat, SslMode
from pooler.config.users import Secret
from pooler.config.whole import Added, Changes, compose
from pooler.house import reconfigure
from pooler.house.reconfigure import Reconfiguration, Refused
from pooler.log import LogError
from pooler.net.credentials import EMPTY
from pooler.net.tls import ServerTls, Tls
from pooler.pools.registry import PoolState
from tests.unit.pooler.house.test_bouncer import House, arrival, dialled, ended

APP = DatabaseConfig("app", hosts=("127.0.0.1",), port=1)
SETTINGS = {"auth_type": "trust"}


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    made.log.configure = lambda settings: None  # type: ignore[attr-defined]
    yield made
    made.close()


@pytest.fixture
def layers(house: House) -> Reconfiguration:
    return house.bouncer.reconfiguration


def pool_of(house: House, name: str, user: str) -> PoolState:
    registry = house.bouncer.running.registry
    return registry.pool(registry.database(house.bouncer.config.databases[name]), user)


def test_a_database_that_is_gone_takes_everybody_along_and_one_that_stays_nobody(
    house: House, layers: Reconfiguration
) -> None:
    house.client(arrival(house))
    house.server(dialled())
    other = replace(APP, name="other")
    layers.adopt(compose(SETTINGS, [APP, other]))
    house.bouncer.events.handle()
    assert len(house.pool().engine.clients()) == len(house.pool().engine.servers()) == 1
    layers.adopt(compose(SETTINGS, [other]))
    house.bouncer.events.handle()
    assert b"database removed" in ended(house.far[0])
    assert "app" in house.bouncer.running.registry.databases
    house.loop.run_until_complete(house.loop.shutdown_default_executor())  # a turn of the loop
    assert "app" not in house.bouncer.running.registry.databases
    assert house.log.having("dropping database 'app'")


def test_servers_somewhere_else_are_condemned_and_a_new_limit_is_only_told(
    house: House, layers: Reconfiguration
) -> None:
    server = house.server(dialled())
    layers.adopt(compose({**SETTINGS, "pool_mode": "statement"}, [replace(APP, pool_size=3)]))
    assert not server.close_needed
    assert house.pool().engine.mode == 2
    layers.adopt(compose(SETTINGS, [replace(APP, port=2)]))
    assert server.close_needed
    assert server.is_lost
    assert house.log.having("LOG database configuration changed: app")


def test_another_way_to_speak_to_servers_condemns_them(house: House, layers: Reconfiguration) -> None:
    server, tls = house.server(dialled()), house.bouncer.running.tls
    layers.adopt(layers.written, tls)
    assert not server.close_needed
    settings = replace(layers.written.settings, server_tls_sslmode=SslMode.require)
    layers.adopt(layers.written, Tls(tls.client, ServerTls(settings)))
    assert server.close_needed


@pytest.mark.parametrize("last", ["", "x = nonsense\n"])
def test_the_collector_holds_nobody_up_for_thousands_of_databases(
    house: House, layers: Reconfiguration, tmp_path: Path, last: str
) -> None:
    """It would look at all that is there in the middle of it, and at each of them time and again from then on."""
    ini, collected = tmp_path / "pooler.ini", []
    entries = "".join(f"db{number} = host=127.0.0.1 port={number + 1}\n" for number in range(3000))
    ini.write_text(f"[pgbouncer]\nauth_type = any\n[databases]\n{entries}{last}")
    settings = replace(layers.written.settings, conffile=str(ini))
    house.bouncer.running.registry.config = layers.written = replace(layers.written, settings=settings)

    def heard(phase: str, about: dict[str, int]) -> None:
        collected.append(about["generation"])

    gc.callbacks.append(heard)
    try:
        with pytest.raises(Refused) if last else nullcontext():
            house.loop.run_until_complete(layers.reload())
    finally:
        gc.callbacks.remove(heard)
    assert gc.isenabled()
    assert collected.count(0) < 10
    assert 2 not in collected
    if not last:
        databases = house.bouncer.config.databases.values()
        assert len(databases) == 3000
        assert not any(map(gc.is_tracked, databases))


def test_whoever_listens_is_told_what_changed(house: House, layers: Reconfiguration) -> None:
    heard: list[Changes] = []
    layers.on_change.append(heard.append)
    layers.adopt(compose({**SETTINGS, "query_timeout": "5"}, [APP]))
    assert heard[0].settings == {"query_timeout", "server_login_retry"}


def test_a_log_that_cannot_be_written_stays_where_it_is(house: House, layers: Reconfiguration) -> None:
    def fails(settings: object) -> None:
        raise LogError("could not open logfile '/x'")

    house.log.configure = fails  # type: ignore[attr-defined]
    remarks = layers.adopt(compose({**SETTINGS, "logfile": "/x", "query_timeout": "5"}, [APP]))
    assert remarks == ("could not open logfile '/x'",)
    assert house.bouncer.config.settings.logfile == ""
    assert house.bouncer.config.settings.query_timeout == 5


def test_the_log_is_written_as_the_new_configuration_says(house: House, layers: Reconfiguration) -> None:
    forms: list[LogFormat] = []
    house.log.write_as = forms.append  # type: ignore[attr-defined]
    layers.adopt(compose(SETTINGS, [APP], own={"log_format": "json"}))
    layers.adopt(compose(SETTINGS, [APP], own={"log_format": "json", "metrics_extra": "yes"}))
    layers.adopt(compose(SETTINGS, [APP]))
    assert forms == [LogFormat.json, LogFormat.text]


def test_a_reload_without_a_file_is_refused(house: House, layers: Reconfiguration) -> None:
    async def go() -> None:
        with pytest.raises(Refused, match="no configuration file"):
            await layers.reload()

    house.run(go())


def test_a_reload_reads_beside_the_loop_and_what_was_set_meanwhile_waits(
    house: House, layers: Reconfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = compose({**SETTINGS, "conffile": "x.ini", "query_timeout": "5"}, [APP])
    monkeypatch.setattr(reconfigure, "load", lambda path, old: new)
    layers.written = replace(layers.written, settings=replace(layers.written.settings, conffile="x.ini"))
    house.bouncer.running.registry.config = layers.written

    async def go() -> None:
        reloading = asyncio.ensure_future(layers.reload())
        while not layers.reading.locked():
            await asyncio.sleep(0)
        await layers.change_setting("query_timeout", "7")
        await reloading

    house.run(go())
    assert house.bouncer.config.settings.query_timeout == 7


# ---- what is added


STATE = DatabaseConfig("state", hosts=("127.0.0.1",), secrets={"u1": Secret("u1", "p1"), "u2": Secret("u2", "p2")})
ADDED = Added({"state": STATE}, frozenset({"u1", "u2"}))


def test_what_is_added_is_in_force_whatever_is_written(house: House, layers: Reconfiguration) -> None:
    before = layers.written
    layers.add(ADDED)
    config = house.bouncer.config
    assert set(config.databases) == {"app", "state"}
    assert config.settings.stats_users == ("u1", "u2")
    layers.adopt(compose({**SETTINGS, "stats_users": "eve, u1"}, [replace(APP, pool_size=2)]))
    config = house.bouncer.config
    assert set(config.databases) == {"app", "state"}
    assert config.databases["app"].pool_size == 2
    assert config.settings.stats_users == ("eve", "u1", "u2")
    assert layers.written.settings.stats_users == ("eve", "u1")
    layers.add(Added())
    assert house.bouncer.config is layers.written
    assert set(layers.written.databases) == set(before.databases)


def test_a_set_is_of_what_is_written(house: House, layers: Reconfiguration) -> None:
    layers.add(ADDED)

    async def go() -> None:
        await layers.change_setting("query_timeout", "7")

    house.run(go())
    assert set(layers.written.databases) == {"app"}
    assert layers.written.settings.stats_users == ()
    assert house.bouncer.config.settings.query_timeout == 7
    assert set(house.bouncer.config.databases) == {"app", "state"}


def test_a_credential_that_is_gone_takes_its_own_pool_along(house: House, layers: Reconfiguration) -> None:
    layers.add(ADDED)
    one, two = (pool_of(house, "state", user) for user in ("u1", "u2"))
    fd, far = house.pair()
    house.relay.adopt_server(two.engine, 7, fd, None, b"", [None] * 5, dialled(), 1, b"12345678")
    layers.add(Added({"state": replace(STATE, secrets={"u1": Secret("u1", "p1")})}, frozenset({"u1"})))
    house.bouncer.events.handle()
    ended(far)
    assert (one.servers, two.servers) == (0, 0)
    assert house.log.having("closing because: database removed")
    assert house.bouncer.running.registry.credentials(one).password == "p1"
    assert house.bouncer.running.registry.credentials(two) == EMPTY


def test_a_password_that_is_another_closes_nothing(house: House, layers: Reconfiguration) -> None:
    layers.add(ADDED)
    pool = pool_of(house, "state", "u1")
    fd, _ = house.pair()
    server = house.relay.adopt_server(pool.engine, 7, fd, None, b"", [None] * 5, dialled(), 1, b"12345678")
    layers.add(Added({"state": replace(STATE, secrets={"u1": Secret("u1", "new")})}, frozenset({"u1"})))
    assert not server.close_needed
    assert house.bouncer.running.registry.credentials(pool).password == "new"
