"""From a drain's URL, as an operator writes it, to the sink that serves it.

    -  or  stdout                      standard output
    /var/log/pooler.log, file:///...   a file, reopened on HUP
    syslog://host[:514]                RFC 6587 octet counting over TCP
    syslog+tls://host[:6514]           the same over TLS, certificate verified
    https://user:password@host/path    Logplex frames (http:// too, for a collector near by)

    statsd://host[:8125]               figures instead of lines: metrics.statsd
    otlp+http://host[:4318]            the same: metrics.otlp (and otlp+https://)

A URL that cannot work is refused here with a DrainError that never repeats its password.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from metrics.files import file_sink, stdout_sink
from metrics.sink import DrainError, Sink

SCHEMES = ("syslog", "syslog+tls", "https", "http", "statsd", "otlp+http", "otlp+https")


def open_sink(url: str) -> Sink:
    if url in ("-", "stdout", "stdout:", "stdout://"):
        return stdout_sink()
    if "://" not in url:
        if not url:
            raise DrainError("empty drain: give stdout, a file name, or a syslog://, syslog+tls:// or https:// URL")
        return file_sink(url.removeprefix("file:"))
    parts = _split(url)
    if parts.scheme == "file":
        return file_sink(parts.path)
    if parts.scheme not in SCHEMES:
        raise DrainError(f"drain scheme {parts.scheme!r} is unknown: use {', '.join(SCHEMES)}, file or stdout")
    if not parts.hostname:
        raise DrainError(f"{parts.scheme}:// drain names no host")
    return _network_sink(parts)


def _network_sink(parts: SplitResult) -> Sink:
    """Each kind is loaded only when one of it is wanted."""
    if parts.scheme.startswith("http"):
        from metrics.logplex import LogplexDrain

        return LogplexDrain(parts)
    if parts.scheme.startswith("otlp"):
        from metrics.otlp import OtlpPush

        return OtlpPush(parts)
    if parts.scheme == "statsd":
        from metrics.statsd import StatsdPush

        return StatsdPush(parts)
    from metrics.syslog import SyslogDrain

    return SyslogDrain(parts)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise DrainError("drain is not a URL: its host or port cannot be read") from None
    if port == 0:
        raise DrainError("drain has port 0")
    return parts
