"""Text of an ini file -> sections, and keys with their values, each with its file and line.

What a section or key means is not known here (`config` gives it meaning), and nothing is logged. The rule:
every text either reads as items or leaves problems, all of them, with PgBouncer's wording; nothing else is
raised. PgBouncer's habits: `;` and `#` are comments only at the start of a line, blanks around names and
values do not count, `%include FILE` is relative to the working directory, what follows `[section]` on its
line is a line of its own.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field

from pooler.config.files import load
from pooler.config.kinds import BLANKS
from pooler.values import dataclass

MAX_INCLUDE = 10
"""How deep %include may nest, as in PgBouncer."""
MAX_FILES = 1000
"""How many files one configuration may read."""
MAX_BYTES = 32 << 20
"""A larger file is no configuration (a log, /dev/zero): refused rather than read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file: `message` says what, without the place. `key` and `value` are the setting it
    stands in, when it stands in one (`value` with passwords masked). `level` is the log level PgBouncer
    uses."""

    file: str
    line: int
    message: str
    key: str | None = None
    value: str | None = None
    level: str = "ERROR"
    why: str = ""
    """What the value should have been, where only we say so."""

    def __str__(self) -> str:
        said = self.message or f'invalid value "{self.value}" for parameter {self.key}'
        said = f"{said}: {self.why}" if self.why else said
        if not self.file:
            return said
        return f"{self.file}:{self.line}: {said}" if self.line else f"{self.file}: {said}"

    @property
    def log_lines(self) -> tuple[str, ...]:
        """What PgBouncer writes to its log for this problem."""
        place = f" ({self.file}:{self.line})" if self.line else ""
        lines = (self.message + place,) if self.message and self.key is None else (self.message,)
        if self.key is not None:
            bad = f'invalid value "{self.value}" for parameter {self.key} in configuration{place}'
            return (*filter(None, lines), bad)
        return (lines[0] + ", stopping loading",) if self.message in STOPPING else lines

    @property
    def explained(self) -> tuple[str, ...]:
        """`log_lines`, and what the value should have been."""
        *first, last = self.log_lines
        return (*first, f"{last}: {self.why}" if self.why else last)


MOST_PROBLEMS = 100
"""Of one file: what else is wrong with it is counted, since each is a line of the log."""


def first_of(problems: list[Problem], most: int = MOST_PROBLEMS, what: str = "") -> tuple[Problem, ...]:
    """The first `most`, and how many more there are, as one of their kind; `what`: how that begins."""
    more = len(problems) - most
    if more <= 0:
        return tuple(problems)
    last = dataclasses.replace(problems[-1], line=0, message=f"{what}{more} more", key=None, value=None, why="")
    return (*problems[:most], last)


SYNTAX_ERROR = "syntax error in configuration"
TOO_DEEP = "include nesting level too deep"
IN_INCLUDE = "error processing include file in configuration"
STOPPING = (SYNTAX_ERROR, TOO_DEEP, IN_INCLUDE)


class ConfigError(Exception):
    """A configuration that cannot be used: every problem found in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = first_of(list(problems), what="problems: ")
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class Section:
    """A line `[name]`: it starts the section, even when the same name came before."""

    name: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line `key = value` of the section before it."""

    key: str
    value: str
    file: str
    line: int


@dataclass(slots=True)
class Ini:
    """Everything one file and the files it includes say, in reading order."""

    items: list[Section | Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    """How many were read."""


def load_text(path: str) -> str:
    """The text of a configuration file. Bytes that are not UTF-8 stay as surrogate escapes: a comment may
    have any. Raises OSError."""
    data = load(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(27, os.strerror(27), path)
    return data.decode("utf-8", "surrogateescape")


def lines(text: str) -> Iterator[str]:
    """One by one: to make a list of those of a large file takes longer than traffic may wait."""
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def read(path: str, load: Callable[[str], str] = load_text) -> Ini:
    """The items and problems of the file at `path`, which may not even exist."""
    try:
        return parse(load(path), path, load)
    except (OSError, ValueError) as error:
        return Ini(problems=[Problem(path, 0, unreadable(path, error))])


def parse(text: str, file: str = "", load: Callable[[str], str] = load_text) -> Ini:
    """The items and problems of `text`; `file` is the name that places carry."""
    reader = _Reader(load)
    reader.read(text, file, 0)
    return reader.ini


def unreadable(path: str, error: OSError | ValueError) -> str:
    """PgBouncer's sentence for a file that cannot be read."""
    return f'could not load file "{path}": {reason(error)}'


def reason(error: OSError | ValueError) -> str:
    """Why a file cannot be read (ValueError: a name with a NUL in it)."""
    return (error.strerror or "") if isinstance(error, OSError) else str(error)


_INCLUDE = re.compile(r"%include[ \t]++(\S.*+)", re.DOTALL)
_KEY = re.compile(r'(?:"((?:[^"]++|"")*+)"|([\w.*-]++))[ \t]*+=', re.ASCII)


class _Reader:
    """Reads texts, includes and all, into one Ini."""

    def __init__(self, load: Callable[[str], str]) -> None:
        self.ini = Ini()
        self._load = load

    def read(self, text: str, file: str, depth: int) -> bool:
        """Whether reading may go on after this text: not when includes go round in circles."""
        self.ini.files += 1
        for number, line in enumerate(lines(text), 1):
            rest = self._sections(line.strip(BLANKS), file, number)
            if not rest or rest[0] in ";#":
                continue
            include = _INCLUDE.fullmatch(rest)
            if not include:
                self._entry(rest, file, number)
            elif not self._include(include[1], file, number, depth):
                return False
        return True

    def _sections(self, line: str, file: str, number: int) -> str:
        """What follows the [section]s a line begins with."""
        at = 0
        while line.startswith("[", at):
            close = line.find("]", at)
            if close < 0:
                self._problem(file, number, SYNTAX_ERROR)
                return ""
            self.ini.items.append(Section(line[at + 1 : close], file, number))
            at = close + 1
            while at < len(line) and line[at] in BLANKS:
                at += 1
        return line[at:]

    def _entry(self, text: str, file: str, line: int) -> None:
        found = _KEY.match(text)
        if not found:
            self._problem(file, line, SYNTAX_ERROR)
            return
        key = found[2] if found[1] is None else found[1].replace('""', '"')
        value = text[found.end() :].lstrip(BLANKS)
        if "\0" in text:
            self._problem(file, line, "a NUL byte cannot be part of a name or value")
            return
        self.ini.items.append(Entry(key, value, file, line))

    def _include(self, path: str, file: str, line: int, depth: int) -> bool:
        if depth >= MAX_INCLUDE or self.ini.files >= MAX_FILES:
            self._problem(file, line, TOO_DEEP)
            return False
        before, goes_on = len(self.ini.problems), True
        try:
            text = self._load(path)
        except (OSError, ValueError) as error:
            self._problem(file, line, unreadable(path, error))
        else:
            goes_on = self.read(text, path, depth + 1)
        if len(self.ini.problems) > before:
            self._problem(file, line, IN_INCLUDE)
        return goes_on

    def _problem(self, file: str, line: int, message: str) -> None:
        self.ini.problems.append(Problem(file, line, message))
