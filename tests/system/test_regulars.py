"""Who comes again and again in the same way is let in by a short road. What has changed meanwhile counts at once, and
what is not as usual goes the long way from where it is.
"""

from __future__ import annotations

import hashlib
import socket

import psycopg
import pytest

from pooler.net import scram
from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER, Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer

OLD, NEW, ROOT = "the old one", "the new one", "of the console"
USUAL = stream.startup({"user": "bob", "database": "app"})


def md5(password: str) -> str:
    return "md5" + hashlib.md5(f"{password}bob".encode()).hexdigest()


def verifier(password: str) -> str:
    return scram.verifier_text(scram.make_verifier(password))


SECRETS = {"trust": verifier, "md5": md5, "scram-sha-256": verifier}


def start(start_pooler: StartBouncer, cluster: Cluster, auth_type: str) -> Bouncer:
    target = f"host={cluster.host} port={cluster.port} dbname=app user={SUPERUSER}"
    users = {"bob": SECRETS[auth_type](OLD), SUPERUSER: ROOT}
    return start_pooler(auth_type=auth_type, databases={"app": target}, users=users)


def come(bouncer: Bouncer, password: str) -> None:
    for _ in range(3):
        assert bouncer.sql("SELECT 1", user="bob", password=password) == [(1,)]


def refused(bouncer: Bouncer, password: str, why: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=why):
        bouncer.connect(user="bob", password=password)


@pytest.mark.parametrize("auth_type", ["trust", "scram-sha-256", "md5"])
def test_what_changes_counts_for_who_comes_again(start_pooler: StartBouncer, cluster: Cluster, auth_type: str) -> None:
    bouncer = start(start_pooler, cluster, auth_type)
    factory = psycopg.ClientCursor
    with bouncer.connect(ADMIN, password=ROOT, cursor_factory=factory) as console:
        come(bouncer, OLD)
        console.execute("DISABLE app")
        refused(bouncer, OLD, 'database "app" is disabled')
        console.execute("ENABLE app")
        come(bouncer, OLD)
        console.execute("SET max_user_client_connections = 1")
        with bouncer.connect(user="bob", password=OLD):
            refused(bouncer, OLD, "max_user_client_connections")
        console.execute("SET max_user_client_connections = 0")
        come(bouncer, OLD)
        if auth_type == "trust":
            del bouncer.users["bob"]
        else:
            refused(bouncer, NEW, "authentication failed")
            bouncer.users["bob"] = SECRETS[auth_type](NEW)
        bouncer.write()
        console.execute("RELOAD")
        refused(bouncer, OLD, "authentication failed")
        if auth_type != "trust":
            come(bouncer, NEW)


def answer(salt: bytes, password: str) -> bytes:
    digest = hashlib.md5(md5(password)[3:].encode() + salt).hexdigest()
    return stream.message("p", b"md5" + digest.encode() + b"\0")


def said(sock: socket.socket) -> bytes:
    """The beginning of what comes next."""
    return sock.recv(9, socket.MSG_WAITALL)


@pytest.mark.parametrize("cut", [1, 4, 20, 0])
def test_a_regular_may_speak_in_pieces(start_pooler: StartBouncer, cluster: Cluster, cut: int) -> None:
    bouncer = start(start_pooler, cluster, "md5")
    come(bouncer, OLD)
    for _ in range(3):
        with socket.create_connection((bouncer.address, bouncer.port), 10) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in (USUAL[:cut], USUAL[cut:]):
                sock.sendall(piece)
            assert said(sock) == b"R\0\0\0\x0c\0\0\0\x05"
            right = answer(sock.recv(4, socket.MSG_WAITALL), OLD)
            for piece in (right[:cut], right[cut:] + stream.query("SELECT 1")):
                sock.sendall(piece)
            assert said(sock) == b"R\0\0\0\x08\0\0\0\0"
            got = b""
            while b"SELECT 1\0Z" not in got:
                got += (more := sock.recv(4096))
                assert more, got


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (stream.message("p", b"md5" + b"0" * 32 + b"\0"), b"password authentication failed"),
        (stream.message("p", b"\0"), b"empty password returned by client"),
        (USUAL, b"client re-sent startup pkt"),
        (stream.query("SELECT 1"), b"bad packet"),
        (stream.terminate(), b""),
    ],
)
def test_a_regular_is_told_what_others_are_told(
    start_pooler: StartBouncer, cluster: Cluster, data: bytes, told: bytes
) -> None:
    bouncer = start(start_pooler, cluster, "md5")
    come(bouncer, OLD)
    for _ in range(3):
        with socket.create_connection((bouncer.address, bouncer.port), 10) as sock:
            sock.sendall(USUAL)
            assert said(sock)
            assert len(sock.recv(4, socket.MSG_WAITALL)) == 4
            sock.sendall(data)
            got = b""
            while more := sock.recv(4096):
                got += more
            assert told in got
            assert bool(told) == bool(got)
    come(bouncer, OLD)
