"""`pooler logs` of several poolers: whose line is whose, in which order, and who is missing."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator

import pytest

from metrics.foreign import logs
from metrics.foreign.several import Several, name_of
from metrics.foreign.tail import Lost
from metrics.heroku import LogLine
from tests.fixtures.waiting import free_port
from tests.unit.metrics.foreign.test_logs import line, pooler_with


def test_the_last_lines_of_all_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pooler_with([line(n) for n in (1, 3, 5)]) as one, pooler_with([line(n) for n in (2, 4)]) as two:
        names = name_of(one), name_of(two)
        assert logs.main(["-n", "3", one, two]) == 0
        out = capsys.readouterr().out.splitlines()
        assert [(text.split()[0], text.split()[-1]) for text in out] == [
            (names[0], "m3"), (names[1], "m4"), (names[0], "m5"),
        ]  # fmt: skip
        assert logs.main(["--json", one, two, "-n", "0"]) == 0
        assert logs.main(["--json", one, two]) == 0
        shown = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        assert [(each["pooler"], each["message"]) for each in shown] == [
            (names[n % 2 == 0], f"m{n}") for n in range(1, 6)
        ]


def test_one_that_cannot_be_reached_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"127.0.0.1:{free_port()}"
    with pooler_with([line(1)]) as one:
        assert logs.main([one, f"http://{gone}"]) == 1
        found = capsys.readouterr()
        assert found.out.startswith(f"{name_of(one)} ")
        assert found.err == f"pooler logs: {gone}: Connection refused\n"


@pytest.mark.parametrize("arguments", [["http://u:secret@h:1", "postgres://h:1/pgbouncer"], ["http://h:1", "h:2"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.main(arguments) == 2
    assert "secret" not in capsys.readouterr().err


def test_a_tail_of_one_does_not_wait_for_the_other() -> None:
    there: queue.SimpleQueue[LogLine | None] = queue.SimpleQueue()

    def slow() -> Iterator[LogLine]:
        while (found := there.get()) is not None:
            yield found

    def quick() -> Iterator[LogLine]:
        yield line(1)
        raise Lost("h:2: no answer")

    said: list[str] = []
    several = Several({"h:1": slow, "h:2": quick}, said.append)
    lines = several.live()
    assert next(lines) == ("h:2", line(1))
    there.put(line(0))
    assert next(lines) == ("h:1", line(0))
    there.put(None)
    assert list(lines) == []
    assert (said, several.failed) == (["h:2: no answer"], True)


def test_a_bug_in_a_thread_is_raised_where_it_is_seen() -> None:
    def broken() -> Iterator[LogLine]:
        yield line(1)
        raise ZeroDivisionError

    several = Several({"h:1": broken}, lambda text: None)
    lines = several.live()
    assert next(lines)[0] == "h:1"
    with pytest.raises(ZeroDivisionError):
        next(lines)
