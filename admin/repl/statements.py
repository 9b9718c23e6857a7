"""What was typed or piped in, cut into statements and backslash commands.

A statement ends at a semicolon; one of the console's own commands also ends with its line, so that `SHOW
POOLS` needs no semicolon, while SELECT may run over many lines. The same rule holds for a person, a pipe
and a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from admin.client.vocabulary import SELECTS
from pooler.lexer import SILENT, Kind, Token, pieces, without_comments

SENDERS = frozenset({"g", "gx", "watch", "e"})
"""Backslash commands that take the statement before them: `SHOW POOLS \\watch 2`."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A command for the console, without comments and semicolon."""

    text: str
    line: int = field(default=1, compare=False)
    """Where it begins in the text that it was cut from."""


@dataclass(frozen=True, slots=True)
class Backslash:
    """A command for this program. `statement` is what stood before it, when it takes one."""

    name: str
    argument: str = ""
    statement: str = ""
    line: int = field(default=1, compare=False)


Item = Statement | Backslash


class Splitter:
    """Takes text line by line and gives what is complete; the rest waits for more."""

    def __init__(self) -> None:
        self._rest = ""
        self._line = 1

    @property
    def rest(self) -> str:
        """What waits for more lines."""
        return self._rest

    def feed(self, text: str) -> list[Item]:
        """The items that are complete with `text`, which may be many lines or a part of one."""
        items: list[Item] = []
        for line in text.splitlines(keepends=True):
            self._rest += line
            items += self._take()
        return items

    def finish(self) -> list[Item]:
        """The end of the input completes what waited."""
        items = self.feed("\n") if self._rest else []
        left, line = without_comments(self._rest), self._begins()
        self._rest = ""
        return [*items, Statement(left, line)] if left else items

    def _take(self) -> list[Item]:
        items: list[Item] = []
        while (cut := _first_item(self._rest)) is not None:
            found, length = cut
            begins = self._begins()
            items += [replace(item, line=begins) for item in found]
            self._line += self._rest.count("\n", 0, length)
            self._rest = self._rest[length:]
        return items

    def _begins(self) -> int:
        """The line of the first word that waits."""
        start = next((token.start for token in pieces(self._rest) if token.kind not in SILENT), 0)
        return self._line + self._rest.count("\n", 0, start)


def split(text: str) -> list[Item]:
    """All items of a whole text."""
    splitter = Splitter()
    return [*splitter.feed(text), *splitter.finish()]


def complete(text: str) -> bool:
    """Whether Enter runs this text: nothing in it waits for another line, or the last one was left empty. (In a
    script an empty line ends nothing.)"""
    splitter = Splitter()
    splitter.feed(text + "\n")
    if any(token.open for token in pieces(splitter.rest)):
        return False
    return not without_comments(splitter.rest) or not text.rpartition("\n")[2].strip()


def _first_item(text: str) -> tuple[list[Item], int] | None:
    """The first complete item (an empty statement is none) and its length; None if none is complete."""
    said: list[Token] = []
    for token in pieces(text):
        if token.open:
            return None
        if token == ";":
            return _statement(text[: token.start]), token.end
        if token.kind is Kind.BACKSLASH:
            return _backslash(text, token)
        if token.kind is Kind.SPACE and "\n" in token.text:
            newline = token.start + token.text.index("\n") + 1
            if not said or said[0].upper not in SELECTS:
                return _statement(text[:newline]), newline
        if token.kind not in SILENT:
            said.append(token)
    return None


def _statement(text: str) -> list[Item]:
    plain = without_comments(text)
    return [Statement(plain)] if plain else []


def _backslash(text: str, token: Token) -> tuple[list[Item], int] | None:
    """A backslash command takes the rest of its line; only a sender takes the statement before it too."""
    line_end = text.find("\n", token.end)
    if line_end < 0:
        return None
    name = token.text[1:]
    argument = text[token.end : line_end].strip().removesuffix(";").rstrip()
    before = without_comments(text[: token.start])
    if name in SENDERS:
        return [Backslash(name, argument, before)], line_end + 1
    command: list[Item] = [Backslash(name, argument)]
    if not before:
        return command, line_end + 1
    return [*command, *_statement(before)], line_end + 1
