"""What type an expression has, as far as it can be told without running it.

SQLite's values have types, its columns hardly do, and a client must know before the first row. So:
literals, casts, columns of views, results of functions, and the few operators that combine them. The rule:
None when it cannot be told (then the first value decides); never a wrong guess where PostgreSQL is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from admin.fieldtypes import (
    ARRAY_OF,
    BOOL,
    BPCHAR,
    BYTEA,
    CHAR,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    JSON,
    JSONB,
    NAME,
    NUMERIC,
    OID,
    REGCLASS,
    REGTYPE,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    VARCHAR,
)
from admin.lexer import Kind, Token
from admin.sql.functions import RESULTS, SAME
from admin.sql.tree import (
    Cast,
    Group,
    Node,
    Nodes,
    Subscript,
    at,
    first_items,
    is_group,
    is_name,
    is_word,
    operand_start,
    split_commas,
)

TYPE_NAMES = {
    "int2": INT2, "smallint": INT2, "int": INT4, "int4": INT4, "integer": INT4, "int8": INT8, "bigint": INT8,
    "oid": OID, "float4": FLOAT4, "real": FLOAT4, "float": FLOAT8, "float8": FLOAT8, "double precision": FLOAT8,
    "numeric": NUMERIC, "decimal": NUMERIC, "text": TEXT, "varchar": VARCHAR, "character varying": VARCHAR,
    "char": CHAR, "character": BPCHAR, "bpchar": BPCHAR, "name": NAME, "bool": BOOL, "boolean": BOOL,
    "timestamp": TIMESTAMP, "timestamptz": TIMESTAMPTZ, "date": TIMESTAMPTZ, "interval": FLOAT8, "json": JSON,
    "jsonb": JSONB, "bytea": BYTEA, "regclass": REGCLASS, "regtype": REGTYPE, "regproc": TEXT, "regnamespace": TEXT,
    "regrole": TEXT, "regoper": TEXT, "cstring": TEXT, "information_schema.sql_identifier": NAME, "uuid": TEXT,
    "inet": TEXT, "xid": INT8, "pg_lsn": TEXT, "aclitem": TEXT, "time": TEXT,
}  # fmt: skip
"""Types a cast may name. A date is its midnight, an interval its seconds."""

COMPARISONS = frozenset({"=", "<>", "!=", "<", ">", "<=", ">=", "~", "~*", "!~", "!~*", "~~", "~~*", "!~~", "!~~*"})
CONDITIONS = ("and", "or", "not", "is", "in", "like", "ilike", "between", "exists", "isnull", "notnull", "similar")
ARITHMETIC = frozenset({"+", "-", "*", "/", "%"})
WIDTH = {INT2: 0, INT4: 1, OID: 1, INT8: 2, NUMERIC: 3, FLOAT4: 4, FLOAT8: 5}
TIMES = (TIMESTAMP, TIMESTAMPTZ)


@dataclass(frozen=True, slots=True)
class Scope:
    """Types of the columns a statement may name, and of its parameters as the client declared them."""

    columns: Mapping[str, int]
    parameters: Mapping[int, int] = field(default_factory=dict)


def type_of(nodes: Nodes, scope: Scope) -> int | None:
    """The type oid of an expression without its alias."""
    if not nodes:
        return None
    open_places = _outside_case(nodes)
    if any(_is_condition(nodes[place]) for place in open_places):
        return BOOL
    if any(_is_operator(nodes[place], "||") for place in open_places):
        return TEXT
    signs = [place for place in open_places if place and _is_operator(nodes[place], *ARITHMETIC)]
    if signs:
        return _combined(nodes, signs, scope)
    if operand_start(nodes, len(nodes)) == 0:
        return _operand(nodes, scope)
    return _call(nodes, scope)


def _outside_case(nodes: Nodes) -> list[int]:
    """Places of the nodes that are not within CASE ... END."""
    depth, outside = 0, []
    for place, node in enumerate(nodes):
        depth += is_word(node, "case")
        if not depth:
            outside.append(place)
        depth -= is_word(node, "end")
    return outside


def _is_operator(node: Node, *signs: str) -> bool:
    return isinstance(node, Token) and node.kind is Kind.OPERATOR and node.value in signs


def _is_condition(node: Node) -> bool:
    if is_word(node, *CONDITIONS):
        return True
    return _is_operator(node, *COMPARISONS)


def _combined(nodes: Nodes, signs: list[int], scope: Scope) -> int | None:
    bounds = [-1, *signs, len(nodes)]
    parts = [nodes[a + 1 : b] for a, b in pairwise(bounds)]
    types = [type_of(part, scope) for part in parts if part]
    times = [oid for oid in types if oid in TIMES]
    if times:
        return times[0] if len(times) == 1 else FLOAT8
    return _widest(types)


def _widest(types: Iterable[int | None]) -> int | None:
    """The number type that all of these numbers fit into."""
    known = [oid for oid in types if oid in WIDTH]
    return max(known, key=lambda oid: WIDTH[oid]) if known else None


def _operand(nodes: Nodes, scope: Scope) -> int | None:
    node = nodes[-1]
    if isinstance(node, Cast):
        return cast_type(node)
    if isinstance(node, Subscript):
        return None
    if is_word(nodes[0], "case"):
        return _case(nodes, scope)
    if isinstance(node, Group):
        if len(nodes) > 1:
            return _call(nodes, scope)
        return _inner(node, scope)
    assert isinstance(node, Token)
    match node.kind:
        case Kind.STRING:
            return TEXT
        case Kind.NUMBER:
            return _number(node.text)
        case Kind.PARAMETER:
            return scope.parameters.get(int(node.text[1:]))
    if is_word(node, "true", "false"):
        return BOOL
    if is_word(node, "null"):
        return None
    return scope.columns.get(node.value.lower()) or _keyword(node.value)


def _keyword(word: str) -> int | None:
    """current_user and its like are functions without brackets."""
    if word in ("current_timestamp", "localtimestamp", "current_date"):
        return TIMESTAMPTZ
    return NAME if word.startswith(("current_", "session_")) else None


def cast_type(cast: Cast) -> int:
    return TEXT if cast.array else TYPE_NAMES.get(cast.type, TEXT)


def _number(text: str) -> int:
    if not text.isdecimal():
        return NUMERIC
    value = int(text)
    return INT4 if value < 1 << 31 else INT8 if value < 1 << 63 else NUMERIC


def _inner(group: Group, scope: Scope) -> int | None:
    if is_word(at(group.nodes, 0), "select", "with"):
        items = first_items(group.nodes)
        return type_of(items[0].nodes, scope) if items and not items[0].star else None
    return type_of(group.nodes, scope)


def _case(nodes: Nodes, scope: Scope) -> int | None:
    """The type of the branches: the widest when they are numbers, else that of the first that is known."""
    types = [type_of(branch, scope) for branch in _branches(nodes)]
    known = [oid for oid in types if oid is not None]
    return _widest(known) or (known[0] if known else None)


def _branches(nodes: Nodes) -> Iterator[Nodes]:
    """What stands behind THEN and ELSE."""
    depth, start = 0, 0
    for place, node in enumerate(nodes):
        depth += is_word(node, "case")
        if depth == 1 and is_word(node, "when", "else", "end") and start:
            yield nodes[start:place]
            start = 0
        if depth == 1 and is_word(node, "then", "else"):
            start = place + 1
        depth -= is_word(node, "end")


def _call(nodes: Nodes, scope: Scope) -> int | None:
    """A function call, perhaps with FILTER or OVER behind it."""
    for place in range(1, len(nodes)):
        group = nodes[place]
        if isinstance(group, Group) and is_group(group):
            name = nodes[place - 1]
            if not isinstance(name, Token) or not (is_name(name) or is_word(name, "left", "right")):
                return None
            result = RESULTS.get(name.value)
            return _first_known(group.nodes, scope) if result == SAME else result
    return None


def _first_known(nodes: Nodes, scope: Scope) -> int | None:
    types = (type_of(part, scope) for part in split_commas(nodes))
    return next((oid for oid in types if oid is not None), None)


# ---- parameters


def parameter_types(nodes: Nodes, scope: Scope) -> dict[int, int]:
    """Types of $1, $2, ... from what stands beside them: a cast, the other side of a comparison, LIMIT."""
    found: dict[int, int] = {}
    _look(nodes, scope, found, None)
    return found


def _look(nodes: Nodes, scope: Scope, found: dict[int, int], subject: int | None) -> None:
    """`subject` is the type of what stands before the brackets: `x IN (...)`."""
    for place, node in enumerate(nodes):
        if isinstance(node, Cast):
            _look(node.nodes, scope, found, _cast_parameter(node))
        elif isinstance(node, Subscript):
            _look(node.nodes, scope, found, None)
            _look(node.index, scope, found, INT4)
        elif isinstance(node, Group):
            _look(node.nodes, scope, found, _subject(nodes, place, scope))
        elif node.kind is Kind.PARAMETER:
            number = int(node.text[1:])
            guess = beside(nodes, place, scope)
            if guess is None:
                guess = subject if len(nodes) == 1 or _in_list(nodes, place) else None
            if guess is not None:
                found.setdefault(number, guess)


def _cast_parameter(cast: Cast) -> int:
    """Type of a parameter that is cast: `$1::regclass` takes a name, `$1::int[]` an array."""
    oid = TYPE_NAMES.get(cast.type, TEXT)
    if cast.array:
        return ARRAY_OF.get(oid, ARRAY_OF[TEXT])
    return TEXT if oid in (REGCLASS, REGTYPE) or cast.type == "interval" else oid


def _in_list(nodes: Nodes, place: int) -> bool:
    sides = (at(nodes, place - 1), at(nodes, place + 1))
    return all(side is None or (isinstance(side, Token) and side == ",") for side in sides)


def _subject(nodes: Nodes, place: int, scope: Scope) -> int | None:
    """For a group at `place`: `x IN (`, `x = ANY (`; ANY's parameter is an array."""
    before = place - 1
    many = is_word(at(nodes, before), "any", "all", "some")
    if is_word(at(nodes, before), "in"):
        before -= 1 + is_word(at(nodes, before - 1), "not")
    elif many:
        before -= 2
    else:
        return None
    kind = type_of(nodes[operand_start(nodes, before + 1) : before + 1], scope)
    return ARRAY_OF.get(kind or TEXT, ARRAY_OF[TEXT]) if many else kind


def beside(nodes: Nodes, place: int, scope: Scope) -> int | None:
    """The type of what the literal or parameter at `place` is compared or combined with."""
    before, after = at(nodes, place - 1), at(nodes, place + 1)
    if is_word(before, "limit", "offset"):
        return INT8
    if is_word(before, "like", "ilike"):
        return TEXT
    if is_word(before, "between"):
        return _operand_before(nodes, place - 1 - is_word(at(nodes, place - 2), "not"), scope)
    if is_word(before, "and") and (start := _between_before(nodes, place - 1)) is not None:
        return _operand_before(nodes, start - is_word(at(nodes, start - 1), "not"), scope)
    if _combines(before):
        return _operand_before(nodes, place - 1, scope)
    if _combines(after):
        return _operand_after(nodes, place + 2, scope)
    return None


def _combines(node: Node | None) -> bool:
    return node is not None and _is_operator(node, *COMPARISONS, *ARITHMETIC, "||")


def _between_before(nodes: Nodes, place: int) -> int | None:
    """The BETWEEN that the AND at `place` belongs to."""
    for earlier in range(place - 1, max(place - 8, -1), -1):
        if is_word(nodes[earlier], "between"):
            return earlier
        if is_word(nodes[earlier], "and", "or", "where", "on"):
            return None
    return None


def _operand_before(nodes: Nodes, end: int, scope: Scope) -> int | None:
    return type_of(nodes[operand_start(nodes, end) : end], scope)


def _operand_after(nodes: Nodes, start: int, scope: Scope) -> int | None:
    for end in range(min(start + 6, len(nodes)), start, -1):
        if operand_start(nodes, end) == start:
            return type_of(nodes[start:end], scope)
    return None
