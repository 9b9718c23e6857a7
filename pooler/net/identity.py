"""Whom a certificate names: a server's host, or the user that a client wants to be.

Not whether it is valid: OpenSSL has seen to that before anybody asks here. The rule is PgBouncer's (libtls): the
alternative names first (DNS names for a name, addresses for an address), then the subject's *first* common name, also
where there are alternative ones; case does not count; `*.` stands for one label of a name with at least two more. One
function for both ends, so that a name means the same on either.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

Certificate = Mapping[str, object]
"""As `ssl` describes one: getpeercert()."""
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def names(certificate: Certificate, name: str) -> bool:
    """Whether this is a certificate for `name`, a host's name or address or a user."""
    wanted = _address(name)
    if wanted is not None:
        found = (_address(text) for kind, text in _alternatives(certificate) if kind == "IP Address")
        return wanted in found or common_name(certificate) == name
    if any(_fits(text, name) for kind, text in _alternatives(certificate) if kind == "DNS"):
        return True
    common = common_name(certificate)
    return common is not None and _fits(common, name)


def common_name(certificate: Certificate) -> str | None:
    """The subject's first."""
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return next((str(value) for part in subject for key, value in part if key == "commonName"), None)


def _alternatives(certificate: Certificate) -> Iterator[tuple[str, str]]:
    found = certificate.get("subjectAltName", ())
    assert isinstance(found, tuple)
    return ((str(entry[0]), str(entry[1])) for entry in found)


def _address(text: str) -> IpAddress | None:
    """As inet_pton reads it: no zone."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def _fits(pattern: str, name: str) -> bool:
    pattern, name = _folded(pattern), _folded(name)
    if pattern == name:
        return True
    # `*` for the whole of the first label, and two labels at least behind it.
    star, dot, rest = pattern.partition(".")
    label, _, domain = name.partition(".")
    labels = rest.split(".")
    return star == "*" and bool(dot and label) and len(labels) > 1 and all(labels[:2]) and domain == rest


def _folded(text: str) -> str:
    """Without case, as C has it: other letters than ASCII's are only like themselves."""
    return text.encode("utf-8", "surrogateescape").lower().decode("utf-8", "surrogateescape")
