"""Sockets and what belongs to them, passed from one process to another over a Unix socket.

A line of frames: each is a JSON object, with a descriptor or without. Blocking, since both sides stand still while it
lasts, and so with two limits: for a moment in which nothing moves, and for all of it. The rule: whoever receives a
descriptor owns it, and who sent it still has its own.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from typing import Any

Fact = dict[str, Any]

PLAIN, WITH_DESCRIPTOR = b"-", b"+"
"""First byte of a frame; with the second comes a descriptor."""
LONGEST = 1 << 31
PIECE = 1 << 16
"""Bytes that move in one step, or fewer."""
STRANGER = "it is another program (a PgBouncer?): stop it first, then start without -R"


class PassingError(Exception):
    """The other side is gone, slow, or no pooler of ours."""


class Passage:
    """One end. Values may be what JSON has, and bytes. `timeout`: seconds in which nothing moves."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        self._timeout = timeout
        self._until = math.inf

    def hurry(self, within: float, timeout: float) -> None:
        """Be done with everything in so many seconds."""
        self._until, self._timeout = time.monotonic() + within, timeout

    def put(self, fact: Fact, descriptor: int | None = None) -> None:
        """Raises PassingError."""
        self.put_packed(json.dumps(fact, default=_bytes_out, separators=(",", ":")).encode(), descriptor)

    def put_packed(self, text: bytes, descriptor: int | None = None) -> None:
        """The same of a frame that has come from elsewhere."""
        try:
            if descriptor is None:
                self._send(PLAIN)
            else:
                self._wait()
                socket.send_fds(self.sock, [WITH_DESCRIPTOR], [descriptor])
            self._send(len(text).to_bytes(4, "big") + text)
        except OSError as error:
            raise PassingError(_reason(error)) from None

    def take(self) -> tuple[Fact, int | None]:
        """The next frame. Raises PassingError."""
        text, descriptor = self.take_packed()
        try:
            fact: Fact = json.loads(text, object_hook=_bytes_in)
        except ValueError:
            if descriptor is not None:
                os.close(descriptor)
            raise PassingError(STRANGER) from None
        return fact, descriptor

    def take_packed(self) -> tuple[bytes, int | None]:
        """The same, as it has come."""
        descriptors: list[int] = []
        try:
            self._wait()
            marker, descriptors, _, _ = socket.recv_fds(self.sock, 1, 4, socket.MSG_CMSG_CLOEXEC)
            size = int.from_bytes(self._exactly(4), "big")
            if marker not in (PLAIN, WITH_DESCRIPTOR) or size > LONGEST:
                raise PassingError(STRANGER)
            text = self._exactly(size)
            kept = descriptors[:1]
            del descriptors[:1]
        except OSError as error:
            raise PassingError(_reason(error)) from None
        finally:
            for extra in descriptors:
                os.close(extra)
        return text, kept[0] if kept else None

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wait()
            rest = rest[self.sock.send(rest[:PIECE]) :]

    def _wait(self) -> None:
        """How long the next step may take."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(min(self._timeout, left))

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            self._wait()
            data = self.sock.recv(min(count, PIECE))
            if not data:
                raise PassingError("the other process is gone")
            parts.append(data)
            count -= len(data)
        return b"".join(parts)


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _bytes_out(value: object) -> object:
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    raise TypeError(f"cannot pass a {type(value).__name__}")


def _bytes_in(value: Fact) -> object:
    if value.keys() == {"bytes"}:
        return value["bytes"].encode("latin-1")
    return value
