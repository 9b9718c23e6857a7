"""The end for certain, in processes of their own: each would otherwise last for minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.fixtures.process import imports

BEGIN = """
import asyncio, os, re, signal, sys, threading, time
from pathlib import Path
import pooler.ending
from pooler.ending import Ending, leave, loop_without_ties
pooler.ending.MOMENT, pooler.ending.LAST_RESORT = 0.1, 0.4  # the real ones: tests/system/test_ending.py
mark = Path(sys.argv[1])
ending = Ending()
ending.status = 7
ending.also(mark.unlink)
hang = threading.Event().wait
"""


def ended(script: str, mark: Path) -> tuple[int, float, str]:
    """(exit status, seconds from when it said `now`, what else it said)."""
    mark.touch()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", BEGIN + textwrap.dedent(script), str(mark)],
        env={**os.environ, **imports()}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "now\n"
        began = time.monotonic()
        rest = process.stdout.read()
        return process.wait(20), time.monotonic() - began, rest
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


STUCK = {
    "a lock": "hang()",
    "a loop of Python's": "while True: pass",
    "a call that blocks": "os.read(os.pipe()[0], 1)",
    "a thread at the exit": "threading.Thread(target=hang).start()",
}


@pytest.mark.parametrize("what", STUCK)
def test_who_is_in_a_hurry_is_gone_with_its_duties_done(what: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    status, seconds, _ = ended(f"print('now', flush=True); ending.hurry(); ending.hurry()\n{STUCK[what]}", mark)
    assert status == 7
    assert seconds < 1.0
    assert not mark.exists()


def test_a_duty_that_fails_keeps_no_other_from_being_done(tmp_path: Path) -> None:
    script = "ending.also(lambda: 1 / 0); print('now', flush=True); ending.hurry(); hang()"
    status, _, _ = ended(script, tmp_path / "mark")
    assert status == 7
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "ending.also(hang); print('now', flush=True); ending.hurry(); hang()",
        "print('now', flush=True); ending.hurry(); re.match('(a|a)*b', 'a' * 60)",
    ],
    ids=["a duty hangs", "Python has stopped"],
)
def test_the_last_resort_needs_nothing_of_python(script: str, tmp_path: Path) -> None:
    status, seconds, _ = ended(script, tmp_path / "mark")
    assert status == 1
    assert seconds < 1.5


def test_without_room_for_a_thread_it_ends_at_once(tmp_path: Path) -> None:
    script = """
    def start(self):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = start
    print("now", flush=True)
    ending.hurry()
    hang()
    """
    status, _, _ = ended(script, tmp_path / "mark")
    assert status == 7
    assert not (tmp_path / "mark").exists()


def test_signals_after_the_loop_end_it_at_once(tmp_path: Path) -> None:
    script = "ending.heed_signals(); print('now', flush=True); os.kill(os.getpid(), signal.SIGTERM); hang()"
    status, _, _ = ended(script, tmp_path / "mark")
    assert status == 7
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("threads", [0, 1])
def test_leaving_waits_for_no_thread_and_says_what_was_to_be_said(threads: int, tmp_path: Path) -> None:
    script = f"""
    for _ in range({threads}):
        threading.Thread(target=hang).start()
    print("now", flush=True)
    print("said", end="")
    sys.exit(leave(3))
    """
    assert ended(script, tmp_path / "mark")[::2] == (3, "said")


def test_a_loop_without_ties_ends_while_a_thread_goes_on(tmp_path: Path) -> None:
    script = """
    async def main():
        asyncio.get_running_loop().run_in_executor(None, hang)
        await asyncio.sleep(0)
        print("now", flush=True)
    with asyncio.Runner(loop_factory=loop_without_ties) as runner:
        runner.run(main())
    sys.exit(leave(0))
    """
    assert ended(script, tmp_path / "mark")[0] == 0
