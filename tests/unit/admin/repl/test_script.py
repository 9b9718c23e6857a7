"""Commands without a person: exit status, and what is written."""

from __future__ import annotations

import io
import json

import pytest

from admin.client.terminal import Terminal
from admin.repl import script
from tests.unit.repl_console import Console, session


@pytest.mark.parametrize(
    ("commands", "status", "asked"),
    [
        (["SHOW VERSION", "RELOAD"], 0, ["SHOW VERSION", "RELOAD"]),
        (["SHOW VERSION; NONSENSE; RELOAD"], 1, ["SHOW VERSION", "NONSENSE"]),
        (["\\q", "RELOAD"], 0, []),
        (["\\nonsense"], 1, []),
    ],
)
def test_exit_status(console: Console, commands: list[str], status: int, asked: list[str]) -> None:
    made, _ = session(console)
    assert script.run(made, script.of_commands(commands)) == status
    assert console.asked == asked


def test_json_is_one_document_per_command(console: Console) -> None:
    made, out = session(console, format="json")
    assert script.run(made, script.of_lines(["SHOW VERSION\n", "RELOAD\n"])) == 0
    decoder, text, documents = json.JSONDecoder(), out.getvalue(), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    assert documents == [[{"version": "PgBouncer 1.26.1"}], {"command": "RELOAD"}]


def test_what_fails_in_a_pipe_tells_its_line(console: Console) -> None:
    errors = io.StringIO()
    made, _ = session(console, Terminal(errors))
    assert script.run(made, script.of_lines(["SHOW VERSION\n", "\n", "NONSENSE\n"]), script.STDIN) == 1
    assert errors.getvalue().startswith("<stdin>:3: ERROR:  invalid command 'NONSENSE'")
