"""The table of commands: what --help lists, what runs, and what is said of a word that is none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pooler.__main__ import main, usage
from pooler.commands.table import find, listed
from tests.fixtures.process import imports
from tests.fixtures.waiting import DEADLINE


def test_every_command_runs_and_tells_of_itself() -> None:
    commands = listed()
    assert len({command.name for command in commands}) == len(commands) > 30
    for command in commands:
        assert find(command.name)
        assert command.parser().prog == f"pooler {command.name}"
        assert command.help
        assert f"  {command.name} " in usage()


def test_the_help_is_in_groups() -> None:
    text = usage()
    order = ["Run it:", "  serve", "Look into it:", "  console", "Take it along:", "Heroku's commands, apps:", "  run "]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("sreve", "did you mean serve?"),
        ("pg:inof", "did you mean pg:info?"),
        ("consle", "did you mean console?"),
        ("qqq", "pooler --help lists them"),
    ],
)
def test_a_command_that_is_none(word: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err == f"pooler: there is no command {word!r}; {told}\n"


def test_run_shows_what_stands_behind_the_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help", "run"])
    assert "-- COMMAND [ARGUMENT ...]" in capsys.readouterr().out


def test_who_reads_the_help_in_part_only_hears_no_complaint() -> None:
    """As `pooler --help | head -1` does: the other end of the pipe is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        told = subprocess.run(
            [sys.executable, "-P", "-m", "pooler", "--help"],
            stdout=output, stderr=subprocess.PIPE, check=False, timeout=DEADLINE, env=os.environ | imports(),
        )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, b"")
