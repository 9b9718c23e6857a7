"""The desk's own rooms: commands that all carry out, the house that a console sees, figures for the periods.

The rule: what is commanded is done here first, where it is known what may be, and then by all; the answer comes when
all have done it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pooler.config.whole import Config
from pooler.history import History
from pooler.house.control import Control
from pooler.relay.engine import Instant
from pooler.stats import Counters, DescriptorStat, SeenStat, SessionStat, Snapshot, Window
from pooler.verbs import House, Remark, Verb
from pooler.workers.desk import Desk

HERE = frozenset(("RELOAD", "SET"))
"""What workers hear of by the configuration that comes of it."""
THERE = frozenset(("KILL_CLIENT",))
"""What only one of them can do."""
SIGNALLED = {
    "PAUSE": Verb("PAUSE"),
    "RESUME": Verb("RESUME"),
    "WAIT_FOR_SERVERS": Verb("SHUTDOWN", "WAIT_FOR_SERVERS"),
    "WAIT_FOR_CLIENTS": Verb("SHUTDOWN", "WAIT_FOR_CLIENTS"),
}


class Chief:
    """Commands and signals, for all."""

    def __init__(self, control: Control, desk: Desk) -> None:
        self._control = control
        self._desk = desk
        control.on_signal = self.signalled
        control.attended = desk.attended

    def signalled(self, word: str) -> None:
        self._desk.tell(SIGNALLED[word])

    async def perform(self, verb: Verb) -> Remark | None:
        """Do it here, and have all do it. Raises CommandError."""
        desk = self._desk
        if verb.name in THERE:
            return await desk.perform(verb)
        if verb.name == "SHUTDOWN" and verb.argument:
            desk.tell(verb)
        if verb.name == "KILL" and not verb.argument:
            await desk.learn_databases()
        # All are told in the same breath, and so of all commands in the order in which they are done here.
        remark = await self._control.begin(verb)
        if verb.name in HERE:
            if desk.in_force is not None:
                await desk.in_force
            return remark
        if verb.name == "RECONNECT":
            desk.forget_welcomes()
        if verb.name != "SHUTDOWN":
            remark = await desk.perform(verb) or remark
        await self._control.finish(verb)
        return remark


class Union:
    """What a console sees (verbs.House): all workers as one."""

    def __init__(self, house: House, desk: Desk, chief: Chief, shown: Snapshot | None = None) -> None:
        self._house = house
        self._desk = desk
        self._chief = chief
        self._shown = shown

    @property
    def config(self) -> Config:
        return self._house.config

    @property
    def history(self) -> History:
        return self._house.history

    async def prepared(self, needs: frozenset[str]) -> House:
        desk = self._desk
        wanted = {name: name in needs for name in ("clients", "servers", "histograms")}
        shown = await desk.figures(**wanted)
        if "sessions" in needs:
            await desk.gather_sessions()
        if "descriptors" in needs:
            await desk.gather_descriptors()
        return Union(self._house, desk, self._chief, shown)

    def snapshot(self, *, clients: bool = False, servers: bool = False, histograms: bool = False) -> Snapshot:
        return self._shown if self._shown is not None else self._desk.known()

    def descriptors(self) -> Iterable[DescriptorStat]:
        return self._desk.descriptors

    def session_state(self) -> Iterable[SessionStat]:
        return self._desk.sessions

    def session_state_seen(self) -> Iterable[SeenStat]:
        return self._desk.seen

    def asked(self) -> None:
        self._house.asked()

    def pace(self) -> None:
        self._house.pace()

    async def perform(self, verb: Verb) -> Remark | None:
        return await self._chief.perform(verb)


class Summed:
    """Figures of all, for the periods (periods.Counted): those that were told last."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.window: Window = desk.window

    def take(self, instant: Instant, *, histograms: bool = False) -> Snapshot:
        return self._desk.sum_of({}, histograms=histograms)

    def counters(self) -> dict[object, Counters]:
        return self._desk.counters()
