"""Random programs of statements that leave something in a session, on a direct connection and through pools of one and
of four: the client has after each step what it would have directly, and a stranger who comes right behind it has what
a fresh session has. PostgreSQL is the oracle.

What differs all the same, and so stands in no program: nothing of it reaches a stranger.
- A name of one's own (my.var) that is computed, or given to a function that spells it otherwise: no server lists those,
  so it does not follow. Whoever comes to that server next resets all (`sessions.HIDDEN`).
- The same where the name is beyond ASCII and the client writes another encoding than UTF-8.
- RESET gives a client its own startup values when the transaction has ended: a SHOW in the same one, and a
  ParameterStatus, tell of the server's default.
- Whether a session has ever had a temporary schema (3F000 or 42P01 for a table that is not there).
- Behind a text of more than 64 kB that may have left something the server stays with its client: a stranger waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.states import CHANNELS, MADE, Author, Step, facts, pins, talk
from tests.fixtures.stream import Ended, Stream

KEEP: dict[str, Any] = {
    "pool_mode": "transaction",
    "max_client_conn": 100,
    "sections": {"pooler": {"session_state": "keep", "max_pinned": "100"}},
}
Facts = list[bytes | None]
Seen = list[tuple[list[tuple[str, ...]], Facts | None]]
"""By step: what was answered, and what the client has then, if no transaction is open."""


class Stranger:
    """Somebody who has done nothing, on the same pool; `plain` is what it has on a server of its own."""

    def __init__(self, bouncer: Bouncer, plain: Facts) -> None:
        self.plain, self.bouncer, self.port = plain, bouncer, bouncer.port
        self.stream = self.come()

    def come(self) -> Stream:
        return Stream(("127.0.0.1", self.port), timeout=5).login()

    def again(self) -> None:
        """Another one, where no server is left of before."""
        self.stream.socket.close()
        self.bouncer.admin("RECONNECT")
        self.stream = self.come()

    def looks(self) -> str:
        """What is wrong with what it sees."""
        try:
            found = facts(self.stream)
        except (TimeoutError, Ended) as error:
            return f"the stranger got no answer: {error!r}"
        return difference("stranger", found, self.plain)


def difference(who: str, found: Facts, wanted: Facts) -> str:
    if who == "client":
        found, wanted = [*found], [*wanted]
        found[CHANNELS] = wanted[CHANNELS] = None
    if found == wanted:
        return ""
    pairs = enumerate(zip(found, wanted, strict=True))
    parts = [f"column {n}: {a!r} instead of {b!r}" for n, (a, b) in pairs if a != b]
    if found[0] != wanted[0]:
        left, right = (set((text or b"{}")[1:-1].split(b",")) for text in (found[0], wanted[0]))
        parts[0] = f"settings: {sorted(left - right)} instead of {sorted(right - left)}"
    return f"{who}: {'; '.join(parts)}"


def run(client: Stream, program: Sequence[Step]) -> Iterator[tuple[list[tuple[str, ...]], Facts | None]]:
    for step in program:
        heard = talk(client, step)
        yield heard, None if heard[-1] != ("Z", "I") else facts(client)


def direct(cluster: Cluster, options: dict[str, str], program: Sequence[Step]) -> Seen:
    with Stream(("127.0.0.1", cluster.port)) as client:
        client.login("other", **options)
        return list(run(client, program))


def through(stranger: Stranger, options: dict[str, str], program: Sequence[Step], wanted: Seen) -> str:
    """What differs from `wanted`, in words."""
    stays = False
    with Stream(("127.0.0.1", stranger.port), timeout=5) as client:
        client.login("app", **options)
        for step, (heard, has) in zip(program, wanted, strict=True):
            try:
                found = talk(client, step)
                if found != heard:
                    return f"{step.said}\n    answers: {found}\n    instead of {heard}"
                stays = stays or step.long
                if has is None:
                    continue
                wrong = "" if stays or pins(has) else stranger.looks()
                wrong = wrong or difference("client", facts(client), has)
            except (TimeoutError, Ended, AssertionError) as error:
                wrong = f"no answer: {error!r}"
            if wrong:
                return f"{step.said}\n    {wrong}"
    return stranger.looks()


@pytest.fixture(scope="module")
def made(cluster: Cluster) -> Cluster:
    for database in ("app", "other"):
        cluster.sql(MADE, dbname=database)
    return cluster


@contextmanager
def strangers(made: Cluster, start_pooler: StartBouncer) -> Iterator[list[Stranger]]:
    with Stream(("127.0.0.1", made.port)) as plain:
        plain.login("app")
        fresh = facts(plain)
    pools = [start_pooler(default_pool_size=size, **KEEP) for size in (1, 4)]
    there = [Stranger(pool, fresh) for pool in pools]
    try:
        yield there
    finally:
        for stranger in there:
            stranger.stream.socket.close()


def differences(cluster: Cluster, pools: list[Stranger], seed: int) -> Iterator[str]:
    author = Author(seed)
    program = author.program()
    wanted = direct(cluster, author.options, program)
    for size, stranger in zip((1, 4), pools, strict=True):
        wrong = through(stranger, author.options, program, wanted)
        if wrong:
            steps = "\n  ".join(step.said for step in program)
            yield f"seed {seed}, pool of {size}, {author.options}:\n  {steps}\n  DIFFERS AT {wrong}"
            stranger.again()


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 2000), marks=pytest.mark.slow)])
def test_a_client_has_what_it_would_have_directly_and_nobody_else(
    made: Cluster, start_pooler: StartBouncer, seeds: range
) -> None:
    with strangers(made, start_pooler) as pools:
        found = list(itertools.chain.from_iterable(differences(made, pools, seed) for seed in seeds))
    assert not found, "\n\n".join([f"{len(found)} differences", *found[:10]])
