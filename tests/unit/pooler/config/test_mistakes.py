"""What people write wrong: it is said once, with what was meant, and without what may be a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from pooler.config import databases as entries
from pooler.config.whole import ConfigError, examine, load, parse, shut_out


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[pgbouncer]\ndefualt_pool_size=1", "did you mean default_pool_size?"),
        ("[pgbouncer]\nhttp=x", "it belongs in [pooler]"),
        ("[pgbouncer]\nmetrcis=x", "did you mean metrics of [pooler]?"),
        ("[pooler]\nlisten_port=1", "it belongs in [pgbouncer]"),
        ("[pooler]\nio_urnig=1", "did you mean io_uring?"),
        (
            "[pgbouncer]\npool_size=1",
            "it belongs to an entry of [databases] or [users] or [peers],"
            " and what holds for all of them is default_pool_size",
        ),
        ("[pgbouncer]\nhost=x", "it belongs to an entry of [databases] or [peers]"),
        ("[pgbouncer]\nqwertz=1", ""),
        ("[databse]", "did you mean databases?"),
        ("[databases]\na=prot=1", "did you mean port?"),
        ("[users]\nu=pol_mode=x", "did you mean pool_mode?"),
        ("[databases]\na=password=a b", entries.FORM),
    ],
)
def test_what_is_wrong_is_said_once_with_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{text}\n[pgbouncer]\n", "a.ini")
    (problem,) = caught.value.problems
    assert problem.why == hint
    assert "(a.ini:" in " ".join(problem.log_lines)


@pytest.mark.parametrize(
    "entry", ["passwrod=geheim", "host=x pass word=geheim", "port=x pasword=geheim", "port=0 pw= geheim", "pwd=geheim'"]
)
def test_a_misspelt_password_is_not_in_the_log(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[pgbouncer]\n[databases]\na={entry}\n", "a.ini")
    assert "geheim" not in f"{caught.value} {[problem.explained for problem in caught.value.problems]}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[pgbouncer]\nverbose=1\nverbose=2\nverbose=1\n", [(3, 2), (4, 3)]),
        ("[pgbouncer]\n[databases]\na=\nb=\na=port=2\n", [(5, 3)]),
        ("[pgbouncer]\n[pooler]\nmetrics_period=1\nmetrics_period=2\n", [(4, 3)]),
        ("[pgbouncer]\n[users]\nu=\n[users]\nu=\n", [(5, 3)]),
        ("[pgbouncer]\n[databases]\nverbose=\n[pgbouncer]\nverbose=1\n", []),
    ],
)
def test_what_is_there_twice_is_said(text: str, lines: list[tuple[int, int]]) -> None:
    said = [(problem.line, problem.message) for problem in parse(text, "a.ini").warnings]
    assert [(line, int(message.rsplit(" ", 1)[1])) for line, message in said] == lines
    assert all("there twice" in message for _, message in said)


def test_a_repeated_key_of_an_entry_is_said() -> None:
    (warning,) = parse("[pgbouncer]\n[databases]\na=host=x host=y\n", "a.ini").warnings
    assert str(warning) == "a.ini:3: a: host is there twice: the last one counts"


def test_an_including_file_may_set_anew(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("[pgbouncer]\nverbose=1\n")
    (tmp_path / "a.ini").write_text(f"%include {tmp_path / 'base'}\nverbose=2\n")
    assert load(str(tmp_path / "a.ini")).warnings == ()


def test_who_can_log_in(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("")
    assert "there is no auth_file" in shut_out(parse("[pgbouncer]\nauth_type=md5\n"))
    assert f"auth_file {users} names nobody" in shut_out(parse(f"[pgbouncer]\nauth_file={users}\n"))
    users.write_text('"u" "p"\n')
    assert shut_out(parse(f"[pgbouncer]\nauth_file={users}\n")) == ""
    for text in ("auth_type=any", "auth_user=u", "auth_type=hba", "[databases]\na=auth_user=u"):
        assert shut_out(parse(f"[pgbouncer]\n{text}\n")) == "", text


def test_everything_is_examined_at_once(tmp_path: Path) -> None:
    """What a start stops at, and what it would have found behind it."""
    ini = tmp_path / "a.ini"
    ini.write_text(f"[pgbouncer]\nfoo=1\nauth_file={tmp_path}/none\nverbose=1\nverbose=1\n")
    found = examine(str(ini))
    assert [problem.line for problem in found.problems] == [2]
    assert any("could not open auth_file" in problem.message for problem in found.config.warnings)
    assert any("there twice" in problem.message for problem in found.config.warnings)
    assert found.config.settings.verbose == 1
