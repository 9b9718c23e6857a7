"""Whom the limits of clients count, and whom they refuse: consoles are clients like others, administrators are counted
and never refused, and with auth_type=any a client is the user of its database. PgBouncer 1.26.1 gives the same answers.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack

import pytest

from tests.fixtures import stream
from tests.fixtures.cluster import Cluster
from tests.fixtures.process import ADMIN, Bouncer, StartBouncer
from tests.fixtures.stream import Stream
from tests.fixtures.waiting import DEADLINE, until

USER = "client connections exceeded (max_user_client_connections)"
DATABASE = "client connections exceeded (max_db_client_connections)"
ALL = "no more connections allowed (max_client_conn)"
SERVICES: dict[str, tuple[str, dict[str, dict[str, object]]]] = {
    "one process": ("start_pooler", {}),
    "two workers": ("start_pooler", {"pooler": {"workers": 2}}),
    "PgBouncer": ("start_newest_pgbouncer", {}),
}
"""What starts one, with which sections of the ini."""
LIMITS = ALL_CLIENTS, *_ = "max_client_conn", "max_user_client_connections", "max_db_client_connections"
RIGHTS = {"admin_users": "postgres", "stats_users": "trusty"}


class Crowd:
    """Clients that stay."""

    def __init__(self, stack: ExitStack, bouncer: Bouncer) -> None:
        self.stack, self.bouncer = stack, bouncer

    def come(self, count: int, user: str, database: str = ADMIN) -> list[str]:
        """Of each what it is told: nothing when it is let in."""
        words = []
        for _ in range(count):
            one = self.stack.enter_context(Stream(("127.0.0.1", self.bouncer.port)))
            one.send(stream.startup({"user": user, "database": database}))
            last = one.until("Z", "E")[-1]
            words.append(last.error["M"] if last.type == "E" else "")
        return words

    @property
    def users(self) -> dict[str, int]:
        rows = self.bouncer.admin("SHOW USERS")
        return {row["name"]: row["current_client_connections"] for row in rows if row["current_client_connections"]}

    @property
    def databases(self) -> dict[str, tuple[int, int]]:
        """(most, now)."""
        rows = self.bouncer.admin("SHOW DATABASES")
        return {row["name"]: (row["max_client_connections"], row["current_client_connections"]) for row in rows}


def test_consoles_have_the_limits_of_their_users(start_same: StartBouncer) -> None:
    bouncer = start_same(max_user_client_connections=2, **RIGHTS)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(3, "trusty") == ["", "", USER]
        assert crowd.come(3, "postgres") == ["", "", ""]
        assert crowd.come(1, "trusty", "app") == crowd.come(1, "postgres", "app") == [USER]
        assert crowd.users == {"trusty": 2, "postgres": 4}
        assert crowd.databases[ADMIN] == (0, 6)


@pytest.mark.parametrize("limit", ["max_user_client_connections", "max_db_client_connections"])
def test_consoles_that_come_all_at_once_have_it_too(start_same: StartBouncer, limit: str) -> None:
    bouncer = start_same(**{limit: 2}, **RIGHTS)
    bouncer.signal(signal.SIGSTOP)
    with ExitStack() as stack:
        try:
            several = [stack.enter_context(Stream(("127.0.0.1", bouncer.port))) for _ in range(6)]
            for one in several:
                one.send(stream.startup({"user": "trusty", "database": ADMIN}))
        finally:
            bouncer.signal(signal.SIGCONT)
        assert sorted(one.until("Z", "E")[-1].type for one in several) == ["E"] * 4 + ["Z"] * 2


def test_a_user_in_users_has_a_limit_of_its_own_on_the_console(start_same: StartBouncer) -> None:
    bouncer = start_same(user_settings={"trusty": "max_user_client_connections=1"}, **RIGHTS)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(2, "trusty") == ["", USER]
        assert crowd.come(2, "postgres", "app") == ["", ""]


def test_clients_elsewhere_leave_a_user_no_console(start_same: StartBouncer) -> None:
    bouncer = start_same(max_user_client_connections=2, **RIGHTS)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(2, "trusty", "app") == ["", ""]
        assert crowd.come(1, "trusty") == [USER]
        assert crowd.come(2, "postgres", "app") == ["", ""]
        assert crowd.come(1, "postgres") == [""]


def test_the_console_is_a_database_with_a_limit(start_same: StartBouncer) -> None:
    bouncer = start_same(max_db_client_connections=2, **RIGHTS)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(3, "trusty") == ["", "", DATABASE]
        assert crowd.come(2, "postgres") == ["", ""]
        assert crowd.come(3, "trusty", "app") == ["", "", DATABASE]
        assert crowd.databases == {"app": (2, 2), "other": (2, 0), ADMIN: (2, 5)}


def test_consoles_count_for_max_client_conn_which_refuses_none_of_them(start_same: StartBouncer) -> None:
    bouncer = start_same(max_client_conn=3, **RIGHTS)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(2, "trusty") == crowd.come(2, "postgres") == ["", ""]
        assert crowd.come(1, "trusty", "app") == [ALL]
        assert crowd.come(1, "trusty") == [""]
    with ExitStack() as stack:
        later = Crowd(stack, bouncer)
        until(lambda: later.come(1, "trusty", "app") == [""], "the consoles to be gone")


def test_a_console_that_has_gone_counts_no_more(start_same: StartBouncer) -> None:
    bouncer = start_same(max_user_client_connections=1, **RIGHTS)
    for _ in range(3):
        with ExitStack() as stack:
            crowd = Crowd(stack, bouncer)
            assert crowd.come(1, "trusty") == [""]

        def gone(crowd: Crowd = crowd) -> bool:
            return "trusty" not in crowd.users

        until(gone)


@pytest.mark.one_process("a worker hears of a console's end from the process that has it")
@pytest.mark.parametrize("how", ["terminate", "close"])
def test_who_comes_right_behind_a_console_has_its_place(start_same: StartBouncer, how: str) -> None:
    """As a collector of figures does that has a place of its own and connects each time."""
    bouncer = start_same(max_user_client_connections=1, client_tls_sslmode="disable", **RIGHTS)
    for _ in range(30):
        with Stream(("127.0.0.1", bouncer.port)) as one:
            one.send(stream.startup({"user": "trusty", "database": ADMIN}))
            assert one.until("Z", "E")[-1].type == "Z"
            # Behind an answer everything that was to be done for the login has been done.
            one.query("SHOW VERSION")
            if how == "terminate":
                one.send(stream.terminate())


@pytest.mark.parametrize(
    ("auth_type", "limited", "third", "counted"),
    [("any", "trusty", USER, "trusty"), ("any", "scram_user", "", "trusty"), ("trust", "trusty", "", "scram_user"),
     ("trust", "scram_user", USER, "scram_user")],
)  # fmt: skip
def test_who_a_client_of_a_forced_user_is(
    start_same: StartBouncer, cluster: Cluster, auth_type: str, limited: str, third: str, counted: str
) -> None:
    where = f"host={cluster.host} port={cluster.port} dbname=app user=trusty"
    limit = {limited: "max_user_client_connections=2"}
    bouncer = start_same(databases={"app": where}, auth_type=auth_type, user_settings=limit)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(3, "scram_user", "app") == ["", "", third]
        assert crowd.users[counted] == 2 + (not third)
        shown = {row["user"] for row in bouncer.admin("SHOW CLIENTS") if row["database"] == "app"}
        assert shown == {counted}
        bouncer.wait_log(rf"C-\w+: app/{counted}@\S+ login attempt: db=app user={counted} ")


def test_with_any_the_console_has_one_user(start_same: StartBouncer) -> None:
    bouncer = start_same(auth_type="any", admin_users="postgres", max_user_client_connections=2)
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        assert crowd.come(1, "this one") == crowd.come(1, "that one") == [""]
        assert crowd.come(1, "another one") == [USER]
        assert {row["user"] for row in bouncer.admin("SHOW CLIENTS")} == {ADMIN}


@pytest.mark.parametrize("logged", [0, 1])
@pytest.mark.parametrize("who", ["regular", "stranger"])
def test_who_has_gone_is_counted_out_before_who_comes_at_the_same_moment(
    start_pooler: StartBouncer, who: str, logged: int
) -> None:
    """Whether or not its end is told, and the other one has been here before."""
    bouncer = start_pooler(max_client_conn=1, log_disconnections=logged)
    with ExitStack() as stack:
        for turn in range(3):
            at_once(stack, bouncer, who, turn, None)


@pytest.mark.parametrize("who", ["regular", "stranger"])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("logged", [1, 0])
def test_and_before_who_was_in_the_middle_of_its_login(
    start_pooler: StartBouncer, logged: int, limit: str, who: str
) -> None:
    """As libpq is, which asks for TLS first."""
    bouncer = start_pooler(log_disconnections=logged, tcp_defer_accept=0, **{limit: 1})
    with ExitStack() as stack:
        for turn in range(3):
            second = stack.enter_context(Stream(("127.0.0.1", bouncer.port)))
            second.send(stream.request(stream.SSL_REQUEST))
            assert second.read_bytes(1) == b"N"
            at_once(stack, bouncer, who, turn, second)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["regular", "stranger"])
@pytest.mark.parametrize(
    ("service", "limit"),
    # With max_client_conn PgBouncer refuses some: it counts who is accepted, before it sees who has gone.
    [(service, limit) for service in SERVICES for limit in LIMITS if (service, limit) != ("PgBouncer", ALL_CLIENTS)],
)
def test_who_comes_right_behind_one_who_has_gone_has_its_place(
    request: pytest.FixtureRequest, service: str, who: str, limit: str
) -> None:
    """Wherever it is handed to: most often that is a worker that knows least of the one before."""
    start, sections = SERVICES[service]
    bouncer = request.getfixturevalue(start)(sections=sections, client_tls_sslmode="disable", **{limit: 1})

    def comes_and_goes(turn: int) -> str:
        name = {"application_name": str(turn)} if who == "stranger" else {}
        with Stream(("127.0.0.1", bouncer.port)) as one:
            one.send(stream.startup({"user": "trusty", "database": "app"} | name))
            last = one.until("Z", "E")[-1]
            if last.type == "E":
                return last.error["M"]
            one.query("SELECT 1")
            one.send(stream.terminate())
        return ""

    until(lambda: not comes_and_goes(-1), "whoever has looked whether it is up to be gone")
    assert {comes_and_goes(turn) for turn in range(200)} == {""}
    if service == "two workers":
        assert min(row["xact_count"] for row in bouncer.admin("SHOW WORKERS")) > 20, "they come by both"


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS)
def test_a_worker_that_hangs_holds_up_no_refusal(start_pooler: StartBouncer, limit: str) -> None:
    """Whether its client has gone nobody knows."""
    bouncer = start_pooler(sections={"pooler": {"workers": 2}}, client_tls_sslmode="disable", **{limit: 1})
    with ExitStack() as stack:
        crowd = Crowd(stack, bouncer)
        until(lambda: crowd.come(1, "trusty", "app") == [""], "whoever has looked whether it is up to be gone")
        there = next(row["pid"] for row in bouncer.admin("SHOW WORKERS") if row["servers"])
        os.kill(there, signal.SIGSTOP)
        try:
            # One of the two is handed to the other worker.
            several = [stack.enter_context(Stream(("127.0.0.1", bouncer.port))) for _ in range(2)]
            for one in several:
                one.send(stream.startup({"user": "trusty", "database": "app"}))
            answered, _, _ = select.select([one.socket for one in several], [], [], DEADLINE)
            (told,) = (one for one in several if one.socket in answered)
            said = {"max_client_conn": ALL, "max_user_client_connections": USER}.get(limit, DATABASE)
            assert told.until("E")[-1].error["M"] == said
            assert "has not answered for" not in bouncer.log_text(), "nor does it wait until that one is ended"
        finally:
            os.kill(there, signal.SIGCONT)


def at_once(stack: ExitStack, bouncer: Bouncer, who: str, turn: int, second: Stream | None) -> None:
    """One goes, and another one (None: who has yet to connect) asks for its place, in one look of the pooler's; a
    stranger says what nobody has said before."""
    me = {"user": "trusty", "database": "app"}
    address = ("127.0.0.1", bouncer.port)
    first = stack.enter_context(Stream(address))
    first.send(stream.startup(me))
    first.until("Z")
    # Behind an answer nobody is accepted any more before the next look.
    first.send(stream.query("SELECT 1"))
    first.until("Z")
    bouncer.signal(signal.SIGSTOP)
    try:
        first.send(stream.terminate())
        first.socket.close()
        second = stack.enter_context(Stream(address)) if second is None else second
        second.send(stream.startup(me if who == "regular" else me | {"application_name": f"{turn}"}))
    finally:
        bouncer.signal(signal.SIGCONT)
    assert second.until("Z", "E")[-1].type == "Z"
    second.send(stream.terminate())
    second.rest()
