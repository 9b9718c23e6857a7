"""Functions that PostgreSQL has and SQLite has not, as one table: name, number of arguments, result type,
what it does.

Each takes and returns SQLite's values (None, int, float, str, bytes); a timestamp is Unix seconds, an
interval is seconds, an array is text in braces, a boolean is 0 or 1. The rule: no function reads anything but
its arguments and the session's `Facts`, and none can take long or grow large.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from admin import fieldtypes
from admin.fieldtypes import (
    BOOL,
    FLOAT8,
    INT4,
    INT8,
    JSON,
    NAME,
    NUMERIC,
    OID,
    TEXT,
    TIMESTAMPTZ,
    timestamp,
)
from admin.sql.patterns import PatternError, like, regex

LONGEST = 1 << 20
"""Characters that a function may build."""

SAME = -1
"""The result has the type of the first argument whose type is known."""


class FunctionError(ValueError):
    """A call that has no value; the text is fit for the client."""

    def __init__(self, message: str, sqlstate: str = "22023") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Facts:
    """What a session's functions tell about it. `regclasses` are oids of relations by name."""

    user: str
    version: str
    now: float
    started: float
    pid: int
    parameters: dict[str, str]
    regclasses: dict[str, int]


@dataclass(frozen=True, slots=True)
class Function:
    """`arguments` is -1 for any number."""

    name: str
    arguments: int
    result: int
    call: Callable[..., Any]


def _strict(call: Callable[..., Any]) -> Callable[..., Any]:
    """NULL for a NULL argument, as most of PostgreSQL's functions; and no exception but FunctionError."""

    def strict(*values: Any) -> Any:
        if None in values:
            return None
        try:
            return call(*values)
        except PatternError as error:
            raise FunctionError(str(error), "2201B") from None
        except fieldtypes.BadValue as error:
            raise FunctionError(error.message, error.sqlstate) from None
        except OverflowError:
            raise FunctionError("value out of range", "22003") from None
        except (ValueError, ArithmeticError, TypeError, KeyError, IndexError, OSError) as error:
            if isinstance(error, FunctionError):
                raise
            raise FunctionError("invalid argument", "22023") from None

    return strict


# ---- text


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise FunctionError("requested length too large", "54000")
    return text


def _pad(text: str, width: int, fill: str) -> str:
    """The characters that bring `text` to `width`."""
    missing = int(width) - len(text)
    if missing > LONGEST:
        raise FunctionError("requested length too large", "54000")
    return (fill * (missing // max(len(fill), 1) + 1))[:missing] if missing > 0 and fill else ""


def _lpad(text: str, width: int, fill: str = " ") -> str:
    return (_pad(as_text(text), width, fill) + as_text(text))[: max(int(width), 0)]


def _rpad(text: str, width: int, fill: str = " ") -> str:
    return (as_text(text) + _pad(as_text(text), width, fill))[: max(int(width), 0)]


def _repeat(text: str, times: int) -> str:
    if len(text) * max(times, 0) > LONGEST:
        raise FunctionError("requested length too large", "54000")
    return text * times


def _left(text: Any, count: int) -> str:
    return as_text(text)[: int(count)]


def _right(text: Any, count: int) -> str:
    whole = as_text(text)
    return whole[max(len(whole) - int(count), 0) :] if count >= 0 else whole[-int(count) :]


def _replace(text: Any, old: Any, new: Any) -> str:
    """Not SQLite's: that one takes the square of the length, and cannot be interrupted."""
    whole, part, other = as_text(text), as_text(old), as_text(new)
    if not part:
        return whole
    if len(whole) + whole.count(part) * len(other) > LONGEST:
        raise FunctionError("requested length too large", "54000")
    return whole.replace(part, other)


def _strip(strip: Callable[[str, str], str]) -> Callable[[Any, Any], str]:
    def call(text: Any, signs: Any) -> str:
        return strip(as_text(text), "".join(dict.fromkeys(as_text(signs)))[:1000])

    return call


def _split_part(text: str, by: str, place: int) -> str:
    parts = text.split(by) if by else [text]
    index = place - 1 if place > 0 else place
    return parts[index] if -len(parts) <= index < len(parts) else ""


def as_text(value: Any) -> str:
    """A value as text, as `::text` gives it."""
    if isinstance(value, str):
        return value
    return (fieldtypes.field_type(fieldtypes.BYTEA).text(value) if value is not None else b"").decode()


def _concat(*values: Any) -> str:
    return _short("".join(map(as_text, values)))


def _concat_ws(by: str, *values: Any) -> str:
    return _short(by.join(as_text(value) for value in values if value is not None))


_FORMAT = re.compile(r"%(?:(%)|(?:\d+\$)?-?\d*([sIL]))")


def _format(pattern: str, *values: Any) -> str:
    given = iter(values)

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return "%"
        try:
            value = next(given)
        except StopIteration:
            raise FunctionError("too few arguments for format()", "22023") from None
        return {"s": as_text, "I": _quote_ident, "L": _quote_literal}[found[2]](value)

    return _short(_FORMAT.sub(one, pattern))


def _quote_ident(text: Any) -> str:
    name = as_text(text)
    plain = re.fullmatch(r"[a-z_][a-z0-9_$]*", name)
    return name if plain else '"' + name.replace('"', '""') + '"'


def _quote_literal(text: Any) -> str:
    return "NULL" if text is None else "'" + as_text(text).replace("'", "''") + "'"


# ---- numbers


def _round(value: float, digits: int = 0) -> float | int:
    if abs(digits) > 300:
        raise FunctionError("value out of range", "22003")
    scaled = float(value) * 10**digits
    rounded = math.floor(abs(scaled) + 0.5) * (1 if scaled >= 0 else -1) / 10**digits
    return int(rounded) if digits <= 0 else rounded


def _integer(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise FunctionError("integer out of range", "22003")
    number = int(value) if isinstance(value, int) else int(_round(value))
    if not -(1 << 63) <= number < 1 << 63:
        raise FunctionError("integer out of range", "22003")
    return number


def _bool(value: Any) -> int:
    if isinstance(value, str):
        return int(fieldtypes.TYPES[BOOL].from_text(value))
    return int(bool(value))


def _div(a: float, b: float) -> int:
    if not b:
        raise FunctionError("division by zero", "22012")
    return math.trunc(a / b)


def _log(*values: float) -> float:
    return math.log10(values[0]) if len(values) == 1 else math.log(values[1], values[0])


def _power(a: float, b: float) -> float:
    return math.pow(a, b)


def _most(pick: Callable[..., Any]) -> Callable[..., Any]:
    """greatest and least: NULLs do not count."""

    def call(*values: Any) -> Any:
        known = [value for value in values if value is not None]
        numbers = all(isinstance(value, int | float) for value in known)
        return pick(known, key=None if numbers else as_text) if known else None

    return call


def _size_pretty(size: float) -> str:
    """As PostgreSQL: the next unit from 10 of it on."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(value) < 10_240 or unit == "TB":
            break
        value /= 1024
    return f"{_integer(value)} {unit}"


# ---- time


def _interval(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else fieldtypes.interval(value)


def _timestamp(value: Any) -> float:
    if isinstance(value, int | float):
        return float(value)
    try:
        return timestamp(value)
    except ValueError:
        raise FunctionError(f'invalid input syntax for type timestamp: "{value[:60]}"', "22007") from None


def _moment(value: Any) -> datetime:
    return datetime.fromtimestamp(_timestamp(value), UTC)


def _date_trunc(unit: str, value: Any, *_: str) -> float:
    moment = _moment(value).replace(microsecond=0)
    unit = unit.lower()
    if unit == "week":
        return _date_trunc("day", moment.timestamp() - 86_400 * moment.weekday())
    units = ("second", "minute", "hour", "day", "month", "year")
    if unit not in units:
        raise FunctionError(f'unit "{unit[:60]}" not recognized')
    fields = {
        "second": {"second": 0},
        "minute": {"minute": 0},
        "hour": {"hour": 0},
        "day": {"day": 1},
        "month": {"month": 1},
    }
    for finer in units[: units.index(unit)]:
        moment = moment.replace(**fields[finer])  # type: ignore[arg-type]
    return moment.timestamp()


def _extract(field: str, value: Any) -> float | int:
    field = field.lower()
    if field == "epoch":
        return _timestamp(value)
    moment = _moment(value)
    names = {"dow": (moment.weekday() + 1) % 7, "isodow": moment.isoweekday(), "doy": moment.timetuple().tm_yday,
             "quarter": (moment.month + 2) // 3, "week": moment.isocalendar().week}  # fmt: skip
    if field in names:
        return names[field]
    if field == "second":
        return moment.second + moment.microsecond / 1e6
    if field in ("year", "month", "day", "hour", "minute", "microsecond"):
        return int(getattr(moment, field))
    raise FunctionError(f'unit "{field[:60]}" not recognized')


_TO_CHAR = (
    ("YYYY", "%Y"), ("YY", "%y"), ("MM", "%m"), ("DD", "%d"), ("HH24", "%H"), ("HH12", "%I"), ("HH", "%I"),
    ("MI", "%M"), ("SS", "%S"), ("US", "%f"), ("AM", "%p"), ("PM", "%p"), ("TZ", "UTC"), ("Mon", "%b"), ("Dy", "%a"),
)  # fmt: skip


def _to_char(value: Any, form: str) -> str:
    parts = re.split("(" + "|".join(word for word, _ in _TO_CHAR) + ")", form.replace("%", "%%"))
    known = dict(_TO_CHAR)
    return _moment(value).strftime("".join(known.get(part, part) for part in parts))


def _time_text(value: Any) -> str:
    return fieldtypes.TYPES[TIMESTAMPTZ].text(_timestamp(value)).decode()


# ---- arrays, as text in braces; as JSON where SQLite is to take them apart


def _array(value: Any) -> str:
    """An array's JSON from JSON or from PostgreSQL's `{a,"b c"}`."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return json.dumps(fieldtypes.array_items(value))
    items = json.loads(value) if isinstance(value, str) else [value]
    return json.dumps(items if isinstance(items, list) else [items])


def _braces(value: Any) -> str:
    return array_text(json.loads(value))


def array_text(items: list[Any]) -> str:
    """An array as PostgreSQL writes it."""
    return "{" + ",".join(map(_element, items)) + "}"


def _element(item: Any) -> str:
    if item is None:
        return "NULL"
    text = as_text(item) if not isinstance(item, list | dict) else json.dumps(item)
    plain = re.fullmatch(r"[^\s,{}\"\\]+", text) and text.upper() != "NULL"
    return text if plain else '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _array_to_string(value: Any, by: str, *missing: str) -> str:
    items = [*missing[:1]] if value is None else json.loads(_array(value))
    return by.join(as_text(item) for item in items if item is not None)


def _array_length(value: Any, *_: int) -> int | None:
    return len(json.loads(_array(value))) or None


def _array_element(value: Any, place: int) -> Any:
    items = json.loads(_array(value))
    item = items[place - 1] if 0 < place <= len(items) else None
    return json.dumps(item) if isinstance(item, list | dict) else item


# ---- the table


def _plain_functions() -> tuple[Function, ...]:
    rows: list[tuple[str, int, int, Callable[..., Any]]] = [
        ("pg_int", 1, INT8, _integer),
        ("pg_bool", 1, BOOL, _bool),
        ("pg_interval", 1, FLOAT8, _interval),
        ("pg_timestamp", 1, TIMESTAMPTZ, _timestamp),
        ("pg_array", 1, TEXT, _array),
        ("pg_braces", 1, TEXT, _braces),
        ("pg_time_text", 1, TEXT, _time_text),
        ("pg_bool_text", 1, TEXT, lambda value: "true" if value else "false"),
        ("glob", 2, BOOL, lambda pattern, text: int(like(as_text(pattern), as_text(text)))),
        ("like", 2, BOOL, lambda pattern, text: int(like(as_text(pattern).lower(), as_text(text).lower()))),
        ("like", 3, BOOL, lambda pattern, text, escape: int(like(as_text(pattern), as_text(text), escape))),
        ("regexp", 2, BOOL, lambda pattern, text: int(regex(as_text(pattern)).search(as_text(text)))),
        ("match", 2, BOOL, lambda pattern, text: int(regex(as_text(pattern), True).search(as_text(text)))),
        ("left", 2, TEXT, _left),
        ("right", 2, TEXT, _right),
        ("lpad", 2, TEXT, _lpad),
        ("lpad", 3, TEXT, _lpad),
        ("rpad", 2, TEXT, _rpad),
        ("rpad", 3, TEXT, _rpad),
        ("repeat", 2, TEXT, _repeat),
        ("reverse", 1, TEXT, lambda text: as_text(text)[::-1]),
        ("initcap", 1, TEXT, lambda text: as_text(text).title()),
        ("replace", 3, TEXT, _replace),
        ("instr", 2, INT4, lambda text, part: as_text(text).find(as_text(part)) + 1),
        ("trim", 2, TEXT, _strip(str.strip)),
        ("ltrim", 2, TEXT, _strip(str.lstrip)),
        ("rtrim", 2, TEXT, _strip(str.rstrip)),
        ("split_part", 3, TEXT, _split_part),
        ("strpos", 2, INT4, lambda text, part: as_text(text).find(as_text(part)) + 1),
        ("starts_with", 2, BOOL, lambda text, part: int(as_text(text).startswith(as_text(part)))),
        ("char_length", 1, INT4, lambda text: len(as_text(text))),
        ("character_length", 1, INT4, lambda text: len(as_text(text))),
        ("octet_length", 1, INT4, lambda text: len(as_text(text).encode("utf-8", "replace"))),
        ("md5", 1, TEXT, lambda text: hashlib.md5(as_text(text).encode(), usedforsecurity=False).hexdigest()),
        ("quote_ident", 1, TEXT, _quote_ident),
        ("quote_literal", 1, TEXT, _quote_literal),
        ("round", 1, NUMERIC, _round),
        ("round", 2, NUMERIC, _round),
        ("trunc", 1, NUMERIC, math.trunc),
        ("floor", 1, NUMERIC, math.floor),
        ("ceil", 1, NUMERIC, math.ceil),
        ("ceiling", 1, NUMERIC, math.ceil),
        ("div", 2, NUMERIC, _div),
        ("mod", 2, SAME, lambda a, b: math.fmod(a, b) if isinstance(a, float) else int(math.fmod(a, b))),
        ("sqrt", 1, FLOAT8, math.sqrt),
        ("exp", 1, FLOAT8, math.exp),
        ("ln", 1, FLOAT8, math.log),
        ("log", 1, FLOAT8, _log),
        ("log", 2, FLOAT8, _log),
        ("power", 2, FLOAT8, _power),
        ("pow", 2, FLOAT8, _power),
        ("sign", 1, FLOAT8, lambda value: (value > 0) - (value < 0)),
        ("to_timestamp", 1, TIMESTAMPTZ, float),
        ("to_char", 2, TEXT, _to_char),
        ("date_trunc", 2, TIMESTAMPTZ, _date_trunc),
        ("date_trunc", 3, TIMESTAMPTZ, _date_trunc),
        ("date_part", 2, FLOAT8, _extract),
        ("extract", 2, NUMERIC, _extract),
        ("age", 2, FLOAT8, lambda a, b: _timestamp(a) - _timestamp(b)),
        ("pg_size_pretty", 1, TEXT, _size_pretty),
        ("array_length", 2, INT4, _array_length),
        ("array_upper", 2, INT4, _array_length),
        ("pg_element", 2, TEXT, _array_element),
        ("cardinality", 1, INT4, lambda value: _array_length(value) or 0),
    ]
    strict = [Function(name, count, result, _strict(call)) for name, count, result, call in rows]
    return (
        *strict,
        Function("concat", -1, TEXT, _concat),
        Function("concat_ws", -1, TEXT, _concat_ws),
        Function("format", -1, TEXT, _format),
        Function("quote_nullable", 1, TEXT, _quote_literal),
        Function("greatest", -1, SAME, _most(max)),
        Function("least", -1, SAME, _most(min)),
        Function("array_to_string", -1, TEXT, _array_to_string),
    )


PLAIN = _plain_functions()

BUILT_IN: dict[str, int] = {
    "count": INT8, "sum": INT8, "avg": FLOAT8, "total": FLOAT8, "max": SAME, "min": SAME, "coalesce": SAME,
    "nullif": SAME, "abs": SAME, "lower": TEXT, "upper": TEXT, "length": INT4, "substr": TEXT, "substring": TEXT,
    "trim": TEXT, "btrim": TEXT, "ltrim": TEXT, "rtrim": TEXT, "replace": TEXT, "string_agg": TEXT,
    "group_concat": TEXT, "json_agg": JSON, "jsonb_agg": JSON, "json_object_agg": JSON, "jsonb_object_agg": JSON,
    "json_build_object": JSON, "jsonb_build_object": JSON, "json_build_array": JSON, "jsonb_build_array": JSON,
    "row_to_json": JSON, "to_json": JSON, "to_jsonb": JSON, "array_agg": TEXT, "bool_or": BOOL, "bool_and": BOOL,
    "every": BOOL, "row_number": INT8, "rank": INT8, "dense_rank": INT8, "ntile": INT4, "lag": SAME, "lead": SAME,
    "first_value": SAME, "last_value": SAME, "percent_rank": FLOAT8, "cume_dist": FLOAT8, "json_extract": TEXT,
}  # fmt: skip
"""Result types of functions that SQLite has itself, by PostgreSQL's names."""

RENAMED = {
    "string_agg": "group_concat", "json_agg": "json_group_array", "jsonb_agg": "json_group_array",
    "json_object_agg": "json_group_object", "jsonb_object_agg": "json_group_object",
    "json_build_object": "json_object", "jsonb_build_object": "json_object", "json_build_array": "json_array",
    "jsonb_build_array": "json_array", "to_json": "json_quote", "to_jsonb": "json_quote",
    "bool_or": "max", "bool_and": "min", "every": "min", "btrim": "trim",
    "substring": "substr",
}  # fmt: skip


def view_definition(name: str | None) -> str | None:
    """What a view of ours is, in the console's own words."""
    return f" SHOW {name.upper()};" if name else None


def session_functions(facts: Facts) -> tuple[Function, ...]:
    """What tells about the session, and what a PostgreSQL server knows of objects we do not have."""
    return (*_told(facts), *_NOTHING)


def _told(facts: Facts) -> tuple[Function, ...]:
    def constant(name: str, result: int, value: Any) -> Function:
        return Function(name, 0, result, lambda: value)

    def setting(name: str, *_: Any) -> str | None:
        value = facts.parameters.get(str(name).lower())
        if value is None and not _:
            raise FunctionError(f'unrecognized configuration parameter "{name}"', "42704")
        return value

    def regclass(value: Any) -> int | None:
        if value is None or isinstance(value, int):
            return value
        text = str(value)
        if text.isdecimal():
            return int(text)
        name = text.rpartition(".")[2].strip('"')
        if name not in facts.regclasses:
            raise FunctionError(f'relation "{text}" does not exist', "42P01")
        return facts.regclasses[name]

    names = {oid: name for name, oid in facts.regclasses.items()}
    return (
        constant("version", TEXT, facts.version),
        constant("current_database", NAME, "pgbouncer"),
        constant("current_catalog", NAME, "pgbouncer"),
        constant("current_schema", NAME, "public"),
        constant("current_user", NAME, facts.user),
        constant("session_user", NAME, facts.user),
        constant("current_role", NAME, facts.user),
        constant("user", NAME, facts.user),
        constant("now", TIMESTAMPTZ, facts.now),
        constant("transaction_timestamp", TIMESTAMPTZ, facts.now),
        constant("statement_timestamp", TIMESTAMPTZ, facts.now),
        constant("clock_timestamp", TIMESTAMPTZ, facts.now),
        constant("current_timestamp_", TIMESTAMPTZ, facts.now),
        constant("current_date_", TIMESTAMPTZ, facts.now // 86_400 * 86_400),
        constant("pg_postmaster_start_time", TIMESTAMPTZ, facts.started),
        constant("pg_conf_load_time", TIMESTAMPTZ, facts.started),
        constant("pg_backend_pid", INT4, facts.pid),
        Function("age", 1, FLOAT8, _strict(lambda value: facts.now // 86_400 * 86_400 - _timestamp(value))),
        Function("current_schemas", 1, TEXT, lambda _: "{pg_catalog,public}"),
        Function("current_setting", 1, TEXT, setting),
        Function("current_setting", 2, TEXT, setting),
        Function("set_config", 3, TEXT, lambda _name, value, _local: value),
        Function("pg_regclass", 1, fieldtypes.REGCLASS, regclass),
        Function("to_regclass", 1, fieldtypes.REGCLASS, lambda name: facts.regclasses.get(str(name))),
        Function("pg_regclass_name", 1, TEXT, lambda value: names.get(value, None if value is None else str(value))),
        Function("pg_get_viewdef", -1, TEXT, lambda oid, *_: view_definition(names.get(oid))),
        Function("pg_get_userbyid", 1, NAME, lambda _: facts.user),
    )


def _regtype(value: Any) -> int | None:
    """A type's oid by its name, in either spelling."""
    if value is None or isinstance(value, int):
        return value
    oid = _type_oid(str(value))
    if oid is None:
        raise FunctionError(f'type "{value}" does not exist', "42704")
    return oid


def _type_oid(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    name = name.rpartition(".")[2].lower()
    by_name = {kind.name: oid for oid, kind in fieldtypes.TYPES.items()}
    return by_name.get(name) or {text: oid for oid, text in FORMATTED.items()}.get(name)


def _always(name: str, result: int, value: Any) -> Function:
    return Function(name, -1, result, lambda *_: value)


def _format_type(oid: Any, _: Any = None) -> str | None:
    return None if oid is None else FORMATTED.get(oid) or fieldtypes.field_type(int(oid)).name


FORMATTED = {
    fieldtypes.INT4: "integer", fieldtypes.INT8: "bigint", fieldtypes.INT2: "smallint", fieldtypes.BOOL: "boolean",
    fieldtypes.FLOAT8: "double precision", fieldtypes.TIMESTAMPTZ: "timestamp with time zone",
    fieldtypes.CHAR: '"char"', fieldtypes.VARCHAR: "character varying",
}  # fmt: skip

_NOTHING = (
    Function("pg_regtype", 1, fieldtypes.REGTYPE, _regtype),
    Function("to_regtype", 1, fieldtypes.REGTYPE, lambda name: None if name is None else _type_oid(str(name))),
    Function("pg_regtype_name", 1, TEXT, _format_type),
    Function("format_type", -1, TEXT, _format_type),
    *(_always(name, TEXT, None) for name in (
        "obj_description", "col_description", "shobj_description", "pg_get_expr", "pg_get_constraintdef",
        "pg_get_indexdef", "pg_get_function_result", "pg_get_function_arguments",
        "pg_get_triggerdef", "pg_get_ruledef", "pg_get_partkeydef", "pg_get_statisticsobjdef_columns",
        "pg_get_function_identity_arguments", "pg_tablespace_location", "inet_server_addr", "inet_client_addr",
        "pg_get_serial_sequence", "pg_advisory_unlock_all", "pg_last_wal_receive_lsn", "txid_current_if_assigned",
    )),
    *(_always(name, BOOL, 1) for name in (
        "has_table_privilege", "has_schema_privilege", "has_database_privilege", "has_column_privilege",
        "has_any_column_privilege", "has_function_privilege", "has_sequence_privilege",
        "pg_table_is_visible", "pg_type_is_visible", "pg_function_is_visible", "pg_operator_is_visible",
        "pg_has_role", "pg_collation_is_visible", "pg_statistics_obj_is_visible", "pg_opclass_is_visible",
    )),
    *(_always(name, BOOL, 0) for name in (
        "pg_is_in_recovery", "pg_is_other_temp_schema", "pg_relation_is_publishable", "row_security_active",
    )),
    *(_always(name, INT8, 0) for name in (
        "pg_relation_size", "pg_total_relation_size", "pg_table_size", "pg_indexes_size", "pg_database_size",
        "txid_current", "pg_my_temp_schema", "pg_relation_filenode",
    )),
    _always("pg_encoding_to_char", NAME, "UTF8"),
    _always("pg_client_encoding", NAME, "UTF8"),
    _always("getdatabaseencoding", NAME, "UTF8"),
    _always("inet_server_port", INT4, None),
    _always("pg_char_to_encoding", INT4, 6),
    _always("array_position", INT4, None),
    _always("pg_relation_is_updatable", INT4, 0),
)  # fmt: skip

RESULTS: dict[str, int] = {
    **BUILT_IN,
    **{function.name: function.result for function in PLAIN},
    **{function.name: function.result for function in session_functions(Facts("", "", 0.0, 0.0, 0, {}, {}))},
}
"""Result type of every function, by name."""

__all__ = [
    "FORMATTED",
    "OID",
    "PLAIN",
    "RENAMED",
    "RESULTS",
    "SAME",
    "Facts",
    "Function",
    "FunctionError",
    "session_functions",
]
