"""Channels go over from a client's server to a listening server: what each of them says, in every order, is told
exactly once, behind transactions and between messages. The server is played by hand, the listening one by `Hub.hear`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from pooler import wire
from pooler.relay import engine
from pooler.relay.engine import Client, Hub, Server
from pooler.relay.records import StatementTable
from pooler.touches import WORDS
from tests.unit.stage import DEFAULTS, Stage, stage

MARKER = b"the mark"
READY, IN_TRANSACTION = wire.ready_for_query(b"I"), wire.ready_for_query(b"T")
ALL = sum(WORDS)


def notification(channel: bytes, payload: bytes, pid: int = 7777) -> bytes:
    return wire.message(b"A", struct.pack("!i", pid) + channel + b"\0" + payload + b"\0")


def done(tag: str) -> bytes:
    return wire.command_complete(tag) + READY


class Play:
    """One client, one server, one listening server that has `foo` and `bar`."""

    def __init__(self, s: Stage) -> None:
        self.s = s
        self.server = s.server()
        self.client = s.joined(*play_client(s, 0x9999 << 32))
        self.hub = Hub(s.relay, "db", MARKER, self)
        self.hub.connected(None)
        self.hub.there.update((b"foo", b"bar"))

    def look(self) -> None:
        """ChannelsLeft: it is this one's that they are of."""

    def asked(self) -> bytes:
        self.s.settle()
        return self.server.take()

    def says(self, *messages: bytes) -> None:
        self.server.send(*messages)
        self.s.settle()

    def heard(self) -> bytes:
        self.s.settle()
        return self.client.take()

    def run(self, sql: str, tag: str, there: tuple[bytes, ...]) -> None:
        """The client says this, and the look shows those channels."""
        self.client.send(wire.query(sql))
        assert self.asked() == wire.query(sql)
        self.says(done(tag))
        assert b"pg_listening_channels" in self.asked()
        rows = [wire.data_row([b"64", name, None]) for name in there]
        self.says(*rows, done(f"SELECT {len(rows)}"))
        assert self.heard() == done(tag)

    def go_over(self) -> None:
        self.conn.hand_over_to(self.hub)
        assert self.asked() == wire.query(f'LISTEN "{MARKER.decode()}"')

    def mark(self) -> bytes:
        """The server has listened to the mark: which one it is told to set."""
        self.says(done("LISTEN"))
        asked = self.asked()
        assert asked.startswith(b"Q")
        assert b'NOTIFY "the mark", ' in asked
        return asked.split(b"'")[1]

    def finish(self) -> None:
        self.says(done("NOTIFY"))
        assert self.asked() == wire.query("UNLISTEN *")
        self.says(done("UNLISTEN"))

    def follows(self) -> None:
        """All of it, for `foo`."""
        self.run("LISTEN foo", "LISTEN", (b"foo",))
        self.go_over()
        mark = self.mark()
        self.says(notification(MARKER, mark))
        self.finish()
        self.hub.hear(notification(MARKER, mark))

    @property
    def conn(self) -> Server:
        assert isinstance(self.server.conn, Server)
        return self.server.conn

    @property
    def listens_to(self) -> list[bytes]:
        assert isinstance(self.client.conn, Client)
        return self.client.conn.listens_to


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(kept=ALL, unread=False) as made:
        yield made


@pytest.fixture
def play(s: Stage) -> Play:
    return Play(s)


def test_channels_go_over_and_the_server_is_free(play: Play) -> None:
    play.follows()
    assert play.listens_to == [b"foo"]
    assert play.s.states == "1a 0w / 0a 1i 0u 0t 0c"
    assert play.hub.hear(notification(b"foo", b"x")) == 1
    assert play.hub.hear(notification(b"bar", b"y")) == 0
    assert play.heard() == notification(b"foo", b"x")


@pytest.mark.parametrize("hub_first", [True, False])
def test_the_mark_parts_the_two_streams(play: Play, hub_first: bool) -> None:
    """Whichever stream is ahead."""
    play.run("LISTEN foo", "LISTEN", (b"foo",))
    before, after = notification(b"foo", b"before"), notification(b"foo", b"after")
    play.says(before)
    play.hub.hear(before)
    assert play.heard() == before
    play.go_over()
    mark = play.mark()

    def hub() -> None:
        for message in (before, notification(MARKER, b"another's"), notification(MARKER, mark), after):
            play.hub.hear(message)

    if hub_first:
        hub()
        assert play.heard() == b""
    play.says(before, notification(MARKER, b"another's"), notification(MARKER, mark), after)
    assert play.heard() == before
    play.finish()
    if not hub_first:
        assert play.heard() == b""
        hub()
    assert play.heard() == after
    assert play.s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_who_is_in_a_transaction_is_told_ahead_of_its_end(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("BEGIN"))
    play.s.settle()
    play.says(wire.command_complete("BEGIN"), IN_TRANSACTION)
    play.heard()
    play.hub.hear(notification(b"foo", b"1"))
    play.hub.hear(notification(b"foo", b"2"))
    play.client.send(wire.query("SELECT 1"))
    play.says(wire.data_row([b"1"])[:7])
    play.hub.hear(notification(b"foo", b"3"))
    play.says(wire.data_row([b"1"])[7:] + wire.command_complete("SELECT 1"), IN_TRANSACTION)
    assert b"foo" not in play.heard()
    play.client.send(wire.query("COMMIT"))
    play.s.settle()
    play.says(done("COMMIT"))
    waited = b"".join(notification(b"foo", payload) for payload in (b"1", b"2", b"3"))
    assert play.heard() == wire.command_complete("COMMIT") + waited + READY


def test_a_row_under_way_is_not_cut(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("SELECT 1"))
    play.s.settle()
    row = wire.data_row([b"x" * 100])
    play.says(row[:50])
    play.hub.hear(notification(b"foo", b"1"))
    assert play.heard() == row[:50]
    play.says(row[50:], done("SELECT 1"))
    assert play.heard() == row[50:] + wire.command_complete("SELECT 1") + notification(b"foo", b"1") + READY


def test_unlisten_ends_it_with_what_waits(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("UNLISTEN foo"))
    play.s.settle()
    play.hub.hear(notification(b"foo", b"1"))
    play.says(done("UNLISTEN"))
    play.says(done("SELECT 0"))
    assert play.heard() == done("UNLISTEN")
    assert play.listens_to == []
    assert not play.hub.channels
    assert play.hub.hear(notification(b"foo", b"2")) == 0


def test_an_unlisten_that_failed_has_not_happened(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("UNLISTEN foo; SELECT 1/0"))
    play.s.settle()
    play.says(wire.command_complete("UNLISTEN"), wire.error_response("ERROR", "22012", "division by zero"), READY)
    play.says(done("SELECT 0"))
    assert play.listens_to == [b"foo"]


def test_who_listens_twice_is_told_once(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("LISTEN foo"))
    play.s.settle()
    play.says(done("LISTEN"), notification(b"foo", b"1"))
    play.hub.hear(notification(b"foo", b"1"))
    play.says(wire.data_row([b"64", b"foo", None]), done("SELECT 1"))
    assert play.server.take().endswith(wire.query("UNLISTEN *"))
    play.says(notification(b"foo", b"2"), done("UNLISTEN"))
    play.hub.hear(notification(b"foo", b"2"))
    assert play.heard() == done("LISTEN") + notification(b"foo", b"1") + notification(b"foo", b"2")
    assert play.s.states == "1a 0w / 0a 1i 0u 0t 0c"


def test_a_client_that_goes_is_forgotten(play: Play) -> None:
    play.follows()
    play.client.close()
    play.s.settle()
    assert not play.hub.channels
    assert play.hub.hear(notification(b"foo", b"1")) == 0


def test_a_client_that_takes_nothing_is_ended(play: Play) -> None:
    play.follows()
    play.s.relay.max_notifications = 10_000
    play.client.send(wire.query("BEGIN"))
    play.s.settle()
    play.says(wire.command_complete("BEGIN"), IN_TRANSACTION)
    for _ in range(9):
        play.hub.hear(notification(b"foo", b"x" * 1000))
    assert play.s.reasons == []
    play.hub.hear(notification(b"foo", b"x" * 1000))
    play.s.settle()
    assert "too many notifications wait for this client" in play.s.reasons


def test_what_its_own_server_cannot_be_told_stays_there(play: Play) -> None:
    """A time limit of the client's, say."""
    play.run("LISTEN foo", "LISTEN", (b"foo",))
    play.go_over()
    play.says(wire.error_response("ERROR", "57014", "canceling statement due to statement timeout"), READY)
    play.says(notification(b"foo", b"1"))
    assert play.heard() == notification(b"foo", b"1")
    assert play.conn.listens_to == (b"foo",)
    assert play.s.states == "1a 0w / 1a 0i 0u 0t 0c"


def test_a_connection_that_is_lost_on_the_way(play: Play) -> None:
    play.run("LISTEN foo", "LISTEN", (b"foo",))
    play.go_over()
    mark = play.mark()
    play.hub.lost()
    play.says(notification(MARKER, mark))
    play.finish()
    assert play.listens_to == [b"foo"]
    assert play.hub.channels == {b"foo"}
    assert play.hub.hear(notification(b"foo", b"1")) == 1
    assert play.heard() == notification(b"foo", b"1")


def test_another_encoding_stays(s: Stage) -> None:
    play = Play(s)
    play.client = s.client((b"LATIN1", *DEFAULTS[1:]))
    play.client.send(wire.query("LISTEN foo"))
    assert b"client_encoding" in play.asked()
    play.says(wire.parameter_status("client_encoding", "LATIN1"), done("SET"))
    assert play.asked() == wire.query("LISTEN foo")
    play.says(done("LISTEN"))
    play.s.settle()
    play.server.take()
    play.server.send(wire.data_row([b"64", b"foo", None]), done("SELECT 1"))
    s.relay.select(0)
    assert [type(event).__name__ for event in s.relay.events if "Channels" in type(event).__name__] == []
    s.settle()
    assert play.conn.listens_to == (b"foo",)


def test_the_notifier_is_known_by_the_id_its_client_was_told(play: Play) -> None:
    play.follows()
    pid = play.conn.pid
    other = play.s.joined(*play_client(play.s, 0x1234 << 32))
    other.send(wire.query("SELECT fires()"))
    play.s.settle()
    assert play.hub.is_unsure(notification(b"foo", b"1", pid))
    play.says(wire.data_row([b""]), done("SELECT 1"))
    play.hub.hear(notification(b"foo", b"1", pid))
    play.hub.hear(notification(b"foo", b"2", pid + 1))
    assert play.heard() == notification(b"foo", b"1", 0x1234) + notification(b"foo", b"2", pid + 1)


def test_a_notification_that_comes_late_is_of_the_one_before(play: Play) -> None:
    """Its server has been given to another client meanwhile, which it has not answered."""
    play.follows()
    pid = play.conn.pid
    first = play.s.joined(*play_client(play.s, 0x1111 << 32))
    second = play.s.joined(*play_client(play.s, 0x2222 << 32))
    first.send(wire.query("NOTIFY foo"))
    play.s.settle()
    second.send(wire.query("SELECT 1"))
    play.s.settle()
    play.says(done("NOTIFY"))
    play.hub.hear(notification(b"foo", b"", pid))
    assert play.heard() == notification(b"foo", b"", 0x1111)


@pytest.mark.parametrize("gone", [False, True])
def test_a_notification_that_comes_behind_its_servers_end_is_of_who_had_it(play: Play, gone: bool) -> None:
    play.follows()
    pid = play.conn.pid
    other = play.s.joined(*play_client(play.s, 0x1234 << 32))
    other.send(wire.query("NOTIFY foo"))
    play.s.settle()
    play.says(done("NOTIFY"))
    if gone:
        play.server.close()
        play.s.settle()
    assert play.hub.notifier(notification(b"foo", b"", pid)) == 0x1234
    assert play.hub.notifier(notification(b"foo", b"", pid + 1)) is None
    play.hub.hear(notification(b"foo", b"", pid))
    assert play.heard() == notification(b"foo", b"", 0x1234)


def play_client(s: Stage, key: int) -> tuple[socket.socket, Client]:
    near, far = s.pair()
    number = key >> 32
    conn = s.relay.adopt_client(s.pool, number, near.detach(), None, b"", DEFAULTS, None, key.to_bytes(8, "big"))
    return far, conn


def test_it_goes_on_in_another_process(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("BEGIN"))
    play.s.settle()
    play.says(wire.command_complete("BEGIN"), IN_TRANSACTION)
    play.heard()
    play.hub.hear(notification(b"foo", b"1"))
    table: StatementTable = {}
    state = engine.record(play.client.conn, table)
    assert state["hub"] == MARKER
    assert state["marks"] == [[b"foo", None]]
    assert state["inbox"] == [notification(b"foo", b"1")]


def test_who_listens_again_at_once_has_listened_throughout(play: Play) -> None:
    """What the listening server hears while it is asked what is left is told, and once."""
    play.follows()
    again = "UNLISTEN foo; LISTEN foo"
    play.client.send(wire.query(again))
    assert play.asked() == wire.query(again)
    end = wire.command_complete("UNLISTEN") + done("LISTEN")
    play.says(end, notification(b"foo", b"1"))
    assert b"pg_listening_channels" in play.asked()
    play.hub.hear(notification(b"foo", b"1"))
    play.says(wire.data_row([b"64", b"foo", None]), done("SELECT 1"))
    assert play.asked() == wire.query("UNLISTEN *")
    play.says(done("UNLISTEN"))
    assert play.heard() == end + notification(b"foo", b"1")
    assert play.listens_to == [b"foo"]
    assert play.hub.hear(notification(b"foo", b"2")) == 1
    assert play.heard() == notification(b"foo", b"2")


def test_a_channel_in_place_of_the_other_is_heard_from_the_first_moment(play: Play) -> None:
    """Also while the server is asked what is left, and of the other nothing more is told."""
    play.follows()
    instead = "LISTEN bar; UNLISTEN foo"
    play.client.send(wire.query(instead))
    assert play.asked() == wire.query(instead)
    end = wire.command_complete("LISTEN") + done("UNLISTEN")
    play.says(end, notification(b"bar", b"1"))
    assert b"pg_listening_channels" in play.asked()
    play.hub.hear(notification(b"foo", b"0"))
    play.says(wire.data_row([b"64", b"bar", None]), done("SELECT 1"), notification(b"bar", b"2"))
    assert play.heard() == end + notification(b"bar", b"1") + notification(b"bar", b"2")


@pytest.mark.parametrize("hub_first", [True, False])
def test_a_second_channel_comes_behind_what_the_first_has_said(play: Play, hub_first: bool) -> None:
    """Its server is faster than the listening one."""
    play.follows()
    play.client.send(wire.query("LISTEN bar"))
    play.s.settle()
    play.says(done("LISTEN"), notification(b"bar", b"1"))
    play.says(wire.data_row([b"64", b"bar", None]), done("SELECT 1"))
    play.server.take()
    play.says(notification(b"bar", b"2"))
    assert play.heard() == done("LISTEN")
    play.go_over()
    mark = play.mark()

    def hub() -> None:
        play.hub.hear(notification(b"foo", b"before"))
        play.hub.hear(notification(MARKER, mark))
        play.hub.hear(notification(b"bar", b"4"))

    if hub_first:
        hub()
    play.says(notification(b"bar", b"3"), notification(MARKER, mark))
    play.finish()
    if not hub_first:
        assert play.heard() == b""
        hub()
    said = [(b"foo", b"before"), (b"bar", b"1"), (b"bar", b"2"), (b"bar", b"3"), (b"bar", b"4")]
    assert play.heard() == b"".join(notification(*each) for each in said)
    assert play.listens_to == [b"bar", b"foo"]


def test_what_is_early_is_told_when_the_listening_server_is_lost(play: Play) -> None:
    play.follows()
    play.client.send(wire.query("LISTEN bar"))
    play.s.settle()
    play.says(done("LISTEN"), notification(b"bar", b"1"))
    play.says(wire.data_row([b"64", b"bar", None]), done("SELECT 1"))
    assert play.heard() == done("LISTEN")
    play.hub.lost()
    assert play.heard() == notification(b"bar", b"1")


@pytest.mark.parametrize("how", ["NOTIFY foo", "SELECT pg_notify('foo', '')"])
def test_marks_part_those_who_have_notified_on_one_server(play: Play, how: str) -> None:
    play.follows()
    pid = play.conn.pid
    for key in (0x1111, 0x2222):
        other = play.s.joined(*play_client(play.s, key << 32))
        other.send(wire.query(how))
        play.s.settle()
        play.server.take()
        play.says(done(how.partition(" ")[0]))
        assert play.asked() == wire.query(f"NOTIFY \"the mark\", 'epoch {pid}'")
        play.says(done("NOTIFY"))
        assert play.s.states.endswith("/ 0a 1i 0u 0t 0c")
    epoch = notification(MARKER, b"epoch %d" % pid)
    for message in (notification(b"foo", b"1", pid), epoch, notification(b"foo", b"2", pid), epoch):
        play.hub.hear(message)
    assert play.heard() == notification(b"foo", b"1", 0x1111) + notification(b"foo", b"2", 0x2222)


def test_who_speaks_of_it_has_notified(play: Play) -> None:
    """Though its server has just been another's, and has not answered."""
    play.follows()
    for key, how in ((0x1111, "SELECT 1"), (0x2222, "NOTIFY foo")):
        play.s.joined(*play_client(play.s, key << 32)).send(wire.query(how))
        play.s.settle()
        assert play.server.take() == wire.query(how)
        if key == 0x1111:
            play.says(done("SELECT 1"))
    message = notification(b"foo", b"1", play.conn.pid)
    assert not play.hub.is_unsure(message)
    play.hub.hear(message)
    assert play.heard() == notification(b"foo", b"1", 0x2222)


def test_a_mark_that_cannot_be_set_harms_nobody(play: Play) -> None:
    play.follows()
    other = play.s.joined(*play_client(play.s, 0x1111 << 32))
    other.send(wire.query("NOTIFY foo"))
    play.s.settle()
    play.says(done("NOTIFY"))
    play.says(wire.error_response("ERROR", "57014", "canceling statement due to statement timeout"), READY)
    assert play.s.states == "2a 0w / 0a 1i 0u 0t 0c"
    assert play.s.reasons == []
