"""Becoming a proper process: another user, the background, a pidfile. All of it before the event loop exists, since an
epoll descriptor does not survive a fork.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket

from pooler.config.settings import Settings
from pooler.process.service import ServiceError

KNOCK_TIMEOUT = 20.0
"""Seconds."""
LONGEST = 100
"""Bytes that are read of a pidfile."""
BLANK = b" \t\r\n\0"
PID = re.compile(rb"[ \t\r\n\0]*+(-?[0-9]++)?+[ \t\r\n\0]*+")
"""A pidfile's content: a number, or nothing where its writing was cut short (after a loss of power there are zeros)."""
HIGHEST = 1 << 22
"""Linux gives no process a higher number."""


def become(name: str) -> None:
    """Run as system user `name` from now on. Raises ServiceError."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"could not find user '{name}' to switch to") from None
    if entry.pw_uid == os.geteuid():
        return
    try:
        os.initgroups(name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise ServiceError(f"failed to assume identity of user '{name}': {error.strerror}") from None


def detach() -> None:
    """Go on in the background, in a session of our own, with stdin, stdout and stderr at /dev/null."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


class Pidfile:
    """The file with our process id, from `check` (nobody else's) to `remove`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.written = False

    def check(self) -> bool:
        """Whether there was a stale one, removed now. Raises ServiceError when its process lives, and when it is none
        that a pooler has written: what was configured by mistake is not deleted."""
        try:
            text = self._read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ServiceError(f"could not read pidfile '{self.path}': {error.strerror}") from None
        if not PID.fullmatch(text):
            raise ServiceError(f"pidfile '{self.path}' holds no process id: remove it, if it is a pidfile")
        if _lives(int(text.strip(BLANK) or 0)):
            raise ServiceError(f"pidfile '{self.path}' exists, another instance running?")
        try:
            os.unlink(self.path)
        except OSError as error:
            raise ServiceError(f"could not remove stale pidfile: {error.strerror}") from None
        return True

    def _read(self) -> bytes:
        """Its beginning. Raises OSError."""
        # What is no file might have us wait for somebody to write into it.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, LONGEST)
        finally:
            os.close(descriptor)

    def write(self) -> None:
        """Whoever reads it finds a whole one, of the process before or of this one. Raises ServiceError."""
        fresh = f"{self.path}.{os.getpid()}"
        try:
            # Left behind by one that had our number, or laid for us by somebody: it is not written through.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(f"{os.getpid()}\n")
                os.replace(fresh, self.path)
            except BaseException:
                os.unlink(fresh)
                raise
        except OSError as error:
            raise ServiceError(f"could not write pidfile '{self.path}': {error.strerror}") from None
        self.written = True

    def leave(self) -> None:
        """A new process goes on and writes its own id whenever it gets to it: looking whose it is and removing it
        then are two steps, and between them it becomes the other's."""
        self.written = False

    def remove(self) -> None:
        """Unless it is another process's by now, or cannot be removed any more: the next start finds it stale."""
        if self.written:
            with contextlib.suppress(OSError):
                if self._read().strip() == str(os.getpid()).encode():
                    os.unlink(self.path)


def _lives(pid: int) -> bool:
    """Whether another process has this number. Our own is that of one before us: in a container, the first and only
    process has the same one each time."""
    if pid <= 0 or pid > HIGHEST or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def socket_name(settings: Settings) -> str:
    return f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"


def knock(settings: Settings) -> socket.socket | None:
    """A connection to the process that listens on our Unix socket; None when there is none."""
    if not settings.unix_socket_dir or settings.unix_socket_dir.startswith("@"):
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(KNOCK_TIMEOUT)
    try:
        sock.connect(socket_name(settings))
    except OSError:
        sock.close()
        return None
    return sock
