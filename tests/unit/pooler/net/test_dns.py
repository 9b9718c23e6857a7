"""Names of servers: the cache, turns, failures, what vanished, and look-ups that never end."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pooler.config.whole import compose
from pooler.net.address import Address
from pooler.net.dialerror import DialError
from pooler.net.dns import Dns, Found, ip, system_addresses
from tests.unit.pairs import run

ONE, TWO, SIX = (
    Address(socket.AF_INET, ("10.0.0.1", 0)),
    Address(socket.AF_INET, ("10.0.0.2", 0)),
    Address(socket.AF_INET6, ("fe80::1", 0, 0, 3)),
)
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Zone:
    """What the resolver would say, and how often it was asked."""

    def __init__(self, *answers: Found | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.gone: list[tuple[str, frozenset[str]]] = []
        self.said: list[str] = []

    def look_up(self, name: str) -> Found:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def dns(self, **settings: str) -> Dns:
        return Dns(
            asyncio.get_running_loop(),
            lambda: compose(settings).settings,
            lambda level, text: self.said.append(text),
            lambda host, gone: self.gone.append((host, gone)),
            self.look_up,
        )


def ips(found: Found) -> list[str]:
    return [ip(address) for address in found]


def asking(zone: Zone, body: Callable[[Dns], Awaitable[Any]], **settings: str) -> Any:
    async def main() -> Any:
        return await body(zone.dns(**settings))

    return run(main())


def test_hosts_that_are_no_names_are_not_looked_up() -> None:
    zone = Zone(())

    async def body(dns: Dns) -> None:
        assert await dns.addresses("127.0.0.1", 5) == (Address(socket.AF_INET, ("127.0.0.1", 5)),)
        assert await dns.addresses("::1", 5) == (Address(socket.AF_INET6, ("::1", 5, 0, 0)),)
        assert await dns.addresses("/run", 5) == (Address(socket.AF_UNIX, "/run/.s.PGSQL.5"),)
        assert await dns.addresses("@run", 5) == (Address(socket.AF_UNIX, "\0run/.s.PGSQL.5"),)

    asking(zone, body)
    assert zone.asked == 0


def test_addresses_take_turns_and_keep_the_port() -> None:
    zone = Zone((ONE, TWO, SIX))

    async def body(dns: Dns) -> list[Found]:
        return [await dns.addresses("db", 5432) for _ in range(4)]

    found = asking(zone, body)
    assert [ips(each)[0] for each in found] == ["10.0.0.1", "10.0.0.2", "fe80::1", "10.0.0.1"]
    assert found[2] == (
        Address(socket.AF_INET6, ("fe80::1", 5432, 0, 3)),
        Address(socket.AF_INET, ("10.0.0.1", 5432)),
        Address(socket.AF_INET, ("10.0.0.2", 5432)),
    )
    assert zone.asked == 1


def test_what_is_too_old_is_asked_again_and_what_vanished_is_told() -> None:
    zone = Zone((ONE, TWO), UNKNOWN, (TWO, SIX))

    async def body(dns: Dns) -> None:
        await dns.addresses("db", 5)
        with pytest.raises(DialError, match="server DNS lookup failed"):
            await dns.addresses("db", 5)
        assert zone.gone == []
        assert ips(await dns.addresses("db", 5))[0] in ("10.0.0.2", "fe80::1")

    asking(zone, body, dns_max_ttl="0", dns_nxdomain_ttl="0")
    assert zone.gone == [("db", frozenset({"10.0.0.1"}))]


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EMFILE, "Too many open files"), socket.gaierror(socket.EAI_AGAIN, "Try again"), MemoryError()],
)
def test_what_was_known_stands_while_nobody_can_be_asked(failure: Exception) -> None:
    zone = Zone((ONE,), failure, failure, UNKNOWN)

    async def body(dns: Dns) -> None:
        for _ in range(3):
            assert ips(await dns.addresses("db", 5)) == ["10.0.0.1"]
        with pytest.raises(DialError, match="server DNS lookup failed"):
            await dns.addresses("db", 5)

    asking(zone, body, dns_max_ttl="0", dns_nxdomain_ttl="0")
    assert zone.asked == 4
    assert len(zone.said) == 2
    assert zone.gone == []


def test_with_no_thread_to_be_had_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = Zone((ONE,))

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body(dns: Dns) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(DialError) as caught:
                await dns.addresses("db", 5)
            assert caught.value.detail == "db: can't start new thread"
        assert ips(await dns.addresses("db", 5)) == ["10.0.0.1"]

    asking(zone, body, dns_nxdomain_ttl="0")


def test_a_fault_in_hearing_of_vanished_addresses_keeps_nobody_waiting() -> None:
    zone = Zone((ONE,), (TWO,))

    async def body(dns: Dns) -> None:
        def fails(host: str, gone: frozenset[str]) -> None:
            raise ZeroDivisionError

        dns.on_gone = fails
        dns.loop.set_exception_handler(lambda loop, context: None)
        await dns.addresses("db", 5)
        assert ips(await dns.addresses("db", 5)) == ["10.0.0.2"]
        assert dns.queries == 0

    asking(zone, body, dns_max_ttl="0")


def test_a_failure_is_remembered_and_said_once() -> None:
    zone = Zone(UNKNOWN)

    async def body(dns: Dns) -> None:
        for _ in range(3):
            with pytest.raises(DialError) as caught:
                await dns.addresses("db", 5)
            assert caught.value.detail == "db: Name or service not known"
        assert [(row.hostname, row.addrs) for row in dns.rows()] == [("db", "")]

    asking(zone, body)
    assert zone.asked == 1
    assert zone.said == ["DNS lookup failed: db: Name or service not known"]


def test_rows() -> None:
    async def body(dns: Dns) -> None:
        await dns.addresses("db", 5)
        [row] = dns.rows()
        assert (row.hostname, row.addrs) == ("db", "10.0.0.1:0,[fe80::1]:0")
        assert 0 <= row.ttl <= 15

    asking(Zone((ONE, SIX)), body)


def test_a_refresh_waits_for_nobody() -> None:
    zone = Zone((ONE,), (TWO,))

    async def body(dns: Dns) -> None:
        dns.refresh("never asked for")
        await dns.addresses("db", 5)
        dns.refresh("db")
        pending = dns.names["db"].pending
        assert pending is not None
        assert (dns.queries, dns.pending) == (1, 0)
        await pending

    asking(zone, body, dns_max_ttl="0")
    assert zone.gone == [("db", frozenset({"10.0.0.1"}))]


def test_a_look_up_that_never_ends_holds_up_nothing() -> None:
    """One look-up for all who wait; the loop goes on, and can be closed."""
    held = threading.Event()
    zone = Zone((ONE,))

    def look_up(name: str) -> Found:
        held.wait(20)
        return zone.look_up(name)

    async def body(dns: Dns) -> None:
        dns.look_up = look_up
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await dns.addresses("db", 5)
        assert (dns.queries, dns.pending) == (1, 0)

    asking(zone, body)
    held.set()


def test_the_systems_resolver() -> None:
    assert "127.0.0.1" in ips(system_addresses("localhost"))


def test_a_connection_made_elsewhere_is_at_one_of_the_names_addresses() -> None:
    """As far as is known: with nothing looked up yet it is told later that it is at none."""
    zone = Zone((ONE,))

    async def body(dns: Dns) -> None:
        assert dns.take_in("here", ONE)
        assert dns.take_in("here", TWO)
        await dns.addresses("here", 5)
        assert zone.gone == [("here", frozenset([ip(TWO)]))]
        assert dns.take_in("here", ONE)
        assert not dns.take_in("here", TWO)
        assert dns.take_in("10.0.0.9", TWO)
        assert dns.take_in("/run", Address(socket.AF_UNIX, "/run/.s.PGSQL.5"))

    asking(zone, body)
