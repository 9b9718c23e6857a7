"""Where answers go: the terminal, a pager, a file, or another program's input (`\\o`, `\\g`).

Only answers: news and errors always go to stderr. Files are plain text, without colours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import FrameType
from typing import IO, Any

LESS = "-SRFX"
"""How less behaves unless LESS says otherwise: no wrapping, colours, quit if it fits, leave the text."""


class SinkError(Exception):
    """The file or program cannot be written to; fit for a person."""


class Sink:
    """Stdout, or what `\\o` named."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._file: IO[str] | None = None
        self._program: subprocess.Popen[str] | None = None

    @property
    def redirected(self) -> bool:
        return self._file is not None

    @property
    def stream(self) -> IO[str]:
        return self._file or self._stream

    def write(self, text: str) -> None:
        """Write it now. Raises SinkError, and BrokenPipeError when nobody reads stdout any more."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            if not self.redirected:
                raise
            self.reset()
            raise SinkError("the program reading the output has ended") from None
        except OSError as error:
            raise SinkError(f"cannot write the output: {error.strerror}") from None

    def redirect(self, target: str) -> None:
        """`FILE` or `|PROGRAM`; empty for stdout again."""
        self.reset()
        if target.startswith("|"):
            self._program = subprocess.Popen(target[1:], shell=True, stdin=subprocess.PIPE, text=True)
            self._file = self._program.stdin
        elif target:
            try:
                self._file = open(os.path.expanduser(target), "w", encoding="utf-8")  # noqa: SIM115 - kept open
            except OSError as error:
                raise SinkError(f"{target}: {error.strerror}") from None

    def reset(self) -> None:
        """Close what was redirected to and wait for the program, if it was one."""
        file, self._file = self._file, None
        program, self._program = self._program, None
        try:
            if file is not None:
                file.close()
        except BrokenPipeError:
            pass  # the program ended first; its exit is waited for below
        finally:
            if program is not None:
                program.wait()


def pager(environment: Mapping[str, str] = os.environ) -> str | None:
    """The pager's command line; None when there is none or PAGER is set to nothing."""
    chosen = environment.get("PAGER")
    if chosen is not None:
        return chosen.strip() or None
    return "less" if shutil.which("less") else None


def page(text: str, command: str) -> None:
    """Show text in the pager. Ctrl-C is the pager's while it runs."""
    environment = {"LESS": LESS, **os.environ}
    before = signal.signal(signal.SIGINT, _ignore)
    try:
        subprocess.run(command, shell=True, input=text, text=True, env=environment, check=False)
    finally:
        signal.signal(signal.SIGINT, before)


def _ignore(number: int, frame: FrameType | None) -> Any:
    """A handler rather than SIG_IGN, which the pager would inherit."""
