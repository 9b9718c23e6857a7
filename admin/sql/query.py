"""What a SELECT was read as, and who asks: the two values that the rest of the console hands about.

No code that reads or runs SQL is imported here, so that a console which only shows views starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from admin.lexer import Token
from pooler.verbs import ConsoleSession, House

if TYPE_CHECKING:
    from admin.sql.catalogue import Catalogue
    from admin.sql.inference import Scope
    from admin.sql.tree import Item
    from admin.views import View


@dataclass(frozen=True, slots=True)
class Query:
    """A SELECT. `parameters` are the type oids of $1, $2, ...; `views` and `catalogues` the tables it may name. `text`
    is SQLite's; empty when the statement asks PostgreSQL's catalogue what cannot be answered here."""

    tokens: tuple[Token, ...]
    text: str
    shape_text: str
    items: tuple[Item, ...]
    scope: Scope
    views: tuple[View, ...]
    catalogues: tuple[Catalogue, ...]
    parameters: tuple[int, ...] = ()
    tag: str = "SELECT"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and of whom; `parameters` are the session's."""

    session: ConsoleSession
    house: House
    parameters: Mapping[str, str]
