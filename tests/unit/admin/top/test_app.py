"""The whole program by its keys."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.input import DummyInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from admin.client.address import Address
from admin.client.answers import Answer
from admin.client.link import Lost
from admin.top.app import Top
from admin.top.feed import Feed
from admin.top.view import Screen
from tests.fixtures.waiting import until
from tests.unit.repl_console import Console

CLICK = "\x1b[<0;{column};{line}M\x1b[<0;{column};{line}m"
"""A terminal's report of one, at a column and line from 1."""
WHEEL_DOWN = "\x1b[<65;3;6M"


@pytest.mark.slow
def test_the_program_by_its_keys(console: Console, feed: Feed, state: Path) -> None:
    console.answers["PAUSE APP"] = Answer(tag="PAUSE")
    console.answers["KILL APP"] = Lost("gone")
    with create_pipe_input() as keyboard:
        top = Top([feed], input=keyboard, output=DummyOutput())

        def press() -> None:
            until(lambda: feed.frame.rows, "the pools")
            steps: list[tuple[str, Any]] = [
                ("py", lambda: top.view.told == "PAUSE app: done"),
                ("Ky", lambda: top.view.told == "KILL app: gone"),
                ("+", lambda: top.view.told.startswith("every ")),
                ("\r", lambda: top.view.screen is Screen.POOL and feed.frame.detail),
                ("\t", lambda: top.view.tab == 0),
                ("\r", lambda: top.view.screen is Screen.CONNECTION),
                ("\x1b", lambda: top.view.screen is Screen.POOL),
                ("\x1b", lambda: top.view.screen is Screen.POOLS),
                ("\x1b[B", lambda: top.view.selected == ("billing", "bob")),
                ("/ap\x7fp\r", lambda: top.view.filter == "ap" and not top.view.typing),
                ("?", lambda: top.view.screen is Screen.HELP),
                ("\x1b", lambda: top.view.screen is Screen.POOLS),
                ("\x1b", lambda: not top.view.filter),
                (CLICK.format(column=3, line=6), lambda: top.view.selected == ("app", "alice")),
                (WHEEL_DOWN, lambda: top.view.selected == ("billing", "bob")),
                (CLICK.format(column=3, line=7), lambda: top.view.screen is Screen.POOL),
                ("\x1b", lambda: top.view.screen is Screen.POOLS),
                ("c", lambda: top.view.screen is Screen.COLUMNS),
                ("\x1b[B ", lambda: "user" in top.view.hidden[Screen.POOLS]),
                ("m", lambda: not top.view.mouse),
            ]
            for keys, seen in steps:
                keyboard.send_text(keys)
                until(seen, repr(keys))
            keyboard.send_text("q")

        typist = threading.Thread(target=press)
        typist.start()
        top.run()
        typist.join()
    assert "PAUSE app" in console.asked
    assert "user" in Top([feed], input=DummyInput(), output=DummyOutput()).view.hidden[Screen.POOLS], "kept"
    assert state.exists()


def test_of_several_poolers_a_verb_goes_to_the_one_on_the_screen(console: Console, feed: Feed) -> None:
    console.answers["PAUSE APP"] = Answer(tag="PAUSE")
    other = Feed(Address({"host": "other", "port": "2", "dbname": "pgbouncer"}), delay=0.01)
    with create_pipe_input() as keyboard:
        top = Top([feed, other], input=keyboard, output=DummyOutput())

        def press() -> None:
            until(lambda: feed.frame.rows and other.frame.rows, "the pools of both")
            for keys, seen in (
                ("2", lambda: top.frame.label == "other:2/pgbouncer"),
                ("py", lambda: top.view.told == "PAUSE app: done"),
                ("+", lambda: feed.frame.delay == other.frame.delay == 0.5),
                ("1", lambda: top.frame.label == "h:1/pgbouncer"),
            ):
                keyboard.send_text(keys)
                until(seen, repr(keys))
            keyboard.send_text("q")

        typist = threading.Thread(target=press)
        typist.start()
        threads = top.run()
        typist.join()
    assert len(top.frame.beside) == 2
    for thread in threads:
        thread.join()
    assert [address.place for address in console.opened].count("other:2") == 2, "its feed, and the verb"
