"""What whoever follows lines may meet: that the other side went, or that it will not; and the end of what is past."""

from __future__ import annotations

from collections.abc import Iterable

from metrics.heroku import LogLine


class Lost(Exception):
    """The other side cannot be reached, or went; worth another try."""


class Refused(Exception):
    """The other side answered that it will not; no use to try again."""


def newest(lines: Iterable[LogLine], count: int) -> list[LogLine]:
    """The last `count` of them."""
    return list(lines)[-count:] if count else []
