"""The console's language cut into tokens, for splitting, highlighting and completion alike.

Not a parser: it knows strings, quoted names, comments, words and signs, and that a token may still be
open at the end of the text. The rule: the tokens of a text, joined, are the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a token is. BACKSLASH is a backslash command's name, END a semicolon."""

    SPACE = "space"
    COMMENT = "comment"
    STRING = "string"
    NAME = "name"
    NUMBER = "number"
    WORD = "word"
    BACKSLASH = "backslash"
    END = "end"
    SIGN = "sign"


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>--[^\n]*|/\*(?:.*?\*/|.*))
      | (?P<string>'(?:[^']|'')*'?)
      | (?P<name>"(?:[^"]|"")*"?)
      | (?P<number>\d+(?:\.\d+)?(?![\w.]))
      | (?P<word>[\w$]+)
      | (?P<backslash>\\(?:[A-Za-z_]+|\?|!|))
      | (?P<end>;)
      | (?P<sign>.)""",
    re.X | re.S,
)

SILENT = frozenset({Kind.SPACE, Kind.COMMENT})


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text, at `start`."""

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def upper(self) -> str:
        return self.text.upper()

    @property
    def plain(self) -> str:
        """A name or string without its quotes."""
        if self.kind not in (Kind.NAME, Kind.STRING):
            return self.text
        quote = self.text[0]
        inner = self.text[1:] if self.open else self.text[1:-1]
        return inner.replace(quote * 2, quote)

    @property
    def open(self) -> bool:
        """Whether the token still waits for its closing quote or `*/`."""
        if self.kind in (Kind.STRING, Kind.NAME):
            return len(self.text) == 1 or self.text.count(self.text[0]) % 2 == 1
        return self.kind is Kind.COMMENT and self.text.startswith("/*") and not _closed(self.text)


def _closed(comment: str) -> bool:
    return len(comment) >= 4 and comment.endswith("*/")


def tokens(text: str) -> Iterator[Token]:
    """Every token of the text, blanks and comments included."""
    for found in _TOKEN.finditer(text):
        yield Token(Kind(found.lastgroup), found.group(), found.start())


def spoken(text: str) -> list[Token]:
    """The tokens that say something: neither blanks nor comments."""
    return [token for token in tokens(text) if token.kind not in SILENT]


def without_comments(text: str) -> str:
    """The text with each comment as one blank (PgBouncer's grammar has none) and without its semicolon."""
    kept = "".join(" " if token.kind is Kind.COMMENT else token.text for token in tokens(text)).strip()
    return kept.removesuffix(";").rstrip()
