"""Where the console connects to, and that a password is seen nowhere."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from admin.client import address
from admin.client.address import BadAddress, default_addresses, parse, redact


@pytest.mark.parametrize(
    ("url", "parameters", "password"),
    [
        ("postgresql://u:s3cret@h:1/x", {"user": "u", "host": "h", "port": "1", "dbname": "x"}, "s3cret"),
        ("postgres://h", {"host": "h", "dbname": "pgbouncer"}, None),
        ("localhost:6432", {"host": "localhost", "port": "6432", "dbname": "pgbouncer"}, None),
        (":6432", {"port": "6432", "dbname": "pgbouncer"}, None),
        ("host=/tmp port=1 dbname=x", {"host": "/tmp", "port": "1", "dbname": "x"}, None),
        ("postgresql://h/?sslmode=require", {"host": "h", "sslmode": "require", "dbname": "pgbouncer"}, None),
    ],
)
def test_parse(url: str, parameters: dict[str, str], password: str | None) -> None:
    found = parse(url)
    assert dict(found.parameters) == parameters
    assert found.password == password
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:s3cret@[::1", "x=1"])
def test_what_is_no_address_is_told_without_the_password(url: str) -> None:
    with pytest.raises(BadAddress) as refused:
        parse(url)
    assert "s3cret" not in str(refused.value)


def test_variables_win_over_the_local_pooler() -> None:
    found = default_addresses({"PGHOST": "h"})
    assert [dict(one.parameters) for one in found] == [{"dbname": "pgbouncer"}]


def test_local_pooler_with_its_own_socket_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "SOCKET_DIRS", (str(tmp_path / "none"), str(tmp_path)))
    state = {"XDG_STATE_HOME": str(tmp_path)}
    assert [found.place for found in default_addresses(state)] == ["127.0.0.1:5433"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5433"))
        found = default_addresses({"PGUSER": "alice", **state})
    assert [one.place for one in found] == [f"{tmp_path}:5433", "127.0.0.1:5433"]
    assert [one.user for one in found] == ["alice", "alice"]


def test_the_pooler_with_an_embedded_postgresql_by_its_password_file(tmp_path: Path) -> None:
    file = tmp_path / "pooler" / "pgpass"
    file.parent.mkdir()
    file.write_text("# comment\n127.0.0.1:*:*:pooler:s3cret\n127.0.0.1:*:*:postgres:other\n")
    found = default_addresses({"XDG_STATE_HOME": str(tmp_path)})
    assert dict(found[-2].parameters) == {
        "host": "127.0.0.1", "port": "5433", "dbname": "pgbouncer", "user": "pooler", "passfile": str(file),
    }  # fmt: skip
    other = tmp_path / "as serve has printed it"
    other.write_text("127.0.0.1:5432:*:somebody:s3cret\n127.0.0.1:5433:*:bob:s3cret\n")
    told = default_addresses({"XDG_STATE_HOME": str(tmp_path), "PGPASSFILE": str(other)})[-2].parameters
    assert (told["user"], told["passfile"]) == ("bob", str(other))


def test_the_pooler_beside_a_database_url(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    first = default_addresses({"DATABASE_URL": "postgres://u:s3cret@db.example:6000/app", **state})[0]
    assert (first.label, first.user, first.password) == ("127.0.0.1:6001/pgbouncer", "u", "s3cret")
    for unfit in ("nonsense", "postgres://a:1,b:2/app"):
        assert default_addresses({"DATABASE_URL": unfit, **state})[0].label == "127.0.0.1:5433/pgbouncer"


@pytest.mark.parametrize(
    "text",
    [
        "\\c postgresql://u:s3cret@h/x",
        "\\c host=h password=s3cret",
        "\\c password = 's3cret'",
        "postgres://u:s3cret@h",
    ],
)
def test_redact(text: str) -> None:
    assert "s3cret" not in redact(text)
    assert "****" in redact(text)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows arguments there")
def test_passwords_are_wiped_from_the_argument_list() -> None:
    program = (
        "import sys; from admin.client.address import wipe_arguments; wipe_arguments(sys.orig_argv);"
        "print(open('/proc/self/cmdline').read())"
    )
    arguments = ["postgresql://u:s3cret@h/x", "password=other1", "kept"]
    command = [sys.executable, "-c", program, *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "s3cret" not in shown.stdout
    assert "other1" not in shown.stdout
    assert "kept" in shown.stdout
