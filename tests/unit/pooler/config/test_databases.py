"""Entries of [databases], [users] and [peers]: every key, PgBouncer's sentences, quoting, any text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config.databases import (
    NEVER,
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
from pooler.config.kinds import LoadBalanceHosts, PoolMode, masked

READERS = {"databases": database, "users": user, "peers": peer}


def test_every_key_of_a_database() -> None:
    found = database(
        "a",
        "host=h1,h2 port=6000 dbname='my ''db''' user=u password='p w' pool_size=1 min_pool_size=2 "
        "reserve_pool_size=3 pool_mode=statement max_db_connections=4 max_db_client_connections=5 "
        "connect_query='select ''x''' auth_user=au auth_query='select $1' auth_dbname=ad "
        "application_name=app client_encoding=UTF8 datestyle=ISO timezone=UTC server_lifetime=15 "
        "load_balance_hosts=disable query_wait_timeout=25",
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
        server_lifetime=15.0,
        load_balance_hosts=LoadBalanceHosts.disable,
        query_wait_timeout=25.0,
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
    assert peer("65535", "host=h port=1 pool_size=2") == PeerConfig(65535, "h", 1, 2)


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
        ("databases", "a = port=abc", "invalid port: abc"),
        ("databases", "a = load_balance_hosts=x", "invalid load_balance_hosts: x"),
        ("databases", f"{'a' * 64} =", f"too long db name: {'a' * 64}"),
        ("users", "u = x", "syntax error in user settings"),
        ("users", "u = host=x", "unrecognized user parameter: host"),
        ("users", f"{'u' * 128} =", f"too long user name: {'u' * 128}"),
        ("peers", "0 = host=x", "ids of peers must be a number larger than 0 and at most 65535"),
        ("peers", "65536 = host=x", "ids of peers must be a number larger than 0 and at most 65535"),
        ("peers", "a = host=x", "ids of peers must be a number larger than 0 and at most 65535"),
        ("peers", "1 = port=5", "host was not provided for peer 1"),
        ("peers", "1 = host=x dbname=y", "unrecognized peer parameter: dbname"),
    ],
)
def test_bad_entry(section: str, line: str, message: str) -> None:
    key, _, value = line.partition(" =")
    with pytest.raises(BadValue) as caught:
        READERS[section](key, value.strip())
    assert caught.value.reasons == (message,)


SIZES = ("pool_size", "min_pool_size", "reserve_pool_size")
LIMITS = ("max_db_connections", "max_db_client_connections")
TIMEOUTS = ("query_timeout", "idle_transaction_timeout", "transaction_timeout", "client_idle_timeout")
NUMBERS: list[tuple[str, tuple[str, ...], dict[str, float | None]]] = [
    ("databases", SIZES, {"0": 0, "-1": None, "-5": None, "5s": 5, "abc": 0, "2147483648": None, "4294967296": 0}),
    ("users", ("pool_size", "reserve_pool_size"), {"0": 0, "-1": None, "1h": 1, "+5": 5, "08": 8, "0x10": 0}),
    ("databases", LIMITS, {"0": None, "-1": None, "7": 7, "1,5": 1, "99999999999": 1215752191}),
    ("users", ("max_user_connections", "max_user_client_connections"), {"0": None, "-1": None, "7": 7, "1e3": 1}),
    ("users", TIMEOUTS, {"0": None, "-1": NEVER, "3": 3.0, "1.9": 1.0, "0.9": None}),
    ("databases", ("server_lifetime",), {"0": None, "-1": NEVER, "3": 3.0, "1.9": 1.0, "0.9": None}),
    ("databases", ("query_wait_timeout",), {"0": NEVER, "-1": NEVER, "3": 3.0, "1.9": 1.0, "0.9": NEVER}),
    ("users", ("query_wait_timeout",), {"0": NEVER, "-1": NEVER, "3": 3.0}),
    ("databases", ("port",), {"70000": 70000, "-1": -1, "5s": 5, "010": 10}),
    ("peers", ("port",), {"70000": 70000, "5s": 5}),
    ("peers", ("pool_size",), {"0": 0, "-1": None, "3": 3}),
]
"""What a number says at each level, as PgBouncer 1.26.1 reads it; None: the next level holds."""


@pytest.mark.parametrize(
    ("section", "key", "text", "value"),
    [
        (section, key, text, value)
        for section, keys, values in NUMBERS
        for key in keys
        for text, value in values.items()
    ],
)
def test_numbers(section: str, key: str, text: str, value: float | None) -> None:
    notes: list[str] = []
    rest = "host=h " if section == "peers" else ""
    found = READERS[section]("7", f"{rest}{key}={text}", notes.append)
    assert getattr(found, key) == value
    plain = text.lstrip("+").isdigit() and int(text) < (2**16 if key == "port" else 2**31)
    assert len(notes) == (0 if plain else 1)
    assert all(note.startswith(f"{key} = {text} is understood as ") for note in notes)


@pytest.mark.parametrize(
    "text",
    [
        "pool_size=5password=hunter2",
        "port=5432password=hunter2",
        "port=xpassword=hunter2",
        "pool_mode=sessionpassword=hunter2",
        "pool_sizepassword=hunter2",
        "server_lifetime=7.5PASSWORD=hunter2",
    ],
)
def test_a_password_behind_a_blank_that_is_missing_is_not_told(text: str) -> None:
    told: list[str] = []
    try:
        database("a", text, told.append)
    except BadValue as error:
        told += error.reasons
    assert told
    assert not any("hunter2" in sentence for sentence in told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("password=horse sta=ple", ["****"]),
        ("pasword=horse sta=ple", ["pasword", "****"]),
        ("password=horse pool_sise=5", ["pool_sise"]),
        ("sta=ple password=horse", ["sta"]),
    ],
)
def test_what_may_be_the_rest_of_a_password_is_not_told(text: str, told: list[str]) -> None:
    with pytest.raises(BadValue) as caught:
        database("a", text)
    assert list(caught.value.reasons) == [f"unrecognized connection parameter: {name}" for name in told]


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
