"""Who may hold something large at once, and what comes of those who hold it without need.

Rows of ten thousand clients, or a process that runs a SELECT, are held from a statement's begin to its last row, which
its client takes when it likes. So there are seats, and a queue before them. The rule: nobody waits for a client that
takes nothing. While others wait, who has sat idle for `patience` seconds gets up, and is told so when it comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from admin.console.answers import no_rows
from admin.fieldtypes import Row
from pooler.verbs import CommandError

LOOK_SECONDS = 0.25
"""Between two looks for somebody who sits idle."""


class Seat:
    """One place, from `Seats.take` to `leave`. `idle_since` is when it began to wait for its client, in the loop's
    time; None while it works. `on_leave` is called once, when it is given back or taken away."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self.idle_since: float | None = None
        self.on_leave: Callable[[], None] = lambda: None
        self._taken_away = False

    def leave(self) -> None:
        if self in self._seats.taken:
            self._seats.taken.remove(self)
            self.on_leave()
            self._seats.call_up()

    def take_away(self) -> None:
        self._taken_away = True
        self.leave()

    def check(self) -> None:
        """Raises CommandError when it was taken away."""
        if self._taken_away:
            raise CommandError("canceling statement: its rows were not taken while others waited", "57014")


class Seats:
    """`most` at once. Who has waited `wait` seconds for one is told to come back later."""

    def __init__(self, most: int, *, patience: float, wait: float) -> None:
        self._most = most
        self._patience = patience
        self._wait = wait
        self.taken: list[Seat] = []
        self._first: deque[asyncio.Future[Seat]] = deque()
        self._others: deque[asyncio.Future[Seat]] = deque()

    async def take(self, *, first: bool) -> Seat:
        """A seat, in the order of coming, but those who are `first` before all others. Raises CommandError."""
        if len(self.taken) < self._most:
            return self._sit()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Seat] = loop.create_future()
        queue = self._first if first else self._others
        queue.append(turn)
        deadline = loop.time() + self._wait
        try:
            while not turn.done():
                if loop.time() >= deadline:
                    raise CommandError("too many statements at once, try again later", "53000")
                self._clear(loop.time() - self._patience)
                await asyncio.wait((turn,), timeout=LOOK_SECONDS)
            return turn.result()
        except asyncio.CancelledError:
            if turn.done():
                turn.result().leave()
            raise
        finally:
            if turn in queue:
                queue.remove(turn)

    def _sit(self) -> Seat:
        seat = Seat(self)
        self.taken.append(seat)
        return seat

    def call_up(self) -> None:
        """Seats that are free go to those who wait."""
        while len(self.taken) < self._most and (self._first or self._others):
            (self._first or self._others).popleft().set_result(self._sit())

    def _clear(self, before: float) -> None:
        """Take the seat of whoever has sat idle the longest, if that is since `before`."""
        idle = [(seat.idle_since, place) for place, seat in enumerate(self.taken) if seat.idle_since is not None]
        if idle and min(idle)[0] <= before:
            self.taken[min(idle)[1]].take_away()


class Seated(AsyncIterator[Sequence[Row]]):
    """Batches of an answer whose maker has a seat: idle while its client has one of them to take."""

    def __init__(self, seat: Seat, batches: AsyncIterator[Sequence[Row]]) -> None:
        self._seat = seat
        self._batches = batches
        self._more = seat.on_leave
        seat.on_leave = self._left

    async def __anext__(self) -> Sequence[Row]:
        self._seat.check()
        self._seat.idle_since = None
        try:
            batch = await anext(self._batches)
        except BaseException:
            self._seat.leave()
            raise
        self._seat.idle_since = asyncio.get_running_loop().time()
        return batch

    def _left(self) -> None:
        self._batches = no_rows()
        self._more()
