"""An ordinary login takes a short road: whoever says what was said before is let in by what was decided then. It is
told what the long road tells at that moment, which everybody goes who has asked for TLS three times, in vain.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.fixtures import stream
from tests.fixtures.cluster import SUPERUSER
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Ended, Message, Stream
from tests.fixtures.waiting import until

Console = psycopg.Connection[dict[str, Any]]
PASSWORD = "correct horse"
USERS = {SUPERUSER: PASSWORD, "tls_user": PASSWORD}
ME = {"user": SUPERUSER, "database": "app"}
PACKETS: tuple[dict[str, str], ...] = (
    ME,
    ME | {"application_name": "it"},
    ME | {"work_mem": "1MB"},
    ME | {"database": "other"},
    ME | {"user": "tls_user"},
    ME | {"user": "nobody"},
    ME | {"database": "nowhere"},
)
RULES = (
    "local all all trust\nhost app all 127.0.0.1/32 md5\n",
    "local all all trust\nhost app tls_user 127.0.0.1/32 trust\nhost app all 127.0.0.1/32 reject\n",
    "local all all trust\nhost all all 10.0.0.0/8 md5\nhost all all 127.0.0.1/32 scram-sha-256\n",
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "auth_type": ("md5", "md5", "scram-sha-256", "scram-sha-256", "trust", "plain", "hba"),
    "max_client_conn": ("3", "4", "5", "100", "100"),
    "max_db_client_connections": ("2", "3", "0", "0"),
    "max_user_client_connections": ("2", "3", "0", "0"),
    "login_notify_message": ("welcome", ""),
    "ignore_startup_parameters": ("work_mem", ""),
    "application_name_add_host": ("1", "0", "0"),
    "log_connections": ("1", "0", "0"),
    "pool_mode": ("session", "transaction"),
    "max_prepared_statements": ("0", "100"),
}
COMMANDS = (("DISABLE app",), ("ENABLE app",), ("ENABLE app",), ("KILL app", "RESUME app"), ("RECONNECT app",))
KEPT = 2
"""Clients that stay, so that limits are met."""
PENDING = 3


class Login:
    """A login in two halves: up to what is asked for first, and the rest. `detour`: by the long road; `asks`: it asks
    for TLS first, as libpq does."""

    def __init__(
        self, bouncer: Bouncer, given: dict[str, str], *, detour: bool, asks: bool = False, piece: int | None = None
    ) -> None:
        self.player = stream._Login(given["user"], PASSWORD)
        self.said: list[tuple[str, object]] = []
        self.stream = Stream(("127.0.0.1", bouncer.port), piece=piece)
        self.port = self.stream.socket.getsockname()[1]
        for request in (stream.SSL_REQUEST, stream.GSSENC_REQUEST, stream.SSL_REQUEST)[: 3 if detour else asks]:
            self.stream.send(stream.request(request))
            assert self.stream.read_bytes(1) == b"N"
        self.stream.send(stream.startup(given))
        self.asked = self._hear()

    def _hear(self) -> bytes:
        """The body of what asks for an answer; empty when that was all."""
        try:
            while (got := self.stream.read()).type != "Z":
                self.said.append(self._shown(got))
                if got.type == "R" and self.said[-1][1] not in ((0,), (12,)):
                    return got.body
        except Ended:
            self.said.append(("the end", ()))
        else:
            self.said.append(("in", got.body))
        return b""

    def _shown(self, got: Message) -> tuple[str, object]:
        """Without what differs from one login to the next."""
        if got.type == "R":
            (code,) = struct.unpack_from("!I", got.body)
            return "R", (code, got.body.rpartition(b",")[2]) if code == 11 else (code,)
        return got.type, b"" if got.type == "K" else re.sub(rb":%d\b" % self.port, b":", got.body)

    def finish(self, *, wrong: bool = False) -> list[tuple[str, object]]:
        if wrong:
            self.player.password = "battery staple"
        while self.asked:
            reply = self.player.reply(self.asked)
            with suppress(Ended):
                self.stream.send(stream.message("p", reply or b""))
            self.asked = self._hear()
        return self.said

    @property
    def lets_in(self) -> bool:
        return self.said[-1][0] == "in"

    def end(self) -> None:
        """It is counted no more when this returns."""
        with suppress(Ended, OSError):
            self.stream.send(stream.terminate())
        self.stream.rest()
        self.stream.socket.close()


@pytest.fixture
def bouncer(start_pooler: StartBouncer) -> Bouncer:
    made = start_pooler(auth_type="md5", users=USERS, log_connections=0, run=False)
    made.settings["auth_hba_file"] = made.directory / "hba.conf"
    (made.directory / "hba.conf").write_text(RULES[1])
    return made.start()


@pytest.fixture
def console(bouncer: Bouncer) -> Iterator[Console]:
    """That of the system's user: no setting keeps it out, and it counts as one client."""
    until((bouncer.directory / f".s.PGSQL.{bouncer.port}").exists, "the unix socket")
    bouncer.wait_log("process up")
    more: dict[str, Any] = {"host": bouncer.directory, "cursor_factory": psycopg.ClientCursor, "row_factory": dict_row}
    with bouncer.connect(ADMIN, "pgbouncer", **more) as connection:
        yield connection


def alike(bouncer: Bouncer, given: dict[str, str], *, wrong: bool = False) -> None:
    found = []
    ways = ((False, False, None), (True, False, None), (False, False, 7), (False, True, None), (False, False, None))
    for detour, asks, piece in ways:
        one = Login(bouncer, given, detour=detour, asks=asks, piece=piece)
        found.append(one.finish(wrong=wrong))
        one.end()
    assert found == [found[1]] * len(found), given


@pytest.mark.parametrize("after", ["hba", "scram-sha-256", "plain"])
def test_who_comes_in_while_another_configuration_does_decides_nothing(
    bouncer: Bouncer, console: Console, after: str
) -> None:
    """Its login was begun under the old one: it may be finished, and others' are not taken for the same."""
    alike(bouncer, ME)
    begun = Login(bouncer, ME, detour=False)
    console.execute(f"SET auth_type = '{after}'".encode())
    begun.finish()
    assert begun.lets_in
    begun.end()
    alike(bouncer, ME)


def ends(console: Console) -> int:
    """Of clients that went by themselves."""
    rows = console.execute(b"SHOW EVENTS").fetchall()
    return sum(row["count"] for row in rows if (row["kind"], row["database"]) == ("disconnect", "app"))


@pytest.mark.parametrize("polite", [True, False])
def test_an_end_of_which_nothing_is_said_counts_as_one_that_is_logged(
    bouncer: Bouncer, console: Console, polite: bool
) -> None:
    alike(bouncer, ME)
    why = "client close request" if polite else "client unexpected eof"
    for said in (0, 1, 0, 1):
        console.execute(f"SET log_disconnections = {said}".encode())
        logged, before = bouncer.log.read_text().count(f"closing because: {why}"), ends(console)
        one = Login(bouncer, ME, detour=False)
        one.finish()
        assert one.lets_in
        if polite:
            one.end()
        else:
            one.stream.socket.close()
        until(lambda before=before: ends(console) == before + 1, "the end")  # type: ignore[misc]
        assert bouncer.log.read_text().count(f"closing because: {why}") == logged + said
    (app,) = (row for row in console.execute(b"SHOW DATABASES") if row["name"] == "app")
    assert app["current_client_connections"] == 0


class Program:
    """What happens at random. `did` tells it when it has gone wrong."""

    def __init__(self, bouncer: Bouncer, console: Console, dice: random.Random) -> None:
        self.bouncer, self.console, self.dice = bouncer, console, dice
        self.did: list[object] = []
        self.pending: list[tuple[dict[str, str], Login, Login]] = []

    def command(self, *texts: str) -> None:
        self.did.append(texts)
        for text in texts:
            with suppress(psycopg.Error):
                self.console.execute(text.encode())

    def change(self) -> None:
        key = self.dice.choice(list(SETTINGS))
        self.command(f"SET {key} = '{self.dice.choice(SETTINGS[key])}'")

    def order(self) -> None:
        self.command(*self.dice.choice(COMMANDS))

    def reload(self) -> None:
        """Of the files of users and rules alone: what was SET is lost, too."""
        (self.bouncer.directory / "hba.conf").write_text(self.dice.choice(RULES))
        for user in USERS:
            self.bouncer.users[user] = self.dice.choice((PASSWORD, PASSWORD, "another"))
        self.bouncer.settings["auth_type"] = self.dice.choice(SETTINGS["auth_type"])
        self.bouncer.write()
        self.command("RELOAD")
        self.did.append(dict(self.bouncer.users))

    def begin(self) -> None:
        if len(self.pending) < PENDING:
            given = self.dice.choice(PACKETS[:2])
            self.did.append(("begin", given))
            first = Login(self.bouncer, given, detour=False)
            if first.asked:
                self.pending.append((given, first, Login(self.bouncer, given, detour=True)))
            else:
                # It is in, or out: one that is in may leave no room for the other.
                first.end()

    def finish(self) -> None:
        if self.pending:
            given, *both = self.pending.pop(self.dice.randrange(len(self.pending)))
            self.did.append(("finish", given))
            found = []
            for one in both:
                found.append(one.finish())
                one.end()
            assert found[0] == found[1], self.did[-20:]
            self.look(given)

    def leave(self) -> None:
        """Halfway, without a word."""
        if self.pending:
            given, *both = self.pending.pop()
            self.did.append(("leave", given))
            for one in both:
                one.stream.socket.close()

    def look(self, given: dict[str, str]) -> None:
        self.did.append(("look", given))
        try:
            alike(self.bouncer, given, wrong=not self.dice.randrange(4))
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter {self.did[-20:]}") from None

    def run(self, steps: int) -> None:
        usual = (self.change, self.begin, self.finish) * 2
        actions = (*usual, self.order, self.reload, self.leave)
        for _ in range(steps):
            self.dice.choice(actions)()
            for _ in range(self.dice.randrange(4)):
                self.look(self.dice.choice(PACKETS))
        while self.pending:
            self.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "steps"), [(1, 40), *(pytest.param(seed, 400, marks=pytest.mark.slow) for seed in (3, 12))]
)
def test_both_roads_lead_to_the_same(bouncer: Bouncer, console: Console, seed: int, steps: int) -> None:
    """Limits, users, rules and what is told change at random, also while logins are halfway."""
    with ExitStack() as stack:
        for _ in range(KEPT):
            kept = Login(bouncer, ME, detour=False)
            stack.callback(kept.end)
            kept.finish()
            assert kept.lets_in
        Program(bouncer, console, random.Random(seed)).run(steps)

    def counted() -> int:
        shown = (row for what in ("DATABASES", "USERS") for row in console.execute(f"SHOW {what}".encode()))
        return sum(row["current_client_connections"] for row in shown)

    until(lambda: counted() == 2, "nobody but the console to be counted")
