"""The thread behind the prompt: pulse and facts, as they are wanted."""

from __future__ import annotations

import time

from admin.client.address import Address
from admin.client.answers import Answer
from admin.client.link import CannotConnect, CommandFailed, Lost
from admin.repl.background import Background
from tests.fixtures.waiting import until
from tests.unit.repl_console import POOLS, Console, rows

STATS = "database total_xact_count"

DATABASES = rows("name paused", ("app", 1), ("billing", 0), ("pgbouncer", 0))


def test_the_background_keeps_pulse_and_facts(console: Console) -> None:
    counts = iter(range(100, 10_000, 50))
    console.answers |= {
        "SHOW STATS": lambda: rows(STATS, ("app", next(counts)), ("pgbouncer", 1)),
        "SHOW DATABASES": DATABASES,
        "SHOW USERS": rows("name", ("alice",)),
        "SHOW CONFIG": rows("key value default changeable", ("verbose", "0", "0", "yes")),
        "SHOW STATE": rows("key value", ("active", "yes"), ("paused", "no"), ("suspended", "no")),
        "SHOW CLIENTS": rows("id user database state addr ptr", (7, "a", "app", "idle", "::1", "0x7")),
    }
    background = Background(lambda: Address({"host": "h"}), period=0.02)
    background.start()
    try:
        until(lambda: background.facts.settings, "the facts")
        assert background.facts.databases == ("app", "billing")
        assert background.facts.users == ("alice",)
        assert "SHOW POOLS" not in console.asked, "nobody looks at the toolbar"
        assert "SHOW CLIENTS" not in console.asked, "nobody completes a client"
        background.show(True)
        until(lambda: background.pulse.tps, "a rate")
        background.show(False)
        pulse = background.pulse
        assert (pulse.pools, pulse.waiting, pulse.maxwait, pulse.paused) == (2, 2, 1.5, ("app",))
        background.want("clients")
        until(lambda: background.facts.clients, "the clients")
        assert background.facts.clients == (("7", "a@app idle ::1"),)
        background.learn("POOLS", ("x",))
        background.expire("settings")
        until(lambda: console.asked.count("SHOW CONFIG") == 2, "settings again")
        assert background.facts.vocabulary.columns["pools"] == ("x",)
    finally:
        background.stop()
        background.join()


def test_a_console_that_was_restarted_while_nobody_looked_is_no_trouble(console: Console) -> None:
    console.answers |= {"SHOW STATS": rows(STATS, ("app", 1)), "SHOW DATABASES": DATABASES}
    console.answers["SHOW STATE"] = rows("key value", ("paused", "no"))
    background = Background(lambda: Address({"host": "h"}), period=0.02)
    background.start()
    seen = []
    try:
        background.show(True)
        until(lambda: background.pulse.connected, "the connection")
        background.show(False)
        until(lambda: time.monotonic() > background._due + 0.02, "a long absence")
        lost = iter([Lost("restarted")])

        def pools() -> Answer:
            for error in lost:
                raise error
            return POOLS

        console.answers["SHOW POOLS"] = pools
        background.on_change = lambda: seen.append(background.pulse)
        background.show(True)
        assert not background.pulse.connected, "what was shown before is not shown again"
        until(lambda: background.pulse.connected, "the connection again")
    finally:
        background.stop()
        background.join()
    assert not any(pulse.trouble for pulse in seen)


def test_the_background_survives_what_a_console_refuses_and_its_absence(console: Console) -> None:
    console.answers["SHOW CONFIG"] = CommandFailed("admin access needed")
    console.refusals = [CannotConnect("refused")]
    background = Background(lambda: Address({"host": "h"}), period=0.02)
    background.start()
    try:
        until(lambda: background.pulse.trouble, "the trouble")
        assert background.pulse.trouble == "refused"
        console.answers |= {"SHOW STATS": rows(STATS, ("app", 1)), "SHOW DATABASES": DATABASES}
        console.answers["SHOW STATE"] = rows("key value", ("paused", "yes"))
        background.show(True)
        until(lambda: background.pulse.connected, "the connection")
        assert background.pulse.state == "paused"
    finally:
        background.stop()
        background.join()
