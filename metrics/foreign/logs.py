"""`pooler logs`: the metrics lines of a running pooler, over its HTTP port or its admin database.

pooler logs [--tail] [-n N] [--source NAME] [-a APP] [--json] [URL ...]

It is a client and knows nothing of the server but /logs (metrics.web.http) and SHOW HISTORY. When the
connection breaks it comes back, and shows what it missed, each line once. Text goes out as `heroku logs`
shows it, coloured on a terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TextIO
from urllib.parse import urlencode, urlsplit

from metrics.cardinality import printable
from metrics.foreign.past import over_console
from metrics.foreign.several import Several, name_of
from metrics.foreign.tail import Lost, Refused
from metrics.heroku import LogLine

URL = "http://127.0.0.1:9127"
LINES = 100
SILENCE_SECONDS = 30.0
"""A tail beats every ten seconds; after this long without anything the other side is gone."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""Of `source[process]`, one for each process, as heroku logs does."""


@dataclass(frozen=True, slots=True)
class Wanted:
    count: int
    tail: bool
    source: str
    app: str

    def shows(self, line: LogLine) -> bool:
        return (not self.source or line.is_from(self.source)) and (not self.app or line.addon == self.app)


Lines = Callable[[int], Iterator[LogLine | None]]
"""Connect and give lines, beginning with so many of the past; None as a sign of life."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="pooler logs", description="Show and follow the metrics lines of a running pooler."
    )
    made.add_argument(
        "url",
        nargs="*",
        metavar="URL",
        help="http://HOST:PORT of the pooler, or postgres://.../pgbouncer; default $POOLER_URL, else " + URL + "; "
        "lines of several begin with whose they are",
    )
    made.add_argument("-t", "--tail", action="store_true", help="go on as lines come")
    made.add_argument("-n", "--num", type=_count, default=LINES, metavar="N", help="begin with the last N lines")
    made.add_argument("-s", "--source", default="", metavar="NAME", help="only lines of this source or process")
    made.add_argument("-p", "--ps", dest="source", metavar="NAME", help=argparse.SUPPRESS)
    made.add_argument("-a", "--app", default="", metavar="APP", help="only lines about this app's databases")
    made.add_argument("--json", action="store_true", help="one JSON object a line")
    return made  # fmt: skip


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def main(argv: list[str]) -> int:
    """Exit status: 0 shown, 1 cannot be reached, 2 wrong usage, 130 interrupted."""
    arguments = parser().parse_intermixed_args(argv)
    wanted = Wanted(arguments.num, arguments.tail, arguments.source, arguments.app)
    urls: list[str] = arguments.url or [os.environ.get("POOLER_URL", URL)]
    try:
        sources = named(urls, wanted)
    except Refused as error:
        complain(str(error))
        return 2
    write = as_json if arguments.json else as_text(sys.stdout)
    try:
        if len(sources) == 1:
            (source,) = sources.values()
            for line in lines_of(source, wanted):
                print(write(line), flush=True)
        else:
            return _several(sources, wanted, write)
    except (Lost, Refused) as error:
        complain(str(error))
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def complain(text: str) -> None:
    print(f"pooler logs: {text}", file=sys.stderr)


def lines_of(source: Lines, wanted: Wanted) -> Iterator[LogLine]:
    return follow(source, wanted) if wanted.tail else once(source, wanted)


def named(urls: list[str], wanted: Wanted) -> dict[str, Lines]:
    """Where the lines of each pooler come from, by its name. Raises Refused."""
    sources = {name_of(url): open_source(url, wanted) for url in urls}
    if len(sources) < len(urls):
        raise Refused("a pooler is named twice")
    return sources


def _several(sources: Mapping[str, Lines], wanted: Wanted, write: Write) -> int:
    """Those of several poolers together; the exit status."""
    lines = Several({name: partial(lines_of, source, wanted) for name, source in sources.items()}, complain)
    for pooler, line in lines.live() if wanted.tail else lines.past(wanted.count):
        print(write(line, pooler), flush=True)
    return int(lines.failed)


def open_source(url: str, wanted: Wanted) -> Lines:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return lambda count: over_http(url, wanted, count)
    if scheme in ("postgres", "postgresql"):
        return lambda count: over_console(url, wanted.tail, count)
    raise Refused("give the pooler's http://HOST:PORT, or postgres://USER@HOST:PORT/pgbouncer")


def once(source: Lines, wanted: Wanted) -> Iterator[LogLine]:
    return (line for line in source(wanted.count) if line is not None and wanted.shows(line))


def follow(source: Lines, wanted: Wanted, pause: Callable[[float], None] = time.sleep) -> Iterator[LogLine]:
    """For ever; a source that was reached once is tried again when it goes."""
    seen: set[tuple[float, str]] = set()
    newest, connected, wait = 0.0, False, FIRST_PAUSE
    while True:
        try:
            for line in source(wanted.count if not connected else max(wanted.count, LINES)):
                connected, wait = True, FIRST_PAUSE
                if line is None or line.when < newest or (line.when, line.text) in seen:
                    continue
                if line.when > newest:
                    newest = line.when
                    seen.clear()
                seen.add((line.when, line.text))
                if wanted.shows(line):
                    yield line
            problem = "the connection was closed"
        except Lost as error:
            if not connected:
                raise
            problem = str(error)
        complain(f"{problem}, trying again")
        pause(wait)
        wait = min(wait * 2, LONGEST_PAUSE)


def over_http(url: str, wanted: Wanted, count: int) -> Iterator[LogLine | None]:
    """The lines of /logs. An app is resolved by the server, which knows what belongs to it."""
    import http.client

    parts = urlsplit(url)
    query = {"n": str(count), "json": "1", "source": wanted.source, "app": wanted.app}
    query |= {"tail": "1"} if wanted.tail else {}
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=SILENCE_SECONDS)
        path = f"{parts.path.rstrip('/')}/logs?{urlencode({k: v for k, v in query.items() if v})}"
    except ValueError as error:
        raise Refused(f"{url} is no address: {error}") from error
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise Refused(_first_line(answer.read(300)) or f"answered {answer.status}")
        while data := answer.readline():
            yield _line(data)
    except (OSError, http.client.HTTPException) as error:
        raise Lost(f"{parts.hostname}:{connection.port}: {_reason(error)}") from error
    finally:
        connection.close()


def _line(data: bytes) -> LogLine | None:
    """A line as /logs writes it with json; None for a beat."""
    if not data.strip():
        return None
    try:
        value: dict[str, Any] = json.loads(data)
        return LogLine(
            float(value["time"]), str(value["message"]), str(value["source"]), str(value["process"]),
            str(value["addon"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise Refused("the answer is not a pooler's: is this its HTTP address?") from error


def _first_line(data: bytes) -> str:
    return printable(data.decode("utf-8", "replace").strip().split("\n")[0])


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Write(Protocol):
    """A line as it is printed; with the pooler's name where there are several."""

    def __call__(self, line: LogLine, pooler: str = "") -> str: ...


def as_json(line: LogLine, pooler: str = "") -> str:
    named = {"pooler": pooler} if pooler else {}
    return json.dumps(
        {**named, "time": line.when, "source": line.source, "process": line.process, "addon": line.addon,
         "message": line.body, "line": line.text}
    )  # fmt: skip


def as_text(out: TextIO) -> Write:
    """Coloured on a terminal, unless NO_COLOR says otherwise; nothing unprintable gets to it either way."""
    coloured = (out.isatty() and not os.environ.get("NO_COLOR")) or bool(os.environ.get("FORCE_COLOR"))
    colours: dict[str, int] = {}

    def write(line: LogLine, pooler: str = "") -> str:
        named = f"{printable(pooler)} " if pooler else ""
        head, body = printable(line.text[: -len(line.body)] if line.body else line.text), printable(line.body)
        if not coloured:
            return named + head + body
        colour = colours.setdefault(line.process, COLOURS[len(colours) % len(COLOURS)])
        return f"{named}\x1b[{colour}m{head}\x1b[0m{body}"

    return write
