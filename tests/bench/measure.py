"""What is read off a process and off a run: processor time, memory, percentiles, ratios. No process is
started here.

Processor time is utime + stime of /proc/PID/stat, in clock ticks of 10 ms: a run must last seconds for a
per cent. What is less than that is read off the scheduler's accounts.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Processor:
    """Seconds a process has computed, in user mode and in the kernel on its behalf."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, earlier: Processor) -> Processor:
        return Processor(self.user - earlier.user, self.system - earlier.system)


def processor(pid: int) -> Processor:
    """Of all its threads so far. The command's name may hold blanks, so fields count from its end."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Processor(int(fields[11]) / TICK, int(fields[12]) / TICK)


def computed(pid: int) -> float:
    """Seconds that the threads it has now have computed so far, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that are the process's own or shared with others, present in RAM."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Rss of process {pid}")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def median(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.median(known) if known else float("nan")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round; a round in which theirs is nothing tells nothing."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
