"""What may have been meant: the nearest of the known words, and a URL whose password was not escaped.

The rule: a hint is only ever beside an error, never instead of one, and repeats nothing that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 64
"""Characters of a name that is compared: looking takes the square of them."""
NEAR = 0.7
"""How much alike two words are that may be meant for each other, from 0 to 1."""

ESCAPES = "a password's @ : / ? # and % are written %40 %3A %2F %3F %23 and %25 in a URL"


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like `given`, whatever its case."""
    if not given or len(given) > LONGEST:
        return None
    # Loaded with the first mistake only.
    from difflib import get_close_matches

    names = {name.lower(): name for name in known}
    found = get_close_matches(given.lower(), [name for name in names if len(name) <= LONGEST], 1, NEAR)
    return names[found[0]] if found and names[found[0]] != given else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """As a clause behind what is wrong; empty when nothing looks like it."""
    found = nearest(word, known)
    return f"did you mean {found}?" if found else ""


def hint(given: str, known: Iterable[str]) -> str:
    """As the HINT of an error; empty where nothing is near."""
    found = nearest(given, known)
    return f'Perhaps you meant "{found}".' if found else ""


_HEAD = re.compile(r"[a-z]+://", re.IGNORECASE)
_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")


def escape_hint(url: str) -> str:
    """What to say of a URL that did not work, when its password looks as if it were not escaped; empty otherwise.

    A user and password end at the last @ before the query, unless a later part holds one: so this is a guess, fit for
    a URL that did not work anyway.
    """
    head = _HEAD.match(url)
    if head is None:
        return ""
    rest = url[head.end() :]
    login, at, _ = rest.rpartition("@")
    if not at:
        return ""
    _, colon, password = login.partition(":")
    odd = colon and (any(mark in password for mark in "@:/?#") or _ESCAPE.search(password))
    return ESCAPES if odd else ""
