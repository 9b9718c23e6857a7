"""What a service manager gives and wants: listening sockets by LISTEN_FDS, and word of our state by NOTIFY_SOCKET.

The protocols are sd_listen_fds(3) and sd_notify(3). Without a service manager nothing here has any effect. The rule:
the variables are taken out of the environment when they are read, so that no child takes them for its own.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping

FIRST_DESCRIPTOR = 3
READY, RELOADING, STOPPING = "READY=1", "RELOADING=1", "STOPPING=1"


def passed_sockets(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that a service manager bound for us; none without one."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    return [_adopt(descriptor) for descriptor in descriptors if stat.S_ISSOCK(os.fstat(descriptor).st_mode)]


def _adopt(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


class Notifier:
    """Tells the service manager how we are, if there is one that wants to know."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        """Kept, for later there may be no descriptor for another."""

    def tell(self, state: str) -> None:
        """Send one of the states above. A manager that does not listen, or not now, is not our concern."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            if self._sock is None:
                self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.sendto(state.encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
