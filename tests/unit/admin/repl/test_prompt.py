"""The prompt by its keys: a pipe for a keyboard, nothing for a screen, a table for a console."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from admin.client import vocabulary
from admin.client.address import Address
from admin.client.answers import Answer
from admin.repl.background import Background, Facts, Setting
from admin.repl.history import Past
from admin.repl.prompt import Prompt, prefers_vi
from tests.fixtures.waiting import until
from tests.unit.repl_console import Console, Person, replace_link, session

FACTS = Facts(
    vocabulary=vocabulary.own(),
    databases=("app", "billing"),
    settings={"pool_mode": Setting("session", "session", True)},
    clients=(("12", "alice@app"),),
)

ENTER, TAB, ESCAPE, CTRL_C, CTRL_D, CTRL_R, CTRL_E, UP = "\r", "\t", "\x1b", "\x03", "\x04", "\x12", "\x05", "\x1b[A"
SHIFT_TAB = "\x1b[Z"

F4 = "\x1bOS"

Opened = tuple[Prompt, PipeInput, Console]


@contextmanager
def opened(console: Console, *, vi: bool = False, past: tuple[str, ...] = ()) -> Iterator[Opened]:
    made, _ = session(console, Person(True), vi=vi)
    background = Background(lambda: Address({"host": "h"}))
    background.facts = FACTS
    history = Past(past)
    with create_pipe_input() as keyboard:
        yield Prompt(made, background, history=history, input=keyboard, output=DummyOutput()), keyboard, console


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return replace_link(monkeypatch, Console())


Step = str | Callable[[Prompt], object]

"""Keys, or what to wait for before the next keys."""


def menu(prompt: Prompt) -> object:
    """Completions are on the screen."""
    return prompt._reader.default_buffer.complete_state


def suggestion(prompt: Prompt) -> object:
    """The rest of an earlier line is suggested."""
    found = prompt._reader.default_buffer.suggestion
    return found and found.text


class Typist(threading.Thread):
    """Presses keys, waiting in between for what the screen shows."""

    def __init__(self, prompt: Prompt, keyboard: PipeInput, steps: tuple[Step, ...]) -> None:
        super().__init__(daemon=True)
        self.prompt, self.keyboard, self.steps = prompt, keyboard, steps

    def run(self) -> None:
        for step in self.steps:
            if isinstance(step, str):
                self.keyboard.send_text(step)
            else:
                until(functools.partial(step, self.prompt), step.__name__)


Typed = Callable[..., str]


@pytest.fixture
def typed(console: Console) -> Typed:
    """What the prompt returns after these keys."""

    def read(*steps: Step, vi: bool = False, past: tuple[str, ...] = ()) -> str:
        with opened(console, vi=vi, past=past) as (prompt, keyboard, _):
            typist = Typist(prompt, keyboard, steps)
            typist.start()
            text = prompt.read()
            typist.join()
            return text

    return read


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["SHOW POOLS", ENTER], "SHOW POOLS"),
        (["SELECT 1", ENTER, "FROM pools;", ENTER], "SELECT 1\nFROM pools;"),
        (["SET a = 'x", ENTER, "y'", ENTER], "SET a = 'x\ny'"),
        (["SHOW POOLS", ESCAPE, ENTER, "RELOAD", ENTER], "SHOW POOLS\nRELOAD"),
        (["\\x", ENTER], "\\x"),
        (["SHOW POOLS \\watch 2", ENTER], "SHOW POOLS \\watch 2"),
        (["SELECT 1", ENTER, "FROM pools", ENTER, ENTER], "SELECT 1\nFROM pools\n"),
        (["SELECT 'a", ENTER, ENTER, "b';", ENTER], "SELECT 'a\n\nb';"),
        ([ENTER], ""),
    ],
)
def test_enter(typed: Typed, keys: list[str], text: str) -> None:
    assert typed(*keys) == text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["relo", TAB, ENTER], "reload"),
        (["SHOW STATS_T", TAB, ENTER], "SHOW STATS_TOTALS"),
        (["PAUSE b", TAB, ENTER], "PAUSE billing"),
        (["KILL_CLIENT 1", TAB, ENTER], "KILL_CLIENT 12"),
        (["SET pool_mode = tr", TAB, ENTER], "SET pool_mode = transaction"),
        (["\\wat", TAB, ENTER], "\\watch"),
    ],
)
def test_tab_completes(typed: Typed, keys: list[str], text: str) -> None:
    typing, *rest = keys
    assert typed(typing, menu, *rest) == text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([TAB], "PAUSE app"),
        ([TAB, TAB], "PAUSE billing"),
        ([TAB, TAB, TAB], "PAUSE app"),
        ([SHIFT_TAB], "PAUSE billing"),
        ([SHIFT_TAB, SHIFT_TAB, SHIFT_TAB], "PAUSE billing"),
    ],
)
def test_tab_goes_round_the_menu(typed: Typed, keys: list[str], text: str) -> None:
    assert typed("PAUSE ", menu, *keys, ENTER) == text


def test_another_tab_never_takes_the_word_away(typed: Typed) -> None:
    assert typed("PAUSE bil", menu, TAB, TAB, TAB, ENTER) == "PAUSE billing"


def test_what_failed_is_not_suggested(console: Console) -> None:
    with opened(console, past=("SHOW VERSION",)) as (prompt, keyboard, _):
        keyboard.send_text(f"SHOW VERSIONS{ENTER}{CTRL_D}")
        prompt.run()
        typist = Typist(prompt, keyboard, ("SHOW VERS", suggestion, CTRL_E, ENTER))
        typist.start()
        assert prompt.read() == "SHOW VERSION"
        typist.join()
        keyboard.send_text(f"{UP}{UP}{ENTER}")
        assert prompt.read() == "SHOW VERSIONS", "it is kept, to be mended"


@pytest.mark.slow
def test_a_statement_that_is_not_ended_says_so(console: Console) -> None:
    with opened(console) as (prompt, keyboard, _):
        told: list[str] = []

        def waits(_: Prompt) -> bool:
            told[:] = ["".join(text for _, text, *_ in prompt._waits_for())]
            return "an empty line runs it" in told[0]

        assert prompt._waits_for() == []
        typist = Typist(prompt, keyboard, ("SELECT 1", ENTER, waits, ENTER))
        typist.start()
        assert prompt.read() == "SELECT 1\n"
        typist.join()


def test_completion_comes_once_the_background_knows(console: Console) -> None:
    with opened(console) as (prompt, keyboard, _):
        background = prompt._background
        known, background.facts = background.facts, replace(background.facts, clients=())

        def asked(_: Prompt) -> object:
            return "clients" in background._wanted

        def learnt(_: Prompt) -> object:
            background.facts = known
            background.on_change()
            return True

        typist = Typist(prompt, keyboard, ("KILL_CLIENT ", asked, learnt, menu, TAB, ENTER))
        typist.start()
        assert prompt.read() == "KILL_CLIENT 12"
        typist.join()


def test_suggestion_from_history(typed: Typed) -> None:
    assert typed("SHOW P", suggestion, CTRL_E, ENTER, past=("RELOAD", "SHOW POOLS WHERE cl_waiting > 0")) == (
        "SHOW POOLS WHERE cl_waiting > 0"
    )


def test_ctrl_r_searches_history(typed: Typed) -> None:
    assert typed(CTRL_R, "billing", ENTER, ENTER, past=("PAUSE billing", "SHOW POOLS")) == "PAUSE billing"


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(console: Console) -> None:
    with opened(console) as (prompt, keyboard, _):
        keyboard.send_text(f"SHOW POO{CTRL_C}RELOAD{ENTER}")
        keyboard.send_text(CTRL_D)
        assert prompt.run() == 0
    assert console.asked == ["RELOAD"]


def test_what_fails_is_told_and_the_prompt_comes_back(console: Console) -> None:
    with opened(console) as (prompt, keyboard, _):
        keyboard.send_text(f"NONSENSE{ENTER}\\bad{ENTER}RELOAD{ENTER}\\q{ENTER}")
        assert prompt.run() == 0
    assert console.asked == ["NONSENSE", "RELOAD"]


def test_vi_keys(typed: Typed) -> None:
    assert typed("SHOW POOLX", ESCAPE, "rS", ENTER, vi=True) == "SHOW POOLS"


def test_f4_changes_the_keys(typed: Typed) -> None:
    assert typed(F4, "SHOW POOLX", ESCAPE, "rS", ENTER) == "SHOW POOLS"
    assert typed(F4, "SHOW POOLSX", ESCAPE, "x", ENTER, vi=True) != "SHOW POOLS"


def test_prefill_waits_at_the_prompt(console: Console) -> None:
    with opened(console) as (prompt, keyboard, _):
        prompt._session.prefill = "SELECT 1"
        keyboard.send_text(f";{ENTER}")
        assert prompt.read() == "SELECT 1;"
        assert prompt._session.prefill == ""


def test_verbs_that_hurt_are_confirmed_at_the_prompt(console: Console) -> None:
    console.answers["KILL APP"] = Answer(tag="KILL")
    with opened(console) as (prompt, keyboard, _):
        keyboard.send_text(f"KILL app{ENTER}{CTRL_D}")
        prompt.run()
        person = prompt._session.terminal
        assert isinstance(person, Person)
        assert "KILL app: drops clients" in person.asked[0]
    assert console.asked == ["KILL app"]


@pytest.mark.parametrize(
    ("text", "vi"), [("set editing-mode vi\n", True), ("set  editing-mode  emacs", False), ("", False), (None, False)]
)
def test_inputrc(tmp_path: object, monkeypatch: pytest.MonkeyPatch, text: str | None, vi: bool) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "inputrc"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("INPUTRC", str(file))
    assert prefers_vi() is vi
