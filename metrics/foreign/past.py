"""The metrics lines over the admin database: SHOW HISTORY holds, per period and database, all that a line
tells.

For a console that has no such view (a PgBouncer that is not ours) lines are made from its views, one set at
once and then one a period. The figures are the pooler's own; only the moment of a line may differ from the
one it wrote itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from metrics.foreign.inquiry import BadUrl, Inquiry, console_conninfo
from metrics.foreign.tail import Lost, Refused, newest
from metrics.heroku import LogLine, Share, body, log_lines
from metrics.period import PERIOD
from metrics.source import Unavailable
from pooler.readback import ShowRow, sample_of
from pooler.stats import ADMIN_DATABASE, ZERO, Averages, DatabaseStat, PoolStat

LOOK_SECONDS = 2.0


def over_console(url: str, tail: bool, count: int) -> Iterator[LogLine]:
    """Connect, then lines: the last `count`, and with `tail` those to come."""
    import psycopg

    try:
        conninfo = console_conninfo(url)
    except BadUrl as error:
        raise Refused(str(error)) from error
    try:
        with psycopg.connect(**conninfo, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            past = history(connection)
            if past is not None:
                yield from _told(connection, past, tail, count)
                return
    except psycopg.Error as error:
        raise Lost(" ".join(str(error).split())) from error
    yield from _made(conninfo, tail)


def history(connection: Any) -> list[LogLine] | None:
    """All lines SHOW HISTORY makes; None when the console does not know it."""
    import psycopg
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        try:
            cursor.execute("SHOW HISTORY")
        except psycopg.DatabaseError:
            if connection.closed:
                raise
            return None
        return [line_of(row) for row in cursor.fetchall() if row["database"] != ADMIN_DATABASE]


def _told(connection: Any, past: list[LogLine], tail: bool, count: int) -> Iterator[LogLine]:
    yield from newest(past, count)
    shown = past[-1].when if past else 0.0
    while tail:
        time.sleep(LOOK_SECONDS)
        lines = [line for line in history(connection) or [] if line.when > shown]
        yield from lines
        shown = lines[-1].when if lines else shown


def _made(conninfo: dict[str, Any], tail: bool) -> Iterator[LogLine]:
    async def ask() -> list[LogLine]:
        inquiry = Inquiry(conninfo)
        try:
            return list(log_lines(await inquiry()))
        finally:
            await inquiry.close()

    while True:
        try:
            yield from asyncio.run(ask())
        except Unavailable as error:
            raise Lost(str(error)) from error
        if not tail:
            return
        time.sleep(PERIOD)


def line_of(row: ShowRow) -> LogLine:
    """A row of SHOW HISTORY as the line of that moment."""
    past = sample_of(row)
    averages = Averages(query_time=past.avg_query_time, bytes_received=past.bytes_received, bytes_sent=past.bytes_sent)
    pool = replace(
        NO_POOL,
        cl_active=past.cl_active,
        cl_waiting=past.cl_waiting,
        sv_active=past.sv_active,
        sv_idle=past.sv_idle,
        maxwait_us=past.maxwait_us,
    )
    share = Share(replace(NO_DATABASE, name=past.database, averages=averages), (pool,))
    return LogLine(past.time, body(share), addon=past.database)


NO_POOL = PoolStat(
    database="", user="", cl_active=0, cl_waiting=0, cl_active_cancel_req=0, cl_waiting_cancel_req=0,
    sv_active=0, sv_active_cancel=0, sv_being_canceled=0, sv_idle=0, sv_used=0, sv_tested=0, sv_login=0,
    maxwait_us=0, pool_mode="", load_balance_hosts=None, pool_size=0, reserve_pool_size=0, counters=ZERO,
    averages=Averages(),
)  # fmt: skip
NO_DATABASE = DatabaseStat(
    name="", host=None, port=0, database="", force_user=None, pool_size=0, min_pool_size=0,
    reserve_pool_size=0, server_lifetime=0, pool_mode=None, load_balance_hosts=None, max_connections=0,
    current_connections=0, max_client_connections=0, current_client_connections=0, paused=False,
    disabled=False, counters=ZERO, averages=Averages(), last_period=Averages(),
)  # fmt: skip
