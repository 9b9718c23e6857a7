"""`login`: every first byte, parameter and method, told by a scripted client and a house."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pooler import wire
from pooler.clients.login import Admitted, Cancel, login
from pooler.config.databases import DatabaseConfig
from pooler.config.users import Secret
from pooler.net import scram
from pooler.net.channel import Channel
from pooler.pools.connection import Replication
from pooler.pools.refusal import LoginError
from tests.unit.housed import (
    MD5,
    PASSWORD,
    SCRAM,
    SECRETS,
    Client,
    House,
    answer,
    bytes_client,
    client,
    outcome,
    refusal,
    unix_meet,
)
from tests.unit.pairs import run, tcp_pair

# ---- methods


GOOD = [
    ("any", "plain"),
    ("trust", "plain"),
    ("plain", "plain"),
    ("plain", "md5"),
    ("plain", "scram"),
    ("md5", "plain"),
    ("md5", "md5"),
    ("md5", "scram"),
    ("scram-sha-256", "plain"),
    ("scram-sha-256", "scram"),
]


@pytest.mark.parametrize("piece", [1, 10_000])
@pytest.mark.parametrize(("method", "kind"), GOOD)
def test_the_right_password_lets_in(method: str, kind: str, piece: int) -> None:
    house = House(SECRETS[kind], auth_type=method)
    database = "forced" if method == "any" else "app"
    admitted = outcome(house, client(database=database, piece=piece))
    assert isinstance(admitted, Admitted)
    assert admitted.user == ("owner" if method == "any" else "bob")
    assert admitted.database == house.config.databases[database]
    assert not admitted.admin
    assert house.lines == [f"login attempt: db={database} user={admitted.user} tls=no replication=no"]


@pytest.mark.parametrize("password", ["wrong", "correct hors", "correct horse ", "\udcff"])
@pytest.mark.parametrize(("method", "kind"), [pair for pair in GOOD if pair[0] not in ("any", "trust")])
def test_a_wrong_password_does_not(method: str, kind: str, password: str) -> None:
    error = refusal(House(SECRETS[kind], auth_type=method), client(password))
    sasl = method == "scram-sha-256" or (method, kind) == ("md5", "scram")
    assert error.message == f"{'SASL' if sasl else 'password'} authentication failed"
    assert error.sqlstate == "08P01"
    assert error.notify


@pytest.mark.parametrize(("method", "kind"), [pair for pair in GOOD if pair[0] not in ("any", "trust")])
def test_an_unknown_user_is_told_what_a_wrong_password_is_told(
    method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooler.clients.login.DISCREET", 0)
    heard: dict[str, list[bytes]] = {}

    def listening(user: str) -> Client:
        async def play(channel: Channel) -> None:
            kinds = heard.setdefault(user, [])
            read = channel.read_message

            async def note(max_size: int = 1 << 20) -> tuple[bytes, bytes]:
                got = await read(max_size)
                kinds.append(got[0] + got[1][:4])
                return got

            await wire_login(channel, user, note)

        return play

    async def wire_login(channel: Channel, user: str, read: Any) -> None:
        class Listening:
            read_message = staticmethod(read)
            send = staticmethod(channel.send)

        await channel.send(wire.startup_message({"user": user, "database": "app"}))
        await answer(Listening(), user, "wrong")  # type: ignore[arg-type]

    house = House(SECRETS[kind], auth_type=method)
    messages = {user: refusal(house, listening(user)).message for user in ("bob", "mallory")}
    assert messages["bob"] == messages["mallory"]
    assert heard["bob"] == heard["mallory"]
    assert house.lines.count("no such user: mallory") == 1


@pytest.mark.parametrize(("method", "kind"), [pair for pair in GOOD if pair[0] not in ("any", "trust")])
def test_no_line_of_the_log_gives_an_unknown_user_away(
    method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes its time: until both have been answered there are as many for the one as for the other."""
    monkeypatch.setattr("pooler.clients.login.DISCREET", 60)
    lines: dict[str, list[str]] = {}
    for user in ("bob", "eve"):
        house = House(SECRETS[kind], auth_type=method)
        refusal(house, client("wrong", user=user))
        lines[user] = [line.replace(user, "") for line in house.lines]
    assert lines["bob"] == lines["eve"]


def test_an_md5_secret_cannot_do_scram() -> None:
    error = refusal(House(MD5, auth_type="scram-sha-256"), client())
    assert error.message == "SASL authentication failed"


def test_trust_is_for_known_users() -> None:
    assert refusal(House(auth_type="trust"), client(user="mallory")).message == '"trust" authentication failed'


@pytest.mark.parametrize("method", ["plain", "md5", "scram-sha-256"])
@pytest.mark.parametrize("guess", ["", "x"])
def test_an_empty_secret_lets_nobody_in(method: str, guess: str) -> None:
    house = House(auth_type=method)
    house.config = dataclasses.replace(house.config, secrets={"bob": Secret("bob", "")})
    assert refusal(house, client(guess)).message in (
        "password authentication failed",
        "SASL authentication failed",
        "empty password returned by client",
    )


def test_what_a_login_teaches() -> None:
    learnt = {}
    for method, kind in GOOD[2:]:
        admitted = outcome(House(SECRETS[kind], auth_type=method), client())
        assert isinstance(admitted, Admitted)
        learnt[method, kind] = admitted.credentials
        assert PASSWORD not in repr(admitted)
    assert learnt["plain", "scram"].password == PASSWORD
    assert learnt["md5", "plain"].password == PASSWORD
    assert learnt["md5", "md5"].md5 == MD5
    assert learnt["scram-sha-256", "plain"].keys is None
    keys = learnt["scram-sha-256", "scram"].keys
    assert keys is not None
    exchange, verifier = scram.ClientExchange(), House(SCRAM).config.secrets["bob"].scram
    assert verifier is not None
    server = scram.ServerExchange(verifier)
    exchange.take(server.first(exchange.first()))
    exchange.finish(server.final(exchange.final(keys)))


@pytest.mark.parametrize(
    ("reply", "message", "notify"),
    [
        (wire.password_message(b""), "empty password returned by client", True),
        (wire.password_message(b"x" * 65_536), "password too long", True),
        (b"p\x7f\xff\xff\xfe", "password too long", True),
        (b"p\x7f\xff\xff\xff", "bad packet header: '707fffffff'", True),
        (b"p\xff\xff\xff\xff", "bad packet header: '70ffffffff'", True),
        (wire.query("select 1"), "bad packet", True),
        (wire.terminate(), "client close request", False),
        (b"p\0\0\0\3", "bad packet header: '7000000003'", True),
        (b"p\0\0\0\0", "bad packet header: '7000000000'", True),
        (b"p\0\0\0\5x", "bad packet", True),
        (wire.startup_message({"user": "bob"}), "client re-sent startup pkt", True),
        (b"", "client unexpected eof", False),
        (b"p\0\0\0\x20cut", "client unexpected eof", False),
    ],
)
def test_answers_that_are_no_password(reply: bytes, message: str, notify: bool) -> None:
    startup = wire.startup_message({"user": "bob", "database": "app"})
    error = refusal(House(auth_type="plain"), bytes_client(startup, reply))
    assert error.message.startswith(message)
    assert error.notify is notify


def test_a_sasl_mechanism_that_was_not_offered() -> None:
    startup = wire.startup_message({"user": "bob", "database": "app"})
    reply = wire.sasl_initial_response("SCRAM-SHA-256-PLUS", b"p=x,,n=,r=x")
    error = refusal(House(auth_type="scram-sha-256"), bytes_client(startup, reply))
    assert error.message == "client selected an invalid SASL authentication mechanism"


def test_auth_type_any_needs_a_forced_user() -> None:
    house = House(auth_type="any")
    assert refusal(house, client()).message == "bouncer config error"
    assert "auth_type=any requires forced user" in house.lines


@pytest.mark.parametrize(("missing", "method"), [("pam", "pam"), ("ldap3", "ldap")])
def test_a_missing_package_is_said(missing: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a))
    house = House(auth_type=method, auth_ldap_options="ldapserver=127.0.0.1")
    assert refusal(house, client(user="anybody")).message == "bouncer config error"
    assert any("pip install" in line for line in house.lines)


def test_one_who_leaves_while_pam_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the judgement then; until then it is the stranger who waits for us."""

    async def scene() -> None:
        house, thinking = House(auth_type="pam"), asyncio.Event()
        mine, theirs = tcp_pair()
        speaker, channel = (Channel(sock, asyncio.get_running_loop()) for sock in (mine, theirs))

        async def think(user: str, password: str) -> bool:
            thinking.set()
            await asyncio.Event().wait()
            return True

        monkeypatch.setattr("pooler.clients.pam.check", think)
        logging_in = asyncio.create_task(login(channel, house))
        assert not channel.heard
        await speaker.send(wire.startup_message({"user": "bob", "database": "app"}))
        assert (await speaker.read_message())[0] == b"R"
        assert channel.heard
        assert not channel.at_work
        await speaker.send(wire.password_message(b"guess"))
        await thinking.wait()
        assert channel.at_work
        speaker.abort()
        with pytest.raises(LoginError, match="client unexpected eof"):
            await logging_in
        channel.abort()

    run(scene())


def test_ldap_without_options() -> None:
    assert refusal(House(auth_type="ldap"), client()).message == "auth_ldap_options is null"


# ---- HBA


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("host all all 127.0.0.1/32 trust", ""),
        ("host app bob 127.0.0.1/32 scram-sha-256", ""),
        ("host all all 127.0.0.1/32 reject", "login rejected"),
        ("host all all 10.0.0.0/8 trust", "no authentication method is found"),
        ("hostssl all all 127.0.0.1/32 trust", "no authentication method is found"),
        ("local all all peer", "no authentication method is found"),
        ("host all all 127.0.0.1/32 peer", "unix socket login rejected"),
        ("host all all 127.0.0.1/32 cert", "certificate authentication failed"),
    ],
)
def test_hba_decides_the_method(rule: str, message: str) -> None:
    house = House(auth_type="hba", hba=rule + "\n")
    if not message:
        assert isinstance(outcome(house, client()), Admitted)
    else:
        assert refusal(house, client()).message == message


@pytest.mark.parametrize("method", ["trust", "any", "hba"])
@pytest.mark.parametrize("forced", [None, "owner"])
def test_a_database_with_users_of_its_own_asks_for_their_passwords(method: str, forced: str | None) -> None:
    house = House(auth_type=method, hba="host all all all trust\n" if method == "hba" else "")
    own = DatabaseConfig("app", user=forced, secrets={"bob": Secret("bob", "its own")})
    house.config = dataclasses.replace(house.config, databases={"app": own})
    admitted = outcome(house, client("its own"))
    assert isinstance(admitted, Admitted)
    assert admitted.user == "bob"
    assert refusal(house, client(PASSWORD)).message == "SASL authentication failed"
    assert refusal(house, client("its own", user="eve")).message == "SASL authentication failed"


def test_peer_is_the_system_user(tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    house = House(auth_type="hba", hba="local all all peer\n")
    house.config = dataclasses.replace(house.config, secrets={me: Secret(me, ""), "bob": Secret("bob", "x")})
    assert isinstance(run(unix_meet(house, client(user=me), tmp_path)), Admitted)
    with pytest.raises(LoginError, match="unix socket login rejected"):
        run(unix_meet(house, client(user="bob"), tmp_path))


# ---- startup packets


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"work_mem": "x"}, "unsupported startup parameter: work_mem"),
        ({"options": "-c work_mem=x"}, "unsupported startup parameter in options: work_mem"),
        ({"options": "-c=x"}, "unsupported startup parameter in options: "),
        ({"options": "-x"}, "unsupported options startup parameter: only '-c config=val' and '--config=val'"),
        ({"user": ""}, "no username supplied"),
        ({"user": "u" * 128}, "username too long"),
    ],
)
def test_startup_parameters_that_are_refused(params: dict[str, Any], message: str) -> None:
    assert refusal(House(), client(**params)).message.startswith(message)


def test_startup_parameters_that_are_kept_and_ignored() -> None:
    house = House(ignore_startup_parameters="extra_float_digits, options")
    play = client(
        application_name="psql",
        datestyle="German",
        extra_float_digits="2",
        IntervalStyle="iso_8601",
        options="-c timezone=UTC --client-encoding=LATIN1 -cgeqo=off",
    )
    admitted = outcome(house, play)
    assert isinstance(admitted, Admitted)
    assert admitted.parameters == {
        "application_name": "psql",
        "DateStyle": "German",
        "IntervalStyle": "iso_8601",
        "TimeZone": "UTC",
        "client_encoding": "LATIN1",
    }
    assert admitted.application_name == "psql"
    assert admitted.replication is Replication.NONE


def test_replication_keeps_its_options() -> None:
    house = House()
    admitted = outcome(house, client(replication="database", options="-c search_path=x"))
    assert isinstance(admitted, Admitted)
    assert (admitted.replication, admitted.startup_options) == (Replication.LOGICAL, "-c search_path=x")
    assert house.lines[-1].endswith("replication=database")


def test_the_database_is_the_user_when_none_is_named() -> None:
    error = refusal(House(), client(database=""))
    assert error.message == "no such database: bob"


def test_a_database_that_does_not_exist_is_said_after_the_password() -> None:
    house = House()
    assert refusal(house, client(database="nowhere")).message == "no such database: nowhere"
    assert house.lines[-1] == "login failed: db=nowhere user=bob"
    assert refusal(house, client("wrong", database="nowhere")).message == "password authentication failed"


def meanwhile(change: Callable[[], None], password: str = PASSWORD) -> Client:
    """A whole login; there is a change between the question for the password and the answer."""
    async def play(channel: Channel) -> None:
        await channel.send(wire.startup_message({"user": "bob", "database": "app"}))
        await channel.check_header()
        change()
        await answer(channel, "bob", password)

    return play


METHODS = ["plain", "md5", "scram-sha-256"]


@pytest.mark.parametrize("method", METHODS)
def test_a_database_that_is_gone_when_the_password_comes_lets_nobody_in(method: str) -> None:
    house = House(auth_type=method)

    def gone() -> None:
        house.config = dataclasses.replace(house.config, databases={})

    assert refusal(house, meanwhile(gone)).message == "no such database: app"


@pytest.mark.parametrize("method", METHODS)
def test_a_database_that_is_another_when_the_password_comes_is_that_one(method: str) -> None:
    house, moved = House(auth_type=method), DatabaseConfig("app", port=7)

    def move() -> None:
        house.config = dataclasses.replace(house.config, databases={"app": moved})

    admitted = outcome(house, meanwhile(move))
    assert isinstance(admitted, Admitted)
    assert admitted.database is moved


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("secrets", [{}, {"bob": Secret("bob", "another")}])
def test_a_secret_that_is_withdrawn_when_the_password_comes_lets_nobody_in(
    method: str, secrets: dict[str, Secret]
) -> None:
    house = House(auth_type=method)

    def withdraw() -> None:
        house.config = dataclasses.replace(house.config, secrets=secrets)

    assert refusal(house, meanwhile(withdraw)).message == "password authentication failed"


def test_a_database_that_has_users_of_its_own_by_now_has_no_others() -> None:
    house = House(auth_type="md5")
    own = DatabaseConfig("app", secrets={"bob": Secret("bob", PASSWORD)})

    def turn() -> None:
        house.config = dataclasses.replace(house.config, databases={"app": own})

    assert refusal(house, meanwhile(turn)).message == "password authentication failed"


def test_the_same_secret_read_again_lets_in() -> None:
    house = House(auth_type="scram-sha-256")

    def again() -> None:
        house.config = dataclasses.replace(house.config, secrets={"bob": Secret("bob", PASSWORD)})

    assert isinstance(outcome(house, meanwhile(again)), Admitted)


def test_limits_are_the_house_s() -> None:
    house = House()
    house.full = True
    assert refusal(house, client()).message == "no more connections allowed (max_client_conn)"


def test_application_name_add_host() -> None:
    house = House(application_name_add_host="1")
    # A name that is empty is a name.
    for play, shown in (
        (client(application_name="psql"), "psql - 127.0.0.1:"),
        (client(application_name=""), " - 127.0.0.1:"),
        (client(), "app - 127.0.0.1:"),
    ):
        admitted = outcome(house, play)
        assert isinstance(admitted, Admitted)
        assert admitted.application_name.startswith(shown)


@pytest.mark.parametrize("minor", [0, 2, 9999])
def test_newer_protocols_are_negotiated_down(minor: int) -> None:
    async def play(channel: Channel) -> None:
        params = {"user": "bob", "database": "app", "_pq_.command_tag": "x"}
        await channel.send(wire.startup_message(params, minor))
        kind, body = await channel.read_message()
        assert (kind, wire.read_negotiate_protocol_version(body)) == (b"v", (0, ["_pq_.command_tag"]))
        await answer(channel, "bob", PASSWORD)

    assert isinstance(outcome(House(), play), Admitted)


@pytest.mark.parametrize("size", [8, 12, 260])
def test_cancel_requests(size: int) -> None:
    assert outcome(House(), bytes_client(wire.cancel_request(b"k" * size))) == Cancel(b"k" * size)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "client unexpected eof"),
        (b"\0\0", "client unexpected eof"),
        (b"\0\0\0\x0c\0\x02\0\0user", "old V2 protocol not supported"),
        (b"\xff" * 16, "bad packet header: 'ffffffffffffffff'"),
        (b"\x7f" + b"\xff" * 8, "bad packet header: '7fffffffffffffff'"),
        (b"\0\1\0\0" + b"\0\3\0\0", "bad packet header: '0001000000030000'"),
        (b"\0\0\xff\xff" + b"\0\3\0\0" + b"x" * 65_527, wire.TERMINATOR_EXPECTED),
        (b"Q\0\0\0\0", "bad packet header: '5100000000'"),
        (b"\0\0\0\4", "bad packet header: '00000004'"),
        (wire.password_message(b"x"), "client password pkt before startup packet"),
        (wire.startup_message({"user": "bob"})[:-1] + b"x", wire.TERMINATOR_EXPECTED),
        (wire.ssl_request() + b"x", "received unencrypted data after SSL request"),
        (wire.gssenc_request() + b"x", "received unencrypted data after GSSAPI encryption request"),
        (b"\x16\x03\x01\x02\x00", "direct TLS connection, but TLS is off here"),
    ],
)
def test_first_bytes_that_lead_nowhere(data: bytes, message: str) -> None:
    assert refusal(House(), bytes_client(data)).message == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (wire.cancel_request(b"short"), "bad cancel request"),
        (wire.cancel_request(b"x" * 261), "bad cancel request"),
        (wire.cancel_request(b"x" * 5000), "bad cancel request"),
        (wire.query("SELECT 1"), "bad packet"),
        (wire.terminate(), "bad packet"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad packet"),
        (b"SSH-2.0-client\r\n", "bad packet"),
        (b"\n" * 20, "bad packet"),
    ],
)
def test_who_would_not_understand_an_answer_gets_none(data: bytes, message: str) -> None:
    """As with PgBouncer, which waits for the end of what is no message at all."""
    error = refusal(House(), bytes_client(data))
    assert (error.message, error.notify) == (message, False)


def test_encryption_that_is_not_offered_may_be_asked_for_in_turn() -> None:
    async def play(channel: Channel) -> None:
        for request in (wire.gssenc_request(), wire.ssl_request()):
            await channel.send(request)
            assert await channel.read_exactly(1) == b"N"
        await client()(channel)

    assert isinstance(outcome(House(), play), Admitted)


def test_asking_for_encryption_without_end() -> None:
    async def play(channel: Channel) -> None:
        while True:
            await channel.send(wire.ssl_request())
            await channel.read_exactly(1)

    assert refusal(House(), play).message == "bad packet"


# ---- the admin database


@pytest.mark.parametrize(
    ("settings", "rights"),
    [({"admin_users": "bob"}, "admin"), ({"stats_users": "eve, bob"}, "stats"), ({}, "")],
)
def test_console_rights(settings: dict[str, str], rights: str) -> None:
    house = House(**settings)
    play = client(database="pgbouncer", whatever="x", options="--nonsense -q")
    if not rights:
        assert refusal(house, play).message == "not allowed"
        return
    admitted = outcome(house, play)
    assert isinstance(admitted, Admitted)
    assert admitted.admin
    assert (admitted.rights, admitted.user) == (rights, "bob")


def test_the_console_asks_for_the_password() -> None:
    error = refusal(House(admin_users="bob"), client("wrong", database="pgbouncer"))
    assert error.message == "password authentication failed"


@pytest.mark.parametrize(("user", "rights"), [("root", "admin"), ("anybody", "stats")])
def test_auth_type_any_and_the_console(user: str, rights: str) -> None:
    admitted = outcome(House(auth_type="any", admin_users="root"), client(user=user, database="pgbouncer"))
    assert isinstance(admitted, Admitted)
    assert admitted.rights == rights


def test_the_own_system_user_is_admin_on_the_unix_socket(tmp_path: Path) -> None:
    house = House("")
    admitted = run(unix_meet(house, client(user="pgbouncer", database="pgbouncer"), tmp_path))
    assert admitted.rights == "admin"
    assert house.lines == ["pgbouncer access from unix socket"]


def test_that_name_is_nothing_special_over_tcp() -> None:
    error = refusal(House(auth_type="trust"), client(user="pgbouncer", database="pgbouncer"))
    assert error.message == '"trust" authentication failed'


# ---- strangers


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["plain", "md5", "scram-sha-256"]),
    start=st.sampled_from([b"", wire.startup_message({"user": "bob", "database": "app"}), wire.ssl_request()]),
    data=st.binary(max_size=200),
)
def test_any_bytes_end_in_an_answer(method: str, start: bytes, data: bytes) -> None:
    with contextlib.suppress(LoginError):
        outcome(House(auth_type=method), bytes_client(start + data))
