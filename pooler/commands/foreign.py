"""`pooler metrics`: the fronts over a PgBouncer that is not ours, and the pooler's own ring for their last hour."""

from __future__ import annotations

import time

from metrics.foreign import command as foreign
from pooler.history import History


def main(arguments: list[str]) -> int:
    return foreign.main(arguments, History(time.time()))
