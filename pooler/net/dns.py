"""Names of servers -> addresses: a cache over the system's resolver, and word of what has changed.

Each look-up runs in a thread of its own that nobody waits for at the end: a name server that does not answer holds
up neither the loop nor a shutdown. The system tells no time to live, so an answer is good for dns_max_ttl, a failure
for dns_nxdomain_ttl. The rule: the addresses of a name are used in turn; one that vanishes is told to `on_gone`. Where
nobody could be asked, the addresses that were known stand: only the word that there is no such name takes them away.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Container
from dataclasses import field
from math import inf

from pooler.config.settings import Settings
from pooler.log import WARNING
from pooler.net.address import Address, resolve_here, tcp_port
from pooler.net.dialerror import DialError
from pooler.stats import DnsHost
from pooler.values import dataclass

NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)
Found = tuple[Address, ...]
"""Addresses with port 0, in the system's order."""


@dataclass(slots=True)
class Name:
    """What is known of one name. Times are the loop's."""

    addresses: Found = ()
    """Empty when there are none, or none are known."""
    known: frozenset[str] = frozenset()
    """Those of the last answer, whatever failed since."""
    failure: str = ""
    until: float = 0.0
    turn: int = 0
    pending: asyncio.Future[None] | None = None
    waiting: int = 0
    """How many wait for the look-up under way."""


@dataclass(slots=True)
class Dns:
    """The addresses of names, as long as they are good. `on_gone(name, addresses)`: these are no longer the name's."""

    loop: asyncio.AbstractEventLoop
    settings: Callable[[], Settings]
    say: Callable[[str, str], None]
    on_gone: Callable[[str, frozenset[str]], None]
    look_up: Callable[[str], Found] = field(default=lambda name: system_addresses(name))
    names: dict[str, Name] = field(default_factory=dict)

    async def addresses(self, host: str, port: int) -> Found:
        """All addresses of a host, another one first each time. Raises DialError."""
        here = resolve_here(host, port)
        if here is not None:
            return (here,)
        name = self.names.setdefault(host, Name())
        if name.until <= self.loop.time():
            name.waiting += 1
            try:
                await asyncio.shield(self._pending(host, name))
            finally:
                name.waiting -= 1
        if not name.addresses:
            detail = f"{host}: {name.failure}"
            raise DialError("server DNS lookup failed", stage="connect", detail=detail, told=True)
        first = name.turn % len(name.addresses)
        name.turn += 1
        return tuple(with_port(a, port) for a in name.addresses[first:] + name.addresses[:first])

    def take_in(self, host: str, address: Address) -> bool:
        """There is a connection to this host that was made elsewhere: whether the address is still the name's, as far
        as is known. If it is found not to be later, that is told."""
        if isinstance(address.sockaddr, str) or resolve_here(host, address.sockaddr[1]) is not None:
            return True
        name = self.names.setdefault(host, Name())
        if name.addresses:
            return ip(address) in name.known
        name.known |= {ip(address)}
        return True

    def refresh(self, host: str) -> float:
        """Look up again a name that is in use, if what is known of it is too old; until when it is not."""
        name = self.names.get(host)
        if name is None:
            return inf
        if name.until <= self.loop.time():
            self._pending(host, name)
        return name.until

    def keep(self, hosts: Container[str]) -> None:
        """Forget all other names."""
        for host in [host for host, name in self.names.items() if host not in hosts and name.pending is None]:
            del self.names[host]

    def rows(self) -> tuple[DnsHost, ...]:
        """As SHOW DNS_HOSTS has them."""
        now = self.loop.time()
        return tuple(
            DnsHost(host, max(0, int(name.until - now)), ",".join(map(str, name.addresses)))
            for host, name in self.names.items()
        )

    @property
    def queries(self) -> int:
        """Look-ups under way."""
        return sum(name.pending is not None for name in self.names.values())

    @property
    def pending(self) -> int:
        """How many wait for one."""
        return sum(name.waiting for name in self.names.values())

    def _pending(self, host: str, name: Name) -> asyncio.Future[None]:
        if name.pending is None:
            name.pending = self.loop.create_future()
            try:
                threading.Thread(target=self._ask, args=(host,), name=f"dns {host}", daemon=True).start()
            except RuntimeError as error:
                # No thread to be had: as good as a name server that cannot be reached.
                self.loop.call_soon(self._answer, host, (), str(error), False)
        return name.pending

    def _ask(self, host: str) -> None:
        """In a thread."""
        found: Found = ()
        failure, certain = "no address", True
        try:
            found = self.look_up(host)
        except Exception as error:
            # Whatever it is, somebody waits for an answer.
            failure = str(error.strerror if isinstance(error, OSError) else error) or type(error).__name__
            certain = isinstance(error, UnicodeError) or getattr(error, "errno", None) in NO_SUCH_NAME
        if not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(self._answer, host, found, failure, certain)
            except RuntimeError:
                # The loop was closed in this moment: nobody wants to know any more.
                return

    def _answer(self, host: str, found: Found, failure: str, certain: bool) -> None:
        """`certain`: that there are no addresses, where none were `found`."""
        name, settings = self.names[host], self.settings()
        name.until = self.loop.time() + (settings.dns_max_ttl if found else settings.dns_nxdomain_ttl)
        if not found and failure != name.failure:
            self.say(WARNING, f"DNS lookup failed: {host}: {failure}")
        name.failure = "" if found else failure
        if found or certain:
            name.addresses = found
        assert name.pending is not None
        name.pending.set_result(None)
        name.pending = None
        if found:
            now = frozenset(map(ip, found))
            gone, name.known = name.known - now, now
            if gone:
                self.on_gone(host, gone)


def system_addresses(name: str) -> Found:
    """By getaddrinfo, which blocks. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(Address(int(family), place) for family, _, _, _, place in found))  # type: ignore[arg-type]


def with_port(address: Address, port: int) -> Address:
    assert not isinstance(address.sockaddr, str)
    place = (address.sockaddr[0], tcp_port(port), *address.sockaddr[2:])
    return Address(address.family, place)


def ip(address: Address) -> str:
    return str(address.sockaddr[0])
