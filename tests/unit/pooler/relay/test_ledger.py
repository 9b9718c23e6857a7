"""The ledger by itself: what was sent, what was heard, and whether all is over. The table of MACHINES.md, row by row,
and random exchanges of which a `Backend` is the other side.
"""

from __future__ import annotations

import random

import pytest

from pooler import wire
from pooler.relay.engine import Ledger
from tests.fixtures.programs import Author
from tests.unit.backend import Backend

READING, SKIPPING, RUNNING, COPYING, RUN_COPYING = range(5)
FORWARD, SKIP, AS_PARSE, FENCED, WRONG = range(5)
NOTED = "PBDECSQFc"


def ledger(sent: str, heard: str = "") -> Ledger:
    """After these messages of the frontend (c for either end of a COPY), and then these of the backend."""
    made = Ledger()
    for kind in sent:
        made.send(kind)
    for kind in heard:
        assert made.hear(kind) == FORWARD, kind
    return made


EXCHANGES = [
    # sent, heard; and then: what it does, how much of the log is left, whether it is at rest
    ("", "", READING, 0, True),
    ("Q", "", READING, 1, False),
    ("Q", "TC", RUNNING, 0, False),
    ("Q", "TCZ", READING, 0, True),
    ("Q", "EZ", READING, 0, True),
    ("Q", "IZ", READING, 0, True),
    ("Q", "HCTCZ", READING, 0, True),
    ("F", "VZ", READING, 0, True),
    ("F", "EZ", READING, 0, True),
    ("QQ", "CZ", READING, 1, False),
    ("S", "", READING, 1, False),
    ("S", "Z", READING, 0, True),
    ("S", "EZ", READING, 0, True),
    ("P", "1", READING, 0, False),
    ("PBDES", "12TCZ", READING, 0, True),
    ("PBDES", "12nIZ", READING, 0, True),
    ("PDS", "1tTZ", READING, 0, True),
    ("PBES", "12sZ", READING, 0, True),
    ("PBE", "12HC", READING, 0, False),
    ("CS", "3Z", READING, 0, True),
    # an error skips up to the Sync, simple messages too
    ("PBE", "E", SKIPPING, 0, False),
    ("PBES", "1E", READING, 1, False),
    ("PBES", "1EZ", READING, 0, True),
    ("PBEQS", "12EZ", READING, 0, True),
    ("PBEFS", "12EZ", READING, 0, True),
    ("PBEQQ", "12E", SKIPPING, 0, False),
    ("PBEQ", "12CCZ", READING, 0, True),
    ("PBESQ", "EZTCZ", READING, 0, True),
    # a COPY from the client
    ("Q", "G", RUN_COPYING, 0, False),
    ("Qc", "GCZ", READING, 0, True),
    ("Qcc", "GCGCZ", READING, 0, True),
    ("Qc", "GEZ", READING, 0, True),
    ("QcQ", "GEZTCZ", READING, 0, True),
    ("E", "G", COPYING, 0, False),
    ("EcS", "GCZ", READING, 0, True),
    ("EcS", "GEZ", READING, 0, True),
    ("EScS", "GCZ", READING, 0, True),
    ("ESScS", "GCZ", READING, 0, True),
    ("QScQ", "GCZTCZ", READING, 0, True),
    # its end is nothing where there is no COPY
    ("Qc", "TCZ", READING, 0, True),
    ("EcS", "CZ", READING, 0, True),
    ("cS", "Z", READING, 0, True),
]


@pytest.mark.parametrize(("sent", "heard", "mode", "left", "rest"), EXCHANGES)
def test_exchanges(sent: str, heard: str, mode: int, left: int, rest: bool) -> None:
    made = ledger(sent, heard)
    assert made.modes == [(mode, 0)]
    assert made.length == left
    assert made.resting == rest


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ("", "Z"), ("", "1"), ("", "C"), ("", "T"), ("Q", "1"), ("Q", "2"), ("Q", "3"), ("Q", "n"), ("Q", "t"),
        ("Q", "s"), ("Q", "Z"), ("P", "2"), ("P", "C"), ("B", "1"), ("B", "C"), ("E", "1"), ("E", "T"), ("E", "Z"),
        ("C", "1"), ("D", "C"), ("S", "C"), ("S", "1"), ("F", "2"),
    ],
)  # fmt: skip
def test_what_postgresql_never_says_is_wrong(sent: str, heard: str) -> None:
    assert ledger(sent).hear(heard) == WRONG


def test_an_answer_to_nothing_behind_an_end_is_wrong() -> None:
    assert ledger("Q", "TCZ").hear("Z") == WRONG
    assert ledger("PBES", "EZ").hear("Z") == WRONG
    assert ledger("PBE", "E").hear("Z") == WRONG


# ---- guesses


def test_a_copy_that_fails_may_have_swallowed_a_sync() -> None:
    made = ledger("EScS", "GE")
    assert made.count == 2
    assert not made.resting
    assert made.hear("Z") == FORWARD
    assert not made.resting
    assert made.modes == [(READING, 3), (READING, 2)]
    assert made.hear("Z") == FORWARD
    assert made.resting


def test_the_next_answer_tells() -> None:
    made = ledger("EScSQ", "GEZ")
    assert made.count == 2
    assert made.hear("T") == FORWARD
    assert made.count == 1
    assert ledger("EScSQ", "GEZTCZ").resting
    assert ledger("EScSQ", "GEZZTCZ").resting


def test_a_sync_that_may_have_been_swallowed_may_end_the_skipping() -> None:
    """Of what was skipped behind a COPY it is not known, until an answer has come, whether it was."""
    assert ledger("EScPBES", "GEZ12CZ").resting
    made = ledger("EScPBES", "GEZ")
    assert made.count == 2
    assert made.hear("1") == FORWARD
    assert made.count == 1
    assert made.length == 3


def test_a_simple_copy_that_fails() -> None:
    assert ledger("QScQ", "GEZTCZ").resting
    assert ledger("QScQ", "GEZZTCZ").resting


def test_too_many_guesses_are_given_up() -> None:
    made = ledger("E" + "S" * 7 + "c", "G")
    assert made.hear("E") == FORWARD
    assert made.count == 8
    made = ledger("E" + "S" * 8 + "c", "G")
    assert made.hear("E") == WRONG


def test_what_was_skipped_is_undone_from_the_last_to_the_first() -> None:
    from pooler.relay.engine import Relay, statement

    with Relay() as relay:
        one, two = statement(relay, 1, b"one", False), statement(relay, 2, b"two", False)
        made = Ledger()
        made.send("B")
        made.send("C", FORWARD, one, b"a")
        made.send("P", FORWARD, two, b"a")
        made.send("S")
        made.send("P", FORWARD, one, b"b")
        assert made.hear("E") == FORWARD
        names = [(chr(kind), name) for kind, _, _, name in made.take_undone()]
        assert names == [("P", b"a"), ("C", b"a")]
        assert made.hear("Z") == FORWARD
        assert made.hear("1") == FORWARD
        assert made.take_undone() == []


def test_acts() -> None:
    made = Ledger()
    for kind, act in (("P", SKIP), ("C", SKIP), ("C", AS_PARSE), ("C", 5), ("B", FORWARD)):
        made.send(kind, act)
    assert [made.hear(kind) for kind in "13332"] == [SKIP, SKIP, AS_PARSE, SKIP, FORWARD]


# ---- against a backend


def answers(backend: Backend, message: bytes) -> str:
    """The types of what it says, without those that the ledger does not hear."""
    data, found, at = backend.feed(message), "", 0
    while at < len(data):
        found += chr(data[at])
        at += 1 + int.from_bytes(data[at + 1 : at + 5], "big")
    return "".join(kind for kind in found if kind not in "DdcNAS")


def kinds_sent(message: bytes) -> str:
    kind = chr(message[0])
    return "c" if kind == "f" else kind if kind in NOTED else ""


class Words(Author):
    """Programs of the protocol in the words that `Backend` knows."""

    def reading(self) -> str:
        return self.random.choice((f"SELECT {self.token()}", f"ERROR {self.token()}", f"BROKEN {self.token()}", ""))

    def control(self) -> str:
        return self.random.choice(("BEGIN", "COMMIT", "ROLLBACK"))

    def copying(self) -> str:
        return self.random.choice(("COPY IN", "COPY IN", "COPY IN NONE"))

    def any_text(self) -> str:
        return self.random.choice((self.reading(), self.copying(), self.control(), "COPY OUT"))


@pytest.mark.parametrize("seed", range(300))
def test_it_is_never_at_rest_while_anything_is_to_come(seed: int) -> None:
    """The answers come in any delay: whenever the ledger says that all is over, it is."""
    author, order = Words(seed, "m"), random.Random(seed)
    backend, made, late = Backend(), Ledger(), ""
    for _ in range(20):
        for message in [*author.program(), wire.message(b"f", b"x\0"), wire.sync()]:
            for kind in kinds_sent(message):
                made.send(kind)
            late += answers(backend, message)
            if backend.ended:
                return
            heard = order.choice((0, 0, 1, 3, len(late)))
            for kind in late[:heard]:
                assert made.hear(kind) == FORWARD, (kind, made.record())
            late = late[heard:]
            assert not (made.resting and (late or backend.skipping or backend.copying is not None))
        for kind in late:
            assert made.hear(kind) == FORWARD, (kind, made.record())
        late = ""
        assert made.count > 1 or made.modes == [(READING, 0)]
        assert made.length == 0 or made.count > 1
