"""Sessions that are ended in a flurry: those of cancelled statements, faster than their processes end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from admin.console.crew import CREW
from admin.sql.backend import Backend, Refused
from admin.sql.server import Server
from tests.fixtures.console import calling, rows
from tests.unit.admin.console.test_bounds import gone, run, warm


@pytest.mark.slow
def test_a_process_has_its_time_to_end_however_many_end_meanwhile() -> None:
    """Each end of another was a look at it, and soon one too many: with two cores for many a flurry of cancel requests
    ended the server, again and again, and whoever asked waited until the next had started."""

    async def scenario() -> None:
        async with calling() as caller:
            pid = await warm(caller)
            server = CREW.server
            os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(40):
                    CREW.end(await CREW.worker(caller.session.user))
                assert CREW.server is server
            finally:
                os.kill(pid, signal.SIGCONT)
            assert await gone(pid)
            assert rows(await caller.query("select 1")) == [["1"]]
            assert CREW.server is server

    run(scenario())


@pytest.mark.slow
def test_who_finds_all_places_taken_by_those_that_are_to_end_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that were cancelled at once; the next was told that there are too many clients."""
    refused: list[str] = []
    connect = Server.connect

    async def watched(server: Server, user: str) -> Backend:
        try:
            return await connect(server, user)
        except Refused as error:
            refused.append(error.sqlstate)
            raise

    monkeypatch.setattr(Server, "connect", watched)

    async def scenario() -> None:
        async with calling() as caller:
            await warm(caller)
            stopped = []
            try:
                while not refused:
                    asked = asyncio.ensure_future(CREW.worker(caller.session.user))
                    while not (asked.done() or refused):
                        await asyncio.sleep(0.001)
                    if not refused:
                        backend = await asked
                        stopped.append(backend.pid)
                        os.kill(backend.pid, signal.SIGSTOP)
                        CREW.end(backend)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            CREW.give_back(await asked)
            assert set(refused) == {"53300"}
            assert rows(await caller.query("select 1")) == [["1"]]

    run(scenario())
