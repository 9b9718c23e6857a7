"""`login`: every first byte, parameter and method, told by a scripted client and a house."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pwd
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pooler import scram, wire
from pooler.auth import LoginError
from pooler.channel import Channel, ConnectionClosed, Peer
from pooler.config import Config, compose
from pooler.databases import DatabaseConfig
from pooler.hba import parse_hba
from pooler.login import Admitted, Attempt, Cancel, login
from pooler.users import Secret, SecretKind

from .pairs import Contexts, run, send_pieces, tcp_pair

PASSWORD = "correct horse"
MD5 = "md5" + hashlib.md5(f"{PASSWORD}bob".encode()).hexdigest()
SCRAM = scram.verifier_text(scram.make_verifier(PASSWORD, 10))
SECRETS = {"plain": PASSWORD, "md5": MD5, "scram": SCRAM}

Client = Callable[[Channel], Awaitable[Any]]


class House:
    """Databases `app` and `forced`; users in the Config's secrets."""

    def __init__(self, secret: str = PASSWORD, *, hba: str = "", **settings: str) -> None:
        secrets = [Secret("bob", secret)] if secret else []
        databases = [DatabaseConfig("app"), DatabaseConfig("forced", user="owner")]
        config = compose({name: value for name, value in settings.items()}, databases, secrets=secrets)
        if hba:
            config = dataclasses.replace(config, hba=parse_hba(hba))
        self.config: Config = config
        self.tls_context: ssl.SSLContext | None = None
        self.must_use_tls = False
        self.lines: list[str] = []
        self.full = False

    def tls_required(self, peer: Peer) -> bool:
        return self.must_use_tls

    def find_database(self, name: str) -> DatabaseConfig | None:
        return self.config.databases.get(name)

    def usual_kind(self) -> SecretKind:
        return next((secret.kind for secret in self.config.secrets.values()), SecretKind.scram)

    async def find_secret(self, database: DatabaseConfig | None, attempt: Attempt, channel: Channel) -> Secret | None:
        return self.config.secrets.get(attempt.user)

    def check_room(self) -> None:
        pass

    def check_limits(self, database: DatabaseConfig, user: str) -> None:
        if self.full:
            raise LoginError("no more connections allowed (max_client_conn)")

    def log(self, attempt: Attempt, level: str, text: str) -> None:
        self.lines.append(text)


async def meet(house: House, client: Client, pair: tuple[socket.socket, socket.socket] | None = None) -> Any:
    """What login returns or raises for what `client` does; the client ends by itself."""
    loop = asyncio.get_running_loop()
    mine, theirs = pair or tcp_pair()
    speaker, channel = Channel(mine, loop), Channel(theirs, loop)

    async def play() -> Any:
        try:
            return await client(speaker)
        except ConnectionClosed:
            return None

    playing = asyncio.create_task(play())
    try:
        return await login(channel, house)
    finally:
        channel.abort()
        await playing
        speaker.abort()


def outcome(house: House, client: Client) -> Admitted | Cancel:
    result: Admitted | Cancel = run(meet(house, client))
    return result


def refusal(house: House, client: Client) -> LoginError:
    with pytest.raises(LoginError) as caught:
        run(meet(house, client))
    return caught.value


def client(
    password: str = PASSWORD, *, user: str = "bob", database: str = "app", piece: int = 10_000, **params: str
) -> Client:
    """A whole login by whatever method is asked."""

    async def play(channel: Channel) -> None:
        names = {"user": user, "database": database, **params}
        await send_pieces(channel, wire.startup_message({k: v for k, v in names.items() if v}), piece)
        await answer(channel, user, password, piece)

    return play


async def answer(channel: Channel, user: str, password: str, piece: int = 10_000) -> None:
    exchange = scram.ClientExchange(password)
    while True:
        kind, body = await channel.read_message()
        assert kind == b"R"
        code, data = wire.read_authentication(body)
        if code == 0:
            return
        if code == 12:
            exchange.finish(data)
            continue
        if code == 3:
            reply = wire.password_message(wire.encode(password))
        elif code == 5:
            inner = hashlib.md5(wire.encode(password + user)).hexdigest().encode()
            reply = wire.password_message(b"md5" + hashlib.md5(inner + data).hexdigest().encode())
        elif code == 10:
            reply = wire.sasl_initial_response("SCRAM-SHA-256", exchange.first())
        else:
            reply = wire.sasl_response(exchange.final(data))
        await send_pieces(channel, reply, piece)


def bytes_client(*data: bytes) -> Client:
    """Sends bytes, then ends its direction, and reads what comes."""

    async def play(channel: Channel) -> None:
        for part in data:
            await channel.send(part)
        with socket.socket(fileno=os.dup(channel.fileno())) as twin:
            twin.shutdown(socket.SHUT_WR)
        while True:
            await channel.read_exactly(1)

    return play


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
    assert house.lines == [f"login attempt: db={database} user=bob tls=no replication=no"]


@pytest.mark.parametrize("password", ["wrong", "correct hors", "correct horse ", "\udcff"])
@pytest.mark.parametrize(("method", "kind"), [pair for pair in GOOD if pair[0] not in ("any", "trust")])
def test_a_wrong_password_does_not(method: str, kind: str, password: str) -> None:
    error = refusal(House(SECRETS[kind], auth_type=method), client(password))
    sasl = method == "scram-sha-256" or (method, kind) == ("md5", "scram")
    assert error.message == f"{'SASL' if sasl else 'password'} authentication failed"
    assert error.sqlstate == "08P01"
    assert error.notify


@pytest.mark.parametrize(("method", "kind"), [pair for pair in GOOD if pair[0] not in ("any", "trust")])
def test_an_unknown_user_is_told_what_a_wrong_password_is_told(method: str, kind: str) -> None:
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
    assert "no such user: mallory" in house.lines


def test_an_md5_secret_cannot_do_scram() -> None:
    error = refusal(House(MD5, auth_type="scram-sha-256"), client())
    assert error.message == "SASL authentication failed"


def test_trust_is_for_known_users() -> None:
    assert (
        refusal(House(auth_type="trust"), client(user="mallory")).message == '"trust" authentication failed'
    )


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
    exchange, verifier = scram.ClientExchange(keys=keys), House(SCRAM).config.secrets["bob"].scram
    assert verifier is not None
    server = scram.ServerExchange(verifier)
    exchange.finish(server.final(exchange.final(server.first(exchange.first()))))


@pytest.mark.parametrize(
    ("reply", "message", "notify"),
    [
        (wire.password_message(b""), "empty password returned by client", True),
        (wire.password_message(b"x" * 2048), "password too long", True),
        (wire.query("select 1"), "bad packet", True),
        (wire.terminate(), "client close request", False),
        (b"p\0\0\0\3", "bad packet header: '7000000003'", True),
        (b"p\0\0\x27\x11", "bad packet header: '7000002711'", True),
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
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    house = House(auth_type=method, auth_ldap_options="ldapserver=127.0.0.1")
    assert refusal(house, client(user="anybody")).message == "bouncer config error"
    assert any("pip install" in line for line in house.lines)


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


def test_peer_is_the_system_user(tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    house = House(auth_type="hba", hba="local all all peer\n")
    house.config = dataclasses.replace(house.config, secrets={me: Secret(me, ""), "bob": Secret("bob", "x")})
    assert isinstance(run(unix_meet(house, client(user=me), tmp_path)), Admitted)
    with pytest.raises(LoginError, match="unix socket login rejected"):
        run(unix_meet(house, client(user="bob"), tmp_path))


async def unix_meet(house: House, play: Client, directory: Path) -> Any:
    path = str(directory / ".s.PGSQL.6432")
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        mine = socket.socket(socket.AF_UNIX)
        mine.connect(path)
        return await meet(house, play, (mine, listener.accept()[0]))


# ---- startup packets


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"search_path": "x"}, "unsupported startup parameter: search_path"),
        ({"options": "-c search_path=x"}, "unsupported startup parameter in options: search_path"),
        ({"options": "-x"}, "unsupported options startup parameter: only '-c config=val' and '--config=val'"),
        ({"replication": "maybe"}, 'invalid value for parameter "replication": "maybe"'),
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
    assert admitted.replication == "none"


def test_replication_keeps_its_options() -> None:
    house = House()
    admitted = outcome(house, client(replication="database", options="-c search_path=x"))
    assert isinstance(admitted, Admitted)
    assert (admitted.replication, admitted.startup_options) == ("logical", "-c search_path=x")
    assert house.lines[-1].endswith("replication=database")


def test_the_database_is_the_user_when_none_is_named() -> None:
    error = refusal(House(), client(database=""))
    assert error.message == "no such database: bob"


def test_a_database_that_does_not_exist_is_said_after_the_password() -> None:
    house = House()
    assert refusal(house, client(database="nowhere")).message == "no such database: nowhere"
    assert house.lines[-1] == "login failed: db=nowhere user=bob"
    assert refusal(house, client("wrong", database="nowhere")).message == "password authentication failed"


def test_limits_are_the_house_s() -> None:
    house = House()
    house.full = True
    assert refusal(house, client()).message == "no more connections allowed (max_client_conn)"


def test_application_name_add_host() -> None:
    house = House(application_name_add_host="1")
    for name, shown in (("psql", "psql - 127.0.0.1:"), ("", "app - 127.0.0.1:")):
        admitted = outcome(house, client(application_name=name))
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
        (wire.cancel_request(b"short"), "bad cancel request"),
        (b"\0\0\0\x0c\0\x02\0\0user", "old V2 protocol not supported"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad packet header: '474554202f204854'"),
        (wire.password_message(b"x"), "client password pkt before startup packet"),
        (wire.startup_message({"user": "bob"})[:-1] + b"x", wire.TERMINATOR_EXPECTED),
        (wire.ssl_request() + b"x", "received unencrypted data after SSL request"),
        (wire.gssenc_request() + b"x", "received unencrypted data after GSSAPI encryption request"),
        (b"\x16\x03\x01\x02\x00", "direct TLS connection, but TLS is off here"),
    ],
)
def test_first_bytes_that_lead_nowhere(data: bytes, message: str) -> None:
    assert refusal(House(), bytes_client(data)).message == message


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


# ---- TLS


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


def over_tls(contexts: Contexts, play: Client, *, direct: bool = False, **more: bool) -> Client:
    async def wrapped(channel: Channel) -> None:
        if not direct:
            await channel.send(wire.ssl_request())
            assert await channel.read_exactly(1) == b"S"
        context = contexts.client(**more)
        await channel.start_tls(context, server_side=False, server_hostname="localhost")
        await play(channel)

    return wrapped


def tls_house(contexts: Contexts, **settings: str) -> House:
    house = House(**settings)
    house.tls_context = contexts.server()
    house.must_use_tls = True
    return house


@pytest.mark.parametrize("direct", [False, True])
def test_login_over_tls(contexts: Contexts, direct: bool) -> None:
    house = tls_house(contexts)
    admitted = outcome(house, over_tls(contexts, client(), direct=direct))
    assert isinstance(admitted, Admitted)
    assert admitted.tls.startswith("TLSv1.3/")
    assert house.lines == [f"login attempt: db=app user=bob tls={admitted.tls} replication=no"]


def test_tls_that_is_required(contexts: Contexts) -> None:
    assert refusal(tls_house(contexts), client()).message == "SSL required"


def test_cancel_requests_need_no_tls(contexts: Contexts) -> None:
    assert outcome(tls_house(contexts), bytes_client(wire.cancel_request(bytes(8)))) == Cancel(bytes(8))


def test_direct_tls_must_name_the_protocol(contexts: Contexts) -> None:
    error = refusal(tls_house(contexts), over_tls(contexts, client(), direct=True, alpn=False))
    assert error.message == 'direct TLS connection without ALPN protocol "postgresql"'


def test_tls_inside_tls(contexts: Contexts) -> None:
    async def again(channel: Channel) -> None:
        await channel.send(wire.ssl_request())
        await channel.read_exactly(1)

    assert refusal(tls_house(contexts), over_tls(contexts, again)).message == "SSL req inside SSL"


def test_plaintext_behind_the_request_is_an_attack(contexts: Contexts) -> None:
    injected = wire.ssl_request() + wire.startup_message({"user": "bob"})
    error = refusal(tls_house(contexts), bytes_client(injected))
    assert error.message == "received unencrypted data after SSL request"


def test_a_failed_handshake(contexts: Contexts) -> None:
    house = tls_house(contexts)
    for data in (wire.ssl_request(), b"\x16\x03\x01\x00\x05hello"):

        async def play(channel: Channel, data: bytes = data) -> None:
            await channel.send(data)
            await channel.read_exactly(1)
            await channel.send(b"\x16\x03\x01\x00\x05hello")
            await channel.read_exactly(100)

        error = refusal(house, play)
        assert (error.message, error.notify) == ("failed to accept SSL", False)
    assert all(line.startswith("TLS handshake failed: ") for line in house.lines)


@pytest.mark.parametrize(
    ("user", "cert", "ok"), [("bob", True, True), ("eve", True, False), ("bob", False, False)]
)
def test_certificates(contexts: Contexts, user: str, cert: bool, ok: bool) -> None:
    house = tls_house(contexts, auth_type="cert")
    assert house.tls_context is not None
    house.tls_context.load_verify_locations(contexts.authority.root)
    house.tls_context.verify_mode = ssl.CERT_OPTIONAL
    play = over_tls(contexts, client(user=user), cert=cert)
    if ok:
        assert isinstance(outcome(house, play), Admitted)
    else:
        assert refusal(house, play).message == "certificate authentication failed"


def test_no_tls_on_unix_sockets(contexts: Contexts, tmp_path: Path) -> None:
    async def play(channel: Channel) -> None:
        await channel.send(wire.ssl_request())
        assert await channel.read_exactly(1) == b"N"
        await client()(channel)

    assert isinstance(run(unix_meet(tls_house(contexts), play, tmp_path)), Admitted)


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
    start=st.sampled_from(
        [b"", wire.startup_message({"user": "bob", "database": "app"}), wire.ssl_request()]
    ),
    data=st.binary(max_size=200),
)
def test_any_bytes_end_in_an_answer(method: str, start: bytes, data: bytes) -> None:
    with contextlib.suppress(LoginError):
        outcome(House(auth_type=method), bytes_client(start + data))
