"""PostgreSQL's spelling of a SELECT turned into SQLite's: casts, operators, schemas, names of columns and
functions.

Text out of a tree; what both spell alike passes through. The rule: nothing is rewritten into something that
means less; what SQLite cannot say is refused with 0A000, and what neither can say is left for SQLite to
refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from admin.fieldtypes import (
    BOOL,
    BYTEA,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    JSON,
    JSONB,
    NUMERIC,
    OID,
    REGCLASS,
    REGTYPE,
    TIMESTAMP,
    TIMESTAMPTZ,
)
from admin.lexer import Kind, Token
from admin.sql import aggregates
from admin.sql.functions import RENAMED
from admin.sql.inference import TIMES, TYPE_NAMES, Scope, beside, type_of
from admin.sql.tree import (
    Cast,
    Group,
    Item,
    Node,
    Nodes,
    Subscript,
    at,
    first_items,
    is_group,
    is_name,
    is_word,
    item_of,
    list_bounds,
    operand_start,
    split_commas,
)
from pooler.verbs import CommandError

SCHEMAS = ("pg_catalog", "public", "information_schema")
OPERATORS = {
    "~~": "GLOB", "~~*": "LIKE", "!~~": "NOT GLOB", "!~~*": "NOT LIKE",
    "~": "REGEXP", "!~": "NOT REGEXP", "~*": "MATCH", "!~*": "NOT MATCH",
}  # fmt: skip
"""SQLite lets LIKE, GLOB, REGEXP and MATCH be defined: here ILIKE, LIKE, `~` and `~*`."""

UNKNOWN_OPERATORS = frozenset({"^", "@>", "<@", "&&", "?", "?|", "?&", "#>", "#>>", "|/", "^@"})

CALLS = {
    "current_timestamp": "[now]()", "localtimestamp": "[now]()", "current_date": "[current_date_]()",
    "current_user": "[current_user]()", "session_user": "[session_user]()", "current_role": "[current_role]()",
    "current_catalog": "[current_database]()", "current_schema": "[current_schema]()",
}  # fmt: skip
"""Functions that are called without brackets."""

WHOLE_ROW = frozenset({"row_to_json", "to_json", "to_jsonb", "json_agg", "jsonb_agg"})
"""Functions that may be given a table's name for its rows."""

CASTS: dict[int, str] = {
    **dict.fromkeys((INT2, INT4, INT8, OID), "[pg_int]({})"),
    **dict.fromkeys((FLOAT4, FLOAT8), "CAST({} AS REAL)"),
    **dict.fromkeys((TIMESTAMP, TIMESTAMPTZ), "[pg_timestamp]({})"),
    **dict.fromkeys((JSON, JSONB), "json({})"),
    NUMERIC: "CAST({} AS NUMERIC)",
    BOOL: "[pg_bool]({})",
    BYTEA: "CAST({} AS BLOB)",
    REGCLASS: "[pg_regclass]({})",
    REGTYPE: "[pg_regtype]({})",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What a statement may name: columns' types, and the columns of each table and alias."""

    scope: Scope
    tables: Mapping[str, tuple[str, ...]]
    unnested: frozenset[str] = frozenset()
    """Aliases of UNNEST, which are values and no rows."""


def refused(what: str) -> CommandError:
    return CommandError(f"{what} is not supported on the admin console", "0A000")


def bracketed(name: str) -> str:
    """An identifier that SQLite cannot take for a string, as it does with "name" when there is no such
    column."""
    return f'"{name.replace(chr(34), chr(34) * 2)}"' if "]" in name or not name else f"[{name}]"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def render(nodes: Nodes, known: Known) -> str:
    return " ".join(_Writer(known).write(nodes))


class _Writer:
    """Writes one level of brackets; `_at` is the next node."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._nodes: Nodes = ()
        self._at = 0
        self._limited = False
        """A LIMIT was written: SQLite wants one before OFFSET."""

    def write(self, nodes: Nodes) -> list[str]:
        self._nodes = nodes
        out: list[str] = []
        while self._at < len(nodes):
            out.append(self._one(nodes[self._at]))
        return out

    def _next(self, ahead: int = 0) -> Node | None:
        return at(self._nodes, self._at + ahead)

    def _inner(self, nodes: Nodes) -> str:
        return render(nodes, self._known)

    def _one(self, node: Node) -> str:
        self._at += 1
        if isinstance(node, Cast):
            return self._cast(node)
        if isinstance(node, Subscript):
            return f"[pg_element]({self._inner(node.nodes)}, {self._inner(node.index)})"
        if isinstance(node, Group):
            return self._renamed(node) or f"({self._inner(node.nodes)})"
        match node.kind:
            case Kind.STRING:
                return self._string(node.value)
            case Kind.OPERATOR:
                return self._operator(node.value)
            case Kind.QUOTED:
                return self._name(node)
            case Kind.WORD:
                return self._word(node)
        return node.text

    def _string(self, text: str) -> str:
        """A literal; beside a time it is one: `time > '2026-11-22T08:00:00Z'`."""
        if beside(self._nodes, self._at - 1, self._known.scope) in TIMES:
            return f"[pg_timestamp]({quoted(text)})"
        return quoted(text)

    def _renamed(self, group: Group) -> str | None:
        """`(VALUES ...) AS t(a, b)`: SQLite has no list of names there, so each column is renamed within."""
        values = is_word(at(group.nodes, 0), "values")
        place = int(is_word(self._next(), "as"))
        alias, names = self._next(place), self._next(place + 1)
        if not (values and isinstance(alias, Token) and is_name(alias) and isinstance(names, Group)):
            return None
        self._at += place + 2
        wanted = [part[0].value for part in split_commas(names.nodes) if part and isinstance(part[0], Token)]
        columns = ", ".join(f"column{n} AS {bracketed(name)}" for n, name in enumerate(wanted, 1))
        return f"(SELECT {columns} FROM ({self._inner(group.nodes)})) AS {bracketed(alias.value)}"

    # ---- casts

    def _cast(self, cast: Cast) -> str:
        inner = self._inner(cast.nodes)
        if cast.array:
            return f"[pg_array]({inner})"
        if cast.type == "interval":
            return f"[pg_interval]({inner})"
        oid = TYPE_NAMES.get(cast.type)
        if oid is None:
            raise CommandError(f'type "{cast.type}" does not exist', "42704")
        return CASTS.get(oid, self._text_cast(cast)).format(inner)

    def _text_cast(self, cast: Cast) -> str:
        source = type_of(cast.nodes, self._known.scope)
        if source == BOOL:
            return "[pg_bool_text]({})"
        if source in (REGCLASS, REGTYPE):
            return "[pg_regclass_name]({})" if source == REGCLASS else "[pg_regtype_name]({})"
        return "[pg_time_text]({})" if source in TIMES else "CAST({} AS TEXT)"

    # ---- operators

    def _operator(self, sign: str) -> str:
        if is_word(self._next(), "any", "some", "all") and isinstance(group := self._next(1), Group):
            return self._quantified(sign, is_word(self._next(), "all"), group)
        if sign in UNKNOWN_OPERATORS:
            raise refused(f"the operator {sign}")
        return OPERATORS.get(sign, sign)

    def _quantified(self, sign: str, every: bool, group: Group) -> str:
        if (sign, every) not in (("=", False), ("<>", True), ("!=", True)):
            raise refused(f"{sign} {'ALL' if every else 'ANY'}")
        self._at += 2
        first = at(group.nodes, 0)
        word = "NOT IN" if every else "IN"
        if is_word(first, "select", "with"):
            return f"{word} ({self._inner(group.nodes)})"
        if is_word(first, "array") and isinstance(items := at(group.nodes, 1), Group) and len(group.nodes) == 2:
            return f"{word} ({self._inner(items.nodes)})"
        return f"{word} (SELECT value FROM json_each([pg_array]({self._inner(group.nodes)})))"

    # ---- names

    def _name(self, node: Token) -> str:
        return self._qualified(node) or bracketed(node.value)

    def _qualified(self, node: Token) -> str | None:
        """A name behind a schema's; of the schemas only information_schema is part of the name."""
        if node.value not in SCHEMAS or not self._dot(0) or not isinstance(name := self._next(1), Token):
            return None
        self._at += 2
        if node.value == "information_schema":
            return bracketed(f"information_schema.{name.value}")
        if is_group(self._next()):
            return self._call(name)
        return self._word(name) if name.kind is Kind.WORD else self._name(name)

    def _dot(self, ahead: int) -> bool:
        node = self._next(ahead)
        return isinstance(node, Token) and node == "."

    def _word(self, node: Token) -> str:
        if (qualified := self._qualified(node)) is not None:
            return qualified
        if (phrase := _PHRASES.get(node.value)) is not None and not self._after_dot():
            return phrase(self)
        if is_group(self._next()) and (is_name(node) or node.value in ("left", "right")):
            return self._call(node)
        if node.value in CALLS and not self._after_dot():
            return CALLS[node.value]
        if node.value in self._known.unnested and not self._after_dot() and not self._dot(0):
            return node.text if is_group(self._next(-2)) or is_word(self._next(-2), "as") else f"{node.text}.value"
        if node.value == "user" and "user" not in self._known.scope.columns and not self._after_dot():
            return "[current_user]()"
        return node.text

    def _after_dot(self) -> bool:
        return self._dot(-2)

    # ---- calls

    def _call(self, name: Token) -> str:
        group = self._next()
        assert isinstance(group, Group)
        self._at += 1
        word = name.value
        nodes = group.nodes
        if word in aggregates.KINDS and (order := _index(nodes, "order")) and is_word(at(nodes, order + 1), "by"):
            return self._ordered(word, nodes[:order], nodes[order + 2 :])
        if word == "unnest":
            return f"json_each([pg_array]({self._inner(nodes)}))"
        if word == "generate_series":
            return self._series(nodes)
        if word == "array_agg":
            return f"[pg_braces](json_group_array({self._inner(nodes)}))"
        if word in WHOLE_ROW and (row := self._row(nodes)) is not None:
            return f"json_group_array({row})" if word.endswith("agg") else row
        if word == "extract" and is_word(at(nodes, 1), "from") and isinstance(field := nodes[0], Token):
            return f"[extract]({quoted(field.value)}, {self._inner(nodes[2:])})"
        if word == "position" and (place := _index(nodes, "in")):
            return f"[strpos]({self._inner(nodes[place + 1 :])}, {self._inner(nodes[:place])})"
        if word == "substring" and _index(nodes, "from"):
            return f"substr({self._inner(_commas(nodes, 'from', 'for'))})"
        return f"[{RENAMED.get(word, word)}]({self._inner(nodes)})"

    def _series(self, nodes: Nodes) -> str:
        """Where a table may stand: numbers one after the other, under the name its alias gives."""
        start, end, step = (*map(self._inner, split_commas(nodes)), "1", "1")[:3]
        place = int(is_word(self._next(), "as"))
        alias, names = self._next(place), self._next(place + 1)
        label = alias.value if isinstance(alias, Token) and is_name(alias) else "generate_series"
        column = label
        if isinstance(names, Group) and len(names.nodes) == 1 and isinstance(names.nodes[0], Token):
            column = names.nodes[0].value
        self._at += (place + 1 if label != "generate_series" else 0) + (column != label)
        return (
            f"(WITH RECURSIVE s(v, e, d) AS (SELECT {start}, {end}, {step} UNION ALL SELECT v + d, e, d FROM s "
            "WHERE (d > 0 AND v + d <= e) OR (d < 0 AND v + d >= e)) "
            f"SELECT v AS {bracketed(column)} FROM s WHERE (d > 0 AND v <= e) OR (d < 0 AND v >= e)) "
            f"AS {bracketed(label)}"
        )

    def _ordered(self, word: str, given: Nodes, keys: Nodes) -> str:
        """An aggregate with ORDER BY in its brackets."""
        if is_word(at(given, 0), "distinct"):
            raise refused("DISTINCT with ORDER BY in an aggregate")
        value, *rest = split_commas(given)
        separator = self._inner(rest[0]) if rest else "NULL"
        written, directions = [], []
        for key in split_commas(keys):
            nodes, descending, first = _direction(key)
            directions.append((descending, first))
            written.append(self._inner(nodes))
        row = self._row(value) if word in WHOLE_ROW else None
        is_json = row is not None or type_of(value, self._known.scope) in (JSON, JSONB)
        form = quoted("json" if is_json else "")
        spec = f"{quoted(aggregates.KINDS[word])}, {form}, {quoted(aggregates.orders_of(directions))}"
        call = f"{aggregates.NAME}({spec}, {row or self._inner(value)}, {separator}, {', '.join(written)})"
        return f"json({call})" if aggregates.KINDS[word] == "json" else call

    def _row(self, nodes: Nodes) -> str | None:
        """A table's row as an object, when the one argument is a table's name and no column's."""
        node = at(nodes, 0)
        if len(nodes) != 1 or not isinstance(node, Token) or node.value in self._known.scope.columns:
            return None
        columns = self._known.tables.get(node.value)
        if columns is None:
            return None
        alias = bracketed(node.value)
        return "json_object(" + ", ".join(f"{quoted(c)}, {alias}.{bracketed(c)}" for c in columns) + ")"

    # ---- phrases: each is called behind its first word

    def select(self) -> str:
        start, end = list_bounds(self._nodes, self._at - 1)
        if is_word(self._next(), "distinct") and is_word(self._next(1), "on"):
            raise refused("DISTINCT ON")
        words = ["SELECT", *(node.text for node in self._nodes[self._at : start] if isinstance(node, Token))]
        items = [self._item(item_of(part)) for part in split_commas(self._nodes[start:end])]
        self._at = end
        self._limited = False
        return f"{' '.join(words)} {', '.join(items)}"

    def _item(self, item: Item) -> str:
        text = self._inner(item.nodes)
        if item.alias is None and item.nodes and _is_operator(item.nodes[-1]):
            return text  # a star, or a mistake that SQLite is to find where it is
        name = item.alias if item.alias is not None else None if item.star else name_of(item.nodes)
        if name is None and not item.star and len(item.nodes) > 1 and is_name(item.nodes[-1]):
            name = _last_name(item.nodes)  # ORDER BY means the column of the answer, were there several
        if name is None and text.endswith("]()"):
            name = "user"  # the one function that looks like a column
        return text if name is None else f"{text} AS {bracketed(name)}"

    def table(self) -> str:
        """`TABLE pools` for `SELECT * FROM pools`."""
        return "SELECT * FROM" if self._at == 1 else "table"

    def operator(self) -> str:
        group = self._next()
        sign = group.nodes[-1] if isinstance(group, Group) and group.nodes else None
        if not isinstance(sign, Token):
            return "operator"
        self._at += 1
        return self._operator(sign.value)

    def collate(self) -> str:
        self._at += 3 if self._dot(1) else 1
        return ""

    def like(self) -> str:
        for node in self._nodes[self._at :]:
            if is_word(node, "and", "or", "then"):
                break
            if is_word(node, "escape"):
                return "LIKE"
        return "GLOB"

    def ilike(self) -> str:
        return "LIKE"

    def array(self) -> str:
        group = self._next()
        if isinstance(group, Group):
            self._at += 1
            if group.mark == "[":
                return f"[pg_braces](json_array({self._inner(group.nodes)}))"
            return self._array_of(group)
        return "array"

    def _array_of(self, group: Group) -> str:
        """ARRAY(SELECT ...): its one column, gathered."""
        names = _listed(group.nodes, {})
        if len(names) != 1:
            raise refused("ARRAY of more than one column")
        inner = self._inner(group.nodes)
        return f"(SELECT [pg_braces](json_group_array({bracketed(names[0])})) FROM ({inner}))"

    def is_(self) -> str:
        negated = is_word(self._next(), "not")
        if is_word(self._next(negated), "distinct") and is_word(self._next(negated + 1), "from"):
            self._at += 2 + negated
            return "IS" if negated else "IS NOT"
        if is_word(self._next(negated), "unknown"):
            self._at += 1 + negated
            return "IS NOT NULL" if negated else "IS NULL"
        return "IS"

    def limit(self) -> str:
        self._limited = True
        return f"LIMIT {self._amount('-1')}"

    def _amount(self, absent: str) -> str:
        """The number behind LIMIT or OFFSET; ALL and NULL stand for `absent`."""
        end = self._at
        while end < len(self._nodes) and not is_word(self._nodes[end], *_AFTER_AMOUNT):
            end += 1
        amount = self._nodes[self._at : end]
        self._at = end + is_word(at(self._nodes, end), "rows", "row")
        if len(amount) == 1 and is_word(amount[0], "all"):
            return absent
        return f"coalesce({self._inner(amount)}, {absent})"

    def offset(self) -> str:
        """SQLite wants `LIMIT n OFFSET m`, in this order and never without LIMIT."""
        amount = self._amount("0")
        if self._limited:
            return f"OFFSET {amount}"
        limit = "-1"
        if is_word(self._next(), "limit", "fetch"):
            fetching = is_word(self._next(), "fetch")
            self._at += 1
            limit = self._fetched() if fetching else self._amount("-1")
        return f"LIMIT {limit} OFFSET {amount}"

    def fetch(self) -> str:
        return f"LIMIT {self._fetched()}"

    def _fetched(self) -> str:
        """FIRST n ROWS ONLY."""
        amount = [node for node in self._nodes[self._at :] if not is_word(node, *_FETCH)]
        self._at = len(self._nodes)
        return self._inner(amount) if amount else "1"

    def nothing(self) -> str:
        return ""


_AFTER_AMOUNT = ("limit", "offset", "fetch", "rows", "row", "union", "except", "intersect", "for")
_FETCH = ("first", "next", "row", "rows", "only")

_PHRASES: dict[str, Callable[[_Writer], str]] = {
    "select": _Writer.select,
    "table": _Writer.table,
    "operator": _Writer.operator,
    "collate": _Writer.collate,
    "like": _Writer.like,
    "ilike": _Writer.ilike,
    "array": _Writer.array,
    "is": _Writer.is_,
    "limit": _Writer.limit,
    "offset": _Writer.offset,
    "fetch": _Writer.fetch,
    "only": _Writer.nothing,
}


def _direction(nodes: Nodes) -> tuple[Nodes, bool, bool | None]:
    """A sort key without its ASC, DESC, NULLS FIRST, and what they said."""
    first: bool | None = None
    if is_word(at(nodes, len(nodes) - 2), "nulls"):
        first = is_word(nodes[-1], "first")
        nodes = nodes[:-2]
    descending = is_word(at(nodes, len(nodes) - 1), "desc")
    if descending or is_word(at(nodes, len(nodes) - 1), "asc"):
        nodes = nodes[:-1]
    return nodes, descending, first


def _is_operator(node: Node) -> bool:
    return isinstance(node, Token) and node.kind is Kind.OPERATOR


def _index(nodes: Nodes, word: str) -> int:
    return next((place for place, node in enumerate(nodes) if is_word(node, word)), 0)


def _commas(nodes: Nodes, *words: str) -> Nodes:
    comma = Token(Kind.MARK, ",", ",", 0, 0)
    return [comma if is_word(node, *words) else node for node in nodes]


def name_of(nodes: Nodes) -> str | None:
    """PostgreSQL's name for a column without an alias; None for a plain column, which keeps its own."""
    last = at(nodes, len(nodes) - 1)
    if len(nodes) == 1 and isinstance(last, Cast):
        return _cast_name(last)
    if is_word(at(nodes, 0), "case") and operand_start(nodes, len(nodes)) == 0:
        return "case"
    if len(nodes) == 1 and is_word(last, "true", "false"):
        return "bool"
    if is_word(last, *CALLS):
        return last.value if isinstance(last, Token) else None
    if operand_start(nodes, len(nodes)) == 0 and is_name(last):
        return None
    if len(nodes) == 1 and isinstance(last, Group) and is_word(at(last.nodes, 0), "select", "with"):
        items = first_items(last.nodes)
        return items[0].alias or name_of(items[0].nodes) or _last_name(items[0].nodes) if items else "?column?"
    return _call_name(nodes) or "?column?"


_NAMING = ("exists", "left", "right", "array")
"""Keywords that name the column of their result."""


def _cast_name(cast: Cast) -> str:
    inner = name_of(cast.nodes) or _last_name(cast.nodes)
    if inner not in (None, "?column?"):
        return inner or ""
    return {"integer": "int4", "int": "int4", "bigint": "int8", "boolean": "bool"}.get(cast.type, cast.type)


def _last_name(nodes: Nodes) -> str | None:
    last = at(nodes, len(nodes) - 1)
    return last.value if isinstance(last, Token) and is_name(last) else None


def _call_name(nodes: Nodes) -> str | None:
    """The function's name when all is one call, FILTER and OVER included."""
    for place, node in enumerate(nodes):
        if isinstance(node, Group):
            before = at(nodes, place - 1)
            following = at(nodes, place + 1)
            whole = following is None or is_word(following, "filter", "over")
            if whole and isinstance(before, Token) and (is_name(before) or is_word(before, *_NAMING)):
                return before.value
            return None
    return None


# ---- tables and their aliases


def tables_named(nodes: Nodes, columns: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Columns by the name or alias under which FROM and JOIN bring a table in, at every level."""
    found: dict[str, tuple[str, ...]] = {}
    for place, node in enumerate(nodes):
        if isinstance(node, Group):
            found.update(tables_named(node.nodes, columns))
        own = _own_columns(nodes, place, columns)
        if own is not None:
            name, end = own[0], place + 1
            end += is_word(at(nodes, end), "as")
            alias = at(nodes, end)
            label = alias.value if isinstance(alias, Token) and is_name(alias) else name
            if label:
                found[label] = own[1]
    return found


def unnested(nodes: Nodes) -> frozenset[str]:
    """Aliases that FROM gives to UNNEST(...), at every level."""
    found: set[str] = set()
    for place, node in enumerate(nodes):
        if isinstance(node, Group):
            found |= unnested(node.nodes)
            if is_word(at(nodes, place - 1), "unnest"):
                alias = at(nodes, place + 1 + is_word(at(nodes, place + 1), "as"))
                found |= {alias.value} if isinstance(alias, Token) and is_name(alias) else set()
    return frozenset(found)


def _own_columns(
    nodes: Nodes, place: int, columns: Mapping[str, tuple[str, ...]]
) -> tuple[str, tuple[str, ...]] | None:
    """(name, columns) of what stands at `place` when it is a table or a SELECT in brackets."""
    node = nodes[place]
    if isinstance(node, Group):
        if not is_word(at(node.nodes, 0), "select", "with"):
            return None
        return "", _listed(node.nodes, columns)
    if isinstance(node, Token) and is_name(node) and node.value in columns:
        return node.value, columns[node.value]
    return None


def _listed(nodes: Nodes, columns: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the columns a SELECT gives; a star is all columns of its tables."""
    names: list[str] = []
    for item in first_items(nodes):
        if item.star:
            for own in tables_named(nodes, columns).values():
                names.extend(own)
        else:
            names.append(item.alias or name_of(item.nodes) or _last_name(item.nodes) or "?column?")
    return tuple(dict.fromkeys(names))
