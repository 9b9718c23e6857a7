"""Client connections counted by names that clients choose themselves: cleaned, cut and bounded in number.

A client may call itself anything, and ten thousand clients may call themselves ten thousand things; a time
series database must not suffer for it. The most frequent names keep series of their own, the rest are
counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pooler.stats import Snapshot

MAX_NAMES = 100
MAX_SERIES = 2000
MAX_LENGTH = 63
"""PostgreSQL cuts application_name there too."""
OTHERS = "(others)"


def clean(name: str) -> str:
    """Printable and at most MAX_LENGTH characters: what is not printable becomes `?`, as in PostgreSQL's
    own."""
    return "".join(char if char.isprintable() else "?" for char in name[:MAX_LENGTH])


def printable(name: str) -> str:
    """`name` as it is; if it holds controls, line separators or lone surrogates, those as escapes."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def client_connections(snapshot: Snapshot) -> Iterator[tuple[tuple[str, ...], float]]:
    """(database, user, application_name, state) and the number of such clients. The sum is always all
    clients."""
    told = Counter((client.database, client.user, client.application_name, client.state) for client in snapshot.clients)
    groups: Counter[tuple[str, str, str, str]] = Counter()
    for (database, user, name, state), count in told.items():
        groups[database, user, clean(name), state] += count
    names: Counter[str] = Counter()
    for (_, _, name, _), count in groups.items():
        names[name] += count
    kept = {name for name, _ in names.most_common(MAX_NAMES)}
    bounded: Counter[tuple[str, str, str, str]] = Counter()
    for (database, user, name, state), count in groups.most_common():
        key = (database, user, name if name in kept else OTHERS, state)
        if key not in bounded and len(bounded) >= MAX_SERIES:
            key = (OTHERS, OTHERS, OTHERS, state)
        bounded[key] += count
    yield from bounded.items()
