"""Figures of a console as rows of the screen."""

from __future__ import annotations

from collections.abc import Mapping

from admin.top import model
from admin.top.model import Rates
from pooler.readback import ShowRow, snapshot_of
from pooler.stats import DatabaseStat

STATS = {
    "total_xact_count": 100, "total_query_count": 200, "total_received": 1000, "total_sent": 2000,
    "total_query_time": 50_000, "avg_query_time": 77,
}  # fmt: skip


def database(counts: Mapping[str, int] | None, **facts: object) -> DatabaseStat:
    answers: dict[str, list[ShowRow]] = {"DATABASES": [{"name": "app", **facts}]}
    if counts is not None:
        answers["STATS"] = [{"database": "app", **counts}]
    return snapshot_of(answers, 0.0).databases[0]


def test_rates() -> None:
    first, later = database(STATS), database({name: value + 100 for name, value in STATS.items()})
    assert model.rates(later, first, 2.0) == Rates(50.0, 50.0, 50.0, 50.0, 50.0, 1.0)
    assert model.rates(first, None, 1.0) is None
    assert model.rates(first, later, 1.0) is None, "the pooler was started anew"
    assert model.rates(database(None), database(None), 1.0) is None, "nothing was told of it"
    assert model.rates(first, database(None), 1.0) is None
    still = model.rates(first, first, 1.0)
    assert still is not None
    assert still.avg_query == 77.0


def test_limits_of_old_and_new_versions() -> None:
    old = {"pool_size": 20, "reserve_pool": 5, "paused": 0, "disabled": 1}
    new = {"pool_size": 20, "reserve_pool_size": 2, "paused": 1, "disabled": 0}
    for facts, told in ((old, (25, False, True)), (new, (22, True, False)), ({}, (0, False, False))):
        pools = [{"database": "app", "user": "u"}]
        taken = snapshot_of({"DATABASES": [{"name": "app", **facts}], "POOLS": pools}, 0.0)
        row = model.pool_row(taken.pools[0], taken.databases[0], None, shared=False, avg=None, paused=False)
        assert (row.limit, row.paused, row.disabled) == told
