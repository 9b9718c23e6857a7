"""Where state is kept: by the environment, for root, for people, and for an account without a home."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pooler import places


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/person")
    return monkeypatch


def test_a_person_has_it_at_home(person: pytest.MonkeyPatch) -> None:
    assert places.state_directory() == Path("/home/person/.local/state/pooler")


def test_root_has_it_where_others_can_go(person: pytest.MonkeyPatch) -> None:
    person.setattr(os, "geteuid", lambda: 0)
    assert places.state_directory() == Path("/var/lib/pooler")


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_environment_decides_if_it_names_an_absolute_path(person: pytest.MonkeyPatch, uid: int) -> None:
    person.setattr(os, "geteuid", lambda: uid)
    person.setenv("XDG_STATE_HOME", "/srv/state")
    assert places.state_directory() == Path("/srv/state/pooler")
    person.setenv("XDG_STATE_HOME", "relative")
    assert places.state_directory() != Path("relative/pooler")


def test_no_home_is_one_clear_line(person: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    person.setattr(Path, "home", homeless)
    with pytest.raises(places.NoPlace, match="set XDG_STATE_HOME"):
        places.state_directory()


@pytest.mark.parametrize("uid", [0, 1000])
def test_whatever_is_kept_is_kept_there(person: pytest.MonkeyPatch, uid: int) -> None:
    """The control plane's state, what was typed at the console, and the passwords that a client looks for."""
    from admin.client import address
    from admin.platform.state import default_location
    from admin.repl.history import place

    read: list[Path] = []

    def nothing(path: Path) -> str:
        read.append(path)
        raise OSError

    person.setattr(os, "geteuid", lambda: uid)
    person.setattr(Path, "read_text", nothing)
    home = places.state_directory()
    assert Path(default_location()) == home / "platform.db"
    assert place() == home / "console_history"
    address.default_addresses({})
    assert read == [home / "pgpass"]


def test_roots_directory_is_open_to_the_account_that_runs_postgresql(
    person: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        person.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
        places.make(places.state_directory())
        assert stat.S_IMODE(places.state_directory().stat().st_mode) == 0o700
        person.setattr(os, "geteuid", lambda: 0)
        person.setenv("XDG_STATE_HOME", str(tmp_path / "roots"))
        for directory, mode in ((places.state_directory(), 0o755), (tmp_path / "other", 0o700)):
            places.make(directory)
            assert stat.S_IMODE(directory.stat().st_mode) == mode
    finally:
        os.umask(before)
