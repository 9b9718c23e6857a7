"""Log lines to standard output or to a file, written by a thread: a full pipe or disk never holds up the
loop.

The thread starts with the first line, so a process may still daemonise before it. Lines go out by `os.write`
on the descriptor itself, appended, so that logrotate may move the file (reopened on HUP, or when the name
leads elsewhere) or truncate it.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
import time
from collections.abc import Sequence

from metrics.drains.sink import Backlog, DrainError
from metrics.heroku import LogLine
from pooler.rounds import Rounds, described, in_the_log_of
from pooler.stats import DrainStat

BUFFER_LINES = 10_000
BATCH_LINES = 256
RETRY_SECONDS = 1.0
"""How long a full disk is left alone."""


class Writer:
    """A sink on a file descriptor. `path` None means the descriptor is not ours: never reopened, never
    closed.
    """

    def __init__(self, fd: int, kind: str, target: str, path: str | None = None, *, rounds: Rounds) -> None:
        self._rounds = rounds
        self._fd = fd
        self._kind = kind
        self._target = target
        self._path = path
        self._backlog = Backlog(BUFFER_LINES)
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._writing: list[LogLine] = []
        self._delivered = 0
        self._retries = 0
        self._last_error = ""
        self._closing = False
        self._broken = False
        self._reopen_wanted = False

    def emit(self, lines: Sequence[LogLine]) -> None:
        if not lines:
            return
        with self._wake:
            if self._broken or self._closing:
                self._backlog.lose(lines)
                return
            self._backlog.push(lines)
            self._start()
            self._wake.notify()

    def _start(self) -> None:
        """There may be no thread to be had now; the next lines ask again."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"lines {self._kind}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._last_error = str(error)
                self._rounds.failed("log lines", error)
            else:
                self._thread = thread

    def reopen(self) -> None:
        with self._wake:
            self._reopen_wanted = self._path is not None
            self._wake.notify()

    def stats(self) -> DrainStat:
        with self._wake:
            state = "closed" if self._broken or self._closing else "waiting" if self._last_error else "connected"
            queued = len(self._backlog) + len(self._writing)
            return DrainStat(
                self._kind, self._target, state, queued, self._delivered, self._backlog.dropped,
                self._retries, self._last_error,
            )  # fmt: skip

    async def close(self, timeout: float = 1.0) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        until = time.monotonic() + timeout
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.005)

    # The thread.

    def _run(self) -> None:
        while not self._broken:
            try:
                if not self._round():
                    break
            except Exception as error:
                self._rounds.failed("log lines", error)
                self._give_up_batch(described(error))
        if self._path is not None:
            os.close(self._fd)

    def _round(self) -> bool:
        """Wait for lines and write some of them; False when this was the last time."""
        with self._wake:
            while not len(self._backlog) and not self._closing and not self._reopen_wanted:
                self._wake.wait()
            loss = self._backlog.untold
            lines = self._writing = self._backlog.take(BATCH_LINES)
            if not lines and self._closing:
                return False
        self._follow_name()
        if lines:
            self._deliver(([loss.notice(lines[0].when)] if loss else []) + lines)
            with self._wake:
                self._backlog.told(loss, lines[-1].when)
        return True

    def _give_up_batch(self, why: str) -> None:
        with self._wake:
            self._backlog.lose(self._writing)
            self._writing = []
            self._last_error = why
            if not self._closing:
                self._wake.wait(RETRY_SECONDS)

    def _deliver(self, lines: list[LogLine]) -> None:
        rest = memoryview("".join(line.text + "\n" for line in lines).encode("utf-8", "backslashreplace"))
        while rest:
            error = ""
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                select.select([], [self._fd], [], RETRY_SECONDS)
            except OSError as failure:
                error = failure.strerror or str(failure)
            with self._wake:
                self._last_error = error
            if error and not self._stand_by():
                break
        with self._wake:
            if rest:
                self._backlog.lose(self._writing)
            else:
                self._delivered += len(self._writing)
            self._writing = []

    def _stand_by(self) -> bool:
        """After a failed write: False to give up. Only a file of ours can recover; a pipe without a reader
        cannot.
        """
        with self._wake:
            if self._path is None:
                self._broken = True
                self._backlog.lose(self._backlog.take(BUFFER_LINES))
                return False
            self._retries += 1
            if self._closing:
                return False
            self._wake.wait(RETRY_SECONDS)
        self._follow_name()
        return True

    def _follow_name(self) -> None:
        """Open the path again when asked to, or when it no longer leads to the file we hold."""
        if self._path is None:
            return
        with self._wake:
            wanted, self._reopen_wanted = self._reopen_wanted, False
        try:
            if not wanted and _same_file(self._path, self._fd):
                return
            fresh = open_log(self._path)
        except OSError as failure:
            with self._wake:
                self._last_error = failure.strerror or str(failure)
            return
        self._fd, old = fresh, self._fd
        os.close(old)


def _same_file(path: str, fd: int) -> bool:
    held = os.fstat(fd)
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)


def open_log(path: str) -> int:
    """Append to `path`, made when missing. A FIFO without a reader is an error rather than a wait."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    os.set_blocking(fd, True)
    return fd


def stdout_sink(fd: int = 1, rounds: Rounds | None = None) -> Writer:
    return Writer(fd, "stdout", "-", rounds=rounds or in_the_log_of("metrics"))


def file_sink(path: str, rounds: Rounds | None = None) -> Writer:
    try:
        if os.path.exists(path) and stat.S_ISDIR(os.stat(path).st_mode):
            raise DrainError(f"cannot write log lines to {path}: it is a directory")
        fd = open_log(path)
    except OSError as failure:
        raise DrainError(f"cannot write log lines to {path}: {failure.strerror}") from failure
    return Writer(fd, "file", path, path, rounds=rounds or in_the_log_of("metrics"))
