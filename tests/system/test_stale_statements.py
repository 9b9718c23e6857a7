"""Prepared statements whose tables and functions change under them: the same random programs of two clients on
connections of their own and through pools of one and of four, with the same answers. PostgreSQL is the oracle.

What differs, and why:
- Who is told 0A000 on a direct connection, outside a transaction, is told through the pooler what he would be told
  there if he prepared the statement again, by what he was told of its parameters; if he says by what he sends that he
  reads of what shape the result is (`Client.heals`).
- A Describe of a statement without a result, whose text is an error by now, says so where the statement has to be
  parsed on another server (`ahead`); on a direct connection the Bind is the first to say it.
- Where somebody has changed a table past the pooler, one who prepares a text anew within a second may be given the
  statement that a server has, with the types that its parameters had (`UNSEEN`).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.fixtures import stream
from tests.fixtures.changes import RESET, WHO, Author, Client, Step
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Stream

Answer = list[tuple[str, ...]]
UNSEEN = "told as it was, for a text that was prepared anew behind a change that the pooler has not seen"


def play(cluster: Cluster, port: int, program: Sequence[Step], *, pool: int = 0) -> Iterator[Answer]:
    """What each step is answered. `pool`: servers, of which some are busy now and then."""
    with Stream(("127.0.0.1", port)).login() as one:
        one.query(RESET)
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(("127.0.0.1", port), timeout=10).login()) for _ in WHO]
        clients = {who: Client(one, heals=pool == 0) for who, one in zip(WHO, streams, strict=True)}
        others = [stack.enter_context(Stream(("127.0.0.1", port), timeout=10).login()) for _ in range(pool - 1)]
        for step in program:
            busy = others[: step.busy] if step.what != "query" else []
            for other in busy:
                other.query("BEGIN")
            if step.who == "outside":
                outside(cluster, step)
                yield []
            else:
                yield clients[step.who].run(step)
            for other in busy:
                other.query("COMMIT")


def outside(cluster: Cluster, step: Step) -> None:
    with Stream(("127.0.0.1", cluster.port)).login() as one:
        one.query(step.sql)


def usual(answer: Answer) -> Answer:
    """Without what is said ahead of an error, and without what nobody compares."""
    failed = any(part[0] == "E" for part in answer)
    return [part for part in answer if part[0] not in "SN" and not (failed and part[0] == "t")]


def ahead(step: Step, one: Answer, other: Answer) -> bool:
    return step.what == "describe" and ("n", "") in one and other[0][0] == "E" != other[0][1] != "0A000"


def differences(cluster: Cluster, pools: Sequence[tuple[int, Bouncer]], seed: int, *, past: bool) -> Iterator[str]:
    program = Author(seed, outside=past).program()
    wanted = list(play(cluster, cluster.port, program))
    for size, bouncer in pools:
        got: list[Answer] = []
        try:
            for answer in play(cluster, bouncer.port, program, pool=size):
                got.append(answer)
        except (TimeoutError, Ended) as error:
            got.append([("gone", repr(error))])
        for number, (one, other) in enumerate(zip(wanted, got, strict=False)):
            if usual(one) != usual(other) and not ahead(program[number], one, other):
                changed = any(step.who == "outside" for step in program[:number])
                if past and changed and program[number].what == "parse":
                    yield UNSEEN
                    break
                steps = "\n  ".join(map(str, program[: number + 1]))
                yield f"seed {seed}, pool of {size}:\n  {steps}\n  direct {one}\n  pooled {other}"
                break


@pytest.mark.slow
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("which", ["cluster", "newest_cluster"])
@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 350), marks=pytest.mark.slow)])
def test_what_has_changed_is_told_as_on_a_direct_connection(
    request: pytest.FixtureRequest, start_pooler: StartBouncer, which: str, past: bool, seeds: range
) -> None:
    server: Cluster = request.getfixturevalue(which)
    keep = {"pooler": {"session_state": "keep"}}
    pools = [(size, start_pooler(server=server, default_pool_size=size, sections=keep)) for size in (1, 4)]
    found = Counter(itertools.chain.from_iterable(differences(server, pools, seed, past=past) for seed in seeds))
    unseen = found.pop(UNSEEN, 0)
    assert not found, "\n\n".join([f"{len(found)} differences", *list(found)[:5]])
    assert unseen <= len(seeds) // 2


CHANGES = {
    "outside": "ALTER TABLE t ALTER x TYPE text",
    "by a function": "SELECT change()",
    "by a statement": "ALTER TABLE t ALTER x TYPE text",
    "by a block": "DO $$ BEGIN ALTER TABLE t ALTER x TYPE text; END $$",
}
CHANGE = """
CREATE OR REPLACE FUNCTION change() RETURNS int LANGUAGE plpgsql
AS $$ BEGIN ALTER TABLE t ALTER x TYPE text; RETURN 1; END $$
"""


def codes(one: Stream, *messages: bytes) -> list[str]:
    one.send(*messages, stream.sync())
    return [message.error["C"] for message in one.until() if message.type == "E"]


def use(one: Stream, name: str) -> list[str]:
    return codes(one, stream.bind((), name), stream.execute())


def prepare(one: Stream, name: str) -> list[str]:
    return codes(one, stream.parse("SELECT x FROM t", name))


@pytest.mark.parametrize("later", [0.0, 1.2])
@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("size", [1, 4])
def test_who_prepares_behind_a_change_is_not_told_of_what_was(
    cluster: Cluster, start_pooler: StartBouncer, size: int, how: str, later: float
) -> None:
    """Outside a transaction, a direct connection tells only those of 0A000 who have prepared before the change."""
    bouncer = start_pooler(default_pool_size=size, sections={"pooler": {"session_state": "keep"}})
    found = []
    for port in (cluster.port, bouncer.port):
        cluster.sql(RESET + ";" + CHANGE, dbname="app")
        with ExitStack() as stack:
            come = [stack.enter_context(Stream(("127.0.0.1", port), timeout=10).login()) for _ in range(6)]
            before, rest = come[0], come[1:]
            # The others are kept busy in turn, so that the statement is on all servers.
            for busy in range(size):
                for other in rest[:busy]:
                    other.query("BEGIN")
                assert prepare(before, f"b{busy}") == use(before, f"b{busy}") == []
                for other in rest[:busy]:
                    other.query("COMMIT")
            if how == "outside":
                cluster.sql(CHANGES[how], dbname="app")
            else:
                come[-1].query(CHANGES[how])
            time.sleep(later)
            told = [prepare(one, "n") + use(one, "n") + use(one, "n") for one in rest]
            found.append([*told, use(before, "b0")])
    assert found[0] == found[1] == [*[[]] * 5, ["0A000"]]
