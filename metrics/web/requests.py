"""HTTP requests as they are read: bounded, piece by piece, and never for longer than traffic may wait.

uvicorn and h11 read all they are given at once: a quarter of a megabyte of headers, or of one-byte chunks, takes them a
tenth of a second, which nobody has paid for with more than a connection. Here they are given little at a time, and what
waits for more than that little is refused. The rule: `pace` is called before every step, so that traffic passes in
between.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

PIECE = 4 << 10
"""Bytes that are read at once."""
LONGEST_HEAD = 16 << 10
"""Of a request's head, a chunk's or a trailer; one piece more is too much."""
MOST_LINES = 128
"""Of a head: the request's own, and its headers."""

_HEAD_END = re.compile(rb"\n\r?\n")


class Careful(h11.Connection):
    """h11's connection, which looks at the clock before each event, and at a head before it is taken apart."""

    def __init__(self, pace: Callable[[], None]) -> None:
        super().__init__(h11.SERVER, LONGEST_HEAD)
        self._pace = pace

    def next_event(self) -> Any:
        self._pace()
        if self.their_state is h11.IDLE:
            self._look()
        return super().next_event()

    def _look(self) -> None:
        waiting: bytes = self.trailing_data[0]
        end = _HEAD_END.search(waiting)
        if waiting.count(b"\n", 0, end.start() if end else len(waiting)) > MOST_LINES:
            raise h11.RemoteProtocolError("too many headers", error_status_hint=431)


def protocol(pace: Callable[[], None], gone: Callable[[H11Protocol], object]) -> type[H11Protocol]:
    """The protocol of all connections of one server; `gone` hears of each that has ended."""

    class Reader(H11Protocol):
        """One connection. `_unread` is what has come and was not looked at; never more than came at once."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.conn = Careful(pace)
            self._unread = b""
            self._feeding = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self.flow = Flow(transport, lambda: self.loop.call_soon(self._go_on))

        def connection_lost(self, exc: Exception | None) -> None:
            gone(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._unread += data
            self._feed()

        def send_400_response(self, msg: str) -> None:
            """What breaks off in the middle may be being answered already: whoever does so hears that nobody is there
            any more, and an answer that has begun, or is over, cannot become a refusal."""
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.abort()

        def _unsupported_upgrade_warning(self) -> None:
            """To what we do not speak; the request is answered as it stands, as HTTP has it."""

        def _go_on(self) -> None:
            try:
                self._feed()
            except BaseException:
                self.transport.abort()
                raise

        def _feed(self) -> None:
            if self._feeding:
                return
            self._feeding = True
            try:
                while self._unread and not self.flow.read_paused and not self.transport.is_closing():
                    piece, self._unread = self._unread[:PIECE], self._unread[PIECE:]
                    super().data_received(piece)
            finally:
                self._feeding = False

    return Reader


class Flow(FlowControl):
    """Tells when reading goes on."""

    def __init__(self, transport: Any, resumed: Callable[[], object]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        if self.read_paused:
            super().resume_reading()
            self._resumed()
