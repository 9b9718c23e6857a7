"""Work on behalf of a peer ends when the peer leaves, and leaves the peer's bytes alone."""

from __future__ import annotations

import asyncio

import pytest

from pooler.channel import ConnectionClosed, while_there

from .pairs import channels, run


async def seven() -> int:
    return 7


def test_the_work_is_done() -> None:
    async def main() -> None:
        client, server = channels()
        assert await while_there(server, seven()) == 7
        await client.send(b"later")
        assert await server.read_exactly(5) == b"later"
        client.abort()
        server.abort()

    run(main())


def test_the_peer_leaves() -> None:
    async def main() -> None:
        client, server = channels()
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        waiting = asyncio.create_task(while_there(server, work()))
        await asyncio.sleep(0)
        client.abort()
        with pytest.raises(ConnectionClosed):
            await waiting
        assert ended.is_set()
        server.abort()

    run(main())


def test_early_bytes_are_kept() -> None:
    """Sent just before, while and just after the work ends."""

    async def main() -> None:
        client, server = channels()
        for text in (b"one", b"two", b"six"):
            done = asyncio.get_running_loop().create_future()
            waiting = asyncio.create_task(while_there(server, done))
            await asyncio.sleep(0)
            await client.send(text)
            asyncio.get_running_loop().call_soon(done.set_result, 7)
            assert await waiting == 7
            assert await server.read_exactly(3) == text
        client.abort()
        server.abort()

    run(main())


def test_a_deadline_and_a_failure_are_the_works_own() -> None:
    async def main() -> None:
        client, server = channels()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await while_there(server, asyncio.Event().wait())

        async def fails() -> None:
            raise ValueError("of its own")

        with pytest.raises(ValueError, match="of its own"):
            await while_there(server, fails())
        await client.send(b"x")
        assert await server.peek() == ord("x")
        client.abort()
        server.abort()

    run(main())
