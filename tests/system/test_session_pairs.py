"""Two clients that both leave something behind, in turns on the same servers: each has after each step of its own what
it would have on a direct connection of its own, whatever the other has. A pool of one, where all follows; and of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.states import MADE, Author, Step, facts, pins, talk
from tests.fixtures.stream import Ended, Stream
from tests.system.test_session_programs import Facts, difference, direct

KEEP: dict[str, Any] = {
    "pool_mode": "transaction",
    "sections": {"pooler": {"session_state": "keep", "max_pinned": "100"}},
}
Played = list[tuple[Step, list[tuple[str, ...]], Facts | None]]


@pytest.fixture
def server(each_cluster: Cluster) -> Cluster:
    for database in ("app", "other"):
        each_cluster.sql(MADE, dbname=database)
    return each_cluster


def written(server: Cluster, seed: int, size: int) -> tuple[dict[str, str], Played]:
    """A program that leaves its server free, and what comes of it directly; of two servers it may keep one."""
    author = Author(seed)
    program = author.program()
    wanted = direct(server, author.options, program)
    played: Played = []
    for step, (heard, has) in zip(program, wanted, strict=True):
        if size == 1 and (has is None or pins(has) or step.long or "advisory" in step.said):
            break
        played.append((step, heard, has))
    return author.options, played


def differences(server: Cluster, bouncer: Bouncer, seed: int, size: int) -> Iterator[str]:
    """Of two programs, a step of the one behind a step of the other; locks of theirs would be in each other's way."""
    both = [written(server, 2 * seed + number, size) for number in (0, 1)]
    if size > 1 and all("lock" in str(played) for _, played in both):
        return
    streams = [Stream(("127.0.0.1", bouncer.port), timeout=10) for _ in both]
    said: list[str] = []
    try:
        for one, (options, _) in zip(streams, both, strict=True):
            one.login("app", **options)
        for turn in range(max(len(played) for _, played in both)):
            for number, (one, (_, played)) in enumerate(zip(streams, both, strict=True)):
                if turn >= len(played):
                    continue
                step, heard, has = played[turn]
                said.append(f"{number}: {step.said}")
                found = talk(one, step)
                wrong = "" if found == heard else f"{found} instead of {heard}"
                wrong = wrong or ("" if has is None else difference("client", facts(one), has))
                if wrong:
                    yield f"seed {seed}, {[options for options, _ in both]}:\n  " + "\n  ".join(said) + f"\n  {wrong}"
                    return
    except (TimeoutError, Ended, AssertionError) as error:
        yield f"seed {seed}, {[options for options, _ in both]}:\n  " + "\n  ".join(said) + f"\n  {error!r}"
    finally:
        for one in streams:
            one.socket.close()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 150), marks=pytest.mark.slow)])
def test_each_of_two_has_what_it_would_have_alone(
    start_pooler: StartBouncer, server: Cluster, seeds: range, size: int
) -> None:
    bouncer = start_pooler(server=server, default_pool_size=size, **KEEP)
    found = [wrong for seed in seeds for wrong in differences(server, bouncer, seed, size)]
    assert not found, "\n\n".join([f"{len(found)} differences", *found[:5]])
