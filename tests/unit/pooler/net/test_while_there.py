"""Work on behalf of a peer ends when the peer leaves, and leaves the peer's bytes alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pooler.net import channel
from pooler.net.channel import ConnectionClosed, while_there
from tests.unit.pairs import Contexts, channels, run


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


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("size", [1, 50_000])
@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_the_peer_leaves_behind_bytes_that_it_has_sent_early(
    tls: bool, size: int, moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(channel, "LOOK", 0.001)

    async def main() -> None:
        client, server = channels()
        if tls:
            contexts = Contexts(tmp_path)
            await asyncio.gather(
                server.start_tls(contexts.server(), server_side=True),
                client.start_tls(contexts.client(), server_side=False, server_hostname="localhost"),
            )
        if moment == "before":
            await client.send(b"x")
            await server.peek()
        waiting = asyncio.create_task(while_there(server, asyncio.Event().wait()))
        await asyncio.sleep(0)
        sending = asyncio.ensure_future(client.send(bytes(size)))
        while server.buffered < min(size, channel.AHEAD):
            await asyncio.sleep(0)
        assert not waiting.done()
        if size > 1:
            # More than is read of it: the rest, and its end, are in the socket.
            await asyncio.sleep(0.005)
            assert not waiting.done()
            assert server.buffered < 4 * channel.AHEAD
        sending.cancel()
        client.abort()
        with pytest.raises(ConnectionClosed):
            await waiting
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
