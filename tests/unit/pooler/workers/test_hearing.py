"""LISTEN with several workers: whose server it is, and what channels of ours are called. All else is in
tests/system/test_workers.py and, with POOLER_TESTS_WORKERS=2, in tests/system/test_listen.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from pooler import wire
from pooler.workers.hearing import MOST_SERVERS, Ear, Ears, marker_of

PLACE = "127.0.0.1", 5432


def ears() -> Ears:
    desk: Any = SimpleNamespace(works_of=[], on_ready=[], on_gone=[])
    running: Any = None
    hubs: Any = type("NoHubs", (list,), {"kind": None})()
    return Ears(running, desk, hubs, "secret")


def test_all_workers_have_the_same_channel_for_a_place_and_no_other() -> None:
    made = [marker_of(*names) for names in (("s", "a", ""), ("s", "b", ""), ("s", "a", "h"), ("t", "a", ""))]
    assert marker_of("s", "a", "") == made[0]
    assert len(set(made)) == 4
    assert all(0 < len(name) < 64 for name in made)


def test_a_server_of_which_its_worker_tells_a_turn_later_is_known() -> None:
    """Its notification may be read before what the worker said ahead of that."""

    async def scene() -> None:
        some, loop = ears(), asyncio.get_running_loop()
        opened = some.works(1)["opened"]
        loop.call_soon(loop.call_soon, opened, PLACE, 77)
        assert await some.owner(PLACE, 77) == 1
        assert await some.owner(PLACE, 78) is None
        assert await some.owner(("127.0.0.1", 5433), 77) is None
        some.works(2)["opened"](PLACE, 77)
        assert await some.owner(PLACE, 77) == 2

    asyncio.run(scene())


def test_what_a_worker_that_is_gone_had_is_nobodys_and_no_more_is_known_than_there_is_room_for() -> None:
    async def scene() -> None:
        some = ears()
        for pid in range(MOST_SERVERS + 1):
            some.works(pid % 2)["opened"](PLACE, pid)
        assert await some.owner(PLACE, 0) is None
        assert await some.owner(PLACE, 1) == 1
        some._gone(1)
        assert await some.owner(PLACE, 1) is None
        assert await some.owner(PLACE, 2) == 0

    asyncio.run(scene())


def test_where_a_client_begins_to_be_told_is_told_to_all_workers() -> None:
    """Its worker may have given the server away that has set the mark; an epoch's mark is for who has the server."""
    put: list[tuple[int, bytes]] = []

    async def scene() -> None:
        some: Any = ears()
        some.works(1)["opened"](PLACE, 77)
        some.serving = lambda: [0, 1]
        some.put = lambda number, *values: put.append((number, values[-1]))
        engine, running = SimpleNamespace(place=PLACE, marker=b"ours"), SimpleNamespace(now=lambda: 0.0)
        ear: Any = SimpleNamespace(_ears=some, engine=engine, running=running, key=("app", ""), _inherited_at=-1e9)
        for payload, told in ((b"5af0", [0, 1]), (b"epoch 77", [1])):
            message = wire.message(b"A", (77).to_bytes(4, "big") + b"ours\0" + payload + b"\0")
            await Ear._tell(ear, message)
            assert put == [(number, message) for number in told]
            put.clear()

    asyncio.run(scene())
