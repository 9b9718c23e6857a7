"""Whom to open: the verdict on a pool's wish for a server, and where the settings of three levels meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pooler.config import compose
from pooler.databases import DatabaseConfig, UserConfig
from pooler.kinds import LoadBalanceHosts, PoolMode
from pooler.peers import HOPS, new_key, origin, original
from pooler.pool import Verdict, Wish, verdict
from pooler.registry import Database, PoolState, Registry
from pooler.relay import Pool, Relay

WISH = Wish(
    servers=1,
    opening=0,
    retry_in=0.0,
    pool_size=2,
    reserve_size=1,
    reserve_timeout=5.0,
    oldest_wait=0.0,
    known=True,
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
        # Somebody has to tell the clients of a pool without room what its servers are like.
        ({"servers": 0, "pool_size": 0, "known": False}, Verdict.OPEN),
        ({"servers": 0, "pool_size": 0}, Verdict.FULL),
    ],
)
def test_verdict(facts: dict[str, float], answer: Verdict) -> None:
    assert verdict(replace(WISH, **facts)) is answer  # type: ignore[arg-type]


def registry(database: DatabaseConfig, user: UserConfig | None = None, **settings: str) -> tuple[Registry, PoolState]:
    config = compose(settings, [database], users=[user] if user else [])
    made = Registry(config)
    selector = Relay()
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


def test_a_timeout_of_0_is_as_good_as_none() -> None:
    user = UserConfig("bob", query_timeout=0.0, query_wait_timeout=3.0)
    made, pool = registry(DatabaseConfig("app", query_wait_timeout=5.0), user, query_timeout="7")
    assert made.timeout(pool, "query_timeout") == 7.0
    assert made.timeout(pool, "query_wait_timeout") == 3.0


def hosts(balance: LoadBalanceHosts | None, failures: int = 0) -> list[str]:
    _, pool = registry(DatabaseConfig("app", hosts=("a", "b", "c"), load_balance_hosts=balance))
    for _ in range(failures):
        pool.host_failed()
    return [pool.take_host() for _ in range(4)]


def test_hosts() -> None:
    assert hosts(None) == hosts(LoadBalanceHosts("round-robin")) == ["a", "b", "c", "a"]
    assert hosts(LoadBalanceHosts("disable")) == ["a"] * 4
    assert hosts(LoadBalanceHosts("disable"), failures=2) == ["c"] * 4
    assert registry(DatabaseConfig("app"))[1].take_host() == ""


def test_cancel_keys() -> None:
    assert len(new_key(0)) == 8
    for peer_id in (1, 258, 16383):
        key = new_key(peer_id)
        assert origin(key) == peer_id
        assert key[0] == peer_id & 255
        assert key[7] & HOPS == HOPS
        passed_on = key[:7] + bytes([key[7] - 1])
        assert original(passed_on) == original(key) == key
    assert new_key(7) != new_key(7)
