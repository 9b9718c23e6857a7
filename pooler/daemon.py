"""Becoming a proper process: another user, the background, a pidfile. All of it before the event loop exists, since an
epoll descriptor does not survive a fork.
"""

from __future__ import annotations

import os
import pwd
import socket

from pooler.service import ServiceError
from pooler.settings import Settings

KNOCK_TIMEOUT = 20.0
"""Seconds."""


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
        """Whether there was a stale one, removed now. Raises ServiceError when its process lives."""
        try:
            with open(self.path) as file:
                pid = int(file.read(32).strip() or "0")
        except FileNotFoundError:
            return False
        except ValueError:
            pid = 0
        except OSError as error:
            raise ServiceError(f"could not read pidfile '{self.path}': {error.strerror}") from None
        if pid > 0 and _lives(pid):
            raise ServiceError(f"pidfile '{self.path}' exists, another instance running?")
        try:
            os.unlink(self.path)
        except OSError as error:
            raise ServiceError(f"could not remove stale pidfile: {error.strerror}") from None
        return True

    def write(self) -> None:
        fresh = f"{self.path}.{os.getpid()}"
        try:
            with open(fresh, "w") as file:
                file.write(f"{os.getpid()}\n")
            # Whoever reads it finds a whole one, of the process before or of this one.
            os.replace(fresh, self.path)
        except OSError as error:
            raise ServiceError(f"could not write pidfile '{self.path}': {error.strerror}") from None
        self.written = True

    def leave(self) -> None:
        """A new process goes on and writes its own id whenever it gets to it: looking whose it is and removing it
        then are two steps, and between them it becomes the other's."""
        self.written = False

    def remove(self) -> None:
        """Unless it is another process's by now."""
        if not self.written:
            return
        try:
            with open(self.path) as file:
                ours = file.read().strip() == str(os.getpid())
            if ours:
                os.unlink(self.path)
        except FileNotFoundError:
            return


def _lives(pid: int) -> bool:
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
