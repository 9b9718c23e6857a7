"""The log line: Heroku's keys exactly, ours behind them, and names that cannot break out of their place."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from metrics.heroku import LogLine, lines, stamp, stamped, word
from pooler.stats import Averages
from tests.fixtures.figures import database, distributions, histogram, pool, snapshot


def test_a_line_is_herokus_to_the_letter() -> None:
    averages = Averages(query_time=8751, bytes_received=37568, bytes_sent=1339005)
    one = snapshot(
        databases=(database("postgresql-contoured-12345", averages=averages),),
        pools=(
            pool("postgresql-contoured-12345", "a", cl_active=50, cl_waiting=0, sv_active=0, maxwait_us=999_999),
            pool(
                "postgresql-contoured-12345",
                "b",
                cl_active=6,
                cl_waiting=0,
                sv_active=0,
                sv_idle=0,
                maxwait_us=0,
            ),
        ),
    )
    assert lines(one) == [
        "source=pgbouncer addon=postgresql-contoured-12345 sample#client_active=56 sample#client_waiting=0 "
        "sample#server_active=0 sample#server_idle=16 sample#max_wait=0 sample#avg_query=8751 "
        "sample#avg_recv=37568 sample#avg_sent=1339005"
    ]


def test_stamped_as_heroku_logs_shows_it() -> None:
    assert stamped("x", 1795333560) == "2026-11-22T07:46:00.000000+00:00 app[heroku-pgbouncer]: x"
    for number in range(1000):
        when = number * 1_234_567.891_234_567
        assert stamp(when) == datetime.fromtimestamp(when, UTC).isoformat(timespec="microseconds")
    assert stamp(0.999_999_9) == "1970-01-01T00:00:01.000000+00:00"


def test_max_wait_is_the_longest_of_all_pools_in_whole_seconds() -> None:
    one = snapshot(pools=(pool(user="a", maxwait_us=2_999_999), pool(user="b", maxwait_us=3_000_001)))
    assert "sample#max_wait=3 " in lines(one)[0]


def test_one_line_per_pooled_database_even_without_pools_and_none_for_the_console() -> None:
    one = snapshot(databases=(database("b"), database("pgbouncer"), database("a")), pools=())
    assert [line.split()[1] for line in lines(one)] == ["addon=b", "addon=a"]


def test_extra_keys_follow_and_cover_only_what_came_since_the_line_before() -> None:
    before = snapshot(pools=(pool(distributions=distributions([5] * 1000)),))
    after_wait = histogram([5] * 1000 + [900] * 100)
    after = replace(before.pools[0], sv_active=10, distributions=distributions([5] * 1000 + [900] * 100))
    now = snapshot(pools=(after,))
    plain, extra = lines(now)[0], lines(now, extra=True, since=before)[0]
    assert extra.startswith(plain + " ")
    assert extra.removeprefix(plain).split() == [
        "sample#p50_wait=903", "sample#p95_wait=903", "sample#p99_wait=903",
        "sample#p50_query=903", "sample#p95_query=903", "sample#p99_query=903", "sample#pool_use=50",
    ]  # fmt: skip
    assert after_wait.count == 1100


def test_a_pool_that_was_dropped_and_came_back_counts_whole() -> None:
    before = snapshot(pools=(pool(distributions=distributions([5] * 1000)),))
    now = snapshot(pools=(pool(distributions=distributions([5] * 1000 + [70] * 1100), born=2),))
    assert "p50_wait=70 sample#p95_wait=70 " in lines(now, extra=True, since=before)[0]


def test_plain_names_are_bare_and_others_quoted() -> None:
    assert word("postgresql-contoured-12345") == "postgresql-contoured-12345"
    assert word("two words") == '"two words"'
    assert word("") == '""'
    assert word('a"b\\c\nd\te\x00\x1b[31m\x85\u2028\udc80') == (
        '"a\\"b\\\\c\\nd\\te\\u0000\\u001b[31m\\u0085\\u2028\\udc80"'
    )
    assert word("größe") == '"größe"'


@given(st.text(st.characters(exclude_categories=())))
def test_no_name_breaks_out_of_its_value(name: str) -> None:
    body = lines(snapshot(databases=(database(name + "x"),)))[0]
    assert len(body.splitlines()) == 1
    head, tail = body.split(" sample#client_active=", 1) if "sample#" not in name else ("", "")
    if head:
        value = head.removeprefix("source=pgbouncer addon=")
        assert value == name + "x" or (value[0] == value[-1] == '"' and _quotes_closed(value))
        assert tail.count("sample#") == 7
    body.encode()


def _quotes_closed(value: str) -> bool:
    """Inside the outer quotes every quote is escaped."""
    inner, at = value[1:-1], 0
    while at < len(inner):
        if inner[at] == '"':
            return False
        at += 2 if inner[at] == "\\" else 1
    return at == len(inner)


def test_a_log_line_says_what_it_is_about() -> None:
    line = LogLine(1.5, "b", addon="app")
    assert (line.source, line.process, line.text) == (
        "app", "heroku-pgbouncer", "1970-01-01T00:00:01.500000+00:00 app[heroku-pgbouncer]: b",
    )  # fmt: skip
