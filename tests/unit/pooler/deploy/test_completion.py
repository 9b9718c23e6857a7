"""Completion, asked of the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pooler.commands.table import listed
from pooler.deploy import completion

COMMANDS = listed()
NAMES = {command.name for command in COMMANDS}


def shell(*words: str, directory: Path) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(words, env=environment, cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def bash(line: str, directory: Path) -> set[str]:
    script = directory.parent / f"{directory.name}.bash"
    script.write_text(completion.bash(COMMANDS))
    typed = f"COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}"
    ask = f'source {script}; {typed}; _pooler; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return set(shell("bash", "-c", ask, directory=directory).split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pooler se", {"serve"}),
        ("pooler ", NAMES),
        ("pooler pg:credentials:", {"create", "destroy", "url"}),
        ("pooler serve --ht", {"--http", "--http-cert", "--http-key"}),
        ("pooler serve --log-format ", {"text", "json"}),
        ("pooler serve --log-format j", {"json"}),
        ("pooler check ", {"pooler.ini", "--strict", "-q", "--quiet"}),
        ("pooler serve --data-dir p", {"pooler.ini"}),
        ("pooler serve --port ", set()),
        ("pooler print syst", {"systemd"}),
        ("pooler nonsense ", set()),
    ],
)
def test_bash(line: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "pooler.ini").touch()
    assert bash(line, tmp_path) == offered


ZSH_STUBS = """
_describe() { print -rl -- $commands; }
_arguments() { print -rl -- "$@"; }
words=(pooler %s); CURRENT=$#words
source ./_pooler
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh(tmp_path: Path) -> None:
    """What it hands to zsh's own functions."""
    (tmp_path / "_pooler").write_text(completion.zsh(COMMANDS))
    shell("zsh", "-n", "_pooler", directory=tmp_path)
    found = shell("zsh", "-f", "-c", f"f() {{ {ZSH_STUBS % 'x'} }}; f", directory=tmp_path)
    assert {line.replace("\\:", "\0").split(":")[0].replace("\0", ":") for line in found.splitlines()} == NAMES
    found = shell("zsh", "-f", "-c", f"f() {{ {ZSH_STUBS % 'serve x'} }}; f", directory=tmp_path)
    assert "(-q --quiet)--quiet[log nothing to stderr]\n" in found
    assert ":FORMAT:(text json)\n" in found
    assert ":FILE:_files\n" in found


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [("pooler serve --ht", {"--http", "--http-cert", "--http-key"}), ("pooler serve --log-format ", {"text", "json"})],
)
def test_fish(line: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "pooler.fish").write_text(completion.fish(COMMANDS))
    found = shell("fish", "--no-config", "-c", f"source pooler.fish; complete -C {line!r}", directory=tmp_path)
    assert {text.split("\t")[0] for text in found.splitlines()} == offered
