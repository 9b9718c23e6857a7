"""The throw-away server as its owner sees it: started, asked where it is, ended.

The rule: it lives on the other end of a line that its owner holds, so it ends with its owner, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from admin.sql import spelling
from admin.sql.backend import Backend, Refused
from pooler.stats import ADMIN_DATABASE

MODULE = "admin.sql.throwaway"
START_SECONDS = 60.0
"""For a server to be ready: half a second, but for machines that are busy."""
STOP_SECONDS = 10.0
LONGEST_ROLE = 63
"""Bytes of a role's name."""
DUPLICATE_ROLE = "42710"


class Unavailable(Exception):
    """There is no server to be had; the message says why."""


class Server:
    """One throw-away server. `place` is known once it is ready."""

    def __init__(self, *, views: bool = True) -> None:
        """With our console's views, or without any. Raises OSError."""
        self._line, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-s", "-m", MODULE, "views" if views else "none"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    cwd="/",
                    process_group=0,
                )
        except BaseException:
            self._line.close()
            raise
        self._line.setblocking(False)
        self.place = ""
        self._roles: set[str] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    def lives(self) -> bool:
        return self._process.poll() is None

    async def ready(self) -> None:
        """Raises Unavailable."""
        said = b""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not said.endswith(b"\n"):
                    piece = await asyncio.get_running_loop().sock_recv(self._line, 4096)
                    if not piece:
                        break
                    said += piece
        except (TimeoutError, OSError):
            raise Unavailable("it does not start in time") from None
        text = said.decode(errors="replace").strip()
        if not text.startswith("/"):
            raise Unavailable(text.removeprefix("! ") or "it does not start")
        self.place = text

    async def connect(self, user: str) -> Backend:
        """A session of that user of the console's, who is a visitor. Raises Gone, Refused, OSError."""
        role = user.encode("utf-8", "replace").replace(b"\0", b"")[:LONGEST_ROLE].decode(errors="ignore") or "?"
        if role in (spelling.SUPERUSER, spelling.KEEPER, spelling.VISITORS) or role.startswith("pg_"):
            role = f"={role}"  # a name that is no visitor's to have
        if role not in self._roles:
            await self._make_role(role)
            self._roles.add(role)
        return await Backend.open(self.place, role, ADMIN_DATABASE)

    async def _make_role(self, role: str) -> None:
        keeper = await Backend.open(self.place, spelling.KEEPER, ADMIN_DATABASE)
        try:
            await keeper.do(f"CREATE ROLE {spelling.quoted(role)} LOGIN IN ROLE {spelling.VISITORS}")
        except Refused as refused:
            if refused.sqlstate != DUPLICATE_ROLE:
                raise
        finally:
            keeper.end()

    def end(self) -> None:
        """It stops, and what it had on the disk is removed; nobody waits for that. One that is still made hears no
        line."""
        self._line.close()
        if not self.place and self.lives():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    def bury(self) -> None:
        """Wait until it has ended."""
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """Where to find our code and a place for files, and nothing of ours, which may hold a password."""
    kept = {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)}
