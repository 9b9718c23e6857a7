"""The ledger: who of the workers has how much of what is limited for all of them together.

Accounts are named by what a limit is of: all clients, those of a database or a user, the servers of a pool, a database
or a user. Pure bookkeeping. The rule: a right is in one worker's hands or in nobody's; it is taken on all of its
accounts or on none, and what a worker had is nobody's when it is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

Account = tuple[str, ...]
"""What a limit is of, such as ("database", "app")."""

CLIENTS: Account = ("clients",)
DESK = -1
"""Who holds the rights of the desk's own connections."""


def clients_of(database: str | None, user: str) -> tuple[Account, Account, Account]:
    """What a client counts for. `database` None: the console."""
    return CLIENTS, ("clients of database", database or ""), ("clients of user", user)


def servers_of(database: str, user: str) -> tuple[Account, Account, Account]:
    """What a server counts for."""
    return ("pool", database, user), ("database", database), ("user", user)


class Ledger:
    """Who holds what."""

    def __init__(self) -> None:
        self._held: dict[Account, Counter[int]] = {}
        """By account and worker."""

    def total(self, account: Account) -> int:
        return sum(self._held[account].values()) if account in self._held else 0

    def holders(self, account: Account) -> list[tuple[int, int]]:
        """(worker, how many), who has most first."""
        return [(worker, count) for worker, count in self._held.get(account, Counter()).most_common() if count > 0]

    def held(self, worker: int, account: Account) -> int:
        return self._held[account][worker] if account in self._held else 0

    def take(self, worker: int, wanted: Iterable[tuple[Account, int]]) -> Account | None:
        """One more on each of these accounts, with their limits (0: none). The account that has no room, and nothing is
        taken; None when it is."""
        pairs: Sequence[tuple[Account, int]] = tuple(wanted)
        for account, limit in pairs:
            if limit and self.total(account) >= limit:
                return account
        for account, _ in pairs:
            self._held.setdefault(account, Counter())[worker] += 1
        return None

    def give_back(self, worker: int, accounts: Iterable[Account], count: int = 1) -> None:
        """So many fewer on each of these; never less than none."""
        for account in accounts:
            held = self._held.get(account)
            if held is None:
                continue
            held[worker] -= count
            if held[worker] <= 0:
                del held[worker]
            if not held:
                del self._held[account]

    def gone(self, worker: int) -> list[Account]:
        """The worker is gone: the accounts on which there is room now."""
        freed = [account for account, held in self._held.items() if held.pop(worker, 0) > 0]
        for account in freed:
            if not self._held[account]:
                del self._held[account]
        return freed
