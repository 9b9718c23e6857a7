"""Lines to stdout and to files: rotation, full pipes, broken pipes, counted losses."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from metrics.drains.files import BUFFER_LINES, Writer, file_sink, stdout_sink
from metrics.drains.sink import DrainError
from metrics.drains.urls import open_sink
from metrics.heroku import LogLine
from tests.fixtures.waiting import until


def line(text: str) -> LogLine:
    return LogLine(0.0, text)


def shown(*texts: str) -> str:
    return "".join(f"1970-01-01T00:00:00.000000+00:00 app[heroku-pgbouncer]: {text}\n" for text in texts)


def close(sink: Writer) -> None:
    asyncio.run(sink.close(10))


def test_stdout_gets_lines_as_heroku_logs_shows_them() -> None:
    reader, writer = os.pipe()
    sink = stdout_sink(writer)
    sink.emit([line("a"), line("b")])
    close(sink)
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == shown("a", "b")
    assert (sink.stats().kind, sink.stats().delivered, sink.stats().dropped) == ("stdout", 2, 0)


def test_a_full_pipe_holds_up_nobody_and_its_losses_are_told() -> None:
    reader, writer = os.pipe()
    sink = stdout_sink(writer)
    for number in range(3 * BUFFER_LINES // 100):
        sink.emit([line(str(number))] * 100)
    assert sink.stats().dropped > 0
    with open(reader) as pipe:
        assert any("Error L10 (output buffer overflow): " in text for text in pipe)
        sink.emit([line("last")])
        assert any(text.endswith(": last\n") for text in pipe)
        close(sink)
        stats = sink.stats()
        assert stats.delivered + stats.dropped == 3 * BUFFER_LINES + 1
        os.close(writer)


def test_a_pipe_without_a_reader_is_given_up() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = stdout_sink(writer)
    sink.emit([line("a")])
    until(lambda: sink.stats().state == "closed", "the sink to give up")
    sink.emit([line("b")])
    stats = sink.stats()
    assert (stats.dropped, stats.delivered, stats.last_error) == (2, 0, "Broken pipe")
    os.close(writer)


def test_a_file_is_appended_to_and_follows_its_name(tmp_path: Path) -> None:
    path = tmp_path / "pooler.log"
    path.write_text("before\n")
    sink = file_sink(str(path))
    sink.emit([line("a")])
    until(lambda: path.read_text() == "before\n" + shown("a"), "the first line")
    path.rename(tmp_path / "pooler.log.1")
    sink.reopen()
    until(path.exists, "the file to be made again")
    sink.emit([line("b")])
    until(lambda: path.read_text() == shown("b"), "the second line")
    path.rename(tmp_path / "pooler.log.2")
    sink.emit([line("c")])
    until(lambda: path.exists() and path.read_text() == shown("c"), "the third line, without a HUP")
    close(sink)


def test_a_truncated_file_gets_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "pooler.log"
    sink = file_sink(str(path))
    sink.emit([line("a" * 1000)])
    until(lambda: path.stat().st_size > 1000, "the first line")
    os.truncate(path, 0)
    sink.emit([line("b")])
    until(lambda: path.read_text() == shown("b"), "the second line")
    close(sink)


def test_a_full_disk_is_waited_for_and_told() -> None:
    sink = file_sink("/dev/full")
    sink.emit([line("a")])
    until(lambda: sink.stats().last_error == "No space left on device", "the error")
    assert sink.stats().queued == 1
    close(sink)
    assert sink.stats().dropped == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty drain"),
        ("/nowhere/at/all.log", "No such file or directory"),
        ("/tmp", "is a directory"),
        ("ftp://host/x", "scheme 'ftp' is unknown"),
        ("syslog://", "names no host"),
        ("syslog://host:99999", "host or port cannot be read"),
        ("https://user:secret@[::1/x", "host or port cannot be read"),
        ("https://user:secret@host:0/", "port 0"),
    ],
)
def test_a_drain_that_cannot_be_is_one_clear_sentence(url: str, words: str) -> None:
    with pytest.raises(DrainError) as caught:
        open_sink(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_every_kind_of_drain_opens(tmp_path: Path) -> None:
    kinds = {
        "-": ("stdout", "-"),
        "stdout": ("stdout", "-"),
        str(tmp_path / "a"): ("file", str(tmp_path / "a")),
        f"file://{tmp_path}/b": ("file", f"{tmp_path}/b"),
        "syslog://logs.example:10514": ("syslog", "syslog://logs.example:10514"),
        "syslog+tls://logs.example": ("syslog+tls", "syslog+tls://logs.example"),
        "https://u:secret@logs.example/in?token=x": ("https", "https://logs.example/..."),
        "http://[::1]:8080": ("http", "http://[::1]:8080"),
    }

    async def scene() -> None:
        for url, (kind, target) in kinds.items():
            sink = open_sink(url)
            assert (sink.stats().kind, sink.stats().target) == (kind, target)
            await sink.close()

    asyncio.run(scene())
