"""The history file: what was typed, for this user's eyes only, and never a password.

A prompt-toolkit history in a file of mode 0600 in the state directory (pooler.places), so that Ctrl-R
and suggestions reach back over sessions. Lines with a password are kept with the password masked. What failed stays
in the history, to be mended, and is marked there, so that it is not suggested. The rule: a file that cannot be written
costs the lines of this session, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory

from admin.client.address import redact
from pooler import places

OLDEST_LINES = 20_000


def place(environment: Mapping[str, str] = os.environ) -> Path:
    """POOLER_HISTORY, or `console_history` in the state directory. Raises NoPlace."""
    chosen = environment.get("POOLER_HISTORY")
    if chosen:
        return Path(chosen).expanduser()
    return places.state_directory(environment) / "console_history"


class Past(InMemoryHistory):
    """What was typed, and what of it failed the last time."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        super().__init__(lines)
        self._failed: set[str] = set()

    def append_string(self, string: str) -> None:
        self._failed.discard(string)
        super().append_string(string)

    def failed(self, string: str) -> None:
        self._failed.add(string)

    def has_failed(self, string: str) -> bool:
        return string in self._failed


class PrivatePast(Past):
    """The same in a FileHistory's file, which only its owner reads; passwords are masked in it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path, self._file = path, FileHistory(path)

    def load_history_strings(self) -> Iterator[str]:
        self._failed |= _failures(self._path)
        return iter(self._file.load_history_strings())

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            self._file.store_string(redact(string))

    def failed(self, string: str) -> None:
        super().failed(string)
        with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{FAILED}{json.dumps(redact(string))}\n")


FAILED = "# failed "
"""A comment in the file: the line that follows, in JSON, has failed."""


def _failures(path: str) -> set[str]:
    """The lines of the file that failed when they were typed last. Whatever is no mark of ours is passed over."""
    failed: set[str] = set()
    typed: list[str] = []
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("+"):
                typed.append(line[1:])
                continue
            failed.discard("".join(typed)[:-1])
            typed = []
            if line.startswith(FAILED):
                with suppress(ValueError):
                    failed.add(str(json.loads(line.removeprefix(FAILED))))
    failed.discard("".join(typed)[:-1])
    return failed


class SuggestWhatWorked(AutoSuggest):
    """The rest of the latest line that began so and did not fail."""

    def __init__(self, past: Past) -> None:
        self._past = past

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        typed = document.text.rpartition("\n")[2]
        if not typed.strip():
            return None
        for text in reversed(buffer.history.get_strings()):
            if self._past.has_failed(text):
                continue
            for line in reversed(text.splitlines()):
                if line.startswith(typed):
                    return Suggestion(line[len(typed) :])
        return None


def opened(find: Callable[[], Path] = place) -> Past:
    """The history kept in that file; one in memory when there is none, or it cannot be written."""
    try:
        path = find()
        places.make(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except (OSError, places.NoPlace):
        return Past()
    with suppress(OSError):
        _shorten(path)
    return PrivatePast(str(path))


def _shorten(path: Path) -> None:
    """Drop the older half once the file has grown too long."""
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) <= OLDEST_LINES:
        return
    kept = lines[len(lines) // 2 :]
    start = next((place for place, line in enumerate(kept) if line.startswith(b"# ")), 0)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(kept[start:])
        part.replace(path)
    except BaseException:
        part.unlink()
        raise
