"""Files that a configuration names, read without being kept waiting by them.

A name may lead to a pipe, by mistake or on purpose (a shell's <(...)), and whoever opens one waits until somebody
writes there. The rule: no reader waits for longer than `PATIENCE`, and what others read by its name has to be a regular
file.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time

PATIENCE = 5.0
"""Seconds for all that comes out of a pipe."""
PIECE = 1 << 20


def load(path: str, most: int) -> bytes:
    """What is there, up to `most` bytes. Raises OSError, also for a pipe that has not come to its end in time."""
    until = time.monotonic() + PATIENCE
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        parts = []
        while most and (data := _next(descriptor, min(most, PIECE), until)):
            parts.append(data)
            most -= len(data)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _next(descriptor: int, size: int, until: float) -> bytes:
    look = select.poll()
    look.register(descriptor, select.POLLIN)
    if not look.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "nothing has come out of it in time")
    return os.read(descriptor, size)


def load_regular(path: str) -> bytes:
    """What a file holds that is read again by its name, by somebody who would wait. Raises OSError."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a directory has an error of its own
        raise OSError(errno.EINVAL, "not a regular file")
    with open(path, "rb") as file:
        return file.read()
