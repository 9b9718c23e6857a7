"""Several workers, and a PostgreSQL that lets no more servers in, or says nothing: who waits in a worker that gets none
has those that the others have, as in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.process import Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.understudy import HANG, IN, Understudy, refusal
from tests.fixtures.waiting import until
from tests.system.test_waiting import STARTING, ask, behind, client, newcomer, served, told, waiting, welcomed
from tests.system.test_workers import TWO

pytestmark = pytest.mark.usefixtures("cleared")
RETRY = 60
"""server_login_retry: nobody is served by another attempt."""
SHUT = refusal("28000", "nobody may log in")


@pytest.fixture
def role(cluster: Cluster) -> Iterator[str]:
    cluster.sql("CREATE ROLE refused LOGIN CONNECTION LIMIT 1")
    yield "refused"
    cluster.sql("DROP ROLE refused")


def beside(bouncer: Bouncer, one: Stream, others: list[Stream], *, same: bool) -> Stream:
    """One of them that is in the same worker, or in another: ids tell, since each of the two has every third."""
    ids = {row["port"]: row["id"] % 3 for row in bouncer.admin("SHOW CLIENTS")}
    home, *homes = (ids[each.socket.getsockname()[1]] for each in (one, *others))
    return next(each for each, there in zip(others, homes, strict=True) if (there == home) is same)


@pytest.mark.slow
def test_the_role_s_connection_limit_is_a_full_pool_of_all(
    start_pooler: StartBouncer, cluster: Cluster, role: str
) -> None:
    bouncer = start_pooler(
        sections=TWO,
        users={"postgres": "", role: ""},
        default_pool_size=2,
        server_login_retry=RETRY,
        server_tls_sslmode="disable",
    )
    with ExitStack() as stack:
        holder, *others = (stack.enter_context(client(bouncer, role)) for _ in range(4))
        waits = beside(bouncer, holder, others, same=False)
        holder.query("BEGIN")
        ask(waits)
        bouncer.wait_log(f"app/{role} has servers of other workers and gets no more: clients wait as in a full pool")
        waiting(bouncer, 1, role)
        holder.query("COMMIT")
        assert served(waits)
        for one in (holder, waits) * 3:
            assert one.rows("SELECT 'by whoever has it'") == [[b"by whoever has it"]]
        assert len(cluster.backends("app", user=role)) == 1
        assert bouncer.log.read_text().count("server login failed") <= 2


@pytest.mark.slow
def test_who_comes_where_a_login_has_failed_is_served_by_others(
    start_pooler: StartBouncer, start_understudy: Callable[[], Understudy]
) -> None:
    server = start_understudy()
    bouncer = start_pooler(sections=TWO, databases=behind(server), server_login_retry=RETRY)
    with ExitStack() as stack:
        # The first has a server; the others are not even told what to tell their clients by one of their own.
        everybody = [stack.enter_context(client(bouncer))]
        server.login = SHUT
        everybody += [stack.enter_context(client(bouncer)) for _ in range(3)]
        # One that its worker has is no reason to open another; that it cannot is nothing to those who come later.
        holder, *others = everybody
        waits = beside(bouncer, holder, others, same=True)
        holder.query("BEGIN")
        ask(waits)
        until(lambda: bouncer.log.read_text().count("server login failed: FATAL nobody may") == 2, "both to fail")
        waiting(bouncer, 1)
        holder.query("COMMIT")
        assert served(waits)
        for who in everybody * 2:
            ask(who)
            assert served(who)
        assert len(bouncer.admin("SHOW SERVERS")) == 1


@pytest.mark.slow
def test_a_login_that_hangs_keeps_nobody_from_what_others_have(
    start_pooler: StartBouncer, start_understudy: Callable[[], Understudy]
) -> None:
    server = start_understudy()
    bouncer = start_pooler(sections=TWO, databases=behind(server), server_connect_timeout=RETRY)
    with ExitStack() as stack:
        everybody = [stack.enter_context(client(bouncer))]
        server.login = HANG
        everybody += [stack.enter_context(client(bouncer)) for _ in range(3)]
        for who in everybody * 2:
            ask(who)
            assert served(who)


@pytest.mark.slow
def test_without_any_elsewhere_they_hear_why(
    start_pooler: StartBouncer, start_understudy: Callable[[], Understudy]
) -> None:
    """And once one could be opened by any worker they all have some."""
    server = start_understudy()
    bouncer = start_pooler(sections=TWO, databases=behind(server), server_login_retry=2)
    server.login = SHUT
    with newcomer(bouncer) as one, newcomer(bouncer) as two:
        assert told(one) == told(two) == ("28000", "nobody may log in")
    server.login = IN
    with newcomer(bouncer) as one, newcomer(bouncer) as two:
        assert welcomed(one)
        assert welcomed(two)
        ask(one, two)
        assert served(one)
        assert served(two)


@pytest.mark.slow
def test_nor_from_what_they_open_later(
    start_pooler: StartBouncer, start_understudy: Callable[[], Understudy]
) -> None:
    """When it was asked what others have, they had none."""
    server = start_understudy()
    bouncer = start_pooler(sections=TWO, databases=behind(server), server_connect_timeout=RETRY)
    with ExitStack() as stack:
        one, *others = (stack.enter_context(client(bouncer)) for _ in range(4))
        other = beside(bouncer, one, others, same=False)
        server.leave()
        until(lambda: not bouncer.admin("SHOW SERVERS"), "all servers to be gone")
        server.login = HANG
        ask(one)
        until(lambda: server.kept, "a login to hang")
        until(lambda: bouncer.pool()["maxwait_us"] > 100_000 or bouncer.pool()["maxwait"], "it to be slow")
        server.login = IN
        ask(other)
        assert served(other)
        assert served(one)
        assert len(server.kept) == 1


@pytest.mark.slow
def test_what_has_failed_here_is_tried_at_once_when_it_has_not_failed_elsewhere(
    start_pooler: StartBouncer, start_understudy: Callable[[], Understudy]
) -> None:
    """The others need theirs."""
    server = start_understudy()
    bouncer = start_pooler(sections=TWO, databases=behind(server), server_login_retry=RETRY)
    with ExitStack() as stack:
        one, *others = (stack.enter_context(client(bouncer)) for _ in range(4))
        other = beside(bouncer, one, others, same=False)
        server.leave()
        until(lambda: not bouncer.admin("SHOW SERVERS"), "all servers to be gone")
        server.login = STARTING
        ask(one)
        until(lambda: "starting up" in bouncer.log.read_text(), "a login to fail")
        server.login = IN
        other.query("BEGIN")
        assert served(one)
        assert len(server.open) == 2
