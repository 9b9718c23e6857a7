"""What a stranger can learn of users without a password: nothing, not by words and not by time."""

from __future__ import annotations

import hashlib
import socket
import statistics
import struct
import time
from collections import Counter

import pytest

from pooler.net import scram
from tests.fixtures import stream
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream

PASSWORD = "correct horse"
KNOWN, UNKNOWN = "bob01", "eve01"
SECRETS = {
    "plain": PASSWORD,
    "md5": "md5" + hashlib.md5(f"{PASSWORD}{KNOWN}".encode()).hexdigest(),
    "scram": scram.verifier_text(scram.make_verifier(PASSWORD)),
}
FIRST = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
ATTEMPTS = 300
ALIKE = 5e-6
"""Seconds. There were 10 to 26 microseconds between them, and 800 where SCRAM is asked for a plain secret."""


def exchange(sock: socket.socket, data: bytes) -> tuple[float, bytes]:
    """(seconds until the answer, the answer)."""
    began = time.perf_counter()
    sock.sendall(data)
    answer = sock.recv(4096)
    return time.perf_counter() - began, answer


def attempt(bouncer: Bouncer, user: str) -> tuple[float, float]:
    """Seconds until the challenge, and from a wrong answer until the refusal."""
    with socket.create_connection(("127.0.0.1", bouncer.port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked, challenge = exchange(sock, stream.startup({"user": user, "database": "app"}))
        answer = b"a wrong answer\0"
        if struct.unpack_from("!I", challenge, 5)[0] == 10:
            data = struct.pack("!I", len(FIRST)) + FIRST
            _, server_first = exchange(sock, stream.message("p", b"SCRAM-SHA-256\0" + data))
            nonce = server_first[9:].partition(b",")[0]
            answer = b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="
        refused, said = exchange(sock, stream.message("p", answer))
        assert b"authentication failed" in said
        return asked, refused


def differences(bouncer: Bouncer) -> list[float]:
    """How much longer an unknown user waits than a known one: for the challenge, and for the refusal."""
    times: dict[str, list[tuple[float, float]]] = {KNOWN: [], UNKNOWN: []}
    for number in range(ATTEMPTS):
        for user in (KNOWN, UNKNOWN) if number % 2 else (UNKNOWN, KNOWN):
            times[user].append(attempt(bouncer, user))
    medians = {user: [statistics.median(column) for column in zip(*rows, strict=True)] for user, rows in times.items()}
    return [unknown - known for known, unknown in zip(medians[KNOWN], medians[UNKNOWN], strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("auth_type", "kind"),
    [("scram-sha-256", "scram"), ("scram-sha-256", "plain"), ("md5", "md5"), ("md5", "scram"), ("plain", "plain")],
)
def test_unknown_users_wait_as_long_as_known_ones(start_pooler: StartBouncer, auth_type: str, kind: str) -> None:
    bouncer = start_pooler(auth_type=auth_type, users={KNOWN: SECRETS[kind]})
    seen: list[list[float]] = []
    for _ in range(6):
        # On a busy machine a measurement may be off by more, to either side; where there is a difference, all have it.
        seen.append(differences(bouncer))
        if not any(min(moment) > ALIKE or max(moment) < -ALIKE for moment in zip(*seen, strict=True)):
            return
    raise AssertionError(f"microseconds: {[[round(one * 1e6, 1) for one in row] for row in seen]}")


def challenge(bouncer: Bouncer, user: str) -> tuple[int, bytes]:
    """Which proof is asked for; with SCRAM the iterations, too."""
    with Stream(("127.0.0.1", bouncer.port)) as one:
        one.send(stream.startup({"user": user, "database": "app"}))
        (code,) = struct.unpack_from("!I", one.read().body)
        if code != 10:
            return code, b""
        one.send(stream.message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(FIRST)) + FIRST))
        return code, one.read().body.rpartition(b",")[2]


def test_unknown_users_are_asked_what_known_ones_are_asked(start_pooler: StartBouncer) -> None:
    """Where secrets are of several kinds, so are theirs; each is always asked the same."""
    users = {
        "old": "md5" + "0" * 32,
        "new": scram.verifier_text(scram.make_verifier("x", 5000)),
        "newer": scram.verifier_text(scram.make_verifier("x", 6000)),
        "without": "",
    }
    bouncer = start_pooler(auth_type="md5", users=users)
    known = {challenge(bouncer, user) for user in ("old", "new", "newer")}
    assert known == {(5, b""), (10, b"i=5000"), (10, b"i=6000")}
    names = [f"nobody {number}" for number in range(60)]
    seen = {name: challenge(bouncer, name) for name in names}
    assert set(seen.values()) == known
    assert min(Counter(seen.values()).values()) > 5
    assert {name: challenge(bouncer, name) for name in names} == seen
