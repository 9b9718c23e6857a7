"""From a drain's URL, as an operator writes it, to the sink that serves it.

    -  or  stdout                      standard output
    /var/log/pooler.log, file:///...   a file, reopened on HUP
    syslog://host[:514]                RFC 6587 octet counting over TCP
    syslog+tls://host[:6514]           the same over TLS, certificate verified
    https://user:password@host/path    Logplex frames (http:// too, for a collector near by)

    statsd://host[:8125]               figures instead of lines: metrics.drains.statsd
    otlp+http://host[:4318]            the same: metrics.drains.otlp (and otlp+https://)

A URL that cannot work is refused here with a DrainError that never repeats its password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metrics.drains.files import file_sink, stdout_sink
from metrics.drains.sink import DrainError, Sink
from pooler.rounds import Rounds, in_the_log_of

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SCHEMES = ("syslog", "syslog+tls", "https", "http", "statsd", "otlp+http", "otlp+https")


def open_sink(url: str, rounds: Rounds | None = None) -> Sink:
    """`rounds` hear of what fails in it that is nobody's on the other side."""
    rounds = rounds or in_the_log_of("metrics")
    if url in ("-", "stdout", "stdout:", "stdout://"):
        return stdout_sink(rounds=rounds)
    if "://" not in url:
        if not url:
            raise DrainError("empty drain: give stdout, a file name, or a syslog://, syslog+tls:// or https:// URL")
        return file_sink(url.removeprefix("file:"), rounds)
    parts = _split(url)
    if parts.scheme == "file":
        return file_sink(parts.path, rounds)
    if parts.scheme not in SCHEMES:
        raise DrainError(f"drain scheme {parts.scheme!r} is unknown: use {', '.join(SCHEMES)}, file or stdout")
    if not parts.hostname:
        raise DrainError(f"{parts.scheme}:// drain names no host")
    return _network_sink(parts, rounds)


def _network_sink(parts: SplitResult, rounds: Rounds) -> Sink:
    """Each kind is loaded only when one of it is wanted."""
    if parts.scheme.startswith("http"):
        from metrics.drains.logplex import LogplexDrain

        return LogplexDrain(parts, rounds)
    if parts.scheme.startswith("otlp"):
        from metrics.drains.otlp import OtlpPush

        return OtlpPush(parts, rounds)
    if parts.scheme == "statsd":
        from metrics.drains.statsd import StatsdPush

        return StatsdPush(parts, rounds)
    from metrics.drains.syslog import SyslogDrain

    return SyslogDrain(parts, rounds)


def _split(url: str) -> SplitResult:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise DrainError("drain is not a URL: its host or port cannot be read") from None
    if port == 0:
        raise DrainError("drain has port 0")
    return parts
