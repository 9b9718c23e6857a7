"""Results as rows and as a table, for a terminal or for RESULTS.md (Markdown)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a sentence that says how to read it, columns and rows of text."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self, *, markdown: bool) -> str:
        return self._markdown() if markdown else self._plain()

    def _markdown(self) -> str:
        lines = [f"**{self.title}.** {self.note}", "", _bar(self.columns)]
        lines += [_bar(["---"] + ["---:"] * (len(self.columns) - 1)), *map(_bar, self.rows)]
        return "\n".join(lines) + "\n"

    def _plain(self) -> str:
        widths = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
        lines = [self.title, self.note, ""]
        for row in (self.columns, *self.rows):
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join([first, *rest]).rstrip())
        return "\n".join(lines) + "\n"


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def times(ratio: float) -> str:
    """A ratio of ours to theirs."""
    return f"{ratio:.2f} x"
