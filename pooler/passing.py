"""Sockets and what belongs to them, passed from one process to another over a Unix socket.

A line of frames: each is a JSON object, with a descriptor or without. Blocking, with a timeout, since both sides
stand still while it lasts. The rule: whoever receives a descriptor owns it, and who sent it still has its own.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

Fact = dict[str, Any]

PLAIN, WITH_DESCRIPTOR = b"-", b"+"
"""First byte of a frame; with the second comes a descriptor."""
LONGEST = 1 << 31
STRANGER = "it is another program (a PgBouncer?): stop it first, then start without -R"


class PassingError(Exception):
    """The other side is gone, slow, or no pooler of ours."""


class Line:
    """One end. Values may be what JSON has, and bytes."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        sock.settimeout(timeout)

    def send(self, data: bytes) -> None:
        """Bytes that are no frame. Raises PassingError."""
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise PassingError(_reason(error)) from None

    def put(self, fact: Fact, descriptor: int | None = None) -> None:
        """Raises PassingError."""
        text = json.dumps(fact, default=_bytes_out, separators=(",", ":")).encode()
        try:
            if descriptor is None:
                self.sock.sendall(PLAIN)
            else:
                socket.send_fds(self.sock, [WITH_DESCRIPTOR], [descriptor])
            self.sock.sendall(len(text).to_bytes(4, "big") + text)
        except OSError as error:
            raise PassingError(_reason(error)) from None

    def take(self) -> tuple[Fact, int | None]:
        """The next frame. Raises PassingError."""
        try:
            marker, descriptors, _, _ = socket.recv_fds(self.sock, 1, 4, socket.MSG_CMSG_CLOEXEC)
            size = int.from_bytes(self._exactly(4), "big")
            if marker not in (PLAIN, WITH_DESCRIPTOR) or size > LONGEST:
                raise PassingError(STRANGER)
            fact: Fact = json.loads(self._exactly(size), object_hook=_bytes_in)
        except OSError as error:
            raise PassingError(_reason(error)) from None
        except ValueError:
            raise PassingError(STRANGER) from None
        for extra in descriptors[1:]:
            os.close(extra)
        return fact, descriptors[0] if descriptors else None

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            data = self.sock.recv(min(count, 1 << 20))
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
