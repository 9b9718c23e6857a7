"""`pooler check`: what a start would stop at, and what it would say, with an exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from pooler.commands.check import main

GOOD = """\
[databases]
* = host=127.0.0.1
[pgbouncer]
auth_type = any
unix_socket_dir = {tmp}
listen_addr = 127.0.0.1
"""


def check(tmp: Path, more: str, *words: str) -> int:
    ini = tmp / "a.ini"
    ini.write_text(GOOD.format(tmp=tmp) + more)
    return main([*words, str(ini)])


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, "") == 0
    assert capsys.readouterr().out == f"{tmp_path}/a.ini: all is well\n"
    assert check(tmp_path, "", "-q") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("more", "line", "told"),
    [
        ("defualt_pool_size = 1", 7, "error: unknown parameter: pgbouncer/defualt_pool_size: did you mean"),
        ("listen_port = x", 7, 'error: invalid value "x" for parameter listen_port: an integer is needed'),
        ("[databases]\napp = prot=1", 8, "error: unrecognized connection parameter: prot: did you mean port?"),
        ("auth_file = /nowhere/users", 0, "error: could not open auth_file /nowhere/users: No such file or directory"),
        ("client_tls_sslmode = require", 0, "error: To allow TLS connections from clients, client_tls_key_file"),
        ("server_tls_sslmode = verify-full\nserver_tls_ca_file = /nowhere/ca", 0, "warning: TLS setup failed"),
        ("logfile = /nowhere/log", 0, "error: logfile = /nowhere/log: there is no directory /nowhere"),
        ("pidfile = /nowhere/pid", 0, "error: pidfile = "),
        ("user = nobody-at-all", 0, "error: user = nobody-at-all: there is no such account"),
        ("unix_socket_group = nobodies", 0, "error: unix_socket_group"),
        ("unix_socket_dir = /nowhere", 0, "unix_socket_dir = /nowhere: there is no such directory"),
        ("verbose = 1\nverbose = 2", 8, "warning: verbose is there twice"),
        ("auth_type = md5", 0, "warning: no client can log in: auth_type is md5, there is no auth_file"),
        ("auth_type = hba\nauth_hba_file = /nowhere/hba", 0, "error: "),
        ("%include /nowhere/more.ini", 7, "error: could not load file"),
    ],
)
def test_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, line: int, told: str
) -> None:
    status = check(tmp_path, more)
    out = capsys.readouterr().out
    found = [text for text in out.splitlines() if told in text]
    assert found, out
    assert found[0].startswith(f"{tmp_path}/a.ini:{line}: " if line else f"{tmp_path}/a.ini: ")
    assert status == (1 if " error: " in out else 0)


def test_warnings_may_count(tmp_path: Path) -> None:
    assert check(tmp_path, "verbose = 1\nverbose = 2") == 0
    assert check(tmp_path, "verbose = 1\nverbose = 2", "--strict") == 1


def test_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, "foo = 1\nuser = nobody-at-all\n[pooler]\nbar = 2\n[databases]\napp = passwrod=geheim") == 1
    told = capsys.readouterr()
    assert told.out.count(" error: ") == 4
    assert told.err == f"{tmp_path}/a.ini: 4 errors, 0 warnings\n"
    assert "geheim" not in told.out


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().out == (
        f'{tmp_path}/none: error: could not load file "{tmp_path}/none": No such file or directory\n'
    )
    with pytest.raises(SystemExit) as wrong:
        main([])
    assert wrong.value.code == 2
