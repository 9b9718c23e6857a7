"""What drivers say to any PostgreSQL server and the console has nothing to do for: answered politely, as
tables.

BEGIN, COMMIT, SET of a session parameter, RESET, DISCARD ALL, DEALLOCATE, SHOW server_version and the like.
PgBouncer refuses all of it and so shuts its drivers out. Nothing here has an effect on the pooler: a
courtesy changes at most what the session says of itself (its transaction status, its prepared statements).
The rule: only what PostgreSQL itself would accept is accepted; a mistyped setting is not taken for a
session parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from admin.fieldtypes import TEXT
from pooler.lexer import Kind, Token


class Effect(Enum):
    """What a courtesy changes in its own session."""

    NONE = auto()
    BEGIN = auto()
    END = auto()
    FORGET_ALL = auto()
    """Drop all prepared statements."""
    FORGET = auto()
    """Drop the prepared statement `Courtesy.name`."""
    CLOSE_ALL = auto()
    """Drop all cursors."""
    CLOSE = auto()
    """Drop the cursor `Courtesy.name`."""


@dataclass(frozen=True, slots=True)
class Courtesy:
    """The whole answer to a statement: a tag, perhaps rows of text, perhaps a NOTICE."""

    tag: str
    columns: tuple[tuple[str, int], ...] | None = None
    rows: tuple[tuple[str, ...], ...] = ()
    notice: str = ""
    detail: str | None = None
    effect: Effect = Effect.NONE
    name: str = ""


FAKES = {
    "client_encoding": "UTF-8",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "extra_float_digits": "2",
    "timezone": "GMT",
}
"""PgBouncer's own: SHOW answers these values, SET says `SET ignored`."""

PARAMETERS = {
    "application_name": "",
    "bytea_output": "hex",
    "client_min_messages": "notice",
    "default_table_access_method": "heap",
    "default_tablespace": "",
    "default_transaction_deferrable": "off",
    "default_transaction_read_only": "off",
    "escape_string_warning": "on",
    "idle_in_transaction_session_timeout": "0",
    "in_hot_standby": "off",
    "integer_datetimes": "on",
    "intervalstyle": "postgres",
    "is_superuser": "on",
    "jit": "off",
    "lc_collate": "C",
    "lc_ctype": "C.UTF-8",
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "lock_timeout": "0",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "role": "none",
    "row_security": "on",
    "search_path": '"$user", public',
    "server_encoding": "UTF8",
    "server_version": "",
    "server_version_num": "",
    "session_authorization": "",
    "statement_timeout": "0",
    "synchronous_commit": "on",
    "transaction_deferrable": "off",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "xmlbinary": "base64",
    "xmloption": "content",
}
"""Session parameters that SHOW answers, with the value of a session that changed nothing. Empty ones are
filled in with the session's own facts."""

_OTHERS = """
    array_nulls backslash_quote check_function_bodies client_connection_check_interval commit_delay
    constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction
    deadlock_timeout debug_print_parse debug_print_plan debug_print_rewritten default_statistics_target
    default_toast_compression default_transaction_isolation effective_cache_size
    effective_io_concurrency enable_bitmapscan enable_hashagg enable_hashjoin enable_indexonlyscan
    enable_indexscan enable_material enable_memoize enable_mergejoin enable_nestloop enable_seqscan
    enable_sort enable_tidscan exit_on_error force_parallel_mode from_collapse_limit geqo geqo_threshold
    gin_fuzzy_search_limit gin_pending_list_limit hash_mem_multiplier idle_session_timeout
    jit_above_cost join_collapse_limit local_preload_libraries log_duration log_min_duration_statement
    log_min_error_statement log_min_messages log_statement maintenance_work_mem max_parallel_workers
    max_parallel_workers_per_gather max_stack_depth names parallel_setup_cost parallel_tuple_cost
    password_encryption plan_cache_mode quote_all_identifiers random_page_cost seed seq_page_cost
    session_replication_role ssl_renegotiation_limit standard_conforming_strings synchronize_seqscans
    tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval tcp_user_timeout temp_buffers
    temp_file_limit timezone_abbreviations track_activities track_counts track_functions track_io_timing
    transform_null_equals vacuum_cost_delay vacuum_cost_limit work_mem zero_damaged_pages
"""
SETTABLE = frozenset(PARAMETERS) | frozenset(_OTHERS.split())
"""Names that SET takes for session parameters and ignores, beside FAKES and names with a dot (`my.own`)."""

_PHRASES: dict[str, tuple[str, ...]] = {
    "transaction_isolation": ("transaction", "isolation", "level"),
    "timezone": ("time", "zone"),
    "session_authorization": ("session", "authorization"),
    "transaction": ("transaction",),
    "session_characteristics": ("session", "characteristics", "as", "transaction"),
}
"""Parameters that PostgreSQL's grammar spells in words."""


def sets_nothing(key: str) -> Courtesy | None:
    """The answer to SET of a session parameter; None when `key` is not the name of one."""
    key = key.lower()
    if key in FAKES:
        return Courtesy("SET", notice="SET ignored")
    return Courtesy("SET") if key in SETTABLE or "." in key else None


Values = Callable[[], dict[str, str]]


def answer(tokens: Sequence[Token], values: Values, settings: Values) -> Courtesy | None:
    """The answer to a statement that is a courtesy, None to any other. `values` are the session's parameters,
    `settings` what SHOW ALL lists after them; both are asked only when needed."""
    first = tokens[0].value if tokens[0].kind is Kind.WORD else ""
    match first:
        case "set":
            return _set(tokens[1:])
        case "show":
            return _show(tokens[1:], values, settings)
        case _:
            reply = _REPLIES.get(first)
            return reply(tokens) if reply else None


def _set(words: Sequence[Token]) -> Courtesy | None:
    if (
        words
        and words[0] in ("local", "session")
        and len(words) > 1
        and words[1] not in ("authorization", "characteristics")
    ):
        words = words[1:]
    if (spelled := _spelled(words)) is not None:
        return sets_nothing(spelled) or Courtesy("SET")
    if not words or words[0].kind not in (Kind.WORD, Kind.QUOTED):
        return None
    if words[0] == "names":
        return Courtesy("SET")
    parts = 1
    while parts + 1 < len(words) and words[parts] == ".":
        parts += 2
    if parts + 1 >= len(words) or not (words[parts] == "=" or words[parts] == "to"):
        return None
    return sets_nothing("".join(word.value for word in words[:parts]))


def _spelled(words: Sequence[Token]) -> str | None:
    for name, phrase in _PHRASES.items():
        if len(words) >= len(phrase) and all(word == part for word, part in zip(words, phrase, strict=False)):
            return name
    return None


def _show(words: Sequence[Token], values: Values, settings: Values) -> Courtesy | None:
    if len(words) == 1 and words[0] == "all":
        columns = (("name", TEXT), ("setting", TEXT), ("description", TEXT))
        rows = (*sorted(values().items()), *settings().items())
        return Courtesy("SHOW", columns, tuple((name, value, "") for name, value in rows))
    name = _spelled(words) or "".join(word.value for word in words).lower()
    value = values().get(name)
    if value is None and len(words) == 1:
        value = settings().get(name)  # of the console: its own settings, which SHOW CONFIG lists
    return None if value is None else Courtesy("SHOW", ((name, TEXT),), ((value,),))


def _tag(tag: str, effect: Effect = Effect.NONE) -> Callable[[Sequence[Token]], Courtesy]:
    return lambda _: Courtesy(tag, effect=effect)


def _start(words: Sequence[Token]) -> Courtesy | None:
    if len(words) < 2 or words[1] != "transaction":
        return None
    return Courtesy("START TRANSACTION", effect=Effect.BEGIN)


def _rollback(words: Sequence[Token]) -> Courtesy:
    to_savepoint = any(word == "to" for word in words)
    return Courtesy("ROLLBACK", effect=Effect.NONE if to_savepoint else Effect.END)


def _discard(words: Sequence[Token]) -> Courtesy | None:
    if len(words) != 2 or words[1] not in ("all", "plans", "sequences", "temp", "temporary"):
        return None
    what = words[1].value
    return Courtesy(f"DISCARD {what.upper()}", effect=Effect.FORGET_ALL if what == "all" else Effect.NONE)


def _deallocate(words: Sequence[Token]) -> Courtesy | None:
    names = [word for word in words[1:] if word != "prepare"]
    if len(names) != 1:
        return None
    if names[0] == "all":
        return Courtesy("DEALLOCATE ALL", effect=Effect.FORGET_ALL)
    return Courtesy("DEALLOCATE", effect=Effect.FORGET, name=names[0].value)


def _close(words: Sequence[Token]) -> Courtesy | None:
    if len(words) != 2:
        return None
    if words[1] == "all":
        return Courtesy("CLOSE CURSOR ALL", effect=Effect.CLOSE_ALL)
    return Courtesy("CLOSE CURSOR", effect=Effect.CLOSE, name=words[1].value)


def _reset(words: Sequence[Token]) -> Courtesy | None:
    name = _spelled(words[1:]) or "".join(word.value for word in words[1:])
    return Courtesy("RESET") if name in ("all", "role") or sets_nothing(name) else None


_REPLIES: dict[str, Callable[[Sequence[Token]], Courtesy | None]] = {
    "begin": _tag("BEGIN", Effect.BEGIN),
    "start": _start,
    "commit": _tag("COMMIT", Effect.END),
    "end": _tag("COMMIT", Effect.END),
    "rollback": _rollback,
    "abort": _tag("ROLLBACK", Effect.END),
    "savepoint": _tag("SAVEPOINT"),
    "release": _tag("RELEASE"),
    "discard": _discard,
    "deallocate": _deallocate,
    "reset": _reset,
    "close": _close,
    "listen": _tag("LISTEN"),
    "unlisten": _tag("UNLISTEN"),
}
