"""The prompt by its keys: a pipe for a keyboard, nothing for a screen, a table for a console."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from admin.repl import toolbar, vocabulary
from admin.repl.address import Address
from admin.repl.answers import Answer
from admin.repl.background import Background, Facts, Pulse, Setting
from admin.repl.prompt import Prompt, prefers_vi
from admin.repl.toolbar import Place
from tests.fixtures.waiting import until
from tests.unit.repl_console import Console, Person, replace_link, session

FACTS = Facts(
    vocabulary=vocabulary.own(),
    databases=("app", "billing"),
    settings={"pool_mode": Setting("session", "session", True)},
    clients=(("12", "alice@app"),),
)

ENTER, TAB, ESCAPE, CTRL_C, CTRL_D, CTRL_R, CTRL_E = "\r", "\t", "\x1b", "\x03", "\x04", "\x12", "\x05"
F4 = "\x1bOS"

Opened = tuple[Prompt, PipeInput, Console]


@contextmanager
def opened(console: Console, *, vi: bool = False, past: tuple[str, ...] = ()) -> Iterator[Opened]:
    made, _ = session(console, Person(True), vi=vi)
    background = Background(lambda: Address({"host": "h"}))
    background.facts = FACTS
    history = InMemoryHistory(list(past))
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


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["SHOW POOLS", ENTER], "SHOW POOLS"),
        (["SELECT 1", ENTER, "FROM pools;", ENTER], "SELECT 1\nFROM pools;"),
        (["SET a = 'x", ENTER, "y'", ENTER], "SET a = 'x\ny'"),
        (["SHOW POOLS", ESCAPE, ENTER, "RELOAD", ENTER], "SHOW POOLS\nRELOAD"),
        (["\\x", ENTER], "\\x"),
        (["SHOW POOLS \\watch 2", ENTER], "SHOW POOLS \\watch 2"),
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


def test_tab_goes_through_the_menu(typed: Typed) -> None:
    assert typed("PAUSE ", menu, TAB, TAB, ENTER) == "PAUSE billing"


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


PULSE = Pulse(True, "1.25.2", 3, "", ("app",), 1234, 12, 1.5, 18, 12_345.6)


def bar(pulse: Pulse, width: int, options: str = "", glyphs: bool = True) -> str:
    text = "".join(part for _, part in toolbar.bar(pulse, Place("h:1/pgbouncer", options, glyphs), width))
    assert len(text) <= width
    return text


def test_toolbar() -> None:
    assert bar(PULSE, 200, "vi json") == (
        " ● h:1/pgbouncer 1.25.2 │ 3 pools, paused: app │ waiting 12 │ max wait 1.50 s │ 12.3k tps"
        " │ 1,234 clients, 18 servers busy │ vi json"
    )
    assert bar(PULSE, 60) == " ● h:1/pgbouncer 1.25.2 │ 3 pools, paused: app │ waiting 12"
    assert "all suspended" in bar(replace(PULSE, state="suspended"), 200)
    assert bar(Pulse(trouble="refused"), 80) == " ✗ h:1/pgbouncer not connected, trying │ refused"
    assert bar(PULSE, 200, glyphs=False).isascii()


@pytest.mark.parametrize("width", range(12))
def test_toolbar_fits_any_width(width: int) -> None:
    bar(PULSE, width)
    bar(Pulse(), width)
