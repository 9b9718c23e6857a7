"""Blots out secrets that were typed as arguments, so that `ps` and /proc show them no longer than it takes to
start.

Linux lets a process overwrite its own arguments in place. Elsewhere nothing happens, and the documentation
says to hand URLs over by standard input.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

SECRET = re.compile(r"(?<=://).+|(?<==).+", re.DOTALL)
"""What of a word may be one: all of a URL after its scheme, and the value of KEY=VALUE."""

SETTERS = frozenset({"config:set"})
"""The commands whose KEY=VALUE arguments carry secrets; URLs are concealed everywhere."""


def conceal_arguments(argv: list[str]) -> None:
    """Overwrite the secrets among these words with x in this process's argument area."""
    carriers = [word for word in argv if "://" in word or (argv[0] in SETTERS and "=" in word)]
    if carriers and sys.platform.startswith("linux"):
        _blot([os.fsencode(word) for word in carriers], [_secret_length(word) for word in carriers])


def _secret_length(word: str) -> int:
    found = SECRET.search(word)
    return len(os.fsencode(found[0])) if found else 0


def _blot(words: list[bytes], lengths: list[int]) -> None:
    import ctypes

    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if not 0 < start < end or end - start > 1 << 22:
        return
    area = b"\0" + ctypes.string_at(start, end - start)
    for word, length in zip(words, lengths, strict=True):
        at = area.find(b"\0" + word + b"\0")
        if at >= 0 and length:
            ctypes.memset(start + at + len(word) - length, ord("x"), length)
