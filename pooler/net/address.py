"""Addresses: who is at the other end of a connection, and where a server is to be found.

Values only: nobody is asked here, so a name has no address yet (`dns` asks). The rule: a number of a configuration that
is no port of TCP stands for the 16 bits that fit, as in PgBouncer.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from pooler.values import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, in SHOW CLIENTS' words. For Unix sockets `addr` is `unix`, the port is that of
    the socket's file name, and pid, uid and gid are the peer process's (-1 where unknown)."""

    addr: str
    port: int
    local_addr: str
    local_port: int
    pid: int = -1
    uid: int = -1
    gid: int = -1

    @property
    def is_unix(self) -> bool:
        return self.addr == "unix"

    @property
    def is_loopback(self) -> bool:
        return self.is_unix or self.addr == "::1" or self.addr.startswith("127.")

    @property
    def source(self) -> str:
        """Where we connect from, as the log has it; nothing on a Unix socket."""
        return "" if self.is_unix else f" (from {Peer(self.local_addr, self.local_port, '', 0)})"

    @property
    def way(self) -> str:
        """From where to where a client has come."""
        return "unix->unix" if self.is_unix else f"{self} -> {Peer(self.local_addr, self.local_port, '', 0)}"

    def __str__(self) -> str:
        """As in PgBouncer's log prefix."""
        if self.is_unix:
            return f"unix({self.pid}):{self.port}" if self.pid > 0 else f"unix:{self.port}"
        return f"[{self.addr}]:{self.port}" if ":" in self.addr else f"{self.addr}:{self.port}"

    @property
    def in_full(self) -> str:
        """With the host of a process, for those who read it on another one."""
        if self.is_unix and self.pid > 0:
            return f"unix({self.pid}@{socket.gethostname()}):{self.port}"
        return str(self)


class Address(NamedTuple):
    """Where a socket connects to, as the socket module wants it."""

    family: int
    sockaddr: str | tuple[str, int] | tuple[str, int, int, int]

    def __str__(self) -> str:
        """As the log has it."""
        if isinstance(self.sockaddr, str):
            return self.sockaddr.replace("\0", "@", 1)
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def is_loopback(self) -> bool:
        return not isinstance(self.sockaddr, str) and ipaddress.ip_address(self.sockaddr[0]).is_loopback


def resolve_here(host: str, port: int) -> Address | None:
    """The address of a host for which nobody needs to be asked; None for a name."""
    if host.startswith("/"):
        return Address(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")
    if host.startswith("@"):
        return Address(socket.AF_UNIX, f"\0{host[1:]}/.s.PGSQL.{port}")
    return _literal(host, port)


def tcp_port(port: int) -> int:
    """The port TCP has for a number that a configuration may have: the 16 bits that fit."""
    return port & 0xFFFF


def _literal(host: str, port: int) -> Address | None:
    """The address when `host` is one already, so that no thread has to ask."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return Address(socket.AF_INET, (host, tcp_port(port)))
    scope = _scope(ip.scope_id)
    return Address(socket.AF_INET6, (host.partition("%")[0], tcp_port(port), 0, scope))


def _scope(name: str | None) -> int:
    if not name:
        return 0
    try:
        return int(name) if name.isdecimal() else socket.if_nametoindex(name)
    except OSError:
        return 0
