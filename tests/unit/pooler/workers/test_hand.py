"""A worker's side of the line: what a welcome from elsewhere leads to, who is let in when, and how a configuration is
read. The rest is in tests/system/test_workers.py."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from pooler.config.whole import Config, compose
from pooler.net.tls import TICKET_KEYS
from pooler.workers import hand as hands
from pooler.workers.hand import Hand
from pooler.workers.line import packed, unpacked
from tests.fixtures.waiting import DEADLINE
from tests.unit.faults import EMFILE


def test_who_needs_a_server_behind_a_welcome_from_elsewhere_is_heard() -> None:
    """The relay tells of nobody while the desk has none to give; that was for the newcomer, who needs none now."""
    pool: Any = SimpleNamespace(
        engine=SimpleNamespace(full=True),
        welcome=None,
        database=SimpleNamespace(name="app"),
        user=SimpleNamespace(name="joe"),
    )
    greeted: list[object] = []
    databases = {"app": SimpleNamespace(pools={"joe": pool})}
    running: Any = SimpleNamespace(registry=SimpleNamespace(databases=databases))
    opener: Any = SimpleNamespace(greet=lambda pool, reported: greeted.append(reported))
    other: Any = None
    Hand(running, opener, other, other, other, other, other, other).welcome("app", "joe", {"server_version": "15"})
    assert greeted == [{"server_version": "15"}]
    assert not pool.engine.full


def test_nobody_is_let_in_before_the_desk_hears_of_it() -> None:
    """Where the worker ends first another one has the client, who would be asked again for what it has said."""
    said: list[object] = []
    then: list[Callable[[], object]] = []
    other: Any = None
    config = SimpleNamespace(databases={}, settings=SimpleNamespace(listen_port=6432))
    running: Any = SimpleNamespace(registry=SimpleNamespace(on_left=None), config=config, colleagues=None)
    control: Any = SimpleNamespace(attended=None)

    def put(*values: object, descriptors: Sequence[int] = ()) -> bool:
        said.append(values)
        return True

    line: Any = SimpleNamespace(put=put, when_said=then.append)

    def arrived(sock: socket.socket) -> None:
        with sock:
            said.append(sock.fileno())

    door: Any = SimpleNamespace(arrived=arrived, reception=SimpleNamespace())
    hand = Hand(running, other, other, other, control, other, other, other)
    hand.begin(line, {0: door})
    running.loop = loop = asyncio.new_event_loop()
    running.relay = SimpleNamespace(welcome=lambda descriptor: socket.socket(fileno=descriptor))
    with closing(loop), socket.create_server(("127.0.0.1", 0)) as ours:
        theirs = socket.create_connection(ours.getsockname())
        come = theirs.detach()
        hand.newcomer(7, 0, 3, [come])
        assert (said, hand.clients) == ([("taken", 7)], 3)
        # Neither is an end for all who have gone, nor another process that is to have all who are here, ahead of it.
        gone = hand.tells(lambda: True)
        gone()
        waiting = asyncio.ensure_future(hand.all_in(), loop=loop)
        loop.run_until_complete(asyncio.sleep(0))
        assert len(said) == 1
        let_in, all_in = then
        let_in()
        gone()
        assert said[1:] == [come, ("gone", True)]
        assert not waiting.done()
        all_in()
        loop.run_until_complete(waiting)


def test_a_console_that_cannot_be_handed_over_is_not_kept() -> None:
    other: Any = None

    def put(*_: object, descriptors: Sequence[int]) -> bool:
        raise EMFILE

    hand = Hand(other, other, other, other, other, other, other, other)
    hand._line = SimpleNamespace(put=put)  # type: ignore[assignment]
    session: Any = SimpleNamespace(user="ann", rights="admin", parameters={}, cancel_key=b"", id=7, label="")

    async def run() -> None:
        hand._running = SimpleNamespace(loop=asyncio.get_running_loop())  # type: ignore[assignment]
        await hand.console(other, session, None)

    with pytest.raises(OSError, match="Too many open files"):
        asyncio.run(run())
    assert not hand._consoles


def test_configurations_are_read_beside_the_loop_and_adopted_in_the_order_in_which_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixty thousand users are half a second of work, for which no client of the worker may wait."""
    first, second = (packed(compose({"default_pool_size": size})) for size in ("7", "8"))
    go_on, adopted = threading.Event(), list[int]()

    def reads(told: bytes) -> Any:
        if told == first:
            assert go_on.wait(DEADLINE), "the loop had a turn"
        return unpacked(told)

    monkeypatch.setattr(hands, "unpacked", reads)

    async def scene() -> None:
        other: Any = None
        reconfiguration = SimpleNamespace(reading=asyncio.Lock(), written=Config())
        reconfiguration.adopt = lambda new, *_: adopted.append(new.settings.default_pool_size)
        control: Any = SimpleNamespace(reconfiguration=reconfiguration)
        running: Any = SimpleNamespace(config=Config())
        hand = Hand(running, other, other, other, control, other, other, other)
        both = asyncio.gather(*(hand.configure(told, b"t" * TICKET_KEYS) for told in (first, second)))
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        await both

    asyncio.run(scene())
    assert adopted == [7, 8]
