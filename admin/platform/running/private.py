"""The private pooler: its files in a directory only we can read, its process on loopback, ready before the
app and gone after it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import admin
from admin.platform.errors import PlatformError
from admin.platform.running.buildpack import HOST, PORT, Plan, plan
from admin.platform.running.process import Process
from pooler.wire import ssl_request

READY_SECONDS = 15.0
STOP_SECONDS = 10.0
ASK_SECONDS = 3.0
DEMANDING = ("require", "verify-ca", "verify-full")
"""The sslmodes that a server without TLS cannot be spoken to by."""


class PrivatePooler:
    """A running private pooler. `variables` are what its app's environment must say."""

    def __init__(self, process: Process, directory: Path, variables: Mapping[str, str]) -> None:
        self.process = process
        self._directory = directory
        self.variables = variables

    @classmethod
    async def start(cls, environment: Mapping[str, str]) -> PrivatePooler:
        """Start one for the URLs that the environment names, and wait until it answers."""
        port = free_port(PORT)
        directory = _directory(environment)
        try:
            made = plan(environment, port, str(directory / "users.txt"))
            if made.sslmode in DEMANDING:
                await asyncio.gather(*(demand_tls(*place, name, made.sslmode) for place, name in made.servers.items()))
            ini = _write(directory, made)
            process = await Process.start(
                [sys.executable, "-P", "-m", "pooler", "serve", str(ini)], _environment(), own_group=True, stdout=2
            )
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        started = cls(process, directory, made.variables)
        try:
            await started._ready(port)
        except BaseException:
            await started.stop()
            raise
        return started

    async def stop(self) -> int:
        """End it as the buildpack does (SIGINT: no new queries, then out), and remove its files."""
        try:
            return await self.process.stop(STOP_SECONDS, signal.SIGINT)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _ready(self, port: int) -> None:
        ended = asyncio.ensure_future(self.process.wait())
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await _listens(port):
                    if ended.done():
                        raise PlatformError("pooler_failed", "The private pooler ended before it listened.", 503)
                    await asyncio.wait({ended}, timeout=0.05)
        except TimeoutError:
            raise PlatformError("pooler_failed", "The private pooler does not listen.", 503) from None
        finally:
            ended.cancel()


async def demand_tls(host: str, port: int, variable: str, sslmode: str) -> None:
    """Say at once what every login would come to at a server that has no TLS. One that cannot be asked may come
    later."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(ssl_request())
                answer = await reader.read(1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return
    if answer == b"N":
        raise PlatformError(
            "pooler_failed",
            f"The database at {host}:{port} has no TLS, and sslmode is {sslmode}, as with the buildpack unless it is "
            f"told otherwise: set PGBOUNCER_SERVER_TLS_SSLMODE=prefer, or add ?sslmode=prefer to {variable}.",
            503,
        )


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def free_port(wanted: int) -> int:
    """The buildpack's port, or any other when somebody has it."""
    for candidate in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    raise PlatformError("pooler_failed", f"No port of {HOST} is free for the private pooler.", 503)


def _directory(environment: Mapping[str, str]) -> Path:
    """A new directory of our own, below PGBOUNCER_CONFIG_DIR when that is given; always 0700."""
    parent = environment.get("PGBOUNCER_CONFIG_DIR")
    try:
        if parent:
            os.makedirs(parent, mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="pooler-run-", dir=parent or None))
    except OSError as error:
        raise PlatformError(
            "pooler_failed", f"No place for the private pooler's files: {error.strerror}.", 503
        ) from None


def _write(directory: Path, made: Plan) -> Path:
    ini = directory / "pgbouncer.ini"
    for path, text in ((ini, made.ini), (directory / "users.txt", made.userlist)):
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    return ini


def _environment() -> dict[str, str]:
    """Our own environment, not the app's, with our own packages found first whatever lies in the working
    directory."""
    assert admin.__file__ is not None
    home = str(Path(admin.__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{before}" if before else home}
