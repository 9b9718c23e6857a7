"""What nobody uses is forgotten in its time and not before; what an administrator has said, or the configuration keeps,
is not forgotten at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pooler.config.databases import DatabaseConfig, PeerConfig, UserConfig
from pooler.config.whole import Config, compose
from pooler.net.dns import Name
from pooler.pools.reasons import Kind, Reason
from pooler.pools.registry import Database
from tests.unit.pooler.house.test_bouncer import House


class Unused(House):
    """With a `*`, and a database that keeps its pool."""

    def config(self, port: int) -> Config:
        star = DatabaseConfig("*", hosts=("127.0.0.1",), port=port)
        kept = DatabaseConfig("kept", hosts=("127.0.0.1",), port=port, user="bob", min_pool_size=1)
        return compose({"autodb_idle_timeout": "100", "pool_idle_timeout": "50"}, [star, kept])

    def known(self, name: str) -> Database:
        return self.entry(name)


@pytest.fixture
def place() -> Iterator[Unused]:
    made = Unused()
    yield made
    made.close()


def test_a_database_that_was_made_just_now_is_not_idle_since_the_machine_started(place: Unused) -> None:
    made = place.known("wild")
    assert made.config.auto
    place.bouncer.janitor.forget_databases(place.bouncer.running.now())
    assert place.bouncer.running.registry.databases == {"wild": made}
    made.last_used -= 101
    place.bouncer.janitor.forget_databases(place.bouncer.running.now())
    assert not place.bouncer.running.registry.databases


def test_what_was_counted_of_a_database_counts_on_when_that_is_gone(place: Unused) -> None:
    """Their names are strangers' choice: what is kept of them does not grow."""
    running = place.bouncer.running
    running.tally(Kind.LOGIN, "nothere", Reason.REFUSED)
    for number in range(50):
        made = place.known(f"wild{number}")
        running.tally(Kind.CONNECT, made.name, Reason.SERVER)
        assert running.tallies[Kind.CONNECT, made.name, Reason.SERVER] == 1
        made.last_used -= 101
        place.bouncer.janitor.forget_databases(running.now())
        # Something of it may still end.
        running.tally(Kind.CLOSE, made.name, Reason.SERVER_IDLE)
    assert running.tallies == {
        (Kind.LOGIN, "", Reason.REFUSED): 1,
        (Kind.CONNECT, "", Reason.SERVER): 50,
        (Kind.CLOSE, "", Reason.SERVER_IDLE): 50,
    }


def test_a_user_who_has_left_the_configuration_and_has_nothing_here_is_forgotten(place: Unused) -> None:
    registry, layers = place.bouncer.running.registry, place.bouncer.reconfiguration
    place.log.configure = lambda settings: None  # type: ignore[attr-defined]
    databases = list(layers.written.databases.values())
    layers.adopt(compose({}, databases, users=[UserConfig("anna", pool_size=3), UserConfig("bob", pool_size=3)]))
    registry.user("anna")
    pool = registry.pool(place.known("kept"), "bob")
    layers.adopt(compose({}, databases))
    assert list(registry.users) == ["bob"]
    assert pool.user.config is None


def test_a_name_that_no_entry_has_is_forgotten(place: Unused) -> None:
    place.log.configure = lambda settings: None  # type: ignore[attr-defined]
    names, layers = place.bouncer.dns.names, place.bouncer.reconfiguration
    layers.adopt(compose({}, [DatabaseConfig("*", hosts=("work.test",))]))
    place.known("wild")
    for host in ("work.test", "star.test", "one.test", "peer.test", "old.test", "asked.test"):
        names[host] = Name()
    names["asked.test"].pending = place.loop.create_future()
    written = compose({}, [DatabaseConfig("one", hosts=("star.test", "one.test"))])
    layers.adopt(replace(written, peers={7: PeerConfig(7, host="peer.test")}))
    assert set(names) == {"work.test", "star.test", "one.test", "peer.test", "asked.test"}
    names["asked.test"].pending = None
    layers.adopt(compose({}, [DatabaseConfig("*", hosts=("star.test",))]))
    assert set(names) == {"star.test"}


@pytest.mark.parametrize("own", [None, 0, 2])
@pytest.mark.parametrize("shared", [0, 3])
def test_a_pool_is_there_from_the_start_where_it_has_a_minimum_whoever_says_so(own: int | None, shared: int) -> None:
    class Minimum(House):
        def config(self, port: int) -> Config:
            database = DatabaseConfig("app", hosts=("127.0.0.1",), user="bob", min_pool_size=own)
            return compose({"min_pool_size": str(shared)}, [database])

    made = Minimum()
    made.bouncer.janitor.keep_forced_pools()
    assert bool(list(made.bouncer.running.registry.pools())) is bool(shared if own is None else own)
    made.close()


@pytest.mark.parametrize("word", ["paused", "disabled"])
def test_what_an_administrator_has_said_holds_and_then_its_time_begins(place: Unused, word: str) -> None:
    made = place.known("wild")
    setattr(made, word, True)
    for _ in range(2):
        made.last_used -= 101
        place.bouncer.janitor.forget_databases(place.bouncer.running.now())
        assert place.bouncer.running.registry.databases == {"wild": made}
    setattr(made, word, False)
    place.bouncer.janitor.forget_databases(place.bouncer.running.now())
    assert place.bouncer.running.registry.databases == {"wild": made}


def test_a_pool_that_was_made_just_now_is_not_idle_either(place: Unused) -> None:
    made = place.bouncer.running.registry.pool(place.known("wild"), "anna")
    assert place.bouncer.janitor.forget_pool(made, place.bouncer.running.now()) == made.last_used + 50
    assert list(place.bouncer.running.registry.pools()) == [made]
    place.bouncer.janitor.forget_pool(made, made.last_used + 51)
    assert not list(place.bouncer.running.registry.pools())


def test_a_pool_that_is_kept_for_its_user_is_not_cleaned_up(place: Unused) -> None:
    """It would be made again at once."""
    place.bouncer.janitor.keep_forced_pools()
    (kept,) = place.bouncer.running.registry.pools()
    place.bouncer.janitor.forget_pool(kept, kept.last_used + 1000)
    assert list(place.bouncer.running.registry.pools()) == [kept]
    assert not place.log.having("cleaning up")
