"""auth_file: lines `"user" "secret"` -> Secret. Also what kind of secret a text is (auth_query returns the
same kinds).

No password is checked here and nothing is hashed; `auth` does that. The rule: a secret never shows in a repr,
a problem or an exception. A line that cannot be used is a problem for the log and costs its own user only, where
PgBouncer stops reading: nobody else is locked out by a slip of the pen.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import NamedTuple

from pooler.config.ini import Problem, first_of, lines, load_text, reason
from pooler.config.kinds import BLANKS
from pooler.values import dataclass
from pooler.wire import encode

MAX_USERNAME = 128
"""In bytes with the ending NUL, as in PgBouncer."""
MAX_PASSWORD = 65535
"""In bytes: cloud providers' tokens are long."""
MAX_PROBLEMS = 20
"""Lines that are complained of."""


class SecretKind(StrEnum):
    """How a secret is stored. `plain` can log in anywhere; `md5` where md5 is asked; `scram` only verifies
    clients, or passes on the keys a client proved with."""

    plain = "plain"
    md5 = "md5"
    scram = "scram"


class ScramSecret(NamedTuple):
    """The parts of SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> (RFC 5803)."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"{type(self).__name__}(iterations={self.iterations})"


_SCRAM = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_MD5 = re.compile(r"md5[0-9a-f]{32}")


def parse_scram(text: str) -> ScramSecret | None:
    """The parts of a SCRAM secret; None when `text` is not one."""
    found = _SCRAM.fullmatch(text)
    if not found or not int(found[1]):
        return None
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in found.groups()[1:])
    except binascii.Error:
        return None
    if len(stored) != 32 or len(server) != 32:
        return None
    return ScramSecret(int(found[1]), salt, stored, server)


@dataclass(frozen=True, slots=True)
class Secret:
    """What is known of one user's password. `text` is as stored; an empty one lets nobody in by password."""

    user: str
    text: str = field(repr=False)
    kind: SecretKind = field(init=False)
    scram: ScramSecret | None = field(init=False, repr=False)
    """Present for kind `scram`."""

    def __post_init__(self) -> None:
        scram = parse_scram(self.text)
        kind = SecretKind.scram if scram else SecretKind.md5 if _MD5.fullmatch(self.text) else SecretKind.plain
        object.__setattr__(self, "scram", scram)
        object.__setattr__(self, "kind", kind)


@dataclass(frozen=True, slots=True)
class Likeness:
    """What shows of a secret, and so of a user who has one."""

    kind: SecretKind
    iterations: int = 4096
    salt_bytes: int = 16

    @classmethod
    def of(cls, secret: Secret) -> Likeness:
        verifier = secret.scram
        return cls(secret.kind, verifier.iterations, len(verifier.salt)) if verifier else cls(secret.kind)


@dataclass(frozen=True, slots=True)
class Users:
    """What an auth_file says: a user named twice has the last secret."""

    secrets: Mapping[str, Secret]
    problems: tuple[Problem, ...] = ()
    readable: bool = True
    """False: the file could not be read, so a RELOAD keeps the users it has."""


def load_users(path: str) -> Users:
    """The users of the auth_file at `path`. A file that cannot be read has a problem and no users."""
    try:
        text = load_text(path)
    except (OSError, ValueError) as error:
        problem = Problem("", 0, f"could not open auth_file {path}: {reason(error)}")
        return Users({}, (problem,), readable=False)
    return parse_users(text, path)


def stamp(path: str) -> tuple[int, int, int] | None:
    """Changes when the file does: a caller compares before it calls `load_users` again. None: there is
    none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


_FIELD = r'"((?:[^"]++|"")*+)"'
_LINE = re.compile(rf'{_FIELD}[^"]*+{_FIELD}')


def parse_users(text: str, file: str = "") -> Users:
    """The users in the text of an auth_file."""
    secrets: dict[str, Secret] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines(text), 1):
        line = line.strip(BLANKS)
        if not line or line[0] == ";":
            continue
        found = _LINE.match(line)
        refusal = _refusal(found)
        if refusal or not found:
            problems.append(Problem(file, number, refusal))
            continue
        user = found[1].replace('""', '"')
        if user in secrets:
            problems.append(Problem(file, number, f"user {user} is there twice: this line counts", level="WARNING"))
        secrets[user] = Secret(user, found[2].replace('""', '"'))
    return Users(secrets, first_of(problems, MAX_PROBLEMS, "broken auth file: "))


def _refusal(found: re.Match[str] | None) -> str:
    if not found:
        return "broken auth file"
    if len(encode(found[1].replace('""', '"'))) >= MAX_USERNAME:
        return "username too long in auth file"
    if len(encode(found[2].replace('""', '"'))) > MAX_PASSWORD:
        return "password too long in auth file"
    return ""
