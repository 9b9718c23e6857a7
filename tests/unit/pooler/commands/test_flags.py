"""What `pooler serve` was asked for: the short way for an ini alone says what the parser says."""

from __future__ import annotations

import pytest

from pooler.commands.flags import Flags, parse
from pooler.commands.options import read


@pytest.mark.parametrize("ini", ["pgbouncer.ini", "/etc/pooler/pooler.ini", "a b", "@", "ünïcode", "serve"])
def test_an_ini_alone_is_read_as_by_the_parser(ini: str) -> None:
    assert parse([ini]) == Flags(**read([ini])) == Flags(ini=ini)


def test_no_argument_an_empty_one_and_a_flag_are_the_parsers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://here")
    assert parse([""]).database_url == parse([]).database_url == "postgres://here"
    assert parse(["-V"]).version
    with pytest.raises(SystemExit) as left:
        parse(["-x"])
    assert left.value.code == 2
    assert "usage: pooler serve" in capsys.readouterr().err
