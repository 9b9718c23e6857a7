"""README says what can be typed; this test types the parts that are ours: commands exist and know their flags, files
that are named are there, and the test command is the one CI runs.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests import TREE
from tests.fixtures import account
from tests.fixtures.process import imports

README = (TREE / "README.md").read_text()
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/python -m pytest"


def commands() -> Iterator[list[str]]:
    """Each command line of a block of shell, and each command of ours in a sentence, cut at shell operators, without
    variables in front."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in [*blocks, *re.findall(r"(?<!`)`(pooler [^`]+)`", README)]:
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True  # else a colon ends a word
            words = list(lexer)
            current: list[str] = []
            for word in [*words, "&&"]:
                if word in {"&&", "||", "|", ";", "&", ">", ">>"}:
                    yield current
                    current = []
                elif current or "=" not in word:
                    current.append(word)


def of_the_pooler() -> list[str]:
    found = [c[1:] for c in commands() if c and c[0].rpartition("/")[2] == "pooler" and len(c) > 1]
    return sorted({" ".join(arguments) for arguments in found})


@cache
def help_of(command: str) -> str:
    run = [sys.executable, "-P", "-m", "pooler", command, "--help"]
    return account.run(run, env=account.environment(**imports()))


@pytest.mark.slow
@pytest.mark.parametrize("line", of_the_pooler())
def test_every_command_of_readme_exists_with_its_flags(line: str) -> None:
    command, *arguments = line.split()
    told = help_of(command)
    assert not [a for a in arguments if re.match(r"--\w", a) and a.partition("=")[0] not in told]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", README))))
def test_every_linked_file_is_there(path: str) -> None:
    assert (TREE / path).exists()


def rows(text: str) -> dict[str, list[set[str]]]:
    """The rows of its tables: what stands first -> the other cells, of each row that begins like that."""
    found: dict[str, list[set[str]]] = {}
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        first, *cells = line.split(" | ")
        found.setdefault(first, []).append(set(cells))
    return found


def test_the_eight_figures_are_those_of_the_results() -> None:
    costs = README.partition("\n## Against PgBouncer: what it costs\n")[2].partition("\n## ")[0]
    table = costs[costs.index("| ---") :].partition("\n")[2].partition("\n\n")[0]
    shown = [line.strip("| ").split(" | ") for line in table.splitlines()]
    measured = rows((TREE / "tests" / "bench" / "RESULTS.md").read_text())
    assert len(shown) == 8
    for label, _, *figures in shown:
        assert any(set(figures) <= cells for cells in measured.get(label, [])), label


def test_the_test_command_is_the_one_ci_runs() -> None:
    assert TEST_COMMAND in README
    script = (TREE / ".ci" / "run").read_text()
    assert all(part.removesuffix("'.[test]'") in script for part in TEST_COMMAND.split(" && ")[:1])
    assert ".venv/bin/python -m pytest" in script
