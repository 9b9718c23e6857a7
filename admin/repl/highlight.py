"""Colours while typing: commands, views, SQL, strings, and what the console does not know.

prompt-toolkit's face of `pooler.lexer`. Unknown words are marked only where a wrong
word is certainly wrong: the first of a statement, and the view after SHOW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer

from admin.client.vocabulary import SELECTS, Vocabulary
from admin.repl import backslash
from admin.repl.session import QUITTING
from pooler.lexer import KEYWORDS, SILENT, Kind, Token, pieces

SQL_WORDS = KEYWORDS | {"escape", "first", "last", "nulls", "partition"}
"""Words that are coloured in a SELECT: those that are never a name, and what stands beside them only."""

STYLES = {
    "code.command": "bold ansicyan",
    "code.keyword": "ansicyan",
    "code.view": "ansigreen",
    "code.string": "ansiyellow",
    "code.number": "ansimagenta",
    "code.comment": "italic ansibrightblack",
    "code.backslash": "bold ansiblue",
    "code.wrong": "underline ansired",
}

_BY_KIND = {
    Kind.COMMENT: "class:code.comment",
    Kind.STRING: "class:code.string",
    Kind.NUMBER: "class:code.number",
}


class ConsoleLexer(Lexer):
    """Colours a document with the words the console knows now."""

    def __init__(self, words: Callable[[], Vocabulary]) -> None:
        self._words = words

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        lines = _lines(styled(document.text, self._words()))
        return lambda number: lines[number] if number < len(lines) else []


def styled(text: str, words: Vocabulary) -> Iterator[tuple[str, str]]:
    """(style, text) of each token; the texts joined are the text."""
    said: list[Token] = []
    argument = False
    for token in pieces(text):
        ends = token == ";" or (token.kind is Kind.SPACE and "\n" in token.text and _one_line(said))
        if argument and not (token.kind is Kind.SPACE and "\n" in token.text):
            yield "", token.text
            continue
        argument = token.kind is Kind.BACKSLASH
        yield _style(token, said, words, at_end=token.end == len(text)), token.text
        if ends:
            said = []
        elif token.kind not in SILENT:
            said.append(token)


def _one_line(said: list[Token]) -> bool:
    return not said or said[0].upper not in SELECTS


def _style(token: Token, said: list[Token], words: Vocabulary, *, at_end: bool) -> str:
    if token.kind in _BY_KIND:
        return _BY_KIND[token.kind]
    if token.kind is Kind.BACKSLASH:
        known = token.text[1:] in backslash.BY_NAME or at_end
        return "class:code.backslash" if known else "class:code.wrong"
    if token.kind is not Kind.WORD:
        return ""
    if not said:
        return _first_style(token, words, at_end)
    if said[0].upper == "SHOW" and len(said) == 1:
        return "class:code.view" if words.has_view(token.text) else _unknown(token, words.views, at_end)
    if token.value in SQL_WORDS:
        return "class:code.keyword"
    return "class:code.view" if words.has_view(token.text) and _names_table(said) else ""


def _names_table(said: list[Token]) -> bool:
    return said[-1].upper in ("FROM", "JOIN", ",", ".")


def _first_style(token: Token, words: Vocabulary, at_end: bool) -> str:
    known = token.upper in words.commands or token.upper in SELECTS | QUITTING | {"HELP"}
    return "class:code.command" if known else _unknown(token, words.commands, at_end)


def _unknown(token: Token, known: Iterable[str], at_end: bool) -> str:
    """A word still being typed is not wrong while it may become right."""
    unfinished = at_end and any(name.startswith(token.upper) for name in (*known, *SELECTS))
    return "" if unfinished else "class:code.wrong"


def _lines(fragments: Iterator[tuple[str, str]]) -> list[StyleAndTextTuples]:
    """Fragments cut at newlines, one list per line."""
    lines: list[StyleAndTextTuples] = [[]]
    for style, text in fragments:
        first, *others = text.split("\n")
        lines[-1].append((style, first))
        lines += [[(style, other)] for other in others]
    return lines
