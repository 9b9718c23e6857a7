"""How the commands speak: Heroku's symbols and colours where the terminal has them, action lines, headers,
tables, errors.

Action lines and errors go to stderr, results to stdout, as Heroku's command line does. Colours and the
symbols ⬢ and ⛁ need 256 colours and UTF-8; NO_COLOR forbids them and FORCE_COLOR (0 to 3) decides.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

APP, DATASTORE, NAME, ATTACHMENT, USER, FAINT = 147, 185, 212, 220, 116, 248
"""Heroku's colours of 256."""

BAR = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
"""What stands before every line of an error."""

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def colour_level(stream: TextIO, environment: Mapping[str, str]) -> int:
    """0 none, 1 the sixteen, 2 256 colours, 3 all, as the usual variables and the terminal say."""
    forced = environment.get("FORCE_COLOR", "")
    if forced:
        return {"true": 1, "false": 0}.get(forced, int(forced) if forced in "0123" else 1)
    if "NO_COLOR" in environment or not stream.isatty() or environment.get("TERM") == "dumb":
        return 0
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return 3
    return 2 if "256" in environment.get("TERM", "") else 1


class Terminal:
    """One command's way to speak. `out` takes results, `err` progress and errors."""

    def __init__(self, out: TextIO, err: TextIO, environment: Mapping[str, str]) -> None:
        self._out = out
        self._err = err
        self._level = colour_level(out, environment)
        self._symbols = self._level >= 2 and (getattr(out, "encoding", None) or "").lower() in (
            "utf-8",
            "utf8",
        )

    @classmethod
    def standard(cls) -> Terminal:
        """On the process's own streams, which then never fail at a character they cannot show."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        return cls(sys.stdout, sys.stderr, os.environ)

    # --- words

    def _paint(self, colour: int, text: str) -> str:
        return f"\x1b[38;5;{colour}m{text}\x1b[39m" if self._level >= 2 else text

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[22m" if self._level >= 1 else text

    def app(self, name: str) -> str:
        return self._paint(APP, f"⬢ {name}" if self._symbols else name)

    def datastore(self, name: str) -> str:
        return self._paint(DATASTORE, f"⛁ {name}" if self._symbols else name)

    def addon(self, name: str) -> str:
        return self._paint(DATASTORE, name)

    def name(self, text: str) -> str:
        return self._paint(NAME, text)

    def attachment(self, text: str) -> str:
        return self._paint(ATTACHMENT, text)

    def user(self, text: str) -> str:
        return self._paint(USER, text)

    def faint(self, text: str) -> str:
        return self._paint(FAINT, text)

    # --- lines

    def say(self, text: str = "") -> None:
        print(text, file=self._out)

    def header(self, text: str) -> None:
        self.say(self.bold(f"=== {text}"))
        self.say()

    def warn(self, text: str) -> None:
        self._marked("Warning", text)

    def fail(self, message: str, *, id: str | None = None, app: str | None = None) -> None:
        """An error as Heroku shows it, on stderr."""
        self._marked("Error", message)
        notes = [f"Error ID: {id}"] if id else []
        notes += [f"App: {app}"] if app else []
        if notes:
            print(f" {BAR}", file=self._err)
        for note in notes:
            print(f" {BAR}   {note}", file=self._err)

    def _marked(self, kind: str, text: str) -> None:
        first, *rest = text.splitlines() or [""]
        print(f" {BAR}   {kind}: {first}", file=self._err)
        for line in rest:
            print(f" {BAR}   {line}", file=self._err)

    @contextmanager
    def action(self, text: str, done: str = "done") -> Iterator[Action]:
        """`text... done`; `text... !` when the block raises."""
        self._err.write(f"{text}... ")
        self._err.flush()
        action = Action(done)
        try:
            yield action
        except BaseException:
            print("!", file=self._err, flush=True)
            raise
        print(action.done, file=self._err, flush=True)

    # --- things

    def fields(self, values: Mapping[str, str | Sequence[str]]) -> None:
        """Aligned `Key: value` lines; a list goes on below itself, an empty one is left out."""
        width = max((len(name) for name, value in values.items() if value != []), default=0) + 2
        for name, value in values.items():
            lines = [value] if isinstance(value, str) else list(value)
            for index, line in enumerate(lines):
                label = f"{self.bold(name)}:{' ' * (width - len(name) - 1)}" if index == 0 else " " * width
                self.say(label + line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Heroku's table without borders. Cells may have several lines."""
        cells = [[cell.split("\n") for cell in row] for row in rows]
        widths = [
            max(len(title), *(shown(line) for row in cells for line in row[index])) if rows else len(title)
            for index, title in enumerate(columns)
        ]
        self._row([self.bold(title) for title in columns], widths)
        self.say(f" {'─' * (sum(widths) + 3 * len(widths) - 1)}")
        for row in cells:
            height = max(len(lines) for lines in row)
            for index in range(height):
                self._row([lines[index].strip() if index < len(lines) else "" for lines in row], widths)
        self.say()

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> None:
        padded = [cell + " " * (width - shown(cell)) for cell, width in zip(cells, widths, strict=True)]
        self.say(f"  {'   '.join(padded)}".rstrip())


class Action:
    """An action line that is being written; `done` is its last word."""

    def __init__(self, done: str) -> None:
        self.done = done


def shown(text: str) -> int:
    """How many columns a text takes, colours aside."""
    return len(ESCAPES.sub("", text))
