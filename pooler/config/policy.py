"""session_state: what becomes of that which a client leaves in its session, as a text -> Policy.

`keep`, `leak` or `refuse`, and behind it exceptions by kind: `keep listen:refuse advisory_lock:leak`. The rule: the
more particular level holds as a whole (a user's before a database's before the service's), as with PgBouncer's
settings; what is understood is what `show` says.
"""

from __future__ import annotations

from enum import StrEnum

from pooler.config.kinds import Kind
from pooler.touches import WORDS, Held
from pooler.values import dataclass


class Fate(StrEnum):
    """`keep`: it follows the client, or the server stays with it. `leak`: it stays on the server, as with PgBouncer;
    `refuse`: the statement fails."""

    keep = "keep"
    leak = "leak"
    refuse = "refuse"


NAMES = {word: kind for kind, word in WORDS.items()}


@dataclass(frozen=True, slots=True)
class Policy:
    """The fate of each kind."""

    usual: Fate
    exceptions: tuple[tuple[Held, Fate], ...] = ()

    def fate(self, kind: Held) -> Fate:
        return dict(self.exceptions).get(kind, self.usual)

    def mask(self, fate: Fate) -> int:
        """The kinds that have it."""
        return sum(kind for kind in WORDS if self.fate(kind) is fate)


def _policy(text: str) -> Policy:
    words = text.replace(",", " ").split()
    if not words:
        raise ValueError("keep, leak or refuse is needed")
    exceptions: dict[Held, Fate] = {}
    for word in words[1:]:
        name, colon, fate = word.partition(":")
        if not colon or name not in NAMES:
            raise ValueError(f"kind:fate is needed, with a kind of {', '.join(NAMES)}")
        exceptions[NAMES[name]] = _fate(fate)
    return Policy(_fate(words[0]), tuple(exceptions.items()))


def _fate(word: str) -> Fate:
    try:
        return Fate(word)
    except ValueError:
        raise ValueError(f"{', '.join(Fate)} are known") from None


def _shown(policy: Policy) -> str:
    return " ".join((policy.usual, *(f"{WORDS[kind]}:{fate}" for kind, fate in policy.exceptions)))


POLICY: Kind[Policy] = Kind("policy", _policy, _shown, lambda text: _shown(_policy(text)))
