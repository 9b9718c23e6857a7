"""Who drives the session, and how to speak with them: a person at a terminal, or a script.

The difference between the two is here and nowhere else: a person is asked before a verb that hurts, can
type a password, sees long output in a pager and wide tables turned; a script gets plain behaviour and an
exit status.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from admin.client import colours
from admin.client.address import Address

FAILED, USAGE, UNREACHABLE = 1, 2, 3
"""Exit statuses besides 0."""

Fragment = tuple[str, str]
"""A piece of text with its style, as prompt-toolkit takes it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@dataclass(frozen=True, slots=True)
class Screen:
    """The terminal's size."""

    columns: int
    lines: int


class Terminal:
    """A script: nobody to ask, nothing to page."""

    person = False

    def __init__(self, errors: IO[str] | None = None) -> None:
        self._errors = errors or sys.stderr

    def say(self, text: str) -> None:
        """News and errors, on stderr."""
        print(text, file=self._errors, flush=True)

    def tell(self, text: str) -> None:
        """What only a person wants to hear, such as that a switch was turned."""

    def confirm(self, question: str) -> bool:
        return True

    def screen(self) -> Screen:
        found = shutil.get_terminal_size()
        return Screen(found.columns, found.lines)


class PersonTerminal(Terminal):
    """A person: questions are asked through prompt-toolkit."""

    person = True

    def say(self, text: str) -> None:
        sys.stdout.flush()
        style = colours.RED if text.startswith(("ERROR", "FATAL")) else colours.DIM
        super().say(colours.paint(text, style) if colours.wanted(self._errors) else text)

    def tell(self, text: str) -> None:
        self.say(text)

    def confirm(self, question: str) -> bool:
        return self.ask(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def password(self, address: Address) -> str | None:
        """The password typed, or None when nothing was."""
        return self.ask(f'Password for "{address.user}" at {address.place}: ', hidden=True) or None

    def ask(self, question: str, *, hidden: bool = False) -> str:
        """A line typed by the person; empty after Ctrl-C or Ctrl-D."""
        from prompt_toolkit import prompt

        try:
            return prompt(question, is_password=hidden)
        except (EOFError, KeyboardInterrupt):
            return ""


LEAVE_SECONDS = 2.0


def leave(threads: Iterable[threading.Thread], status: int) -> int:
    """The exit status, once these threads have ended. One that is stuck (in a connect, say) would crash in the
    C library while the interpreter ends around it; then the process ends here, at once."""
    until = time.monotonic() + LEAVE_SECONDS
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
        if thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return status


def unicode_terminal(stream: IO[str] | None = None) -> bool:
    """Whether the output can show more than ASCII."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "") == "utf8" and os.environ.get("TERM") != "dumb"


def printable(value: Any) -> str:
    """A value on one line, control characters spelled out."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return _CONTROL.sub(_spelled, str(value))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
