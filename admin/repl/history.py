"""The history file: what was typed, for this user's eyes only, and never a password.

A prompt-toolkit history in a file of mode 0600 under the state directory (XDG_STATE_HOME), so that Ctrl-R
and suggestions reach back over sessions. Lines with a password are kept with the password masked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from admin.repl.address import redact

OLDEST_LINES = 20_000


def place(environment: Mapping[str, str] = os.environ) -> Path:
    """POOLER_HISTORY, or `pooler/console_history` in the state directory."""
    chosen = environment.get("POOLER_HISTORY")
    if chosen:
        return Path(chosen).expanduser()
    state = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "pooler" / "console_history"


class PrivateHistory(FileHistory):
    """A FileHistory that only its owner reads and that masks passwords."""

    def store_string(self, string: str) -> None:
        super().store_string(redact(string))


def opened(path: Path) -> History:
    """The history kept in that file; one in memory when the file cannot be written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        os.chmod(path, 0o600)
        _shorten(path)
    except OSError:
        return InMemoryHistory()
    return PrivateHistory(str(path))


def _shorten(path: Path) -> None:
    """Drop the older half once the file has grown too long."""
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) <= OLDEST_LINES:
        return
    kept = lines[len(lines) // 2 :]
    start = next((place for place, line in enumerate(kept) if line.startswith(b"# ")), 0)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(kept[start:])
    part.replace(path)
