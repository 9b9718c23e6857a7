"""Whom a certificate names. tests/system/test_certificates.py tries the same with PgBouncer; here are the cases that no
authority signs, and that `ssl` describes certificates as this module reads them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from pooler.net import identity
from tests.fixtures.authority import Authority


def certificate(*common_names: str, names: tuple[tuple[str, str], ...] = ()) -> dict[str, object]:
    subject = tuple((("commonName", name),) for name in common_names)
    return {"subject": ((("organizationName", "x"),), *subject), "subjectAltName": names}


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("db.example.com", "DB.Example.Com", True),
        ("*.example.com", "db.EXAMPLE.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "*.example.com", True),
        ("*.com", "example.com", False),
        ("*.", "db.", False),
        ("*", "db", False),
        ("*", "*", True),
        ("*..com", "a..com", False),
        ("*.example..com", "a.example..com", False),
        ("*.a..", "x.a..", False),
        ("d*.example.com", "db.example.com", False),
        ("**.example.com", "db.example.com", False),
        ("db.*.com", "db.example.com", False),
        ("db.example.com.", "db.example.com", False),
        ("ÄRGER", "ärger", False),
        ("ärger", "ärgeR", True),
        ("alice\0.evil", "alice", False),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_names(pattern: str, name: str, fits: bool) -> None:
    assert identity.names(certificate(pattern), name) is fits
    assert identity.names(certificate("other", names=(("DNS", pattern),)), name) is fits


def test_only_the_first_common_name_counts() -> None:
    found = certificate("one", "two")
    assert identity.names(found, "one")
    assert not identity.names(found, "two")
    assert identity.common_name(found) == "one"
    assert identity.common_name({}) is None
    assert not identity.names({}, "")


@pytest.mark.parametrize(
    ("kind", "text", "name", "fits"),
    [
        ("IP Address", "10.0.0.1", "10.0.0.1", True),
        ("IP Address", "0:0:0:0:0:0:0:1", "::1", True),
        ("IP Address", "10.0.0.1", "10.0.0.2", False),
        ("IP Address", "<invalid>", "10.0.0.1", False),
        ("IP Address", "10.0.0.1", "::ffff:10.0.0.1", False),
        ("IP Address", "FE80:0:0:0:0:0:0:1", "fe80::1%eth0", False),
        ("DNS", "10.0.0.1", "10.0.0.1", False),
        ("email", "alice", "alice", False),
        ("URI", "alice", "alice", False),
    ],
)
def test_addresses_and_other_kinds(kind: str, text: str, name: str, fits: bool) -> None:
    assert identity.names(certificate("other", names=((kind, text),)), name) is fits


def test_an_address_as_the_common_name_is_taken_by_the_letter() -> None:
    assert identity.names(certificate("10.0.0.1"), "10.0.0.1")
    assert identity.names(certificate("::1"), "::1")
    assert not identity.names(certificate("0:0:0:0:0:0:0:1"), "::1")
    assert not identity.names(certificate("*.0.0.1"), "10.0.0.1")


def test_as_ssl_describes_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("Bob", "second", names=("*.example.com", "10.0.0.1", "::1"))
    known = ssl._ssl._test_decode_cert(str(pair.cert))  # type: ignore[attr-defined]
    assert all(identity.names(known, name) for name in ("bob", "db.example.com", "10.0.0.1", "::1"))
    assert not any(identity.names(known, name) for name in ("second", "example.com", "10.0.0.2"))
