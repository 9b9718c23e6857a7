"""The self-signed certificate: made once, renewed when it must be, readable by nobody else."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pooler.commands import certificate
from tests.fixtures.authority import Authority


def test_is_made_once_and_kept(tmp_path: Path) -> None:
    paths = certificate.ensure(tmp_path / "state")
    first = (paths.cert.read_bytes(), paths.key.read_bytes())
    assert certificate.ensure(tmp_path / "state") == paths
    assert (paths.cert.read_bytes(), paths.key.read_bytes()) == first


def test_names_this_machine_and_lasts_ten_years(tmp_path: Path) -> None:
    made = x509.load_pem_x509_certificate(certificate.ensure(tmp_path).cert.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", socket.gethostname()} <= set(names.get_values_for_type(x509.DNSName))
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert made.not_valid_after_utc - made.not_valid_before_utc > datetime.timedelta(days=3650)
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_only_the_owner_reads_the_key(tmp_path: Path) -> None:
    paths = certificate.ensure(tmp_path)
    assert stat.S_IMODE(paths.key.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["server.crt", "server.key"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda paths: paths.key.unlink(),
        lambda paths: paths.cert.unlink(),
        lambda paths: paths.cert.write_text("no certificate"),
        lambda paths: paths.key.write_bytes(certificate.ensure(paths.key.parent / "other").key.read_bytes()),
    ],
    ids=["key gone", "certificate gone", "certificate broken", "no pair"],
)
def test_is_made_anew_when_it_cannot_be_used(tmp_path: Path, damage: object) -> None:
    paths = certificate.ensure(tmp_path)
    assert callable(damage)
    damage(paths)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*certificate.ensure(tmp_path))


def test_is_made_anew_when_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "LIFE", datetime.timedelta(hours=1))
    old = certificate.ensure(tmp_path).cert.read_bytes()
    monkeypatch.undo()
    new = certificate.ensure(tmp_path).cert.read_bytes()
    assert new != old
    assert certificate.ensure(tmp_path).cert.read_bytes() == new


def test_leaves_a_certificate_of_a_real_authority_alone(tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("localhost", names=("localhost",), file="server")
    own = pair.cert.read_bytes()
    assert certificate.ensure(tmp_path) == (pair.cert, pair.key)
    assert pair.cert.read_bytes() == own


def test_a_client_that_trusts_it_verifies_it(tmp_path: Path) -> None:
    paths = certificate.ensure(tmp_path)
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(*paths)
    trusting = ssl.create_default_context(cafile=str(paths.cert))
    near, far = socket.socketpair()

    def serve() -> None:
        with far, offered.wrap_socket(far, server_side=True) as session:
            session.sendall(b"hello")

    server = threading.Thread(target=serve)
    server.start()
    with near, trusting.wrap_socket(near, server_hostname="127.0.0.1") as session:
        assert session.recv(5) == b"hello"
        assert session.version() == "TLSv1.3"
    server.join()


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(certificate.CertificateError, match="no certificate for TLS can be kept in"):
        certificate.ensure(tmp_path / "file")
