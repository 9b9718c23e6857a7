"""The `heroku-pgbouncer` log line: one l2met body per pooled database, read from one Snapshot.

Nothing is measured and nothing is sent here. Heroku's eight keys come first, in Heroku's order and spelling,
as integers without units; keys of our own only follow them when asked for. Whatever an operator called a
database, a body stays one line of `key=value` words: names outside a plain alphabet are quoted as logfmt
does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import modf
from time import gmtime, strftime

from pooler.stats import ADMIN_DATABASE, QUANTILES, DatabaseStat, PoolStat, Snapshot, gained_spread, merge
from pooler.values import dataclass

SOURCE = "app"
"""The log source Heroku files these lines under: `heroku logs` shows `app[heroku-pgbouncer]`."""
PROCESS = "heroku-pgbouncer"

_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+$~-]+\Z")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line on its way to the sinks: when (Unix seconds), what, and whom it is from."""

    when: float
    body: str
    source: str = SOURCE
    process: str = PROCESS
    addon: str = ""
    """The database the line is about, as configured; empty for lines about the pooler."""

    @property
    def text(self) -> str:
        """As `heroku logs` shows it."""
        return f"{stamp(self.when)} {self.source}[{self.process}]: {self.body}"

    def is_from(self, source: str) -> bool:
        """Whether somebody who asks for this source means the line: one of `app[heroku-pgbouncer]: source=pgbouncer`
        is from all three."""
        return source in (self.source, self.process) or self.body.startswith(f"source={source} ")


@dataclass(frozen=True, slots=True)
class Share:
    """One database's part of a snapshot."""

    stat: DatabaseStat
    pools: tuple[PoolStat, ...]
    wait: tuple[int, ...] = ()
    """QUANTILES of the waits gained since the line before, in microseconds; empty unless asked for."""
    query: tuple[int, ...] = ()


Key = tuple[str, Callable[[Share], int]]

KEYS: tuple[Key, ...] = (
    ("client_active", lambda share: sum(pool.cl_active for pool in share.pools)),
    ("client_waiting", lambda share: sum(pool.cl_waiting for pool in share.pools)),
    ("server_active", lambda share: sum(pool.sv_active for pool in share.pools)),
    ("server_idle", lambda share: sum(pool.sv_idle for pool in share.pools)),
    ("max_wait", lambda share: max((pool.maxwait_us for pool in share.pools), default=0) // 1_000_000),
    ("avg_query", lambda share: share.stat.averages.query_time),
    ("avg_recv", lambda share: share.stat.averages.bytes_received),
    ("avg_sent", lambda share: share.stat.averages.bytes_sent),
)
"""Heroku's eight. max_wait is in seconds, avg_query in microseconds, avg_recv and avg_sent in bytes per
second.
"""

EXTRA_KEYS: tuple[Key, ...] = (
    ("p50_wait", lambda share: share.wait[0]),
    ("p95_wait", lambda share: share.wait[1]),
    ("p99_wait", lambda share: share.wait[2]),
    ("p50_query", lambda share: share.query[0]),
    ("p95_query", lambda share: share.query[1]),
    ("p99_query", lambda share: share.query[2]),
    ("pool_use", lambda share: pool_use(share.pools)),
)
"""Opt-in, always behind Heroku's eight. pool_use is the fullest pool's servers in use, in per cent of its
size.
"""


def pool_use(pools: tuple[PoolStat, ...]) -> int:
    return max((100 * pool.sv_active // pool.pool_size for pool in pools if pool.pool_size > 0), default=0)


def word(text: str) -> str:
    """`text` as one logfmt value: as it is if plain, else quoted with every control character escaped."""
    if _PLAIN.match(text):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    """Printable characters of any script pass; line separators, controls and lone surrogates do not."""
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char == " " or char.isprintable():
        return char
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def stamp(when: float) -> str:
    """`2026-11-22T07:46:00.000000+00:00`, always with microseconds."""
    fraction, whole = modf(when)
    seconds, micros = divmod(int(whole) * 1_000_000 + round(fraction * 1e6), 1_000_000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{micros:06}+00:00"


def stamped(body: str, when: float) -> str:
    """A body as `heroku logs` shows it."""
    return LogLine(when, body).text


def lines(snapshot: Snapshot, extra: bool = False, since: Snapshot | None = None) -> list[str]:
    """The bodies of all pooled databases, in their order; `since` bounds the quantiles of `extra`."""
    return [line.body for line in log_lines(snapshot, extra, since)]


def log_lines(snapshot: Snapshot, extra: bool = False, since: Snapshot | None = None) -> Iterator[LogLine]:
    """The same, one at a time: thousands of databases need not hold up the loop."""
    keys = KEYS + EXTRA_KEYS if extra else KEYS
    for share in shares(snapshot, extra, since):
        yield LogLine(snapshot.now, body(share, keys), addon=share.stat.name)


def body(share: Share, keys: tuple[Key, ...] = KEYS) -> str:
    samples = " ".join(f"sample#{key}={read(share)}" for key, read in keys)
    return f"source=pgbouncer addon={word(share.stat.name)} {samples}"


def shares(snapshot: Snapshot, extra: bool, since: Snapshot | None) -> Iterator[Share]:
    """The pooled databases, each with its pools; with `extra` what their distributions gained."""
    before = {(pool.database, pool.user): pool for pool in since.pools} if extra and since else {}
    pools = _by_database(snapshot)
    for stat in snapshot.databases:
        own = tuple(pools.get(stat.name, ()))
        if stat.name == ADMIN_DATABASE:
            continue
        if not extra:
            yield Share(stat, own)
            continue
        spread = [gained_spread(pool, before.get((pool.database, pool.user))) for pool in own]
        wait = merge(part.wait for part in spread).quantiles(QUANTILES)
        query = merge(part.query for part in spread).quantiles(QUANTILES)
        yield Share(stat, own, wait, query)


def _by_database(snapshot: Snapshot) -> dict[str, list[PoolStat]]:
    found: dict[str, list[PoolStat]] = {}
    for pool in snapshot.pools:
        found.setdefault(pool.database, []).append(pool)
    return found
