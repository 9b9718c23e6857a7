"""The holes that PgBouncer had and we must not have.

CVE-2021-3935 (plaintext behind the request for TLS) is in test_logins and test_tls_logins, CVE-2025-12819 (search_path
at startup) and CVE-2025-2291 (expired passwords by auth_query) in test_auth_query. Here are CVE-2026-6667 (a command
that a stats user must not give) for every command there is, and what can be known of CVE-2026-6664 to 6666 without
their text: lengths, terminators and SASL messages that lie. Whatever the bytes, the sender is refused or let go, and a
client that was there before goes on.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import psycopg
import pytest

from admin.commands import COMMANDS
from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.waiting import until

STATS = "app_user"
OPEN = {"SHOW", "SELECT"}
EXAMPLES = {"KILL_CLIENT": "1", "SET": "max_client_conn = 1"}


def test_no_command_but_show_is_a_stats_users(start_pooler: StartBouncer) -> None:
    """CVE-2026-6667 was one forgotten check of many; ours is a column of the table, so the table is gone through."""
    pooler = start_pooler(stats_users=STATS, users={STATS: "", SUPERUSER: ""})
    names = sorted({command.name.split()[0] for command in COMMANDS} - OPEN)
    assert {"KILL", "KILL_CLIENT", "SHUTDOWN", "RELOAD", "PAUSE", "SET"} <= set(names)
    with pooler.connect() as client, pooler.connect(ADMIN, STATS, cursor_factory=psycopg.ClientCursor) as console:
        client.execute("BEGIN")
        number = next(row["id"] for row in pooler.admin("SHOW CLIENTS") if row["database"] == "app")
        examples = EXAMPLES | {"KILL_CLIENT": str(number)}
        for name in names:
            words = []
            for argument in (examples.get(name, "app"), ""):
                with pytest.raises(psycopg.Error) as caught:
                    console.execute(f"{name} {argument}".strip().encode())
                words.append(caught.value.diag.message_primary or "")
            assert "admin access needed" in words, name
        assert client.execute("SELECT 1").fetchone() == (1,)
        client.execute("COMMIT")


def packet(body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!I", len(body) + 4 if length is None else length) + body


def startup(body: bytes) -> bytes:
    return packet(struct.pack("!I", 196608) + body)


ANYBODY = startup(b"user\0scram_user\0database\0app\0\0")
FIRST = {
    "length 0": packet(b"", 0),
    "length 7": packet(b"abc", 7),
    "length 2 GB": packet(b"x", 0x7FFFFFFF),
    "negative length": packet(b"x", 0xFFFFFFFF),
    "no terminator": startup(b"user\0scram_user"),
    "no last terminator": startup(b"user\0scram_user\0database\0app\0"),
    "a name without value": startup(b"user\0"),
    "nothing": startup(b""),
    "one terminator": startup(b"\0"),
    "more behind the end": startup(b"user\0scram_user\0\0database\0app\0\0"),
    "options without end": startup(b"user\0scram_user\0options\0-c \\\0\0"),
    "a very long user": startup(b"user\0" + b"u" * 9000 + b"\0\0"),
    "bytes that are no text": startup(b"user\0\xff\xfe\xc0\0database\0\x80\0\0"),
    "short cancel": packet(struct.pack("!I", 80877102)),
    "long cancel": packet(struct.pack("!I", 80877102) + bytes(600)),
}


def message(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    return kind + packet(body, length)


def initial(mechanism: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return message(b"p", mechanism + struct.pack("!I", size & 0xFFFFFFFF) + data)


HELLO = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
SASL = {
    "length 0": message(b"p", b"", 0),
    "length 3": message(b"p", b"", 3),
    "negative length": message(b"p", b"SCRAM-SHA-256\0", 0xFFFFFFFF),
    "length 1 GB": message(b"p", b"SCRAM-SHA-256\0", 1 << 30),
    "empty": message(b"p", b""),
    "mechanism without terminator": message(b"p", b"SCRAM-SHA-256"),
    "mechanism and nothing": message(b"p", b"SCRAM-SHA-256\0"),
    "mechanism and half a length": message(b"p", b"SCRAM-SHA-256\0\0\0"),
    "data shorter than said": initial(b"SCRAM-SHA-256\0", HELLO, 5000),
    "data longer than said": initial(b"SCRAM-SHA-256\0", HELLO, 3),
    "data of length -1": initial(b"SCRAM-SHA-256\0", b"", -1),
    "data of length -2": initial(b"SCRAM-SHA-256\0", HELLO, -2),
    "another mechanism": initial(b"SCRAM-SHA-1\0", HELLO),
    "plus without TLS": initial(b"SCRAM-SHA-256-PLUS\0", b"p=tls-unique" + HELLO[1:]),
    "no data": initial(b"SCRAM-SHA-256\0", b""),
    "commas": initial(b"SCRAM-SHA-256\0", b",,,,,,,,"),
    "no nonce": initial(b"SCRAM-SHA-256\0", b"n,,n=,r="),
    "an end of string within": initial(b"SCRAM-SHA-256\0", b"n,,n=\0,r=abc\0def"),
    "a long nonce": initial(b"SCRAM-SHA-256\0", HELLO + b"x" * 100_000),
    "another message": message(b"Q", b"SELECT 1\0"),
}
FINAL = {
    "empty": b"",
    "no proof": b"c=biws,r=abc",
    "proof that is no base64": b"c=biws,r=abc,p=%%%%",
    "a short proof": b"c=biws,r=abc,p=AA==",
    "a long proof": b"c=biws,r=abc,p=" + b"QUFB" * 5000,
    "an end of string": b"c=biws\0,r=abc,p=AA==",
    "extensions": b"c=biws,r=abc,m=x,p=AA==",
}


def said(bouncer: Bouncer, *pieces: bytes) -> bytes:
    """All that the pooler answers to these bytes before it closes; it must close by itself."""
    with socket.create_connection(("127.0.0.1", bouncer.port), 10) as sock:
        answers = b""
        for number, piece in enumerate(pieces):
            if number:
                answers += sock.recv(65536)
            sock.sendall(piece)
        with suppress(ConnectionResetError):
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                answers += data
        return answers


def test_lengths_and_terminators_that_lie(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(auth_type="scram-sha-256")
    with pooler.connect(user="scram_user") as witness:
        witness.execute("BEGIN")
        before = pooler.resident()
        for name, data in FIRST.items():
            assert b"R\0\0\0\x08\0\0\0\0" not in said(pooler, data), name
        for name, data in SASL.items():
            assert b"R\0\0\0\x08\0\0\0\0" not in said(pooler, ANYBODY, data), name
        for name, data in FINAL.items():
            first = initial(b"SCRAM-SHA-256\0", HELLO)
            assert b"R\0\0\0\x08\0\0\0\0" not in said(pooler, ANYBODY, first, message(b"p", data)), name
        assert witness.execute("SELECT 1").fetchone() == (1,)
        assert pooler.resident() < before + (32 << 20)
    assert pooler.sql("SELECT 1", user="scram_user") == [(1,)]


def test_passwords_without_end(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(auth_type="md5", users={"md5_user": "secret", SUPERUSER: ""})
    known = startup(b"user\0md5_user\0database\0app\0\0")
    for body in (b"", b"\0", b"md5", b"md5" + b"0" * 32, b"secret", b"x" * 100_000, b"md5" + b"0" * 31 + b"\0\0"):
        assert b"R\0\0\0\x08\0\0\0\0" not in said(pooler, known, message(b"p", body))


BROKEN = {
    "Parse without end": message(b"P", b"name"),
    "Parse without query": message(b"P", b"name\0"),
    "Parse with half a count": message(b"P", b"name\0SELECT 1\0\0"),
    "Parse with too many types": message(b"P", b"name\0SELECT 1\0\xff\xff"),
    "Bind without end": message(b"B", b"portal"),
    "Bind without statement": message(b"B", b"\0"),
    "Bind of nothing": message(b"B", b""),
    "Describe of nothing": message(b"D", b""),
    "Describe without end": message(b"D", b"Sname"),
    "Close without end": message(b"C", b"Sname"),
    "Query without end": message(b"Q", b"SELECT 1"),
    "Query of nothing": message(b"Q", b""),
    "length 0": message(b"Q", b"", 0),
    "length 3": message(b"P", b"", 3),
    "negative length": message(b"P", b"x\0", 0xFFFFFFFF),
    "length 2 GB": message(b"P", b"x\0", 0x7FFFFFFF),
    "no such message": message(b"\x01", b""),
}


def test_messages_that_lie_behind_the_login(start_pooler: StartBouncer) -> None:
    pooler = start_pooler(default_pool_size=2)
    login = startup(b"user\0postgres\0database\0app\0\0")
    with pooler.connect(prepare_threshold=0) as witness:
        witness.execute("BEGIN")
        for name, data in BROKEN.items():
            for _ in range(2):
                said(pooler, login, data + message(b"S", b""))
            assert witness.execute("SELECT %s::int", (5,)).fetchone() == (5,), name
        witness.execute("COMMIT")
        until(lambda: pooler.pool()["cl_active"] == 1)
        assert pooler.sql("SELECT 1") == [(1,)]
