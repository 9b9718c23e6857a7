"""Places for lines: whole lines in their order, none lost without being counted and told, and nobody ever waits."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler import outlet
from pooler.config.kinds import LogFormat
from pooler.config.whole import parse
from pooler.log import DEBUG, ERROR, KEPT_LINES, KEPT_TEXT, LOG, Bridge, Log, LogError
from pooler.outlet import Descriptor, Outlet, Shared, Stream, SystemLog, appended, standard
from tests.fixtures.process import imports
from tests.fixtures.waiting import DEADLINE, until

TOLD = re.compile(rb"<(\d+) missing: ([^>]*)>\n")


def notice(count: int, why: str) -> bytes:
    return b"<%d missing: %b>\n" % (count, why.encode())


class Disk:
    """A target with so much room, and then an error."""

    def __init__(self, room: int = 0, error: int = errno.ENOSPC) -> None:
        self.room = room
        self.error = error
        self.data = b""
        self.closed = False

    def send(self, data: bytes) -> int:
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))
        written = data[: self.room]
        self.room -= len(written)
        self.data += written
        return len(written)

    def close(self) -> None:
        self.closed = True


Steps = list[tuple[str, int]]
STEPS = st.lists(st.tuples(st.sampled_from(["line", "room", "none", "again"]), st.integers(0, 60)), max_size=60)


@given(STEPS, st.integers(0, 120))
def test_whole_lines_in_their_order_and_every_gap_is_told(steps: Steps, kept: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlet, "KEPT_BYTES", kept)
        disk = Disk()
        place = Outlet("here", disk, notice)
        said = 0
        for step, size in steps:
            if step == "line":
                place.put(b"line %d %b\n" % (said, b"x" * size))
                said += 1
            elif step == "again":
                place.catch_up()
            else:
                disk.room = size if step == "room" else 0
        disk.room = 10**9
        assert place.catch_up()
        assert not place.behind
    expected, told = 0, 0
    for line in disk.data.splitlines(keepends=True):
        gap = TOLD.fullmatch(line)
        if gap:
            expected += int(gap[1])
            told += int(gap[1])
            assert gap[2] == b"No space left on device"
        else:
            assert re.fullmatch(rb"line %d x*\n" % expected, line)
            expected += 1
    assert expected == said
    assert told == place.lost


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EPIPE, errno.ENOMEM])
def test_no_error_is_raised_and_each_is_named(error: int) -> None:
    disk = Disk(error=error)
    place = Outlet("here", disk, notice)
    place.put(b"one\n")
    assert place.trouble == os.strerror(error)
    disk.room = 100
    place.put(b"two\n")
    assert disk.data == b"one\ntwo\n"
    assert place.trouble == ""


def test_what_waits_is_bounded() -> None:
    place = Outlet("here", Disk(), notice)
    for _ in range(10_000):
        place.put(b"x" * 99 + b"\n")
    assert sum(map(len, place._waiting)) <= outlet.KEPT_BYTES
    assert place.lost == 10_000 - outlet.KEPT_BYTES // 100


def test_another_file_goes_on_with_what_waits() -> None:
    """The operator has made the log another disk: lines stay whole, and the one that was begun counts as missing."""
    full, fresh = Disk(room=3), Disk(room=1000)
    old = Outlet("old", full, notice)
    old.put(b"first\n")
    old.put(b"second\n")
    new = Outlet("new", fresh, notice)
    new.take_over(old)
    new.put(b"third\n")
    assert full.data == b"fir"
    assert fresh.data == b"second\n<1 missing: No space left on device>\nthird\n"
    assert new.lost == 1


def test_the_end_counts_what_still_waits_as_lost() -> None:
    disk = Disk()
    place = Outlet("here", disk, notice)
    place.put(b"one\n")
    place.close()
    assert (place.lost, disk.closed) == (1, True)


# ---- who reads


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test has closed it
            os.close(end)


def drained(fd: int) -> bytes:
    """All that is there now."""
    data = b""
    while select.select([fd], [], [], 0)[0] and (part := os.read(fd, 65536)):
        data += part
    return data


@pytest.mark.parametrize("kind", [lambda fd: standard(fd), Shared], ids=["ours", "shared"])
def test_a_pipe_that_nobody_reads_holds_nobody_up(pipe: tuple[int, int], kind: Callable[[int], outlet.Target]) -> None:
    reader, writer = pipe
    place = Outlet("pipe", kind(writer), notice)
    lines = [b"line %d %b\n" % (number, b"x" * 100) for number in range(1500)]
    for line in lines:
        place.put(line)
    assert place.trouble == outlet.UNREAD
    assert place.lost == 0
    seen = b""
    while not place.catch_up():
        seen += drained(reader)
    seen += drained(reader)
    assert seen == b"".join(lines)
    # Others who write to the same pipe may still count on being waited for.
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    place.close()


def test_a_pipe_whose_reader_is_gone(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    target = standard(writer)
    assert target is not None
    os.close(reader)
    place = Outlet("pipe", target, notice)
    place.put(b"one\n")
    assert place.trouble == "Broken pipe"
    shared = Outlet("pipe", Shared(writer), notice)
    shared.put(b"one\n")
    assert shared.trouble == "Broken pipe"
    place.close()


def test_a_terminal_that_is_stopped_holds_nobody_up() -> None:
    """As by Ctrl-S."""
    leader, terminal = pty.openpty()
    target = standard(terminal)
    assert isinstance(target, Descriptor)
    place = Outlet("terminal", target, notice)
    for number in range(3000):
        place.put(b"line %d %b\n" % (number, b"x" * 100))
    assert place.trouble == outlet.UNREAD
    os.close(leader)
    place.close()
    os.close(terminal)


def test_a_journal_that_does_not_read_holds_nobody_up() -> None:
    ours, theirs = socket.socketpair()
    target = standard(ours.fileno())
    assert isinstance(target, Stream)
    place = Outlet("journal", target, notice)
    sent = 0
    while not place.trouble:
        place.put(b"x" * 999 + b"\n")
        sent += 1
    got = 0
    while not place.catch_up():
        got += len(theirs.recv(65536))
    while select.select([theirs], [], [], 0)[0]:
        got += len(theirs.recv(65536))
    assert got == sent * 1000
    assert ours.getblocking()
    place.close()
    ours.close()
    theirs.close()


def test_no_standard_error_at_all() -> None:
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    assert standard(spare) is None


def test_a_syslog_that_comes_goes_and_stalls(tmp_path: Path) -> None:
    path = tmp_path / "log"
    place = Outlet("syslog", SystemLog(str(path)), notice)
    place.put(b"before anybody is there")
    assert place.trouble == "No such file or directory"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(DEADLINE)
        place.put(b"two")
        assert [server.recv(100), server.recv(100)] == [b"before anybody is there", b"two"]
        count = 0
        while not place.trouble:
            place.put(b"three")
            count += 1
        assert place.trouble == outlet.UNREAD
        for _ in range(count):
            place.catch_up()
            assert server.recv(100) == b"three"
        place.put(b"y" * 10_000_000)
        assert not place.behind
        assert server.recv(100_000) == b"y" * outlet.SHORTEST_RECORD
    path.unlink()
    place.put(b"four")
    assert place.behind
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        assert place.catch_up()
        assert server.recv(100) == b"four"
    place.close()


# ---- the log over them


def settings(**values: object):  # type: ignore[no-untyped-def]
    return parse("[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())).settings


def test_a_full_disk_is_told_elsewhere_and_then_where_it_was_full(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    target = standard(writer)
    assert target is not None
    log = Log(stderr=False)
    disk = Disk()
    log._file = Outlet("logfile 'x'", disk, log._notice)
    log._stderr = Outlet("stderr", target, log._notice)
    for number in range(5000):
        log.line(LOG, f"line {number} {'x' * 100}")
        drained(reader) if number > 3 else None
    log.line(LOG, "the last")
    assert log.lost == log._file.lost > 0
    disk.room = 10**9
    log.catch_up()
    text = disk.data.decode().splitlines()
    assert text[-1].endswith(f"WARNING {log.lost} lines could not be written here: No space left on device")
    assert text[0].endswith("line 0 " + "x" * 100)
    log.close()


def test_the_trouble_of_one_place_is_told_once_in_the_others() -> None:
    log = Log(stderr=False)
    full, good = Disk(), Disk(room=10**6)
    log._file, log._stderr = Outlet("logfile '/x'", full, log._notice), Outlet("stderr", good, log._notice)
    for number in range(3):
        log.line(LOG, f"line {number}")
    text = good.data.decode()
    assert text.count("cannot write to logfile '/x': No space left on device") == 1
    assert [word for word in re.findall(r"line \d", text)] == ["line 0", "line 1", "line 2"]


def test_the_last_lines_are_kept_for_who_looks_without_the_file() -> None:
    log = Log(stderr=False)
    log.line(DEBUG, "not wanted")
    for number in range(KEPT_LINES + 2):
        log.line(LOG, f"line\n{number} {'x' * 10_000}")
    kept = log.recent()
    assert len(kept) == KEPT_LINES
    assert [number for number, *_ in kept] == list(range(3, KEPT_LINES + 3))
    assert {(level, len(text)) for _, _, level, text in kept} == {(LOG, KEPT_TEXT)}
    assert kept[0][3].startswith("line?2 ")
    assert [number for number, *_ in log.recent(KEPT_LINES + 1)] == [KEPT_LINES + 2]


def test_whatever_is_wrong_in_a_line_is_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(stderr=False)
    disk = Disk(room=10**6)
    log._file = Outlet("logfile '/x'", disk, log._notice)

    def no_memory() -> str:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(log, "_stamp", no_memory)
        log.line(LOG, "lost")
    log.line(LOG, None)  # type: ignore[arg-type]
    assert log.lost == 2
    log.line(LOG, "good")
    assert re.search(r"WARNING 2 lines could not be written here: TypeError\n.* LOG good\n$", disk.data.decode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("process up", {"message": "process up"}),
        (
            "C-0x5f: app/me@127.0.0.1:5 login attempt: db=app",
            {
                "connection": "C-0x5f", "database": "app", "user": "me", "address": "127.0.0.1:5",
                "message": "login attempt: db=app",
            },
        ),
        (
            "S-0x1: (nodb)/(nouser)@unix(3):6432 closing because: x",
            {"connection": "S-0x1", "address": "unix(3):6432", "message": "closing because: x"},
        ),
        ("C-0x5f: a b/me@127.0.0.1:5 said", {"message": "C-0x5f: a b/me@127.0.0.1:5 said"}),
        ('a "quote" and \udcff', {"message": 'a "quote" and \udcff'}),
        ("one\ntwo", {"message": "one?two"}),
    ],
)  # fmt: skip
def test_a_line_as_an_object(tmp_path: Path, text: str, found: dict[str, str]) -> None:
    log, path = Log(stderr=False), tmp_path / "log"
    log.configure(parse(f"[pgbouncer]\nlogfile={path}\n").settings)
    log.write_as(LogFormat.json)
    log.line(LOG, text)
    log.write_as(LogFormat.text)
    log.line(LOG, "as before")
    log.close()
    first, second = path.read_text().splitlines()
    made = json.loads(first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.pop("time"))
    assert (made.pop("level"), made.pop("pid")) == ("LOG", os.getpid())
    assert made == found
    assert second.endswith(f"[{os.getpid()}] LOG as before")


def test_what_the_command_line_says_of_the_form_stands(tmp_path: Path) -> None:
    log, path = Log(stderr=False, form=LogFormat.json), tmp_path / "log"
    log.configure(parse(f"[pgbouncer]\nlogfile={path}\n").settings)
    log.write_as(LogFormat.text)
    log.line(LOG, "one")
    log.close()
    assert json.loads(path.read_text())["message"] == "one"


def test_a_library_that_logs_nonsense_is_told_so() -> None:
    import logging

    log = Log(stderr=False)
    disk = Disk(room=10**6)
    log._file = Outlet("logfile '/x'", disk, log._notice)
    Bridge(log).emit(logging.LogRecord("x", logging.ERROR, "", 0, "one %d", ("two",), None))
    assert "ERROR 'one %d' cannot be shown: TypeError" in disk.data.decode()


def test_a_logfile_that_cannot_be_opened_leaves_the_log_where_it_was(tmp_path: Path) -> None:
    log, path = Log(stderr=False), tmp_path / "log"
    log.configure(settings(logfile=path))
    os.mkfifo(tmp_path / "fifo")
    for wrong, why in ((tmp_path, "Is a directory"), (tmp_path / "no/log", "No such file or directory"),
                       (tmp_path / "fifo", "No such device or address")):  # fmt: skip
        with pytest.raises(LogError, match=f"could not open logfile '{wrong}': {why}"):
            log.configure(settings(logfile=wrong))
        log.line(ERROR, str(wrong))
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == [
        str(tmp_path), str(tmp_path / "no/log"), str(tmp_path / "fifo")]  # fmt: skip
    log.close()


def test_a_logfile_that_vanished_is_made_anew_with_the_next_hup(tmp_path: Path) -> None:
    log, path = Log(stderr=False), tmp_path / "log"
    log.configure(settings(logfile=path))
    path.unlink()
    log.line(LOG, "into what has no name any more")
    log.configure(settings(logfile=path))
    log.line(LOG, "anew")
    assert path.read_text().endswith("LOG anew\n")
    log.close()


def test_dev_full_as_a_logfile() -> None:
    log = Log(stderr=False)
    log.configure(settings(logfile="/dev/full"))
    for _ in range(10_000):
        log.line(LOG, "x" * 100)
    assert log.lost > 0
    log.close()
    assert log.lost == 10_000


LIMITED = """
import resource, sys
from pooler.config.kinds import LogFormat
from pooler.config.whole import parse
from pooler.log import LOG, Log

log = Log(stderr=False)
log.configure(parse(f"[pgbouncer]\\nlogfile = {sys.argv[1]}\\n").settings)
log.line(LOG, "before")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
for number in range(5):
    log.line(LOG, f"line {number}")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.line(LOG, "after")
log.close()
print(log.lost)
"""


def test_a_file_that_may_not_grow_is_no_signal_and_no_end(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: EFBIG, and SIGXFSZ, by which PgBouncer 1.26.1 ends."""
    path = tmp_path / "log"
    run = [sys.executable, "-c", textwrap.dedent(LIMITED), str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, **imports()})
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    words = [line.partition(" LOG ")[2] for line in path.read_text().splitlines()]
    assert words == ["before", *(f"line {number}" for number in range(5)), "after"]


@pytest.mark.parametrize("gone", ["closed", "unread"])
def test_announcing_to_nobody(gone: str) -> None:
    """What is printed for the user when it is ready."""
    code = "import sys; from pooler.outlet import announce; announce('x' * 1_000_000); sys.stderr.write('done')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, **imports()})  # fmt: skip
    assert process.stdout
    assert process.stderr
    if gone == "closed":
        process.stdout.close()
    until(lambda: process.poll() is not None, "its end")
    assert process.stderr.read() == b"done"
    process.stdout.close()
    process.stderr.close()
    assert process.returncode == 0


def test_the_limit_above_is_lifted_again() -> None:
    """The tests of this file that narrow a limit do so in a child."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN


def test_appending_makes_the_file(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        target = appended(str(tmp_path / "log"))
        target.send(text)
        target.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
