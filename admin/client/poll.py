"""A console asked again and again, over a connection of its own: answers in, frozen figures out.

The toolbar of `pooler console` and `pooler top` each have one on a thread. What is worth asking, and how often, is
theirs to say; that a view the console lacks is not asked for, and that all figures come of the same reading of SHOW
(`pooler.readback`), is here. The rule: the thread that uses it owns it; any other may only `abort` and `forget`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from admin.client import vocabulary
from admin.client.address import Address
from admin.client.link import CommandFailed, Link, Lost
from admin.client.vocabulary import Vocabulary
from pooler.readback import Readings, ShowRow
from pooler.stats import Snapshot

ANSWER_SECONDS = 10.0


class Poll:
    """One console's views. `address` is asked at each connecting, `name` is the application's. Every question may raise
    Lost and CommandFailed."""

    def __init__(self, address: Callable[[], Address], name: str, seconds: float = ANSWER_SECONDS) -> None:
        self.words: Vocabulary = vocabulary.own()
        """What this console says it understands."""
        self._address = address
        self._name = name
        self._seconds = seconds
        self._link: Link | None = None
        self._readings = Readings()

    @property
    def version(self) -> str:
        return self._link.version if self._link else ""

    def connect(self) -> bool:
        """See to it that there is a connection; whether it is another than before, of which nothing is known. Raises
        CannotConnect as well."""
        if self._link is not None and not self._link.closed:
            return False
        self.close()
        link = self._link = Link.open(self._address(), self._name)
        try:
            told = link.ask("SHOW HELP", seconds=self._seconds)
        except (CommandFailed, Lost):
            self.close()  # for the next time to begin with it again
            raise
        self.words = vocabulary.own().told(told.notices)
        return True

    def ask(self, view: str) -> list[ShowRow]:
        """Its rows, now; they are not kept."""
        assert self._link is not None
        return list(self._link.ask(f"SHOW {view}", seconds=self._seconds).records())

    def refresh(self, *views: str, within: float = 0.0) -> list[str]:
        """Ask for those of which nothing younger than `within` seconds is known, and which the console has; which that
        were."""
        due = self._readings.due(filter(self.words.has_view, views), time.monotonic(), within)
        for view in due:
            self._readings.take(view, self.ask(view), time.monotonic())
        return due

    def rows(self, view: str) -> Sequence[ShowRow]:
        """As they were last told; none when it was never asked for."""
        return self._readings.rows(view)

    def snapshot(self) -> Snapshot:
        """The figures of all that was asked for."""
        return self._readings.snapshot(time.time(), time.monotonic())

    def forget(self) -> None:
        """Something was changed by a command: nothing that is known is young any more."""
        self._readings.forget()

    def abort(self) -> None:
        """What it is waiting for ends now."""
        link = self._link
        if link is not None:
            link.abort()

    def close(self) -> None:
        link, self._link = self._link, None
        self._readings = Readings()
        if link is not None:
            link.close()
