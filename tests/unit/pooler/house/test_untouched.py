"""Rows of databases that nobody has used: always what they would be if they were made now, and made once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest

from pooler.config.databases import DatabaseConfig
from pooler.config.users import Secret
from pooler.config.whole import Config, with_setting
from pooler.house.untouched import AT_ONCE
from pooler.stats import DatabaseStat
from tests.unit.pooler.house.test_bouncer import House, arrival
from tests.unit.pooler.house.test_snapshot import at


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def rows(house: House) -> dict[str, DatabaseStat]:
    return {row.name: row for row in house.bouncer.figures.take(at(house, 0)).databases}


def configure(house: House, config: Config) -> None:
    house.bouncer.running.registry.config = config


def with_many(house: House, size: int = 1) -> Config:
    entries = (DatabaseConfig(f"db{number}", hosts=("127.0.0.1",), pool_size=size) for number in range(5 * AT_ONCE))
    config = house.bouncer.config
    return dataclasses.replace(config, databases={**config.databases, **{entry.name: entry for entry in entries}})


def test_a_row_is_made_once_for_an_entry_and_its_settings(house: House) -> None:
    before = rows(house)["app"]
    config = house.bouncer.config
    assert rows(house)["app"] is before
    configure(house, dataclasses.replace(config, warnings=()))
    assert rows(house)["app"] is before
    configure(house, with_setting(config, "default_pool_size", "7"))
    changed = rows(house)["app"]
    assert changed == dataclasses.replace(before, pool_size=7, born=changed.born)
    entry = dataclasses.replace(config.databases["app"], port=7)
    configure(house, dataclasses.replace(house.bouncer.config, databases={"app": entry}))
    assert rows(house)["app"].port == 7


def test_a_database_that_is_used_has_its_own_row(house: House) -> None:
    assert rows(house)["app"].current_client_connections == 0
    house.client(arrival(house))
    house.pool().database.paused = True
    row = rows(house)["app"]
    assert (row.current_client_connections, row.paused) == (1, True)


def test_a_worker_leaves_them_to_the_desk(house: House) -> None:
    house.bouncer.figures.used_only = True
    assert set(rows(house)) == {"pgbouncer"}
    house.pool()
    assert set(rows(house)) == {"app", "pgbouncer"}


def test_and_users_that_nobody_has_been(house: House) -> None:
    """Of sixty thousand in an auth_file it would tell once a second."""
    configure(house, dataclasses.replace(house.bouncer.config, secrets={"idle": Secret("idle", "x")}))

    def users() -> set[str]:
        return {row.name for row in house.bouncer.figures.take(at(house, 0)).users}

    assert "idle" in users()
    house.bouncer.figures.used_only = True
    assert not users() & {"idle", "pgbouncer"}
    who = arrival(house)
    house.client(who)
    assert users() == {who.user}


def test_many_are_made_in_parts_and_those_that_are_gone_given_up(house: House) -> None:
    figures, turns = house.bouncer.figures, 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def prepared() -> None:
        beside = asyncio.ensure_future(others())
        await figures.untouched.prepare()
        beside.cancel()

    before = house.bouncer.config
    configure(house, with_many(house))
    house.run(prepared())
    assert turns >= 5
    made = rows(house)
    assert all(row is rows(house)[name] for name, row in made.items() if name.startswith("db"))
    configure(house, before)
    house.run(prepared())
    assert set(rows(house)) == {"app", "pgbouncer"}
    assert set(figures.untouched._made) == {"app"}


def test_another_configuration_meanwhile_is_the_next_ones_business(house: House) -> None:
    figures = house.bouncer.figures
    configure(house, with_many(house))

    async def twice() -> None:
        first = asyncio.ensure_future(figures.untouched.prepare())
        await asyncio.sleep(0)
        configure(house, with_many(house, size=2))
        await asyncio.gather(first, figures.untouched.prepare())

    house.run(twice())
    assert {row.pool_size for name, row in rows(house).items() if name.startswith("db")} == {2}
