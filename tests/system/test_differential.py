"""The same random programs of the protocol on a direct connection and through the pool: the same answers.

Two clients share a pool of one server (and three a pool of two), so that what one of them has left open would meet the
other. PostgreSQL is the oracle; what may differ is `told`, each with its reason.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.programs import TABLES, Author, converse, shown
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until

PROGRAMS = 20
"""That each client runs on one connection."""

FEW = (200, 1, 2, 3)
"""Statements that a server has at the same time."""

UNTOLD = "it cannot be told which statements there are"
"""So a connection may end that has sent, ahead of the answers, what follows a failed COPY with Syncs in its data."""

AHEAD = "25P02"
"""In a failed transaction an error of a Parse that the pooler has sent ahead, where the direct answer is none: to a
Describe or a Close of a statement that has to be prepared anew. What is skipped then, the direct connection has done:
the two are not compared any further."""

RARE = 0.002
"""The share of programs which each of the two may end."""

Told = tuple[str, ...]
"""A message of the server as it is compared."""


def told(message: Message) -> Told:
    """What must be the same. Left out: where in PostgreSQL's source an error is raised (F, L, R), and the DETAIL that
    the pooler adds to an error about a client's statement. What PostgreSQL meets in a COPY instead of its end may be
    another message: a Parse of what the server has already goes there as a Close, a Bind may go behind a Parse."""
    if message.type in "EN":
        fields = message.error
        fields["M"] = re.sub("message type 0x(43|50|42|44) during", "message type 0x.. during", fields["M"])
        if fields.get("D", "").startswith("The prepared statement "):
            del fields["D"]
        return (message.type, *(f"{key} {text}" for key, text in fields.items() if key not in "FLR"))
    return (message.type, message.body.hex() if message.type == "D" else repr(message.body))


class Session:
    """A client's programs, on one connection."""

    def __init__(self, seed: int, mark: str) -> None:
        self.author = Author(seed, mark)
        self.programs = [self.written() for _ in range(PROGRAMS)]
        self.random = random.Random(f"{seed} {mark} pace")

    def written(self) -> tuple[list[bytes], str]:
        program = self.author.program()
        ending, last = self.author.ending()
        return [*program, *ending], last

    def pieces(self, program: Sequence[bytes]) -> list[bytes]:
        """The bytes, cut anywhere."""
        data = b"".join(program)
        cuts = sorted(self.random.randrange(len(data)) for _ in range(self.random.choice((0, 0, 1, 2, 5))))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]

    def pause(self) -> float:
        return self.random.choice((0.0, 0.0, 0.0, 0.001, 0.003))

    def run(self, port: int, *, hurry: bool) -> list[list[Told]]:
        """What the server says to each program, up to the end of the connection."""
        found: list[list[Told]] = []
        with Stream(("127.0.0.1", port)) as client:
            client.login()
            for program, last in self.programs:
                pieces = [b"".join(program)] if hurry else self.pieces(program)
                said = converse(client, pieces, last, (lambda: 0.0) if hurry else self.pause)
                found.append([told(message) for message in said])
                if not said or said[-1].type != "Z":
                    break
        return found


def compare(
    sessions: Sequence[Session], direct: list[list[list[Told]]], pooled: list[list[list[Told]]]
) -> Counter[str]:
    """How often they could not be compared to the end, and why."""
    ended: Counter[str] = Counter()
    for session, wanted, got in zip(sessions, direct, pooled, strict=True):
        for number, answer in enumerate(got):
            for other in sessions:
                mark = other.author.mark.encode().hex()
                if other is not session:
                    assert not any(mark in part for each in answer for part in each), f"bytes crossed: {answer}"
            end = ending(wanted[number], answer)
            if end:
                ended[end] += 1
                break
            if not alike(wanted[number], answer):
                program = shown(session.programs[number][0])
                difference = differ(wanted[number], answer)
                raise AssertionError(f"program {number} of {session.author.mark}:\n{program}\n{difference}")
        else:
            assert len(got) == len(wanted)
    return ended


def ending(wanted: Sequence[Told], got: Sequence[Told]) -> str:
    """UNTOLD or AHEAD, if that is where they part."""
    if got and f"M {UNTOLD}" in got[-1]:
        return UNTOLD if alike(wanted[: len(got) - 1], got[:-1]) else ""
    for place, (one, other) in enumerate(zip(wanted, got, strict=False)):
        if one != other and one[0] != "E" == other[0] and "C 25P02" in other:
            return AHEAD if alike(wanted[:place], got[:place]) else ""
    return ""


def alike(wanted: Sequence[Told], got: Sequence[Told]) -> bool:
    """In a failed transaction the error may be that of a Parse which the pooler has sent ahead."""
    return len(wanted) == len(got) and all(
        one == other or (one[0] == other[0] == "E" and "C 25P02" in other)
        for one, other in zip(wanted, got, strict=True)
    )


def differ(wanted: Sequence[Told], got: Sequence[Told]) -> str:
    pairs = list(itertools.zip_longest(wanted, got))
    first = next(i for i, (one, other) in enumerate(pairs) if one != other)
    shortly = enumerate(pairs[first : first + 6], first)
    return "\n".join(f"answer {i}: direct {str(one)[:300]}\n  pooled {str(other)[:300]}" for i, (one, other) in shortly)


def one(bouncer: Bouncer, cluster: Cluster, seed: int, marks: Sequence[str]) -> Counter[str]:
    """A session of each client, and after it nobody has a server."""
    sessions = [Session(seed, mark) for mark in marks]
    direct = [session.run(cluster.port, hurry=True) for session in sessions]
    with ThreadPoolExecutor(len(sessions)) as threads:
        running = [threads.submit(session.run, bouncer.port, hurry=False) for session in sessions]
        pooled = [each.result() for each in running]
    ended = compare(sessions, direct, pooled)
    until(lambda: bouncer.pool()["sv_active"] == 0, "all servers to be free")
    return ended


@pytest.fixture
def tables(cluster: Cluster) -> None:
    cluster.sql(TABLES, dbname="app")


@pytest.mark.slow
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("clients", [2, 3])
def test_programs_are_answered_as_on_a_direct_connection(
    start_pooler: StartBouncer, cluster: Cluster, clients: int
) -> None:
    bouncer = start_pooler(default_pool_size=clients - 1, max_prepared_statements=2 if clients == 2 else 200)
    for seed in range(10):
        one(bouncer, cluster, seed, [f"mark{number}" for number in range(clients)])


@pytest.mark.slow
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(("clients", "first"), [(2, first) for first in range(1000, 1450, 50)] + [(3, 2000), (3, 2050)])
def test_twenty_thousand_programs(start_pooler: StartBouncer, cluster: Cluster, clients: int, first: int) -> None:
    """50 seeds each: 18,000 programs by two clients, 6,000 by three."""
    bouncer = start_pooler(
        default_pool_size=clients - 1,
        server_tls_sslmode="prefer" if first % 100 else "disable",
        max_prepared_statements=FEW[first // 50 % len(FEW)],
        query_wait_notify=0,
    )
    ended: Counter[str] = Counter()
    for seed in range(first, first + 50):
        ended += one(bouncer, cluster, seed, [f"mark{number}" for number in range(clients)])
    assert all(count <= 1 + 50 * clients * PROGRAMS * RARE for count in ended.values()), ended
