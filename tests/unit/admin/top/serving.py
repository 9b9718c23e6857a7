"""A console whose figures move, for tests."""

from __future__ import annotations

from admin.client.address import Address
from admin.client.answers import Answer
from tests.unit.repl_console import Console, rows

STATS = (
    "database total_xact_count total_query_count total_received total_sent total_query_time avg_query_time"
    " avg_xact_count"
)

CLIENTS = "type user database state addr port connect_time request_time wait wait_us ptr link remote_pid tls id"

ADDRESS = Address({"host": "h", "port": "1", "dbname": "pgbouncer"})


def connections(kind: str, count: int) -> Answer:
    return rows(
        CLIENTS,
        *(
            (kind, "alice", "app", "active", "::1", n, "2026", "2026", 0, 0, f"0x{kind}{n}", "", 0, "", n)
            for n in range(count)
        ),
    )


def serving(console: Console) -> Console:
    counts = iter(range(0, 10_000_000, 100))

    def stats() -> Answer:
        count = next(counts)
        return rows(STATS, ("app", count, count, count, count, count, 5, 1), ("pgbouncer", 9, 9, 9, 9, 9, 9, 9))

    console.answers |= {
        "SHOW STATS": stats,
        "SHOW DATABASES": rows(
            "name pool_size reserve_pool_size paused disabled",
            ("app", 20, 0, 0, 0), ("billing", 5, 1, 1, 0), ("pgbouncer", 2, 0, 0, 0),
        ),
        "SHOW STATE": rows("key value", ("active", "yes"), ("paused", "no")),
        "SHOW LATENCY": rows("database query_p99", ("app", 4321), ("billing", 1)),
        "SHOW CLIENTS": connections("C", 3),
        "SHOW SERVERS": connections("S", 2),
    }  # fmt: skip
    return console
