"""The log: PgBouncer's line, to stderr, a file and syslog.

A line is written before `line` returns, so it is in the file before a client sees the effect it reports. Text may hold
what a stranger sent: control characters never reach the log as they are. What is worth a line is decided by others. The
rule: nothing that goes wrong here is raised into the work. What could not be written is told when there is room again
(`outlet`), until then at the other places that there are, and counted in `lost`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import syslog
import threading
import time
from collections import deque
from collections.abc import Iterable

from pooler.config.kinds import LogFormat, masked
from pooler.config.settings import Settings
from pooler.outlet import STDERR, Outlet, SystemLog, appended, standard

FATAL, ERROR, WARNING, LOG, DEBUG, NOISE = "FATAL", "ERROR", "WARNING", "LOG", "DEBUG", "NOISE"
VERBOSITY = {DEBUG: 1, NOISE: 2}
"""How often -v has to be given for these to be written."""
PRIORITIES = {
    FATAL: syslog.LOG_CRIT,
    ERROR: syslog.LOG_ERR,
    WARNING: syslog.LOG_WARNING,
    LOG: syslog.LOG_INFO,
    DEBUG: syslog.LOG_DEBUG,
    NOISE: syslog.LOG_DEBUG,
}
_CONNECTION = re.compile(
    r"(?P<connection>[CS]-[0-9a-fx]++): (?P<database>[\w.-]++|\(nodb\))/(?P<user>[\w.-]++|\(nouser\))"
    r"@(?P<address>\S++) "
)
"""What a line about a connection begins with. Names with other characters could be read in several ways."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


CONSOLE = "pooler.console"
"""The logger of the admin database."""


class LogError(Exception):
    """The log cannot be written where it should be; the message is one line for the user."""


KEPT_LINES = 1000
"""The last, for who looks at them without the file."""
KEPT_TEXT = 1000
"""Characters of each."""


class Log:
    """Where lines go. `stderr` is off for a daemon and with -q."""

    def __init__(self, *, stderr: bool = True, verbose: int = 0, form: LogFormat | None = None) -> None:
        self._lock = threading.RLock()
        """Threads log as well, and a collection of garbage may in the middle of a line."""
        self._given = verbose
        self.wordy = verbose > 0
        """Whether it takes DEBUG lines."""
        self._form_given = form
        self._form = form or LogFormat.text
        self._verbose = verbose
        self._stderr: Outlet | None = None
        self._file: Outlet | None = None
        self._syslog: Outlet | None = None
        self._ident, self._facility = "", 0
        self._second = -1
        self._prefix = ""
        self._recent: deque[tuple[int, float, str, str]] = deque(maxlen=KEPT_LINES)
        self._written = 0
        self._gone = 0
        """Lines that places which are closed by now have lost."""
        self.stderr = stderr

    @property
    def stderr(self) -> bool:
        return self._stderr is not None

    @stderr.setter
    def stderr(self, wanted: bool) -> None:
        with self._lock:
            if not wanted:
                self._stderr = self._closed(self._stderr)
            elif self._stderr is None and sys.stderr is not None and (target := standard(STDERR)) is not None:
                self._stderr = Outlet("stderr", target, self._notice)

    @property
    def lost(self) -> int:
        """Lines that were never written somewhere."""
        return self._gone + sum(outlet.lost for outlet in self._outlets())

    def configure(self, settings: Settings) -> None:
        """Take over where to write; a file is opened anew (after logrotate). Raises LogError when it cannot be: then
        the log goes on where it was."""
        with self._lock:
            self._verbose = max(self._given, settings.verbose)
            self.wordy = self._verbose > 0
            self._configure_syslog(settings)
            self._configure_file(settings.logfile)

    def _configure_syslog(self, settings: Settings) -> None:
        self._ident = settings.syslog_ident
        self._facility = getattr(syslog, f"LOG_{settings.syslog_facility.name.upper()}", syslog.LOG_DAEMON)
        if not settings.syslog:
            self._syslog = self._closed(self._syslog)
        elif self._syslog is None:
            self._syslog = Outlet("syslog", SystemLog(), lambda count, why: self._record(WARNING, _missing(count, why)))

    def _configure_file(self, path: str) -> None:
        if not path:
            self._file = self._closed(self._file)
            return
        try:
            target = appended(path)
        except OSError as error:
            raise LogError(f"could not open logfile '{path}': {error.strerror}") from None
        fresh = Outlet(f"logfile '{path}'", target, self._notice)
        if self._file is not None:
            fresh.take_over(self._file)
            self._file.close()
        self._file = fresh

    def _closed(self, outlet: Outlet | None) -> Outlet | None:
        """What there is after an outlet has been closed: none."""
        if outlet is not None:
            outlet.close()
            self._gone += outlet.lost
        return None

    def write_as(self, form: LogFormat) -> None:
        """Lines from now on, unless the command line has said how."""
        self._form = self._form_given or form

    def close(self) -> None:
        with self._lock:
            self.stderr = False
            self._file = self._closed(self._file)
            self._syslog = self._closed(self._syslog)

    def wants(self, level: str) -> bool:
        """Whether a line of this level would be written, for who has to make an expensive one."""
        return VERBOSITY.get(level, 0) <= self._verbose

    def line(self, level: str, text: str) -> None:
        """Write one line. Raises nothing."""
        if not self.wants(level):
            return
        with self._lock:
            try:
                self._write(level, text if str.isprintable(text) else _CONTROL.sub("?", text))
            except Exception as error:
                # No memory, or a bug of ours.
                for outlet in self._outlets():
                    outlet.lose(1, type(error).__name__)

    def recent(self, after: int = 0) -> list[tuple[int, float, str, str]]:
        """Of the last lines those after the one with this number: number, Unix time, level and text."""
        with self._lock:
            return [line for line in self._recent if line[0] > after]

    def catch_up(self) -> bool:
        """Write what could not be written before, where there is room by now. True when that is all."""
        with self._lock:
            for outlet in self._outlets():
                if outlet.behind:
                    outlet.catch_up()
            return not any(outlet.behind for outlet in self._outlets())

    def _outlets(self) -> list[Outlet]:
        return [outlet for outlet in (self._file, self._stderr, self._syslog) if outlet is not None]

    def _write(self, level: str, clean: str) -> None:
        self._written += 1
        self._recent.append((self._written, time.time(), level, clean[:KEPT_TEXT]))
        stuck = self._put(level, clean, self._outlets())
        for outlet in stuck:
            # Nobody looks for what is missing in the place where it is missing.
            text = f"cannot write to {outlet.name}: {outlet.trouble}; lines are kept while there is room, then counted"
            self._put(WARNING, text, [other for other in self._outlets() if not other.behind])

    def _put(self, level: str, text: str, outlets: Iterable[Outlet]) -> list[Outlet]:
        """The line at each of these places; which of them could not take it, and had taken all before."""
        stuck, stamped = [], self._stamped(level, text)
        for outlet in outlets:
            before = outlet.behind
            outlet.put(self._record(level, text) if outlet is self._syslog else stamped)
            if outlet.behind and not before:
                stuck.append(outlet)
        return stuck

    def _stamped(self, level: str, text: str) -> bytes:
        if self._form is LogFormat.json:
            return self._object(level, text)
        return f"{self._stamp()} [{os.getpid()}] {level} {text}\n".encode("utf-8", "backslashreplace")

    def _object(self, level: str, text: str) -> bytes:
        """For collectors: the same words, with the prefix of a connection taken apart."""
        import json

        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
        found = _CONNECTION.match(text)
        of = {key: value for key, value in found.groupdict().items() if value[0] != "("} if found else {}
        line = {"time": stamp, "level": level, "pid": os.getpid(), **of, "message": text[found.end() if found else 0 :]}
        # What cannot be encoded is a byte of somebody's name, by surrogateescape.
        return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    def _record(self, level: str, text: str) -> bytes:
        """As syslog(3) makes it."""
        priority = self._facility | PRIORITIES[level]
        stamp = time.strftime("%b %e %H:%M:%S")
        return f"<{priority}>{stamp} {self._ident}[{os.getpid()}]: {text}".encode("utf-8", "backslashreplace")

    def _notice(self, count: int, why: str) -> bytes:
        return self._stamped(WARNING, _missing(count, why))

    def _stamp(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            local = time.localtime(second)
            self._prefix = time.strftime("%Y-%m-%d %H:%M:%S", local)
            self._zone = time.strftime("%Z", local)
        return f"{self._prefix}.{int(now * 1000) % 1000:03d} {self._zone}"


def _missing(count: int, why: str) -> str:
    return f"{count} {'line' if count == 1 else 'lines'} could not be written here: {why}"


class Bridge(logging.Handler):
    """What the other packages and libraries log by Python's logging, as lines of ours: an error in one line, without
    its traceback. Of what is below a warning only the console's."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.DEBUG)
        self._log = log
        logging.getLogger(CONSOLE).setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        level = ERROR if record.levelno >= logging.ERROR else WARNING
        if record.levelno < logging.WARNING:
            level = DEBUG
            if not self._log.wants(level):
                return
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                error = record.exc_info[1]
                text = f"{text}: {type(error).__name__}: {error}"
        except Exception as error:
            # Whoever logs has not asked for what is wrong with its words.
            text = f"{record.msg!r} cannot be shown: {type(error).__name__}"
        if level == DEBUG:
            text = masked(text)
        self._log.line(level, text)
