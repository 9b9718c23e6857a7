"""Options of TCP sockets, from the tcp_* settings: the same for clients and servers.

Unix sockets have none of them, only the buffer size. The rule: 0 leaves what the system has, but for a server on this
host, whose long results the relay pulls through a narrow window (`Server.set_manner`).
"""

from __future__ import annotations

import socket

from pooler.config.settings import Settings
from pooler.relay import NARROW
from pooler.values import dataclass

Choice = tuple[int, int, int]
"""Level, option and value, as setsockopt has them."""


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """The tcp_* settings of the same names; seconds, but tcp_user_timeout in milliseconds and sizes in
    bytes."""

    keepalive: bool = True
    keepcnt: int = 0
    keepidle: int = 0
    keepintvl: int = 0
    user_timeout: int = 0
    socket_buffer: int = 0

    @classmethod
    def of(cls, settings: Settings) -> SocketOptions:
        return cls(
            settings.tcp_keepalive,
            settings.tcp_keepcnt,
            settings.tcp_keepidle,
            settings.tcp_keepintvl,
            settings.tcp_user_timeout,
            settings.tcp_socket_buffer,
        )

    def choices(self, *, tcp: bool, local: bool = False) -> tuple[Choice, ...]:
        """What is to be set on a socket; `local`: on its way to a server on this host, over TCP."""
        buffer, keepalive = self.socket_buffer, int(self.keepalive)
        found = (
            (socket.SOL_SOCKET, socket.SO_SNDBUF, buffer),
            (socket.SOL_SOCKET, socket.SO_RCVBUF, buffer or local * NARROW),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, int(tcp)),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, tcp * self.user_timeout),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp * keepalive),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, tcp * keepalive * self.keepcnt),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, tcp * keepalive * self.keepidle),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, tcp * keepalive * self.keepintvl),
        )
        return tuple(choice for choice in found if choice[2])

    def apply(self, sock: socket.socket, *, local: bool = False) -> None:
        """Raises OSError when the system refuses a value."""
        for choice in self.choices(tcp=sock.family != socket.AF_UNIX, local=local):
            sock.setsockopt(*choice)
