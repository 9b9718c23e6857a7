"""Places for lines: a file, standard error or output, the system's log. Nothing here raises, and nothing waits.

What cannot be written at once is kept, up to KEPT_BYTES, and written with the next line or when `catch_up` is called;
what does not fit any more is counted, and told in its place as soon as there is room again. The rule: saying is no part
of doing. Whoever reads what we write may stop reading, go away or run out of room, and nobody else notices.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

STDOUT, STDERR = 1, 2
KEPT_BYTES = 256 * 1024
LAST_WAIT = 0.3
"""Seconds that the end of the process waits for who reads slowly."""
UNREAD = "nobody reads it"
SYSTEM_LOG = "/dev/log"
SHORTEST_RECORD = 1024
"""What the system's log takes however little it takes (RFC 3164)."""


class Target(Protocol):
    def send(self, data: bytes) -> int:
        """Write some of `data`; how much. Raises OSError, BlockingIOError when it would have to wait."""

    def close(self) -> None: ...


class Descriptor:
    """A descriptor that does not block."""

    def __init__(self, fd: int, *, own: bool) -> None:
        self._fd = fd
        self._own = own

    def send(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        if self._own:
            self._own = False
            os.close(self._fd)


class Shared:
    """A pipe or terminal that others write to as well, and that may block: no more is written at once than there is
    room for."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)

    def send(self, data: bytes) -> int:
        if not self._room.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, data[: select.PIPE_BUF])

    def close(self) -> None:
        """It is not ours."""


class Stream:
    """A connected socket that others write to as well: a service manager's journal."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=os.dup(fd))

    def send(self, data: bytes) -> int:
        return self._sock.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._sock.close()


class SystemLog:
    """The socket of syslog, as syslog(3) speaks to it, but for the waiting. Its server may come, go and come again."""

    def __init__(self, path: str = SYSTEM_LOG) -> None:
        self._path = path
        self._sock: socket.socket | None = None

    def send(self, data: bytes) -> int:
        """One record, whole."""
        try:
            if self._sock is None:
                self._sock = self._connected()
            self._record(self._sock, data)
        except BlockingIOError:
            raise
        except OSError:
            self.close()
            raise
        return len(data)

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        return sock

    def _record(self, sock: socket.socket, data: bytes) -> None:
        try:
            sock.send(data, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            sock.send(data[:SHORTEST_RECORD], socket.MSG_DONTWAIT)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Outlet:
    """One place, called `name`. `notice(lines, why)` is the line that tells how many are missing there."""

    def __init__(self, name: str, target: Target, notice: Callable[[int, str], bytes]) -> None:
        self.name = name
        self.lost = 0
        """Lines that were never written."""
        self._target = target
        self._notice = notice
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._torn = False
        """The first that waits is the rest of a line."""
        self._untold = 0
        self._trouble = self._why = ""

    @property
    def behind(self) -> bool:
        return bool(self._waiting or self._untold)

    @property
    def trouble(self) -> str:
        """Why it is behind; empty when it is not."""
        return self._trouble if self.behind else ""

    def put(self, line: bytes) -> None:
        """Write a line, or keep it until it can be written."""
        if self.behind and not self.catch_up():
            return self._keep(line)
        rest = self._sent(line)
        if len(rest) == len(line):
            self._keep(line)
        elif rest:
            self._keep_rest(rest)

    def catch_up(self) -> bool:
        """Write what waits, and then how many lines are missing behind it. True when all is told."""
        while self._waiting:
            first = self._waiting[0]
            rest = self._sent(first)
            self._size -= len(first) - len(rest)
            if rest:
                self._torn = self._torn or len(rest) < len(first)
                self._waiting[0] = rest
                return False
            self._waiting.popleft()
            self._torn = False
        return self._tell() if self._untold else True

    def _tell(self) -> bool:
        notice = self._notice(self._untold, self._why)
        rest = self._sent(notice)
        if len(rest) == len(notice):
            return False
        self._untold = 0
        if rest:
            self._keep_rest(rest)
        return not rest

    def lose(self, count: int, why: str) -> None:
        """So many lines will not be written."""
        self.lost += count
        self._untold += count
        self._why = why

    def take_over(self, old: Outlet) -> None:
        """Go on with what waits in another outlet, which is to be closed: all but the rest of a line that it began."""
        lines = list(old._waiting)[old._torn :]
        for line in lines:
            self._keep(line)
        if old._torn:
            old.lose(1, old._trouble)
        self.lost, self._untold, self._why = old.lost, old._untold, old._why
        old._waiting.clear()
        old._size = old._untold = 0
        self.catch_up()

    def close(self) -> None:
        """Write what still can be written, within LAST_WAIT if it is only the reader that is slow."""
        until = time.monotonic() + LAST_WAIT
        while not self.catch_up() and self._trouble == UNREAD and time.monotonic() < until:
            time.sleep(0.005)
        self.lost += len(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._target.close()

    def _keep(self, line: bytes) -> None:
        if self._untold or self._size + len(line) > KEPT_BYTES:
            return self.lose(1, self._trouble)
        self._waiting.append(line)
        self._size += len(line)

    def _keep_rest(self, rest: bytes) -> None:
        """A line that was begun is written to its end, however little there is room for."""
        self._torn = True
        self._waiting.append(rest)
        self._size += len(rest)

    def _sent(self, data: bytes) -> bytes:
        """Write; what could not be written now."""
        try:
            while data:
                data = data[self._target.send(data) :]
        except BlockingIOError:
            self._trouble = UNREAD
        except OSError as error:
            self._trouble = error.strerror or type(error).__name__
        return data


def standard(fd: int) -> Target | None:
    """Standard output or error; None when there is none. The description that we share with others is left as it is:
    made non-blocking, it would be so for them as well."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return None
    if stat.S_ISSOCK(mode):
        return Stream(fd)
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return Descriptor(fd, own=False)
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        # Somebody else's pipe, as in many containers.
        return Shared(fd)
    return Descriptor(own, own=True)


def appended(path: str) -> Target:
    """The file of this name, made if there is none. Raises OSError; a FIFO that nobody reads is one."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return Descriptor(os.open(path, flags, 0o666), own=True)


def for_a_person() -> bool:
    """Whether what is announced is read on a terminal, and not kept by a journal, a file or a collector."""
    return os.isatty(STDOUT)


def announce(text: str, fd: int = STDOUT) -> None:
    """Print something for the user, if standard output (or error) takes it."""
    target = standard(fd)
    if target is not None:
        outlet = Outlet("", target, lambda count, why: b"")
        outlet.put(text.encode("utf-8", "backslashreplace"))
        outlet.close()
