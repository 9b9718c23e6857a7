"""Entries of [databases], [users] and [peers]: every key, PgBouncer's sentences, quoting, any text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.databases import (
    BadValue,
    DatabaseConfig,
    PeerConfig,
    UserConfig,
    database,
    pairs,
    peer,
    quote,
    user,
)
from pooler.kinds import LoadBalanceHosts, PoolMode, masked

READERS = {"databases": database, "users": user, "peers": peer}


def test_every_key_of_a_database() -> None:
    found = database(
        "a",
        "host=h1,h2 port=6000 dbname='my ''db''' user=u password='p w' pool_size=1 min_pool_size=2 "
        "reserve_pool_size=3 pool_mode=statement max_db_connections=4 max_db_client_connections=5 "
        "connect_query='select ''x''' auth_user=au auth_query='select $1' auth_dbname=ad "
        "application_name=app client_encoding=UTF8 datestyle=ISO timezone=UTC server_lifetime=1.5 "
        "load_balance_hosts=disable query_wait_timeout=2.5",
    )
    assert found == DatabaseConfig(
        name="a",
        hosts=("h1", "h2"),
        port=6000,
        dbname="my 'db'",
        user="u",
        password="p w",
        pool_size=1,
        min_pool_size=2,
        reserve_pool_size=3,
        pool_mode=PoolMode.statement,
        max_db_connections=4,
        max_db_client_connections=5,
        connect_query="select 'x'",
        auth_user="au",
        auth_query="select $1",
        auth_dbname="ad",
        application_name="app",
        client_encoding="UTF8",
        datestyle="ISO",
        timezone="UTC",
        server_lifetime=1.5,
        load_balance_hosts=LoadBalanceHosts.disable,
        query_wait_timeout=2.5,
    )
    assert found.host == "h1,h2"
    assert "p w" not in repr(found)


def test_every_key_of_a_user() -> None:
    found = user(
        "u",
        "pool_size=1 reserve_pool_size=2 pool_mode=session max_user_connections=3 query_timeout=5 "
        "max_user_client_connections=4 query_wait_timeout=6 idle_transaction_timeout=7 "
        "transaction_timeout=8 client_idle_timeout=9",
    )
    assert found == UserConfig("u", 1, 2, PoolMode.session, 3, 4, 5, 6, 7, 8, 9)
    assert user("u", "") == UserConfig("u")


def test_peers() -> None:
    assert peer("1", "host=/tmp") == PeerConfig(1, "/tmp", 6432, None)
    assert peer("16383", "host=h port=1 pool_size=2") == PeerConfig(16383, "h", 1, 2)


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("databases", "a = hostx", "syntax error in connection string"),
        ("databases", "a = host=", "syntax error in connection string"),
        ("databases", "a = host=''", "syntax error in connection string"),
        ("databases", "a = host='x", "syntax error in connection string"),
        ("databases", "a = host='x'y=1", "syntax error in connection string"),
        ("databases", "a = host=x # c=3", "syntax error in connection string"),
        ("databases", "a = =x", "syntax error in connection string"),
        ("databases", "a = HOST=x", "unrecognized connection parameter: HOST"),
        ("databases", "a = port=0", "invalid port: 0"),
        ("databases", "a = port=70000", "invalid port: 70000"),
        ("databases", "a = load_balance_hosts=x", "invalid load_balance_hosts: x"),
        ("databases", "a = pool_size=x", "invalid pool_size: x (an integer is needed)"),
        (
            "databases",
            "a = auth_dbname=pgbouncer",
            'cannot use the reserved "pgbouncer" database as an auth_dbname',
        ),
        ("databases", f"{'a' * 64} =", f"too long db name: {'a' * 64}"),
        ("users", "u = x", "syntax error in user settings"),
        ("users", "u = host=x", "unrecognized user parameter: host"),
        ("users", f"{'u' * 128} =", f"too long user name: {'u' * 128}"),
        ("peers", "0 = host=x", "ids of peers must be a number larger than 0 and at most 16383"),
        ("peers", "16384 = host=x", "ids of peers must be a number larger than 0 and at most 16383"),
        ("peers", "a = host=x", "ids of peers must be a number larger than 0 and at most 16383"),
        ("peers", "1 = port=5", "host was not provided for peer 1"),
        ("peers", "1 = host=x dbname=y", "unrecognized peer parameter: dbname"),
    ],
)
def test_bad_entry(section: str, line: str, message: str) -> None:
    key, _, value = line.partition(" =")
    with pytest.raises(BadValue) as caught:
        READERS[section](key, value.strip())
    assert caught.value.reasons == (message,)


def test_only_ascii_blanks_separate() -> None:
    assert pairs("a=x\u00a0y\x1fz\tb=1\n") == [("a", "x\u00a0y\x1fz"), ("b", "1")]


def test_all_reasons_are_given() -> None:
    with pytest.raises(BadValue) as caught:
        database("a", "port=x foo=1 pool_mode=y")
    assert caught.value.reasons == (
        "invalid port: x",
        "unrecognized connection parameter: foo",
        "invalid pool mode: y",
    )


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("", ()),
        ("host=localhost", ("localhost",)),
        ("host=/var/run/postgresql", ("/var/run/postgresql",)),
        ("host=@abstract", ("@abstract",)),
        ("host=2001:db8::1", ("2001:db8::1",)),
        ("host='a, b ,c'", ("a", "b", "c")),
        ("host=a host=b", ("b",)),
        ("host = a port\t=\t5", ("a",)),
    ],
)
def test_hosts(value: str, hosts: tuple[str, ...]) -> None:
    assert database("a", value).hosts == hosts


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("0", 0), ("-1", None)])
def test_sizes(text: str, size: int | None) -> None:
    assert database("a", f"pool_size={text}").pool_size == size
    assert database("a", f"reserve_pool={text}").reserve_pool_size == size


@given(st.text(max_size=30).filter(lambda value: "\0" not in value and value))
def test_quoted_values_come_back(value: str) -> None:
    assert pairs(f"a={quote(value)} b=1") == [("a", value), ("b", "1")]


@given(st.text(alphabet="a='\" \t,password", max_size=40))
def test_any_connection_string(text: str) -> None:
    shown = masked(text)
    assert "password=****" in shown or shown == text
    for read in (database, user, lambda _, text: peer("1", text)):
        assert _reads_or_has_reasons(read, text)


def _reads_or_has_reasons(read: Callable[[str, str], object], text: str) -> bool:
    try:
        return read("a", text) is not None
    except BadValue as error:
        return all(error.reasons)
