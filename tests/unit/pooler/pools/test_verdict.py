"""Whom to open: the verdict on a pool's wish for a server, and where the settings of three levels meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pooler.clients.peers import HOPS, new_key, origin, original
from pooler.config.databases import NEVER, DatabaseConfig, UserConfig
from pooler.config.kinds import LoadBalanceHosts, PoolMode
from pooler.config.whole import compose
from pooler.pools.registry import Database, PoolState, Registry
from pooler.pools.verdict import Verdict, Wish, verdict
from pooler.relay import Pool, Relay

WISH = Wish(
    servers=1,
    opening=0,
    retry_in=0.0,
    pool_size=2,
    reserve_size=1,
    reserve_timeout=5.0,
    oldest_wait=0.0,
    greets=True,
    database_servers=1,
    database_limit=0,
    user_servers=1,
    user_limit=0,
)


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        ({}, Verdict.OPEN),
        ({"opening": 1}, Verdict.BUSY),
        ({"retry_in": 0.1}, Verdict.LATER),
        ({"servers": 2}, Verdict.FULL),
        ({"servers": 2, "oldest_wait": 5.0}, Verdict.RESERVE),
        ({"servers": 3, "oldest_wait": 5.0}, Verdict.FULL),
        ({"servers": 2, "oldest_wait": 5.0, "reserve_timeout": 0.0}, Verdict.FULL),
        ({"servers": 2, "oldest_wait": 5.0, "reserve_size": 0}, Verdict.FULL),
        ({"database_limit": 1}, Verdict.DATABASE_FULL),
        ({"database_limit": 2}, Verdict.OPEN),
        ({"user_limit": 1}, Verdict.USER_FULL),
        ({"servers": 2, "oldest_wait": 5.0, "user_limit": 1}, Verdict.USER_FULL),
        ({"servers": 0, "pool_size": 0}, Verdict.OPEN),
        ({"servers": 99, "pool_size": 0, "reserve_size": 0}, Verdict.OPEN),
        ({"servers": 99, "pool_size": 0, "database_limit": 1}, Verdict.DATABASE_FULL),
        # Somebody has to tell the clients of a full pool what its servers are like.
        ({"servers": 2, "greets": False}, Verdict.OPEN),
    ],
)
def test_verdict(facts: dict[str, float], answer: Verdict) -> None:
    assert verdict(replace(WISH, **facts)) is answer  # type: ignore[arg-type]


def registry(database: DatabaseConfig, user: UserConfig | None = None, **settings: str) -> tuple[Registry, PoolState]:
    config = compose(settings, [database], users=[user] if user else [])
    selector = Relay()
    made = Registry(config, selector, lambda: 0.0)
    entry = made.databases["app"] = Database(database)
    pool = PoolState(entry, made.user("bob"), Pool(selector, "app", "bob"))
    entry.pools["bob"] = pool
    return made, pool


def test_the_users_setting_goes_before_the_databases_and_that_before_the_shared_one() -> None:
    database = DatabaseConfig(
        "app", pool_size=5, reserve_pool_size=6, pool_mode=PoolMode.statement, max_db_connections=8
    )
    user = UserConfig("bob", pool_size=1, pool_mode=PoolMode.session, max_user_connections=9)
    made, pool = registry(database, user, default_pool_size="7", max_user_connections="3", max_db_connections="4")
    assert (made.pool_size(pool), made.reserve_size(pool), made.pool_mode(pool)) == (1, 6, PoolMode.session)
    assert (made.user_limit(pool.user), made.database_limit(pool.database)) == (9, 8)
    made, pool = registry(DatabaseConfig("app"), default_pool_size="7", max_user_connections="3", pool_mode="statement")
    assert (made.pool_size(pool), made.user_limit(pool.user)) == (7, 3)
    assert made.pool_mode(pool) is PoolMode.statement


def test_a_user_may_have_a_timeout_of_its_own_or_none() -> None:
    for own, holds in ((None, 7.0), (3.0, 3.0), (NEVER, 0.0)):
        made, pool = registry(DatabaseConfig("app"), UserConfig("bob", query_timeout=own), query_timeout="7")
        assert made.timeout(pool, "query_timeout") == holds


@pytest.mark.parametrize(
    ("user", "database", "shared", "holds"),
    [
        (None, None, 7, 7),
        (None, 5.0, 7, 5),
        (3.0, 5.0, 7, 3),
        (NEVER, 5.0, 7, 0),
        (None, NEVER, 7, 0),
        (3.0, NEVER, 0, 3),
        (None, None, 0, 0),
    ],
)
def test_how_long_a_client_waits(user: float | None, database: float | None, shared: int, holds: float) -> None:
    made, pool = registry(
        DatabaseConfig("app", user="forced", query_wait_timeout=database),
        UserConfig("bob", query_wait_timeout=user),
        query_wait_timeout=str(shared),
    )
    assert made.patience(pool.database, "bob") == holds
    least = made.least_patience(pool.database)
    assert least <= holds or not holds
    assert made.patience(pool.database, "someone else") == max(0.0, shared if database is None else database)


def hosts(balance: LoadBalanceHosts | None, failures: int = 0) -> list[str]:
    _, pool = registry(DatabaseConfig("app", hosts=("a", "b", "c"), load_balance_hosts=balance))
    for _ in range(failures):
        pool.host_failed(pool.next_host)
    return [pool.take_host() for _ in range(4)]


def test_hosts() -> None:
    assert hosts(None) == hosts(LoadBalanceHosts("round-robin")) == ["a", "b", "c", "a"]
    assert hosts(LoadBalanceHosts("disable")) == ["a"] * 4
    assert hosts(LoadBalanceHosts("disable"), failures=2) == ["c"] * 4
    assert registry(DatabaseConfig("app"))[1].take_host() == ""


def test_cancel_keys() -> None:
    assert len(new_key(0)) == 8
    for peer_id in (1, 258, 65535):
        key = new_key(peer_id)
        assert origin(key) == peer_id
        assert key[0] == peer_id & 255
        assert key[7] & HOPS == HOPS
        passed_on = key[:7] + bytes([key[7] - 1])
        assert original(passed_on) == original(key) == key
    assert new_key(7) != new_key(7)
