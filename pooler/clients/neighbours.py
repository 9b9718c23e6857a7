"""Neighbours: peers that are found by name, as a headless service of Kubernetes has it for the pods of a StatefulSet.

`peers_name` is the name of all of them together; each has one of its own below it, which begins with its host's name:
`pooler-0.pooler.svc`, `pooler-1.pooler.svc`, … The number at its end makes its peer_id, which has to be above 0: one
more. The resolver tells of a name nothing but addresses, so the hosts are asked for in turn until each address of
`peers_name` has its host. The rule: what a stranger's key says is looked up nowhere; who is not found yet is no peer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine

from pooler.config.databases import PeerConfig
from pooler.log import WARNING
from pooler.net.dialerror import DialError
from pooler.net.dns import Dns, ip
from pooler.pools.running import Running

MOST = 65535
"""The highest peer_id."""
GAP = 16
"""So many hosts in a row that are not there are the end of them, whatever addresses are left."""
LEAST = 1.0
"""Seconds between two looks at the least: an answer may be good for no time at all."""


def ordinal(host: str) -> tuple[str, int] | None:
    """What a host's name begins with, and the number at the end of its first label: pooler-2.some.where is
    ("pooler-", 2). None where there is no such number, or none that a peer can have."""
    label = host.partition(".")[0]
    prefix = label.rstrip("0123456789")
    digits = label[len(prefix) :]
    if not digits or len(digits) > len(str(MOST)) or digits != str(int(digits)) or int(digits) >= MOST:
        return None
    return prefix, int(digits)


class Neighbours:
    """Keeps `running.neighbours` true. `host`: this host's name."""

    def __init__(self, running: Running, dns: Dns, host: str | None = None) -> None:
        self._running = running
        self._dns = dns
        self.name = running.config.own.peers_name
        self._host = socket.gethostname() if host is None else host
        self._own = ordinal(self._host)
        self._pause = 0.0
        if self.name and self._own is not None:
            running.neighbour_id = self._own[1] + 1

    @property
    def hosts(self) -> set[str]:
        """All names that are asked for."""
        return {self.name, *(peer.host for peer in self._running.neighbours.values())} - {""}

    def problem(self) -> str:
        """Why cancel requests will not find their way by `peers_name`; empty if they will, or without it."""
        if not self.name:
            return ""
        if self._own is None:
            return f"peers_name finds nobody: this host's name, {self._host}, has no number at its end"
        given = self._running.config.settings.peer_id
        if given and given != self._own[1] + 1:
            return f"peer_id is {given}, but by peers_name others take {self._host} for peer {self._own[1] + 1}"
        return ""

    @property
    def always(self) -> tuple[Callable[[], Coroutine[None, None, None]], ...]:
        """What goes on as long as the process."""
        return (self.look_forever,) if self.name else ()

    async def look_forever(self) -> None:
        """Look for them as often as answers grow old."""
        if problem := self.problem():
            self._running.say(WARNING, problem)
        await self._running.rounds.forever("peers", lambda: asyncio.sleep(self._pause), self.look)

    async def look(self) -> None:
        """Once, for all of them."""
        settings = self._running.config.settings
        self._pause = max(LEAST, settings.dns_nxdomain_ttl)
        self._running.neighbours = found = await self._find() if self._own is not None else {}
        if found:
            self._pause = max(LEAST, settings.dns_max_ttl)

    async def _find(self) -> dict[int, PeerConfig]:
        assert self._own is not None
        left, found, missing, number = await self._addresses(self.name), dict[int, PeerConfig](), 0, 0
        while left and missing < GAP and number < MOST:
            host = f"{self._own[0]}{number}.{self.name}"
            number += 1
            addresses = await self._addresses(host)
            missing = 0 if addresses else missing + 1
            left -= addresses
            if addresses:
                found[number] = PeerConfig(number, host, self._running.config.settings.listen_port)
        return found

    async def _addresses(self, host: str) -> set[str]:
        """None is an answer as well; what cannot be asked stands as it was (see `dns`)."""
        try:
            return {ip(address) for address in await self._dns.addresses(host, 0)}
        except DialError:
            return set()
