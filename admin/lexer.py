"""Words of a query text: PostgreSQL's lexical structure, and nothing of its grammar.

Knows quotes ('', E'', "", $$), comments (-- and nested /* */), numbers, parameters ($1) and operators well
enough to find where statements end and what is a word and what is quoted. The rule: every text can be
split; a quote or a comment that never ends is the one thing that raises. (PostgreSQL documentation,
"Lexical Structure".)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    WORD = auto()
    QUOTED = auto()
    """A name in double quotes."""
    STRING = auto()
    NUMBER = auto()
    PARAMETER = auto()
    OPERATOR = auto()
    MARK = auto()
    """One of ( ) [ ] , . : ; or a character that belongs nowhere."""


class Unterminated(ValueError):
    """A quote or comment without an end; `message` is PostgreSQL's."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.message = f"unterminated {what}"


@dataclass(frozen=True, slots=True)
class Token:
    """`text` as written; `value` without quotes, words in lower case; `start` and `end` are its place."""

    kind: Kind
    text: str
    value: str
    start: int
    end: int

    def __eq__(self, other: object) -> bool:
        """Equal to a string that is the unquoted word, operator or mark: `token == "select"`."""
        if isinstance(other, str):
            return self.value == other and self.kind not in (Kind.QUOTED, Kind.STRING)
        return self is other

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a query: its tokens without the closing semicolon. `text` is as written, `plain` has
    a blank for each comment."""

    text: str
    plain: str
    tokens: tuple[Token, ...]


_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
  | (?P<comment>/\*)
  | (?P<escaped>[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*')
  | (?P<string>'[^']*(?:''[^']*)*')
  | (?P<quoted>"[^"]*(?:""[^"]*)*")
  | (?P<parameter>\$\d+)
  | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
  | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<mark>::|:=|[()\[\],.;:])
  | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
  | (?P<open>[eE]?'|")
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_COMMENT_EDGE = re.compile(r"/\*|\*/")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|(.))|''", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_KINDS = {
    "word": Kind.WORD,
    "number": Kind.NUMBER,
    "parameter": Kind.PARAMETER,
    "operator": Kind.OPERATOR,
    "mark": Kind.MARK,
    "other": Kind.MARK,
}


def split(text: str) -> list[Statement]:
    """The statements of a query; empty ones are left out. Raises Unterminated."""
    statements: list[Statement] = []
    tokens: list[Token] = []
    start = 0
    for token in [*tokenize(text), Token(Kind.MARK, "", ";", len(text), len(text))]:
        if token != ";":
            tokens.append(token)
            continue
        if tokens:
            statements.append(_statement(text, start, token.start, tokens))
        tokens, start = [], token.end
    return statements


def _statement(text: str, start: int, end: int, tokens: list[Token]) -> Statement:
    plain, at = [], tokens[0].start
    for token in tokens:
        if token.start > at:
            plain.append(" ")
        plain.append(token.text)
        at = token.end
    return Statement(text[start:end].strip(), "".join(plain), tuple(tokens))


def tokenize(text: str) -> list[Token]:
    """All tokens, comments and blanks left out. Raises Unterminated."""
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None  # the last alternative takes any character
        kind, start, at = found.lastgroup or "other", at, found.end()
        if kind == "space":
            continue
        if kind == "comment":
            at = _end_of_comment(text, at)
            continue
        if kind == "dollar":
            at = _end_of_dollar(text, at, found[0])
        token = _token(kind, text[start:at], start, at, len(found[0]))
        tokens.append(token)
        at = token.end
    return tokens


def _token(kind: str, text: str, start: int, end: int, head: int) -> Token:
    match kind:
        case "open":
            raise Unterminated("quoted identifier" if text == '"' else "quoted string")
        case "quoted":
            return Token(Kind.QUOTED, text, text[1:-1].replace('""', '"'), start, end)
        case "string":
            return Token(Kind.STRING, text, text[1:-1].replace("''", "'"), start, end)
        case "escaped":
            return Token(Kind.STRING, text, _ESCAPE.sub(_unescape, text[2:-1]), start, end)
        case "dollar":
            return Token(Kind.STRING, text, text[head:-head], start, end)
        case "operator":
            text = _operator(text)
            end = start + len(text)
    return Token(_KINDS[kind], text, text.lower(), start, end)


def _operator(text: str) -> str:
    """PostgreSQL's rule: `+` or `-` ends an operator only when one of ~!@#%^&|`? is in it (`2*-1` is two)."""
    while len(text) > 1 and text[-1] in "+-" and not any(sign in text for sign in "~!@#%^&|`?"):
        text = text[:-1]
    return text


def _unescape(found: re.Match[str]) -> str:
    hexadecimal, octal, unicode, letter = found.groups()
    if hexadecimal or unicode:
        return chr(int(hexadecimal or unicode, 16))
    if octal:
        return chr(int(octal, 8) & 0xFF)
    return _LETTERS.get(letter, letter) if letter else "'"


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise Unterminated("/* comment")


def _end_of_dollar(text: str, at: int, tag: str) -> int:
    end = text.find(tag, at)
    if end < 0:
        raise Unterminated("dollar-quoted string")
    return end + len(tag)
