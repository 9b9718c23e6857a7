"""The manual pages: man takes them without a complaint, and all that the tables have is in them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pooler.commands.table import listed
from pooler.config.settings import OWN, SETTINGS
from pooler.deploy.listed import arguments
from pooler.deploy.manual import commands_page, escaped, settings_page

PAGES = {"pooler.1": commands_page(listed(), "1.0"), "pooler.ini.5": settings_page("1.0")}


@pytest.mark.parametrize(
    ("text", "roff"),
    [("a-b", r"a\-b"), (r"\x", r"\ex"), (".SH", r"\&.SH"), ("a\n'b", "a\n\\&'b"), ("", "")],
)
def test_what_is_written_is_what_is_read(text: str, roff: str) -> None:
    assert escaped(text) == roff


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
@pytest.mark.parametrize("name", PAGES)
def test_man_shows_it(name: str, tmp_path: Path) -> None:
    page = tmp_path / name
    page.write_text(PAGES[name])
    environment = {"MANWIDTH": "200", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    shown = " ".join(done.stdout.split())
    if name == "pooler.1":
        for command in listed():
            assert f"pooler {command.name}" in shown
            for action in arguments(command.parser()):
                assert all(flag in shown for flag in action.option_strings), action
        assert "-- COMMAND [ARGUMENT ...]" in shown
    else:
        assert all(key in shown for key in (*SETTINGS, *OWN))
        assert "\\x" not in shown
