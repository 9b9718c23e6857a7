"""LDAP and PAM: options, what becomes of a user's name, a small LDAP server, and PAM by its Python package."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from pooler.clients import ldap, pam
from pooler.clients.ldap import LdapOptions, parse_options, search_filter
from pooler.clients.ldapconf import LdapTls, tls_options
from pooler.pools.refusal import LoginError
from tests.unit.pairs import Contexts, run

pytest.importorskip("ldap3")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            'ldapserver=a ldapprefix="cn=" ldapsuffix=", dc=net"',
            LdapOptions(("a",), prefix="cn=", suffix=", dc=net"),
        ),
        (
            'ldapserver="a b" ldapport=3389 ldaptls=1 ldapprefix=x',
            LdapOptions(("a", "b"), 3389, starttls=True, prefix="x"),
        ),
        ("ldapserver=a,ldapport=3389,ldapprefix=cn=", LdapOptions(("a",), 3389, prefix="cn=")),
        ('ldapserver="a" , ldapport="3389", ldapprefix=cn=,', LdapOptions(("a",), 3389, prefix="cn=")),
        ("ldapserver=a ldapbasedn=dc=b,dc=net, ldapport=1", LdapOptions(("a",), 1, base="dc=b,dc=net")),
        ('ldapserver=a ldapsuffix=", ldapport=2" ldapport=1', LdapOptions(("a",), 1, suffix=", ldapport=2")),
        (
            "ldapurl=ldaps://host:636/dc=net?cn?one?(x=y)",
            LdapOptions(("host",), 636, "ldaps", base="dc=net", attribute="cn", scope="one", filter="(x=y)"),
        ),
        ("ldapurl=ldap://host/dc=a%20b", LdapOptions(("host",), base="dc=a b")),
        (
            "ldapserver=a ldapbasedn=dc=net ldapbinddn=cn=me ldapbindpasswd=pw ldapsearchattribute=mail",
            LdapOptions(("a",), base="dc=net", bind_name="cn=me", bind_password="pw", attribute="mail"),
        ),
    ],
)
def test_options(text: str, options: LdapOptions) -> None:
    assert parse_options(text) == options
    assert "pw" not in repr(options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ldapserver",
        "ldapserver=a",
        "nonsense=1",
        "ldapserver=a, nonsense=1, ldapprefix=x",
        "ldapport=389",
        "ldapserver=a ldapport=x",
        "ldapserver=a ldapport=99999",
        "ldapurl=http://x",
        "ldapurl=ldap://x/dc=net?uid?everything",
        "ldapserver=a ldapscheme=http",
        "ldapserver=a ldapbasedn=dc=net ldapprefix=cn=",
        'ldapserver="a',
    ],
)
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_options(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ldapbindpaswd=x", "ldapbindpaswd"),
        ("ldapbindpasswd=horse staple", "****"),
        ("ldapbindpasswd=horse sta=ple", "****"),
    ],
)
def test_what_may_be_the_rest_of_a_password_is_not_told(text: str, shown: str) -> None:
    with pytest.raises(ValueError, match="invalid LDAP option") as caught:
        parse_options(f"ldapserver=a {text}")
    assert str(caught.value) == f'invalid LDAP option: "{shown}"'


def test_a_name_cannot_leave_its_place() -> None:
    assert search_filter(LdapOptions(("a",)), "x)(uid=*") == r"(uid=x\29\28uid=\2a)"
    own = LdapOptions(("a",), filter="(&(mail=$username)(ok=1))")
    assert search_filter(own, "*") == r"(&(mail=\2a)(ok=1))"
    assert search_filter(LdapOptions(("a",), filter="mail=$username"), "b") == "(mail=b)"


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((tag, len(body))) + body


def number(value: int) -> bytes:
    return tlv(2, value.to_bytes(1, "big"))


ENTRIES = {"uid=bob,dc=net": "secret", "": ""}
"""Name -> password of the directory below; the empty one is for anonymous binds."""


class Directory:
    """An LDAP server of two entries that speaks just enough BER for bind and search."""

    def __init__(self, context: ssl.SSLContext | None = None, *, at_once: bool = False) -> None:
        """With `context` it offers StartTLS, or speaks TLS `at_once` (ldaps)."""
        self.context, self.at_once = context, at_once
        self.listener = socket.create_server(("", 0))
        self.port: int = self.listener.getsockname()[1]
        self.binds: list[tuple[str, str]] = []
        self.searches: list[bytes] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, suppress(ssl.SSLError, ConnectionError):
                client.settimeout(10)
                self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        if self.context is not None and self.at_once:
            client = self.context.wrap_socket(client, server_side=True)
        with client:
            while (request := client.recv(4096)) and request[5] != 0x42:
                client.sendall(self._answer(request[4:5][0], request[5], request[7:]))
                if request[5] == 0x77 and self.context is not None:
                    client = self.context.wrap_socket(client, server_side=True)
            client.close()

    def _answer(self, message_id: int, kind: int, body: bytes) -> bytes:
        def reply(tag: int, *parts: bytes) -> bytes:
            return tlv(0x30, number(message_id), tlv(tag, *parts))

        if kind == 0x77:
            return reply(0x78, tlv(0x0A, b"\0" if self.context is not None else b"\x35"), tlv(4), tlv(4))
        if kind == 0x60:
            name_length = body[4]
            name = body[5 : 5 + name_length].decode()
            password = body[5 + name_length + 2 :].decode()
            self.binds.append((name, password))
            code = 0 if ENTRIES.get(name) == password else 49
            return reply(0x61, tlv(0x0A, bytes((code,))), tlv(4), tlv(4))
        self.searches.append(body)
        found = reply(0x64, tlv(4, b"uid=bob,dc=net"), tlv(0x30)) if b"bob" in body else b""
        return found + reply(0x65, tlv(0x0A, b"\0"), tlv(4), tlv(4))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def directory() -> Iterator[Directory]:
    server = Directory()
    yield server
    server.close()


def checked(directory: Directory, options: str, user: str, password: str) -> bool:
    return run(ldap.check(f"ldapserver=127.0.0.1 ldapport={directory.port} {options}", user, password))


SIMPLE = "ldapprefix=uid= ldapsuffix=,dc=net"
SEARCH = "ldapbasedn=dc=net"


@pytest.mark.parametrize("options", [SIMPLE, SEARCH])
def test_bind_and_search(directory: Directory, options: str) -> None:
    assert checked(directory, options, "bob", "secret")
    assert not checked(directory, options, "bob", "wrong")
    assert not checked(directory, options, "eve", "secret")
    assert ("uid=bob,dc=net", "wrong") in directory.binds


def test_a_name_with_a_comma_stays_one_name(directory: Directory) -> None:
    assert not checked(directory, SIMPLE, "bob,dc=net", "secret")
    assert directory.binds == [("uid=bob\\,dc\\=net,dc=net", "secret")]


@pytest.fixture(params=["starttls", "ldaps", "ldaps by URL"])
def secret_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Directory, str, Path]]:
    """(the server, the options for it, the root to trust)."""
    contexts = Contexts(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(contexts.pair.cert, contexts.pair.key)
    server = Directory(context, at_once=request.param != "starttls")
    place = f"ldapserver=localhost ldapport={server.port}"
    options = {
        "starttls": f"{place} ldaptls=1",
        "ldaps": f"{place} ldapscheme=ldaps",
        "ldaps by URL": f"ldapurl=ldaps://localhost:{server.port}",
    }[request.param]
    yield server, f"{options} {SIMPLE}", contexts.authority.root
    server.close()


def test_a_directory_behind_tls(secret_directory: tuple[Directory, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, options, root = secret_directory
    monkeypatch.setenv("LDAPTLS_CACERT", str(root))
    assert run(ldap.check(options, "bob", "secret"))
    assert not run(ldap.check(options, "bob", "wrong"))
    assert server.binds == [("uid=bob,dc=net", "secret"), ("uid=bob,dc=net", "wrong")]


def test_a_directory_that_nobody_vouches_for_gets_no_password(
    secret_directory: tuple[Directory, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, options, _ = secret_directory
    monkeypatch.delenv("LDAPTLS_CACERT", raising=False)
    with pytest.raises(LoginError) as caught:
        run(ldap.check(options, "bob", "secret"))
    assert "certificate verify failed" in caught.value.log
    assert server.binds == []


def test_a_directory_of_another_name_gets_no_password(
    secret_directory: tuple[Directory, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, options, root = secret_directory
    monkeypatch.setenv("LDAPTLS_CACERT", str(root))
    with pytest.raises(LoginError, match="LDAP authentication failed"):
        run(ldap.check(options.replace("localhost", "127.0.0.2"), "bob", "secret"))
    assert server.binds == []


def test_without_starttls_on_the_other_side_no_password_is_sent(directory: Directory) -> None:
    with pytest.raises(LoginError) as caught:
        checked(directory, f"ldaptls=1 {SIMPLE}", "bob", "secret")
    assert "startTLS failed" in caught.value.log
    assert directory.binds == []


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LoginError) as caught:
        run(ldap.check(f"ldapserver=127.0.0.1 ldapport={port} {SIMPLE}", "bob", "secret"))
    assert caught.value.message == "LDAP authentication failed"
    assert caught.value.log.startswith("LDAP: ")
    assert "secret" not in caught.value.log


def test_options_that_are_wrong_are_a_configuration_error() -> None:
    with pytest.raises(LoginError, match="LDAP authentication failed"):
        run(ldap.check("nonsense", "bob", "secret"))


def test_pam_is_asked_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pam")
    asked: list[tuple[object, ...]] = []

    def authenticate(user: str, password: str, service: str, call_end: bool, resetcreds: bool) -> bool:
        in_main = threading.current_thread() is threading.main_thread()
        asked.append((user, password, service, call_end, resetcreds, in_main))
        return password == "secret"

    monkeypatch.setattr("pam.pam", lambda: SimpleNamespace(authenticate=authenticate))

    async def main() -> list[bool]:
        return list(await asyncio.gather(*(pam.check("bob", word) for word in ("secret", "wrong"))))

    assert run(main()) == [True, False]
    assert sorted(asked) == [
        ("bob", "secret", "pgbouncer", True, False, False),
        ("bob", "wrong", "pgbouncer", True, False, False),
    ]


@pytest.mark.slow
def test_pam_itself_refuses_a_stranger() -> None:
    pytest.importorskip("pam")
    assert run(pam.check("no-such-user-here", "x")) is False


# ---- OpenLDAP's own configuration


def said(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_the_last_word_of_openldaps_configuration_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of ldap.conf(5): system, user, LDAPCONF, LDAPRC, variables."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    lines = ("# all", "TLS_CACERT\t/system", "TLS_CACERTDIR /dir", "tls_cert /no", "BASE dc=x")
    system = [said(tmp_path / "ldap.conf", *lines)]
    known = {"HOME": str(home)}
    assert tls_options(known, system) == LdapTls("/system", "/dir")
    said(home / ".ldaprc", "TLS_CACERT /mine", "TLS_CERT /cert", "TLS_KEY /key")
    assert tls_options(known, system) == LdapTls("/mine", "/dir", "/cert", "/key")
    known["LDAPCONF"] = said(tmp_path / "conf", "TLS_CACERT  /conf", "TLS_REQCERT allow", "TLS_KEY /no")
    assert tls_options(known, system) == LdapTls("/conf", "/dir", "/cert", "/key", "allow")
    said(here / "other", "TLS_CACERT /other")
    assert tls_options(known | {"LDAPRC": "other"}, system).cacert == "/other"
    assert tls_options(known | {"LDAPRC": "other", "LDAPTLS_CACERT": "/last"}, system).cacert == "/last"
    assert tls_options(known | {"LDAPNOINIT": "1"}, system) == LdapTls()
    assert tls_options({}, ["/nowhere/ldap.conf"]) == LdapTls()


def test_the_authorities_of_ldap_conf_are_trusted(
    secret_directory: tuple[Directory, str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, options, root = secret_directory
    monkeypatch.delenv("LDAPTLS_CACERT", raising=False)
    monkeypatch.setenv("LDAPCONF", said(tmp_path / "conf", f"TLS_CACERT {root}"))
    assert run(ldap.check(options, "bob", "secret"))
    assert server.binds == [("uid=bob,dc=net", "secret")]


@pytest.mark.parametrize("word", ["never", "allow"])
def test_a_directory_need_not_prove_its_name_where_ldap_conf_says_so(
    secret_directory: tuple[Directory, str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str
) -> None:
    server, options, _ = secret_directory
    monkeypatch.setenv("LDAPCONF", said(tmp_path / "conf", f"TLS_REQCERT {word}"))
    assert run(ldap.check(options, "bob", "secret"))
    assert server.binds == [("uid=bob,dc=net", "secret")]
