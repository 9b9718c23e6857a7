"""The agenda: who is to be looked at when, in the order of time.

It reads no clock. The rule: what it takes does not grow with how often something is put off, and nobody is looked at
before its time for having been put off.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
SLACK = 64
"""Entries that may be out of date before they are thrown out."""


class Agenda(Generic[T]):
    """One time for each."""

    def __init__(self) -> None:
        self._due: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()

    def put(self, who: T, due: float) -> None:
        """It is to be looked at then, and no longer when it was to be before; `inf`: never."""
        if due == inf:
            self._due.pop(who, None)
        elif self._due.get(who) != due:
            self._due[who] = due
            heappush(self._heap, (due, next(self._numbers), who))
            if len(self._heap) > 2 * len(self._due) + SLACK:
                self._heap = [(due, next(self._numbers), who) for who, due in self._due.items()]
                heapify(self._heap)

    @property
    def next(self) -> float:
        """When somebody is due first; `inf` when nobody is."""
        heap = self._heap
        while heap and self._due.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else inf

    def take(self, now: float) -> T | None:
        """The next one who is due by now, no longer on the agenda."""
        if self.next > now:
            return None
        _, _, who = heappop(self._heap)
        del self._due[who]
        return who
