"""The catalog in Prometheus's text and OpenMetrics formats, by prometheus-client and a private registry.

`SnapshotCollector` is the catalog as prometheus-client wants it. `Exposition` writes the same text for /metrics at a
tenth of the cost: the library writes each series' name and labels once, later scrapes only put a new value behind them.
It gives pieces of a few hundred series, so that two thousand databases do not hold up the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from metrics.buckets import LABELS
from metrics.cardinality import printable
from metrics.catalog import CATALOG, UP, Figure
from pooler.rounds import Rounds, in_the_log_of
from pooler.stats import Snapshot

PIECE_SERIES = 500
"""Written in one go: about a millisecond."""

CHUNK_ROWS = 20
"""Of new series: prometheus-client writes a histogram's in some milliseconds."""

Encoder = Callable[[Collector], bytes]
_EOF = "# EOF\n"
_UP = Figure(UP.name, UP.kind, UP.help, (), lambda snapshot: [((), 1)])


class SnapshotCollector(Collector):
    """All figures of one Snapshot; of None, only that there is none."""

    def __init__(self, snapshot: Snapshot | None, catalog: Iterable[Figure] = CATALOG) -> None:
        self._snapshot = snapshot
        self._catalog = tuple(catalog)

    def collect(self) -> Iterator[Metric]:
        up = Metric(UP.name, UP.help, UP.kind)
        up.add_sample(UP.name, {}, 0 if self._snapshot is None else 1)
        yield up
        for figure in self._catalog if self._snapshot is not None else ():
            assert self._snapshot is not None
            metric = Metric(figure.name, figure.help, figure.kind)
            for name, labels, value in series_of(figure, self._snapshot):
                metric.add_sample(name, labelled(labels), value)
            if metric.samples:
                yield metric


def registry_of(snapshot: Snapshot | None, catalog: Iterable[Figure] = CATALOG) -> CollectorRegistry:
    """A private registry: nothing of the process's default one is in it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, catalog))
    return registry


Labels = tuple[tuple[str, str], ...]


def series_of(figure: Figure, snapshot: Snapshot) -> Iterator[tuple[str, Labels, float]]:
    """(sample name, labels, value) of each series; a histogram is a series for each bucket, its count and its sum."""
    for values, value in figure.read(snapshot):
        yield figure.exposed, tuple(zip(figure.labels, values, strict=True)), value
    for values, folded in figure.fold(snapshot):
        labels = tuple(zip(figure.labels, values, strict=True))
        for le, count in zip(LABELS, folded.counts, strict=True):
            yield f"{figure.name}_bucket", (*labels, ("le", le)), count
        yield f"{figure.name}_count", labels, folded.counts[-1]
        yield f"{figure.name}_sum", labels, folded.sum_seconds


def labelled(labels: Labels) -> dict[str, str]:
    """Whatever a name is made of, it can be written as UTF-8 and has no control characters."""
    return {name: printable(value) for name, value in labels}


class _One(Collector):
    """One metric as the encoders want to be given it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def negotiate(accept: str) -> tuple[Encoder, str]:
    """The encoder an Accept header asks for, and the content type of its answer."""
    encoder, content_type = choose_encoder(accept)
    return encoder, content_type


class Exposition:
    """The text of one encoder. It remembers the series of the last scrape, and no others."""

    def __init__(self, encoder: Encoder, catalog: Iterable[Figure] = CATALOG, rounds: Rounds | None = None) -> None:
        self._rounds = rounds or in_the_log_of("metrics")
        self._encoder = encoder
        self._end = _EOF if encoder(CollectorRegistry()).endswith(_EOF.encode()) else ""
        self._families = [_Family(figure, encoder) for figure in (_UP, *catalog)]

    def render(self, snapshot: Snapshot | None) -> Iterator[bytes]:
        if snapshot is None:
            yield (self._families[0].head + f"{UP.name} 0.0\n" + self._end).encode()
            return
        lines: list[str] = []
        for family in self._families:
            for line in self._had(family.lines(snapshot)):
                lines.append(line)
                if len(lines) >= PIECE_SERIES:
                    yield "".join(lines).encode()
                    lines.clear()
        lines.append(self._end)
        yield "".join(lines).encode()

    def _had(self, lines: Iterator[str]) -> Iterator[str]:
        """A figure that cannot be had is absent; the others are there all the same."""
        try:
            yield from lines
        except Exception as error:
            self._rounds.failed("figure", error)


Labelled = tuple[tuple[str, ...], tuple[float, ...]]
"""Label values, and the values of the series they make: one, or those of a histogram."""


class _Family:
    """One figure's lines. What stands before a value is kept by the values of the labels."""

    def __init__(self, figure: Figure, encoder: Encoder) -> None:
        self._figure = figure
        self._encoder = encoder
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.head = self._text([(figure.exposed, ())])[0]

    def lines(self, snapshot: Snapshot) -> Iterator[str]:
        known, self._known = self._known, {}
        head = self.head
        rows = self._rows(snapshot)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            self._learn([values for values, _ in chunk if values not in known], known)
            for values, numbers in chunk:
                before = self._known[values] = known[values]
                for start, number in zip(before, numbers, strict=True):
                    yield f"{head}{start}{written(number)}\n"
                    head = ""

    def _rows(self, snapshot: Snapshot) -> Iterator[Labelled]:
        if self._figure.kind != "histogram":
            return ((values, (value,)) for values, value in self._figure.read(snapshot))
        return (
            (values, (*folded.counts, folded.counts[-1], folded.sum_seconds))
            for values, folded in self._figure.fold(snapshot)
        )

    def _learn(self, new: list[tuple[str, ...]], known: dict[tuple[str, ...], tuple[str, ...]]) -> None:
        """Have the library write the series of these label values. No garbage collection looks at tuples of texts."""
        if not new:
            return
        series = [one for values in new for one in self._series(values)]
        lines = self._text(series)[1:]
        each = len(series) // len(new)
        for place, values in enumerate(new):
            known[values] = tuple(lines[place * each : (place + 1) * each])

    def _series(self, values: tuple[str, ...]) -> list[tuple[str, Labels]]:
        labels, name = tuple(zip(self._figure.labels, values, strict=True)), self._figure.name
        if self._figure.kind != "histogram":
            return [(self._figure.exposed, labels)]
        buckets = [(f"{name}_bucket", (*labels, ("le", le))) for le in LABELS]
        return [*buckets, (f"{name}_count", labels), (f"{name}_sum", labels)]

    def _text(self, series: Iterable[tuple[str, Labels]]) -> list[str]:
        """The family's head, and each series up to its value, as prometheus-client writes them."""
        metric = Metric(self._figure.name, self._figure.help, self._figure.kind)
        for name, labels in series:
            metric.add_sample(name, labelled(labels), 0)
        lines = self._encoder(_One(metric)).decode().removesuffix(_EOF).split("\n")[:-1]
        heads = sum(line.startswith("# ") for line in lines)
        return ["".join(line + "\n" for line in lines[:heads])] + [line[:-3] for line in lines[heads:]]


def written(number: float) -> str:
    """As prometheus-client writes a value; most are small whole numbers."""
    if type(number) is int and -1_000_000 < number < 1_000_000:
        return f"{number}.0"
    return str(floatToGoString(number))  # type: ignore[no-untyped-call]
