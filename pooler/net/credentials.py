"""Credentials: what can be shown to a server on a user's behalf, whoever it was learnt from.

The rule: none of it shows in a repr, a log line or a traceback.
"""

from __future__ import annotations

import hashlib
from dataclasses import field
from typing import Protocol

from pooler import wire
from pooler.config.users import SecretKind
from pooler.net import scram
from pooler.values import dataclass


class Stored(Protocol):
    """A secret as it is stored, or what stands in for one."""

    @property
    def text(self) -> str: ...

    @property
    def kind(self) -> SecretKind: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """What can be shown to a server on a user's behalf; any part may be unknown."""

    password: str | None = field(default=None, repr=False)
    md5: str | None = field(default=None, repr=False)
    """`md5` and 32 hexadecimal digits, as stored by PostgreSQL."""
    keys: scram.Keys | None = field(default=None, repr=False)
    verifier: bool = False
    """A SCRAM verifier is stored: good for a server as soon as a client has shown the keys to it."""

    @classmethod
    def of(cls, secret: Stored | None) -> Credentials:
        """What a stored secret is good for."""
        if secret is None or not secret.text:
            return NOTHING
        if secret.kind is SecretKind.plain:
            return cls(password=secret.text)
        return cls(md5=secret.text) if secret.kind is SecretKind.md5 else cls(verifier=True)

    def joined(self, other: Credentials) -> Credentials:
        """These, and from `other` what these lack."""
        if other is NOTHING:
            return self
        password = other.password if self.password is None else self.password
        verifier = self.verifier or other.verifier
        return Credentials(password, self.md5 or other.md5, self.keys or other.keys, verifier)


NOTHING = Credentials()
EMPTY = Credentials(password="")
"""What is shown for one of whom nothing is known: the server says itself that it will not do."""


def md5_secret(password: str, user: str) -> str:
    """What PostgreSQL stores: `md5` and the digest of password and user name."""
    return "md5" + hashlib.md5(wire.encode(password + user)).hexdigest()


def md5_answer(stored: str, salt: bytes) -> str:
    """What a client answers to AuthenticationMD5Password, from the stored form."""
    return "md5" + hashlib.md5(stored[3:].encode() + salt).hexdigest()
