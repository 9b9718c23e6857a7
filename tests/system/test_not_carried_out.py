"""What is parsed and never carried out leaves nothing behind and ends nothing: the same programs on a direct
connection, and through a pool of two whose other server is taken in turn.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import StartBouncer
from tests.fixtures.stream import Message, Stream
from tests.fixtures.waiting import until
from tests.system.test_session_attacks import keep
from tests.system.test_session_functions import known

CARRIED_OUT = stream.bind() + stream.execute() + stream.sync()


def parsed(text: str) -> bytes:
    return stream.parse(text) + stream.sync()


PROGRAMS: dict[str, list[bytes | str]] = {
    "RESET": ["BEGIN", "SET work_mem = '7MB'", parsed("RESET work_mem"), "COMMIT"],
    "UNLISTEN beside another": ["LISTEN here", "BEGIN", parsed("UNLISTEN here"), "UNLISTEN there", "COMMIT"],
    "RESET ALL": ["SET my.var = 'x'", "SET work_mem = '7MB'", parsed("RESET ALL"), "SELECT 1"],
    "DISCARD ALL": ["BEGIN", "SET work_mem = '7MB'", parsed("DISCARD ALL"), "COMMIT"],
    "carried out later": ["SET work_mem = '7MB'", parsed("RESET work_mem"), CARRIED_OUT],
    "one of two": ["SET work_mem = '7MB'", stream.parse("RESET work_mem") + parsed("SET my.var = 'x'"), CARRIED_OUT],
    "UNLISTEN": ["LISTEN here", stream.parse("UNLISTEN here") + parsed("UNLISTEN there"), CARRIED_OUT],
    "UNLISTEN later": ["LISTEN here", parsed("UNLISTEN here"), CARRIED_OUT],
}
FACTS = "SELECT current_setting('work_mem'), current_setting('my.var', true)"


def shown(message: Message) -> tuple[str, ...]:
    if message.type == "A":
        return "A", *message.body[4:].decode().split("\0")[:2]
    return message.type, str(
        message.error["C"] if message.type == "E" else message.values if message.type == "D" else ""
    )


@pytest.mark.parametrize("what", PROGRAMS)
def test_it_is_as_on_a_direct_connection(cluster: Cluster, start_pooler: StartBouncer, what: str) -> None:
    bouncer = start_pooler(default_pool_size=2, **keep())
    with Stream(("127.0.0.1", bouncer.port)).login() as first:
        first.query("SELECT 1")
        known(bouncer)
    found = []
    for port in (cluster.port, bouncer.port):
        with ExitStack() as stack:
            one, other = (stack.enter_context(Stream(("127.0.0.1", port)).login()) for _ in range(2))
            heard: list[Message] = []
            for said in PROGRAMS[what]:
                one.send(said if isinstance(said, bytes) else stream.query(said))
                heard += one.until()
                if said == "LISTEN here" and port == bouncer.port:
                    until(lambda: bouncer.pool()["sv_active"] == 0, "the listening server")
            # On a server that was another's.
            other.query("BEGIN")
            heard += one.query(FACTS)
            other.query("COMMIT")
            # The second is heard, whatever has become of the first.
            one.query("LISTEN last")
            other.query("NOTIFY here, 'x'; NOTIFY last, 'y'")
            while not heard or shown(heard[-1]) != ("A", "last", "y"):
                heard.append(one.read())
            found.append([shown(message) for message in heard if message.type not in "SNCZ"])
    assert found[0] == found[1]
