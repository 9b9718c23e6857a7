"""Names in the throw-away server, and how names, texts and columns are written in SQL."""

from __future__ import annotations

from collections.abc import Iterable

from admin import fieldtypes

SUPERUSER = "pooler_throwaway"
"""Nobody logs in as it."""
KEEPER = "pooler_keeper"
"""Makes a role for each user of the console."""
VISITORS = "pooler_visitors"
"""The group of them."""
OWN = "console"
"""Schema of what the views are made of, and prefix of the session's own settings."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("\0", "") + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''").replace("\0", "") + "'"


def declared(columns: Iterable[tuple[str, int]]) -> str:
    """Columns as CREATE TABLE has them."""
    return ", ".join(f"{quoted(name)} {fieldtypes.field_type(oid).name}" for name, oid in columns)
