"""The statement without a name, used behind a Sync: it is its client's wherever that is served, and nobody else's, as
on a connection of its own (PostgreSQL documentation, "Extended Query": it lasts until the next one, or a Query)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.system.test_restart import restart

Answers = list[list[tuple[str, ...]]]
USE = (stream.bind(), stream.execute(), stream.sync())


def said(answer: list[Message]) -> list[tuple[str, ...]]:
    """Rows, errors and the kinds of all else."""
    found: list[tuple[str, ...]] = []
    for message in answer:
        if message.type == "D":
            found.append(("D", *(str(value) for value in message.values)))
        elif message.type == "E":
            found.append(("E", message.error["C"], message.error["M"]))
        else:
            found.append((message.type,))
    return found


def ask(one: Stream, *messages: bytes) -> list[tuple[str, ...]]:
    one.send(*messages)
    return said(one.until())


@contextmanager
def clients(port: int, count: int) -> Iterator[list[Stream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Stream(("127.0.0.1", port), timeout=10).login()) for _ in range(count)]


def others_come(rest: list[Stream]) -> None:
    """Each has a server, and leaves an unnamed statement there."""
    for other in rest:
        other.query("BEGIN")
        assert ("D", "b'stranger'") in ask(other, stream.parse("SELECT 'stranger'"), *USE)
    for other in rest:
        ask(other, stream.parse("COMMIT"), *USE)


LONG = "SELECT 'mine' /* " + "x" * 5000 + " */"
STEPS: dict[str, list[tuple[bytes, ...]]] = {
    "parsed": [(stream.parse("SELECT 'mine'"), stream.sync()), USE, USE],
    "described": [
        (stream.parse("SELECT 'mine'"), stream.describe("S"), stream.sync()),
        USE,
        (stream.describe("S"), *USE),
    ],
    "bound": [(stream.parse("SELECT 'mine'"), *USE), USE],
    "long": [(stream.parse(LONG), stream.sync()), USE, USE],
    "nothing": [USE, (stream.describe("S"), stream.sync())],
    "a query": [(stream.parse("SELECT 'mine'"), stream.sync()), (stream.query("SELECT 1"),), USE],
    "closed": [(stream.parse("SELECT 'mine'"), stream.sync()), (stream.close("S"), stream.sync()), USE],
    "broken": [(stream.parse("SELECT 'mine'"), stream.sync()), (stream.parse("SELEKT"), stream.sync()), USE],
    "the next": [(stream.parse("SELECT 'old'"), stream.sync()), (stream.parse("SELECT 'mine'"), stream.sync()), USE],
    "failing": [(stream.parse("SELECT 1 / 0"), stream.sync()), USE, USE],
    "with a value": [
        (stream.parse("SELECT 'mine', $1::int"), stream.sync()),
        (stream.bind(["1"]), stream.execute(), stream.sync()),
        (stream.bind(["x"]), stream.execute(), stream.sync()),
        (stream.bind(["2"]), stream.execute(), stream.sync()),
    ],
    "kept by a DISCARD": [
        (stream.parse("DISCARD ALL", "d"), stream.parse("SELECT 'mine'"), stream.sync()),
        (stream.bind((), "d"), stream.execute(), stream.sync()),
        USE,
        (stream.parse("DEALLOCATE ALL"), *USE),
        USE,
    ],
    "in a failed transaction": [
        (stream.parse("SELECT 'mine'"), stream.sync()),
        (
            *(stream.parse("BEGIN", "b"), stream.parse("ROLLBACK", "r"), stream.bind((), "b"), stream.execute()),
            *(stream.bind((), "nobody's"), stream.parse("SELECT 1"), stream.sync()),
            *(stream.parse("SELECT 2"), stream.sync(), stream.bind((), "r"), stream.execute(), stream.sync()),
        ),
        USE,
    ],
    "skipped": [
        (stream.parse("SELECT 'mine'"), stream.sync()),
        (stream.bind((), "nobody's"), stream.parse("SELECT 'not mine'"), stream.sync()),
        USE,
        (stream.bind((), "nobody's"), stream.close("S"), stream.sync()),
        USE,
    ],
    "in one go": [
        (stream.parse("SELECT 'mine'"), stream.sync(), *USE),
        (stream.bind((), "nobody's"), stream.parse("SELECT 'x'"), stream.sync(), stream.parse("SELECT 'mine'"), *USE),
    ],
}
"""What a client sends, batch by batch."""


def readies(messages: tuple[bytes, ...]) -> int:
    return sum(message[:1] in b"SQ" for message in messages)


def play(
    port: int, steps: list[tuple[bytes, ...]], between: Callable[[list[Stream]], None], others: int
) -> list[object]:
    found: list[object] = []
    with clients(port, 1 + others) as (one, *rest):
        for messages in steps:
            between(rest)
            one.send(*messages)
            found += [said(one.until()) for _ in range(readies(messages))]
    return found


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [1, 4])
def test_it_is_used_behind_a_sync_as_on_a_direct_connection(
    start_pooler: StartBouncer, cluster: Cluster, size: int, name: str
) -> None:
    bouncer = start_pooler(default_pool_size=size)
    direct = play(cluster.port, STEPS[name], others_come, 0)
    assert play(bouncer.port, STEPS[name], others_come, size) == direct


def test_nobody_binds_what_another_has_parsed_and_was_skipped(start_pooler: StartBouncer) -> None:
    """The Parse is skipped; the Bind behind the next Sync, in the same batch, would find the stranger's."""
    bouncer = start_pooler(default_pool_size=1)
    with clients(bouncer.port, 2) as (one, other):
        others_come([other])
        one.send(stream.bind((), "nobody's"), stream.parse("SELECT 'mine'"), stream.sync(), *USE)
        answer = said(one.until()) + said(one.until())
    assert [part[1] for part in answer if part[0] == "E"] == ["26000", "26000"]


@pytest.mark.parametrize("once", [True, False])
def test_nobody_binds_anothers_where_the_own_was_to_be_made_again_and_was_skipped(
    start_pooler: StartBouncer, *, once: bool
) -> None:
    """In one go, or behind the answer."""
    bouncer = start_pooler(default_pool_size=1)
    failing = (stream.bind((), "nobody's"), stream.bind(), stream.sync())
    with clients(bouncer.port, 2) as (one, other):
        ask(one, stream.parse("SELECT 'mine'"), stream.sync())
        others_come([other])
        one.send(*failing, *(USE if once else ()))
        assert [part[1] for part in said(one.until()) if part[0] == "E"] == ["26000"]
        assert ("D", "b'mine'") in (said(one.until()) if once else ask(one, *USE))


@pytest.mark.parametrize("change", ["float8 USING 1.5", "bigint"])
@pytest.mark.parametrize("size", [1, 4])
def test_what_it_was_described_as_holds(start_pooler: StartBouncer, cluster: Cluster, size: int, change: str) -> None:
    """As for statements with a name: a result of other types is an error."""
    steps = [
        (stream.parse("SELECT x FROM stale WHERE x = $1"), stream.describe("S"), stream.sync()),
        (stream.bind(["1"]), stream.execute(), stream.sync()),
    ]
    bouncer = start_pooler(default_pool_size=size)
    found = []
    for port in (cluster.port, bouncer.port):
        cluster.sql("DROP TABLE IF EXISTS stale; CREATE TABLE stale AS SELECT 1 AS x", dbname="app")
        with clients(port, 1 + size) as (one, *rest):
            answers = [ask(one, *steps[0])]
            cluster.sql(f"ALTER TABLE stale ALTER x TYPE {change}", dbname="app")
            others_come(rest)
            answers += [ask(one, *steps[1]), ask(one, *steps[1]), ask(one, stream.parse("SELECT 2"), *USE)]
            found.append(answers)
    assert found[1] == found[0]
    assert found[0][1][0][1] == "0A000"


def test_what_it_sets_follows(start_pooler: StartBouncer) -> None:
    """It is looked at where it is bound, too."""
    keep = {"pooler": {"session_state": "keep"}}
    bouncer = start_pooler(default_pool_size=1, sections=keep)
    with clients(bouncer.port, 2) as (one, other):
        ask(one, stream.parse("SET work_mem = '7MB'"), stream.sync())
        others_come([other])
        ask(one, *USE)
        assert other.rows("SHOW work_mem") == [[b"4MB"]]
        assert one.rows("SHOW work_mem") == [[b"7MB"]]


@pytest.mark.parametrize("named", [(), (stream.parse("SELECT 1", "named"),)])
def test_what_it_sets_by_a_value_follows(start_pooler: StartBouncer, named: tuple[bytes, ...]) -> None:
    """Whatever is parsed under a name behind it."""
    bouncer = start_pooler(default_pool_size=1, sections={"pooler": {"session_state": "keep"}})
    sets = stream.parse("SELECT set_config($1, $2, false)"), *named, stream.sync()
    with clients(bouncer.port, 2) as (one, other):
        for values, shown in (["work_mem", "7MB"], b"4MB"), (["my.own", "mine"], b""):
            ask(one, *sets)
            others_come([other])
            ask(one, stream.bind(values), stream.execute(), stream.sync())
            assert other.rows(f"SELECT coalesce(current_setting('{values[0]}', true), '')") == [[shown]]
            assert one.rows(f"SELECT current_setting('{values[0]}', true)") == [[values[1].encode()]]


def test_it_outlives_our_own_questions(start_pooler: StartBouncer) -> None:
    """Each of them is a Query, behind which the server has none."""
    bouncer = start_pooler(default_pool_size=1, sections={"pooler": {"session_state": "keep"}})
    with clients(bouncer.port, 1) as (one,):
        ask(one, stream.parse("SELECT set_config('work_mem', '7MB', false)"), stream.sync())
        for _ in range(2):
            assert ("D", "b'7MB'") in ask(one, *USE)


def test_one_is_not_taken_for_the_one_before_that_was_described(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with clients(bouncer.port, 2) as (one, other):
        ask(one, stream.parse("SELECT 'old'"), stream.describe("S"), stream.sync())
        ask(one, stream.parse("SELECT 'mine'"), stream.sync())
        others_come([other])
        assert ("D", "b'mine'") in ask(one, *USE)


def test_one_too_long_to_be_kept_is_not_taken_for_the_one_before(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1)
    with clients(bouncer.port, 2) as (one, other):
        ask(one, stream.parse("SELECT 'old'"), stream.sync())
        assert ("D", "b'mine'") in ask(one, stream.parse(LONG), *USE)
        others_come([other])
        assert [part[1] for part in ask(one, *USE) if part[0] in "DE"] == ["26000"]


@pytest.mark.slow
def test_it_is_handed_over(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(default_pool_size=1, server_tls_sslmode="disable")
    with clients(bouncer.port, 2) as (one, other):
        ask(one, stream.parse("SELECT 'mine'"), stream.describe("S"), stream.sync())
        others_come([other])
        restart(bouncer)
        assert ("D", "b'mine'") in ask(one, *USE)
        others_come([other])
        assert ("D", "b'mine'") in ask(one, *USE)


class Author:
    """Writes batches about the statement without a name, of which many fail in the middle, up to a Sync or a Query."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.count = 0

    def text(self) -> str:
        self.count += 1
        return self.random.choice((f"SELECT 'mine {self.count}'",) * 3 + ("SELECT 1 / 0", "SELEKT"))

    def phrase(self) -> list[bytes]:
        nobodys = stream.bind((), "nobody's")
        return self.random.choice(
            (
                [stream.parse(self.text())],
                [stream.parse(f"{self.text()} /* {'long ' * 800} */"), stream.sync()],
                [stream.parse(self.text()), stream.bind(), stream.execute()],
                [stream.bind(), stream.execute()],
                [stream.bind(), stream.execute()],
                [stream.describe("S")],
                [stream.close("S")],
                [stream.query("SELECT 'q'")],
                [nobodys],
                [nobodys],
                [stream.sync()],
            )
        )

    def batch(self) -> tuple[bytes, ...]:
        said = [message for _ in range(self.random.randint(1, 7)) for message in self.phrase()]
        return (*said, stream.sync())

    def program(self) -> list[tuple[bytes, ...]]:
        return [self.batch() for _ in range(self.random.randint(2, 6))]


def answers(port: int, program: list[tuple[bytes, ...]], between: Callable[[list[Stream]], None], size: int) -> Answers:
    """Of each batch, up to an error that is the same whatever was skipped."""
    found: Answers = []
    with clients(port, 1 + size) as (one, *rest):
        for number, messages in enumerate(program):
            between(rest)
            one.send(*messages, stream.bind((), f"end {number}"), stream.sync())
            heard: list[tuple[str, ...]] = []
            while not any(part[0] == "E" and f"end {number}" in part[2] for part in heard):
                heard += said(one.until())
            found.append(heard)
    return found


def others_try(rest: list[Stream]) -> None:
    """Each that finds a server leaves an unnamed statement there: one in a transaction may have kept the only one."""
    for other in rest:
        ask(other, stream.parse("SELECT 'stranger'"), *USE)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["cluster", "newest_cluster"])
@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 2000), marks=pytest.mark.slow)])
def test_what_is_skipped_leaves_it_as_it_was(
    request: pytest.FixtureRequest, start_pooler: StartBouncer, which: str, seeds: range
) -> None:
    server: Cluster = request.getfixturevalue(which)
    bouncers = [start_pooler(server=server, default_pool_size=size) for size in (1, 4)]
    found = []
    for seed in seeds:
        program = Author(seed).program()
        direct = answers(server.port, program, others_try, 0)
        for size, bouncer in zip((1, 4), bouncers, strict=True):
            got = answers(bouncer.port, program, others_try, size)
            if got != direct:
                found.append(f"seed {seed}, pool of {size}\n  direct {direct}\n  pooled {got}")
    assert not found, "\n\n".join([f"{len(found)} differences", *found[:3]])
