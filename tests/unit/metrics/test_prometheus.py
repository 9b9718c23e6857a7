"""The catalog against pgbouncer_exporter's names, its values against the Snapshot, its text against
promtool."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import fields

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.utils import floatToGoString

from metrics.buckets import BOUNDARIES, LABELS, fold
from metrics.cardinality import MAX_NAMES, MAX_SERIES, client_connections
from metrics.catalog import CATALOG, MAX_HISTOGRAM_DATABASES, OTHERS
from metrics.prometheus import Exposition, negotiate, registry_of, written
from pooler.stats import DrainStat, Event, Snapshot, merge
from tests.fixtures.figures import client, database, distributions, histogram, pool, snapshot

OPENMETRICS = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

DATABASES = {"name": "app", "host": "10.0.0.5", "port": "5432", "database": "app_real", "force_user": "",
             "pool_mode": "transaction"}  # fmt: skip
POOL = {"database": "app", "user": "u"}
APP = {"database": "app"}

EXPORTER = [
    ("pgbouncer_up", {}, 1),
    ("pgbouncer_version_info", {"version": "PgBouncer 1.26.1"}, 1),
    ("pgbouncer_config_max_client_connections", {}, 10_000),
    ("pgbouncer_config_max_user_connections", {}, 0),
    ("pgbouncer_databases", {}, 1),
    ("pgbouncer_users", {}, 2),
    ("pgbouncer_pools", {}, 4),
    ("pgbouncer_free_clients", {}, 6),
    ("pgbouncer_used_clients", {}, 7),
    ("pgbouncer_login_clients", {}, 8),
    ("pgbouncer_free_servers", {}, 9),
    ("pgbouncer_used_servers", {}, 10),
    ("pgbouncer_cached_dns_names", {}, 11),
    ("pgbouncer_cached_dns_zones", {}, 12),
    ("pgbouncer_in_flight_dns_queries", {}, 13),
    ("pgbouncer_client_connections", {**POOL, "application_name": "web", "state": "active"}, 2),
    ("pgbouncer_databases_pool_size", DATABASES, 20),
    ("pgbouncer_databases_reserve_pool", DATABASES, 3),
    ("pgbouncer_databases_max_connections", DATABASES, 50),
    ("pgbouncer_databases_current_connections", DATABASES, 16),
    ("pgbouncer_databases_paused", DATABASES, 0),
    ("pgbouncer_databases_disabled", DATABASES, 0),
    ("pgbouncer_pools_client_active_connections", POOL, 56),
    ("pgbouncer_pools_client_active_cancel_connections", POOL, 3),
    ("pgbouncer_pools_client_waiting_connections", POOL, 2),
    ("pgbouncer_pools_client_waiting_cancel_connections", POOL, 4),
    ("pgbouncer_pools_server_active_connections", POOL, 5),
    ("pgbouncer_pools_server_active_cancel_connections", POOL, 6),
    ("pgbouncer_pools_server_being_canceled_connections", POOL, 7),
    ("pgbouncer_pools_server_idle_connections", POOL, 16),
    ("pgbouncer_pools_server_used_connections", POOL, 8),
    ("pgbouncer_pools_server_testing_connections", POOL, 9),
    ("pgbouncer_pools_server_login_connections", POOL, 10),
    ("pgbouncer_pools_client_maxwait_seconds", POOL, 1),
    ("pgbouncer_stats_totals_server_assignments_total", APP, 101),
    ("pgbouncer_stats_totals_sql_transactions_pooled_total", APP, 102),
    ("pgbouncer_stats_totals_queries_pooled_total", APP, 103),
    ("pgbouncer_stats_totals_received_bytes_total", APP, 104),
    ("pgbouncer_stats_totals_sent_bytes_total", APP, 105),
    ("pgbouncer_stats_totals_server_in_transaction_seconds_total", APP, 106e-6),
    ("pgbouncer_stats_totals_queries_duration_seconds_total", APP, 107e-6),
    ("pgbouncer_stats_totals_client_wait_seconds_total", APP, 108e-6),
    ("pgbouncer_stats_totals_client_parses_total", APP, 109),
    ("pgbouncer_stats_totals_server_parses_total", APP, 110),
    ("pgbouncer_stats_totals_binds_total", APP, 111),
    ("pgbouncer_process_cpu_seconds_total", {}, 12.5),
    ("pgbouncer_process_resident_memory_bytes", {}, 50_000_000),
    ("pgbouncer_process_open_fds", {}, 31),
    ("pgbouncer_process_max_fds", {}, 1024),
    ("pgbouncer_process_start_time_seconds", {}, 1.7e9),
]
"""Every series of pgbouncer_exporter 0.12, and what it must be for the made-up snapshot."""


def text_of(one: Snapshot | None, accept: str = "") -> str:
    encoder, _ = negotiate(accept)
    return b"".join(Exposition(encoder).render(one)).decode()


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, /, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture(scope="module")
def whole() -> Snapshot:
    waits = histogram([10, 100, 1000, 10**9])
    return snapshot(
        pools=(pool(distributions=distributions([10, 100, 1000, 10**9])), pool("pgbouncer", "pgbouncer")),
        clients=(client("web"), client("web"), client("psql", state="waiting")),
        drains=(DrainStat("https", "https://a/...", "connected", 1, 20, 3, 4, ""),) * 2,
        events=(Event("timeout", "app", "query_wait_timeout", 9), Event("connect", "app", "tls", waits.count)),
    )


@pytest.mark.parametrize(("name", "labels", "expected"), EXPORTER)
def test_pgbouncer_exporters_series(whole: Snapshot, name: str, labels: dict[str, str], expected: float) -> None:
    assert value(samples_of(text_of(whole)), name, **labels) == expected


def test_the_console_database_is_there_as_the_exporter_has_it(whole: Snapshot) -> None:
    samples = samples_of(text_of(whole))
    assert value(samples, "pgbouncer_pools_client_active_connections", database="pgbouncer", user="pgbouncer") == 56
    assert value(samples, "pgbouncer_stats_totals_queries_pooled_total", database="pgbouncer") == 103


def test_what_is_ours(whole: Snapshot) -> None:
    samples = samples_of(text_of(whole))
    assert value(samples, "pooler_pool_maxwait_seconds", **POOL) == 1.999999
    assert value(samples, "pooler_timeouts_total", database="app", reason="query_wait_timeout") == 9
    assert value(samples, "pooler_connects_total", database="app", reason="tls") == 4
    assert value(samples, "pooler_prepared_hits_total", **APP) == 113
    assert value(samples, "pooler_prepared_misses_total", **APP) == 114
    assert value(samples, "pooler_client_wait_seconds_count", **APP) == 4
    assert value(samples, "pooler_client_wait_seconds_sum", **APP) == 1000.00111
    assert value(samples, "pooler_client_wait_seconds_bucket", **APP, le="6.4e-05") == 1
    assert value(samples, "pooler_client_wait_seconds_bucket", **APP, le="0.000128") == 2
    assert value(samples, "pooler_client_wait_seconds_bucket", **APP, le="134.217728") == 3
    assert value(samples, "pooler_client_wait_seconds_bucket", **APP, le="+Inf") == 4


def test_drains_that_look_the_same_are_counted_together(whole: Snapshot) -> None:
    samples = samples_of(text_of(whole))
    labels = {"kind": "https", "target": "https://a/..."}
    assert value(samples, "pooler_drain_delivered_lines_total", **labels) == 40
    assert value(samples, "pooler_drain_dropped_lines_total", **labels) == 6


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_promtool_has_nothing_to_say(whole: Snapshot, accept: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text_of(whole).encode(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_openmetrics_when_it_is_asked_for(whole: Snapshot) -> None:
    assert negotiate("")[1].startswith("text/plain; version=0.0.4")
    assert negotiate(OPENMETRICS)[1].startswith("application/openmetrics-text; version=1.0.0")
    text = text_of(whole, OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert families["pgbouncer_stats_totals_queries_pooled"].type == "counter"
    assert families["pooler_query_duration_seconds"].type == "histogram"
    plain = samples_of(text_of(whole))
    assert len(plain) == sum(len(family.samples) for family in families.values())


def test_without_figures_there_is_only_that() -> None:
    assert (
        text_of(None)
        == "# HELP pgbouncer_up The pgbouncer scrape succeeded\n# TYPE pgbouncer_up gauge\npgbouncer_up 0.0\n"
    )


@pytest.mark.parametrize("accept", ["", OPENMETRICS, OPENMETRICS.replace("1.0.0", "1.0.0;escaping=allow-utf-8")])
def test_the_text_is_prometheus_clients_byte_by_byte(whole: Snapshot, accept: str) -> None:
    """Also the second time, from memory, and when series have come, gone and changed."""
    encoder, _ = negotiate(accept)
    exposition = Exposition(encoder)
    fewer = snapshot(databases=(database('ü \\ "x"\n'),), pools=(), clients=(client("new"),))
    for one in (whole, whole, fewer, whole, snapshot(now=1.8e9, max_client_conn=10**9), None):
        assert b"".join(exposition.render(one)) == encoder(registry_of(one))


@pytest.mark.parametrize("number", [0, 1, -5, 999_999, 10**6, 10**15, 2**63, 0.1, 1e-7, 1.7e9, True, float("inf")])
def test_values_are_written_as_prometheus_client_does(number: float) -> None:
    assert written(number) == floatToGoString(number)  # type: ignore[no-untyped-call]


def test_no_name_twice_and_counters_named_as_counters() -> None:
    names = [figure.exposed for figure in CATALOG]
    assert len(names) == len(set(names))
    for figure in CATALOG:
        assert not figure.name.endswith("_total")
        assert figure.help
        assert len(set(figure.labels)) == len(figure.labels)


@pytest.mark.slow
def test_families_are_written_once_however_many_pieces_they_take() -> None:
    many = snapshot(
        databases=tuple(database(f"d{n}") for n in range(300)),
        pools=tuple(pool(f"d{n}", distributions=distributions([n])) for n in range(300)),
    )
    for accept, parse in (("", parse_text), (OPENMETRICS, parse_openmetrics)):
        encoder, _ = negotiate(accept)
        pieces = list(Exposition(encoder).render(many))
        assert max(map(len, pieces)) < 200_000
        text = b"".join(pieces).decode()
        assert text.count("# TYPE pgbouncer_pools_client_active_connections gauge\n") == 1
        families = {family.name: family for family in parse(text)}
        assert len(families["pgbouncer_databases_pool_size"].samples) == 300
        waits = families["pooler_client_wait_seconds"].samples
        labels = {sample.labels["database"] for sample in waits}
        assert len(labels) == MAX_HISTOGRAM_DATABASES + 1
        total = sum(sample.value for sample in waits if sample.name.endswith("_count"))
        others = sum(s.value for s in waits if s.name.endswith("_count") and s.labels["database"] == OTHERS)
        assert (total, others) == (300, 300 - MAX_HISTOGRAM_DATABASES)


def test_folding_moves_no_sample_over_a_boundary() -> None:
    chance = random.Random(5)
    samples = [int(chance.lognormvariate(9, 4)) for _ in range(5000)] + list(BOUNDARIES)
    samples += [boundary - 1 for boundary in BOUNDARIES]
    folded = fold(histogram(samples))
    for boundary, count in zip(BOUNDARIES, folded.counts, strict=False):
        assert count == sum(sample < boundary for sample in samples)
    assert folded.counts[-1] == len(samples)
    assert folded.sum_seconds == sum(samples) / 1e6
    assert len(folded.counts) == len(LABELS)
    assert fold(merge(())).counts == (0,) * len(LABELS)


@pytest.mark.slow
def test_names_that_clients_choose_are_cleaned_and_bounded() -> None:
    clients = [client(f"script {n}") for n in range(5000)] + [client("web")] * 7
    clients += [client('a"b\\\nc\x00\x1b\u2028'), client("x" * 500)]
    rows = dict(client_connections(snapshot(clients=tuple(clients))))
    assert sum(rows.values()) == len(clients)
    assert rows["app", "u", "web", "active"] == 7
    names = {labels[2] for labels in rows}
    assert len(names) <= MAX_NAMES + 1
    assert all(name.isprintable() and len(name) <= 63 for name in names)


def test_series_are_bounded_whatever_users_there_are() -> None:
    clients = tuple(client("a", user=f"u{n}") for n in range(MAX_SERIES + 500))
    rows = dict(client_connections(snapshot(clients=clients)))
    assert len(rows) == MAX_SERIES + 1
    assert rows["(others)", "(others)", "(others)", "active"] == 500


def test_nothing_is_injected_by_any_name() -> None:
    evil = 'x"} 1\npgbouncer_up 0\n# TYPE \\ \x00\u2028\udc80'
    one = snapshot(
        databases=(database(evil, host=evil, force_user=evil),),
        pools=(pool(evil, evil, distributions=distributions([1])),),
        clients=(client(evil, evil),),
    )
    for accept, parse in (("", parse_text), (OPENMETRICS, parse_openmetrics)):
        families = list(parse(text_of(one, accept)))
        assert [s.value for f in families for s in f.samples if s.name == "pgbouncer_up"] == [1]
        for family in families:
            for sample in family.samples:
                assert all(label.isprintable() for label in sample.labels.values())


def test_every_counter_of_a_pool_is_exported() -> None:
    """A count nobody exports is a figure somebody will miss: name each here or give it a figure."""
    from metrics.catalog import STATS_TOTALS
    from pooler.stats import Counters

    told = {"prepared_hit_count", "prepared_miss_count", "client_login_count"}
    assert len(STATS_TOTALS) + len(told) == len(fields(Counters))
