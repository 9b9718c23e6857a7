"""A statement's tokens with their brackets matched: just enough structure to find operands, casts and
select lists.

No grammar: a tree of tokens and groups, and the questions that can be asked of it. The rule: what cannot be
bracketed is refused here, with PostgreSQL's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from admin.lexer import Kind, Token
from pooler.verbs import CommandError

DEEPEST = 60
"""Brackets within brackets."""

CLOSING = {"(": ")", "[": "]"}


@dataclass(frozen=True, slots=True)
class Group:
    """What stands between two brackets; `mark` is the opening one."""

    mark: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """`nodes::type`. `array` for `type[]`."""

    nodes: tuple[Node, ...]
    type: str
    array: bool = False


@dataclass(frozen=True, slots=True)
class Subscript:
    """`nodes[index]`: an element of an array."""

    nodes: tuple[Node, ...]
    index: tuple[Node, ...]


Node = Token | Group | Cast | Subscript
Nodes = Sequence[Node]


def syntax_error(near: str) -> CommandError:
    where = f'at or near "{near}"' if near else "at end of input"
    return CommandError(f"syntax error {where}", "42601")


def grow(tokens: Iterable[Token]) -> tuple[Node, ...]:
    """The tree of `tokens`, casts found. Raises CommandError."""
    stack: list[tuple[str, list[Node]]] = [("", [])]
    for token in tokens:
        mark = token.text if token.kind is Kind.MARK else ""
        if mark in CLOSING:
            stack.append((mark, []))
            if len(stack) > DEEPEST:
                raise CommandError("statement is nested too deeply", "54001")
        elif mark in (")", "]"):
            opened, nodes = stack.pop()
            if not stack or CLOSING[opened] != mark:
                raise syntax_error(mark)
            stack[-1][1].append(Group(opened, _with_casts(nodes)))
        else:
            stack[-1][1].append(token)
    if len(stack) > 1:
        raise syntax_error("")
    return _with_casts(stack[0][1])


def is_word(node: Node | None, *words: str) -> bool:
    """Whether `node` is one of these words, not quoted."""
    return isinstance(node, Token) and node.kind is Kind.WORD and node.value in words


def is_name(node: Node | None) -> bool:
    return isinstance(node, Token) and (
        node.kind is Kind.QUOTED or (node.kind is Kind.WORD and node.value not in KEYWORDS)
    )


def is_group(node: Node | None, mark: str = "(") -> bool:
    return isinstance(node, Group) and node.mark == mark


def at(nodes: Nodes, place: int) -> Node | None:
    return nodes[place] if 0 <= place < len(nodes) else None


_RESERVED = """
    all and any array as asc between both by case cast collate cross desc distinct else end except
    exists false fetch filter for from full group having ilike in inner intersect interval is isnull
    join lateral leading left like limit natural not notnull null nulls offset on only operator or order
    outer over partition recursive right rows select similar some symmetric table then to trailing true
    union using values when where window with within
"""
KEYWORDS = frozenset(_RESERVED.split())
"""Words that are never a name without quotes."""


# ---- operands


def operand_start(nodes: Nodes, end: int) -> int:
    """Where the operand begins that ends before `end`: a literal, a dotted name, a call, a group, CASE ...
    END. `end` itself when nothing there is an operand."""
    start = end - 1
    if start < 0:
        return end
    node = nodes[start]
    if is_word(node, "end"):
        return _case_start(nodes, start)
    if is_group(node, "["):
        return start - is_word(at(nodes, start - 1), "array")
    if is_group(node):
        if is_name(at(nodes, start - 1)) or is_word(at(nodes, start - 1), "left", "right", "array", "cast"):
            return _name_start(nodes, start - 1)
        return start
    if is_name(node):
        return _name_start(nodes, start)
    if isinstance(node, Cast | Subscript) or is_word(node, "null", "true", "false"):
        return start
    return start if isinstance(node, Token) and node.kind in LITERALS else end


LITERALS = frozenset({Kind.STRING, Kind.NUMBER, Kind.PARAMETER})


def _name_start(nodes: Nodes, last: int) -> int:
    while _is_dot(at(nodes, last - 1)) and isinstance(at(nodes, last - 2), Token):
        last -= 2
    return last


def _is_dot(node: Node | None) -> bool:
    return isinstance(node, Token) and node == "."


def _case_start(nodes: Nodes, end: int) -> int:
    depth = 0
    for place in range(end, -1, -1):
        depth += is_word(nodes[place], "end") - is_word(nodes[place], "case")
        if not depth:
            return place
    return end + 1


# ---- casts

TWO_WORDS = {("double", "precision"): "double precision", ("character", "varying"): "character varying"}
ZONED = frozenset({"timestamp", "time"})
LITERAL_TYPES = frozenset(
    {"timestamp", "timestamptz", "date", "time", "interval", "bool", "boolean", "text", "numeric"}
)
"""Types that a string literal may follow: `interval '1 hour'`."""


def _with_casts(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """`x::t`, `cast(x as t)` and `t 'x'` as Cast nodes, `x[1]` as Subscript."""
    out: list[Node] = []
    place = 0
    while place < len(nodes):
        node = nodes[place]
        if isinstance(node, Token) and node == "::":
            place = _cast_behind(out, nodes, place + 1)
        elif is_word(node, "cast") and isinstance(group := at(nodes, place + 1), Group):
            out.append(_cast_call(group))
            place += 2
        elif isinstance(node, Group) and node.mark == "[" and not is_word(at(out, len(out) - 1), "array"):
            _subscript(out, node)
            place += 1
        elif (literal := _typed_literal(nodes, place)) and not _is_dot(at(out, len(out) - 1)):
            out.append(literal[0])
            place = literal[1]
        else:
            out.append(node)
            place += 1
    return tuple(out)


def _cast_behind(out: list[Node], nodes: Nodes, place: int) -> int:
    """Put the operand at the end of `out` into a Cast; the place behind its type."""
    start = operand_start(out, len(out))
    if start == len(out):
        raise syntax_error("::")
    name, array, place = type_at(nodes, place)
    out[start:] = [Cast(tuple(out[start:]), name, array)]
    return place


def _subscript(out: list[Node], group: Group) -> None:
    start = operand_start(out, len(out))
    if start == len(out):
        raise syntax_error("[")
    out[start:] = [Subscript(tuple(out[start:]), group.nodes)]


def _typed_literal(nodes: Nodes, place: int) -> tuple[Cast, int] | None:
    """(the Cast, the place behind it) of `interval '1 hour'` and its like."""
    node = nodes[place]
    if not isinstance(node, Token) or node.kind is not Kind.WORD or node.value not in LITERAL_TYPES:
        return None
    name, _, after = type_at(nodes, place)
    literal = at(nodes, after)
    if not isinstance(literal, Token) or literal.kind is not Kind.STRING:
        return None
    return Cast((literal,), name), after + 1


def _cast_call(group: Group) -> Cast:
    for place in range(len(group.nodes) - 1, 0, -1):
        if is_word(group.nodes[place], "as"):
            name, array, end = type_at(group.nodes, place + 1)
            if end == len(group.nodes):
                return Cast(group.nodes[:place], name, array)
    raise syntax_error("cast")


def type_at(nodes: Nodes, place: int) -> tuple[str, bool, int]:
    """(name, whether it is an array, the place behind it) of the type that begins at `place`."""
    if _is_dot(at(nodes, place + 1)):
        place += 2
    node = at(nodes, place)
    if not isinstance(node, Token) or node.kind not in (Kind.WORD, Kind.QUOTED):
        raise syntax_error("::")
    name = node.value
    place += 1
    following = at(nodes, place)
    if isinstance(following, Token) and (name, following.value) in TWO_WORDS:
        name, place = TWO_WORDS[name, following.value], place + 1
    if is_group(at(nodes, place)) and name not in ("text", "int", "integer", "bigint", "oid", "regclass"):
        place += 1
    if name in ZONED and is_word(at(nodes, place), "with", "without") and is_word(at(nodes, place + 1), "time"):
        name = f"{name}tz" if is_word(at(nodes, place), "with") else name
        place += 3
    array = False
    while is_group(at(nodes, place), "["):
        array, place = True, place + 1
    return name, array, place


# ---- select lists

AFTER_LIST = frozenset(
    {
        "from",
        "where",
        "group",
        "having",
        "window",
        "order",
        "limit",
        "offset",
        "fetch",
        "union",
        "except",
        "intersect",
        "for",
    }
)


@dataclass(frozen=True, slots=True)
class Item:
    """One expression of a select list: `nodes` without its alias."""

    nodes: tuple[Node, ...]
    alias: str | None

    @property
    def star(self) -> bool:
        last = self.nodes[-1] if self.nodes else None
        return isinstance(last, Token) and last == "*" and (len(self.nodes) == 1 or _is_dot(self.nodes[-2]))


def list_bounds(nodes: Nodes, select: int) -> tuple[int, int]:
    """Where the list of the SELECT at `select` begins and ends."""
    start = select + 1
    if is_word(at(nodes, start), "distinct", "all"):
        start += 1
    end = start
    while end < len(nodes) and not is_word(nodes[end], *AFTER_LIST):
        end += 2 if is_word(nodes[end], "distinct") and is_word(at(nodes, end + 1), "from") else 1
    return start, end


def split_commas(nodes: Nodes) -> Iterator[tuple[Node, ...]]:
    part: list[Node] = []
    for node in nodes:
        if isinstance(node, Token) and node == ",":
            yield tuple(part)
            part = []
        else:
            part.append(node)
    yield tuple(part)


def item_of(nodes: tuple[Node, ...]) -> Item:
    """Take the alias off: `AS name`, or a name behind a whole operand."""
    if len(nodes) > 2 and is_word(nodes[-2], "as") and isinstance(nodes[-1], Token):
        return Item(nodes[:-2], nodes[-1].value)
    last = nodes[-1] if nodes else None
    if (
        len(nodes) > 1
        and isinstance(last, Token)
        and is_name(last)
        and operand_start(nodes, len(nodes) - 1) < len(nodes) - 1
    ):
        return Item(nodes[:-1], last.value)
    return Item(nodes, None)


def first_items(nodes: Nodes) -> list[Item]:
    """The select list that names the columns of a whole statement; empty when there is none to see."""
    for place, node in enumerate(nodes):
        if is_word(node, "select"):
            start, end = list_bounds(nodes, place)
            return [item_of(part) for part in split_commas(nodes[start:end])]
        if place == 0 and isinstance(node, Group) and is_word(at(node.nodes, 0), "select", "with"):
            return first_items(node.nodes)
    return []
