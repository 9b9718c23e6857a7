"""The ledger: rights are in one worker's hands or in nobody's, whatever is taken, given back and lost."""

from __future__ import annotations

import random
from collections import Counter

from pooler.workers.ledger import CLIENTS, Ledger, clients_of, servers_of

POOL, DATABASE, USER = servers_of("app", "u")


def test_a_right_is_taken_on_all_of_its_accounts_or_on_none() -> None:
    ledger = Ledger()
    limits = [(POOL, 2), (DATABASE, 3), (USER, 0)]
    assert ledger.take(1, limits) is None
    assert ledger.take(2, limits) is None
    assert ledger.take(1, limits) == POOL
    assert [ledger.total(account) for account in (POOL, DATABASE, USER)] == [2, 2, 2]
    assert ledger.take(1, [(DATABASE, 2), (USER, 0)]) == DATABASE
    assert ledger.total(USER) == 2


def test_what_a_worker_had_is_nobodys_when_it_is_gone() -> None:
    ledger = Ledger()
    for worker in (1, 1, 2):
        ledger.take(worker, [(POOL, 3), (DATABASE, 0)])
    assert ledger.holders(POOL) == [(1, 2), (2, 1)]
    assert set(ledger.gone(1)) == {POOL, DATABASE}
    assert (ledger.total(POOL), ledger.held(1, POOL), ledger.held(2, POOL)) == (1, 0, 1)
    assert ledger.take(2, [(POOL, 3)]) is None


def test_nothing_is_ever_below_nought() -> None:
    ledger = Ledger()
    ledger.give_back(1, [CLIENTS], 5)
    assert ledger.take(1, [(CLIENTS, 1)]) is None
    ledger.give_back(1, [CLIENTS], 5)
    assert (ledger.total(CLIENTS), ledger.held(1, CLIENTS)) == (0, 0)
    assert ledger.take(2, [(CLIENTS, 1)]) is None


def test_a_console_counts_for_its_own_database() -> None:
    assert clients_of(None, "u")[1] != clients_of("app", "u")[1]
    assert clients_of(None, "u")[2] == clients_of("app", "u")[2]


def test_many_plays_never_pass_a_limit_and_lose_nothing() -> None:
    """Against a plain list of who holds what."""
    dice = random.Random(7)
    accounts = [("pool", str(n)) for n in range(4)]
    limits = dict(zip(accounts, (1, 2, 5, 0), strict=True))
    for _ in range(200):
        ledger, held = Ledger(), Counter[tuple[int, tuple[str, str]]]()
        for _ in range(60):
            worker, some = dice.randrange(3), dice.sample(accounts, dice.randint(1, 3))
            what = dice.random()
            if what < 0.6:
                full = [a for a in some if limits[a] and sum(held[w, a] for w in range(3)) >= limits[a]]
                assert ledger.take(worker, [(a, limits[a]) for a in some]) == (full[0] if full else None)
                if not full:
                    held.update((worker, a) for a in some)
            elif what < 0.95:
                ledger.give_back(worker, some)
                for account in some:
                    held[worker, account] = max(0, held[worker, account] - 1)
            else:
                freed = {a for a in accounts if held[worker, a]}
                assert set(ledger.gone(worker)) == freed
                for account in accounts:
                    held[worker, account] = 0
            for account in accounts:
                assert ledger.total(account) == sum(held[w, account] for w in range(3))
                assert not limits[account] or ledger.total(account) <= limits[account]
