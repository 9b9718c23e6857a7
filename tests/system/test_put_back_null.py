"""A NULL given to set_config puts a parameter back, whichever way it is given: to what its client came with, as on a
direct connection, where another client has the server in between.
"""

from __future__ import annotations

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Stream
from tests.system.test_session_functions import known
from tests.system.test_session_state import KEEP, server

__all__ = ["server"]
SYNC = stream.sync()
BY_VALUE = "SELECT set_config('{}', $1, false)"
BY_NAME = "SELECT set_config($1, $2, false)"
SECOND = "SELECT $1::text, set_config('{}', ($2)::text, false)"
CAME: dict[str, dict[str, str]] = {
    "startup parameters": {"work_mem": "7MB", "search_path": "x", "TimeZone": "Asia/Tokyo"},
    "options": {"options": "-c work_mem=7MB -c search_path=x -c TimeZone=Asia/Tokyo -c my.var=mine"},
    "nothing": {},
}
NAMES = ("work_mem", "search_path", "TimeZone", "my.var")
VALUES = {"work_mem": "9MB", "search_path": "y", "TimeZone": "UTC", "my.var": "other"}
SHOWN = "SELECT " + ", ".join(f"current_setting('{name}', true)" for name in NAMES)


def bound(sql: str, *values: str | None, name: str = "") -> tuple[bytes, ...]:
    return (stream.parse(sql, name), stream.bind(values, name), stream.execute(), SYNC)


def again(name: str, *values: str | None) -> tuple[bytes, ...]:
    return (stream.bind(values, name), stream.execute(), SYNC)


def steps(of: str) -> list[tuple[bytes, ...]]:
    """Put back, and set, by each way in turn. (Of a name of one's own, which is empty then, nobody can tell whether it
    was put back or set, where what followed was rolled back.)"""
    by_value, second = BY_VALUE.format(of), SECOND.format(of)
    prepared = "s" + of
    return [
        (stream.query(f"SELECT set_config('{of}', NULL, false)"),),
        bound(by_value, VALUES[of]),
        bound(by_value, None),
        bound(by_value, VALUES[of], name=prepared),
        again(prepared, None),
        again(prepared, VALUES[of]),
        bound(BY_NAME, of, None),
        bound(second, None, VALUES[of]),
        bound(second, "a.b", None),
        (*bound(by_value, None)[:3], *bound(by_value, VALUES[of])),
        (*again(prepared, VALUES[of])[:2], *again(prepared, None)),
        (stream.query("BEGIN"), *bound(by_value, VALUES[of]), *again(prepared, None), stream.query("ROLLBACK")),
        again(prepared, VALUES[of]),
        (stream.query("BEGIN"), *again(prepared, None), stream.query("COMMIT")),
        again(prepared, VALUES[of]),
        (stream.query("BEGIN"), *again(prepared, None), stream.query("SAVEPOINT a"), *again(prepared, VALUES[of]),
         stream.query("ROLLBACK TO a"), stream.query("COMMIT")),
    ][: 15 if "." in of else None]  # fmt: skip


def seen(port: int, came: dict[str, str], others: int = 0) -> list[object]:
    found: list[object] = []
    with Stream(("127.0.0.1", port)).login("app", **came) as one, Stream(("127.0.0.1", port)).login("app") as other:
        for of in NAMES:
            for step in steps(of):
                one.send(*step)
                for _ in range(sum(message[:1] in b"QS" for message in step)):
                    assert not [heard.error for heard in one.until() if heard.type == "E"]
                for stranger, shown in enumerate((other, one) if others else (one,)):
                    rows = shown.rows(SHOWN)
                    if not others or stranger:
                        found.append([[value or b"" for value in row] for row in rows])
                    else:
                        assert rows[0][0] == b"4MB"
                        assert rows[0][3] in (None, b"")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("came", CAME)
@pytest.mark.parametrize("size", [1, 4])
def test_a_null_puts_back_what_its_client_came_with(
    start_pooler: StartBouncer, server: Cluster, came: str, size: int
) -> None:
    bouncer = start_pooler(server=server, default_pool_size=size, **KEEP)
    with Stream(("127.0.0.1", bouncer.port)).login("app"):
        known(bouncer)
    direct, pooled = seen(server.port, CAME[came]), seen(bouncer.port, CAME[came], others=1)
    assert [at for at in range(len(direct)) if direct[at] != pooled[at]] == []
