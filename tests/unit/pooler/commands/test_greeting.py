"""What is printed to copy, on a terminal and elsewhere."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from pooler.commands.greeting import _page, lines
from pooler.commands.sources import Source
from pooler.config.settings import Settings

SETTINGS = Settings(listen_addr=("127.0.0.1",), listen_port=5433, default_pool_size=75)
SOURCE = Source("db", 5432, "app", "me@x", "p@ss w:ord")


def said(source: Source | None, *, shown: bool, page: str = "http://127.0.0.1:9127/") -> str:
    return "\n".join(lines(SETTINGS, source, page, shown=shown))


def test_on_a_terminal_all_is_ready_to_copy() -> None:
    text = said(SOURCE, shown=True)
    assert "postgres://me%40x:p%40ss%20w%3Aord@127.0.0.1:5433/app" in text
    assert "psql \"host=127.0.0.1 port=5433 user='me@x' dbname=pgbouncer\"" in text
    assert "pooler console postgres://me%40x@127.0.0.1:5433/pgbouncer" in text
    assert "pooler top postgres://" in text
    assert "page     http://127.0.0.1:9127/" in text


def test_elsewhere_without_the_password() -> None:
    text = said(SOURCE, shown=False)
    assert "postgres://me%40x:****@127.0.0.1:5433/app" in text
    assert "the password is that of the database's URL" in text
    assert "ord" not in text.replace("password", "")


def test_without_a_password_nothing_is_masked() -> None:
    text = said(dataclasses.replace(SOURCE, password=None), shown=False)
    assert "****" not in text
    assert "the password" not in text


def test_without_a_database() -> None:
    text = said(None, shown=False)
    assert "CONNECTION_POOL" not in text
    assert 'psql "host=/tmp port=5433 user=pgbouncer dbname=pgbouncer"' in text


@pytest.mark.parametrize(
    ("host", "secure", "told"),
    [("127.0.0.1", False, "http://127.0.0.1:{}/"), ("*", True, "https://127.0.0.1:{}/"), ("::1", False, "http://[::1]:{}/")],
)
def test_where_the_page_is(host: str, secure: bool, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
    assert _page((host, port), secure) == told.format(port)
    assert _page(None, False) == "none (--http HOST:PORT)"


def test_a_page_that_will_not_be_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert "cannot be had (Address already in use)" in _page(("127.0.0.1", busy.getsockname()[1]), False)
