"""LOAD under `keep`: a library stays with its client, whatever else that does, and goes with its server: nobody else
ever has it. A parameter that only the library knows tells whether it is there.
"""

from __future__ import annotations

import pytest

from tests.fixtures import stream
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.system.test_session_attacks import come, errors, keep
from tests.system.test_session_functions import known

LOAD = "LOAD 'auto_explain'"
ASK = "SHOW auto_explain.log_analyze"
WAYS = {
    "simple": [stream.query(LOAD)],
    "extended": [stream.parse(LOAD), stream.bind(), stream.execute(), stream.sync()],
    "named": [stream.parse(LOAD, "n"), stream.bind(name="n"), stream.execute(), stream.sync()],
}
THEN = {
    "nothing": (),
    "a setting": ("SET work_mem = '7MB'",),
    "a function": ("DO $$ BEGIN END $$",),
    "a lock and back": ("SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)"),
    "everything put back": ("DISCARD ALL",),
}


def loaded(one: Stream) -> bool:
    return not errors(one.query(ASK))


@pytest.fixture
def bouncer(start_pooler: StartBouncer) -> Bouncer:
    made = start_pooler(default_pool_size=2, **keep())
    with come(made) as first:
        first.query("SELECT 1")
        known(made)
    return made


def two_servers(*clients: Stream) -> list[bool]:
    """Whether it is there, as each of them sees it while the others have their servers."""
    for one in clients:
        one.query("BEGIN")
    found = [loaded(one) for one in clients]
    for one in clients:
        one.query("ROLLBACK")
    return found


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("way", WAYS)
def test_a_library_stays_with_its_client_alone(bouncer: Bouncer, way: str, then: str) -> None:
    with come(bouncer) as one, come(bouncer) as stranger:
        one.send(*WAYS[way])
        assert not errors(one.until())
        assert two_servers(stranger, one) == [False, True]
        for text in THEN[then]:
            assert not errors(one.query(text))
            assert two_servers(stranger, one) == [False, True], text
        one.socket.close()
        with come(bouncer) as other:
            assert two_servers(stranger, other) == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("transaction", [False, True])
def test_a_library_goes_with_a_client_that_goes_before_anybody_has_looked(bouncer: Bouncer, transaction: bool) -> None:
    with come(bouncer) as one:
        if transaction:
            one.query("BEGIN")
        one.send(stream.query(LOAD))
        if transaction:
            one.until()
    with come(bouncer) as stranger, come(bouncer) as other:
        for _ in range(3):
            assert two_servers(stranger, other) == [False, False]
