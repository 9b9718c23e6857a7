"""The log: PgBouncer's line, to stderr, a file and syslog.

A line is written before `line` returns, so it is in the file before a client sees the effect it reports. Text may hold
what a stranger sent: control characters never reach the log as they are. What is worth a line is decided by others.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import syslog
import time
from typing import TextIO

from pooler.settings import Settings

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
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class LogError(Exception):
    """The log cannot be written where it should be; the message is one line for the user."""


class Log:
    """Where lines go. `stderr` is off for a daemon and with -q."""

    def __init__(self, *, stderr: bool = True, verbose: int = 0) -> None:
        self.stderr = stderr
        self._given = verbose
        self._verbose = verbose
        self._path = ""
        self._file: TextIO | None = None
        self._syslog = False
        self._second = -1
        self._prefix = ""

    def configure(self, settings: Settings) -> None:
        """Take over where to write; a file is opened anew (after logrotate). Raises LogError."""
        self._verbose = max(self._given, settings.verbose)
        self._open(settings.logfile)
        self._syslog = settings.syslog
        if settings.syslog:
            facility = getattr(syslog, f"LOG_{settings.syslog_facility.name.upper()}", syslog.LOG_DAEMON)
            syslog.openlog(settings.syslog_ident, syslog.LOG_PID, facility)

    def _open(self, path: str) -> None:
        if not path:
            self.close()
            self._path = path
            return
        try:
            fresh = open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            raise LogError(f"could not open logfile '{path}': {error.strerror}") from None
        self.close()
        self._path, self._file = path, fresh

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def wants(self, level: str) -> bool:
        """Whether a line of this level would be written, for who has to make an expensive one."""
        return VERBOSITY.get(level, 0) <= self._verbose

    def line(self, level: str, text: str) -> None:
        """Write one line."""
        if not self.wants(level):
            return
        clean = _CONTROL.sub("?", text)
        if self.stderr or self._file is not None:
            stamped = f"{self._stamp()} [{os.getpid()}] {level} {clean}\n"
            if self._file is not None:
                self._file.write(stamped)
            if self.stderr:
                _write_stderr(stamped)
        if self._syslog:
            syslog.syslog(PRIORITIES[level], clean)

    def _stamp(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            local = time.localtime(second)
            self._prefix = time.strftime("%Y-%m-%d %H:%M:%S", local)
            self._zone = time.strftime("%Z", local)
        return f"{self._prefix}.{int(now * 1000) % 1000:03d} {self._zone}"


class Bridge(logging.Handler):
    """What the other packages and libraries log by Python's logging, as lines of ours: an error in one line, without
    its traceback."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = ERROR if record.levelno >= logging.ERROR else WARNING
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text = f"{text}: {type(error).__name__}: {error}"
        self._log.line(level, text)


def _write_stderr(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        # Whoever read our stderr is gone: the file and syslog go on.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
