"""A line between the desk and a worker: messages both ways over a Unix socket, descriptors among them.

A message is a name and values, a question has an answer. Both sides are the same program of the same release, started
one by the other, so values are pickled. The rule: a message is whole or not at all, they come in the order in which
they were put, and nothing waits for the other side to read: what it has yet to take is kept, and of what can be spared
no more than a bound. What the other side has said before its end is heard, whatever we had to say to it meanwhile.
"""

from __future__ import annotations

import array
import asyncio
import dataclasses
import io
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from inspect import isawaitable
from types import MappingProxyType
from typing import Any

HEADER = 8
"""Bytes before a message: its length."""
PIECE, FIRST = 1 << 18, 1 << 14
"""Bytes at once; and of a message of which nothing is here yet, which most often is a few dozen. For what it lacks room
is made, and for no more: where memory is short a quarter of a megabyte is not to be had."""
NO_MEMORY = 0.1
"""Seconds until a message is taken that there was no memory for."""
SPARED = 4 << 20
"""Bytes the other side may be behind before what can be spared is."""
MOST_DESCRIPTORS = 8
ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)

Identity = tuple[int, int]
Work = Callable[..., Any]
SAYS, ASKS, ANSWERS, FAILS = range(4)


class LineClosed(Exception):
    """The other side is gone."""

    def __init__(self) -> None:
        super().__init__("the other process is gone")


class Failed(Exception):
    """What was asked could not be done; `error` is what the other side raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


class Packer(pickle.Pickler):
    """Our frozen values, whose methods may not have been made yet, go by their fields."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        fields = FIELDS.get(kind)
        if fields is None:
            fields = FIELDS[kind] = fields_of(kind)
        if fields:
            return remade, (kind, tuple([getattr(value, name) for name in fields]))
        return (read_only, (dict(value),)) if kind is MappingProxyType else NotImplemented


FIELDS: dict[type[Any], tuple[str, ...]] = {}
"""Looked up once: what goes over a line most often is figures, of the same few kinds."""


def fields_of(kind: type[Any]) -> tuple[str, ...]:
    """The names of a dataclass's fields; of anything else there are none."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


def remade(kind: type[Any], values: tuple[object, ...]) -> object:
    """A value of a dataclass with these fields."""
    made: object = object.__new__(kind)
    names = FIELDS.get(kind) or FIELDS.setdefault(kind, fields_of(kind))
    for name, value in zip(names, values, strict=True):
        object.__setattr__(made, name, value)
    return made


def packed(message: object) -> bytes:
    out = io.BytesIO()
    Packer(out, pickle.HIGHEST_PROTOCOL).dump(message)
    return out.getvalue()


unpacked = pickle.loads


def _identity(descriptor: int) -> Identity:
    """What tells an open socket from all others."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def first_message(sock: socket.socket) -> tuple[str, Any]:
    """The name and the values of the first one, awaited. Raises LineClosed."""
    sock.setblocking(True)
    header = _exactly(sock, HEADER)
    _, _, name, values, _ = pickle.loads(_exactly(sock, int.from_bytes(header, "big")))
    return name, values


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        data = sock.recv(min(count, PIECE))
        if not data:
            raise LineClosed
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


class Line:
    """One end. `works` by the names of messages: each is called with the values, and with `descriptors` where there are
    any, which it owns from then on. With no room in the table of descriptors some are lost: they are missing then.
    `ended` is called once, when the other side is gone."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        works: Mapping[str, Work],
        ended: Callable[[], None],
        failed: Callable[[str, BaseException], object],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self.works = works
        self._ended = ended
        self._failed = failed
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._behind = 0
        self._stuck = False
        """Whether we are told when there is room: to ask that of the loop costs more than most messages."""
        self._in = bytearray()
        self._descriptors: deque[int] = deque()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._late: dict[int, Callable[[Any], object]] = {}
        """Who hears the answer if whoever asked does not await it any more."""
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._then: deque[Callable[[], object]] = deque()
        """What is done when nothing is unsaid."""
        self._mute = False
        """Whether nothing can be said any more."""
        self._over = False
        """Whether nothing comes any more; it ends when what has come is heard."""
        self.closed = False
        self.lost = 0
        """Messages that were spared."""
        loop.add_reader(sock, self._readable)

    # ---- saying

    def put(self, name: str, *values: Any, descriptors: Sequence[int] = (), spare: bool = False) -> bool:
        """Have the other side do it. `descriptors` stay the caller's as well. `spare`: it need not come to know if it
        is far behind. False when it does not."""
        if self.closed or self._mute or (spare and self._behind > SPARED):
            self.lost += 1
            return False
        self._send(SAYS, 0, name, values, descriptors)
        return True

    async def ask(
        self, name: str, *values: Any, descriptors: Sequence[int] = (), late: Callable[[Any], object] | None = None
    ) -> Any:
        """What the other side answers. Raises LineClosed, or Failed with what it raised. `late` hears the answer if
        whoever asked is cancelled before it comes."""
        if self.closed or self._mute:
            raise LineClosed
        self._number += 1
        number, answer = self._number, self._loop.create_future()
        self._asked[number] = answer
        if late is not None:
            self._late[number] = late
        try:
            self._send(ASKS, number, name, values, descriptors)
            return await answer
        except asyncio.CancelledError:
            if late is not None and answer.done() and not answer.cancelled() and answer.exception() is None:
                # It came in the same turn.
                late(answer.result())
            raise
        finally:
            self._asked.pop(number, None)

    def when_said(self, then: Callable[[], object]) -> None:
        """Call `then` when the other side hears all that was put, whatever becomes of us; never if it is gone first."""
        self._then.append(then)
        self._say_so()

    def _say_so(self) -> None:
        while self._then and not (self._out or self._mute or self.closed):
            try:
                self._then.popleft()()
            except Exception as error:
                self._failed("what was said", error)

    def _send(self, kind: int, number: int, name: str, values: object, descriptors: Sequence[int] = ()) -> None:
        if self.closed or self._mute:
            return
        body = packed((kind, number, name, values, tuple(map(_identity, descriptors))))
        data = memoryview(len(body).to_bytes(HEADER, "big") + body)
        # The caller may close its own before these have gone.
        kept = [os.dup(descriptor) for descriptor in descriptors]
        self._behind += len(data)
        self._out.append((data, kept))
        if len(self._out) == 1:
            self._writable()

    def _writable(self) -> None:
        try:
            while self._out:
                data, descriptors = self._out[0]
                sent = self._put_out(data[:PIECE], descriptors)
                self._behind -= sent
                rest = data[sent:]
                for descriptor in descriptors:
                    os.close(descriptor)
                if rest:
                    self._out[0] = rest, ()
                else:
                    self._out.popleft()
        except (BlockingIOError, InterruptedError):
            if not self._stuck:
                self._loop.add_writer(self._sock, self._writable)
            self._stuck = True
        except OSError:
            self._say_no_more()
        else:
            if self._stuck:
                self._loop.remove_writer(self._sock)
                self._stuck = False
                self._say_so()

    def _say_no_more(self) -> None:
        """The other side is gone, or cannot be told: what it has said is read before that is the end here as well."""
        self._mute = True
        self._loop.remove_writer(self._sock)
        self._forget_unsaid()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _forget_unsaid(self) -> None:
        for _, descriptors in self._out:
            for descriptor in descriptors:
                os.close(descriptor)
        self._out.clear()
        self._then.clear()

    def _put_out(self, data: memoryview, descriptors: Sequence[int]) -> int:
        if not descriptors:
            return self._sock.send(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        return self._sock.sendmsg([data], rights)

    # ---- hearing

    def _readable(self) -> None:
        got, here = 0, len(self._in)
        ancillary: list[tuple[int, int, bytes]] = []
        # First the room: what is read has left the kernel, and a line that lacks some of it is none any more.
        self._in += bytes(self._lacks())
        try:
            with memoryview(self._in) as whole, whole[here:] as room:
                got, ancillary, _, _ = self._sock.recvmsg_into([room], ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # As behind its last word.
            got = 0
        finally:
            del self._in[here + got :]
        for level, kind, values in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(values[: len(values) - len(values) % found.itemsize])
                self._descriptors.extend(found)
        if not got:
            self._over = True
            self._loop.remove_reader(self._sock)
        self._take()

    def _lacks(self) -> int:
        """Bytes to read of the message that is on its way."""
        if len(self._in) < HEADER:
            return FIRST
        lacks = HEADER + int.from_bytes(self._in[:HEADER], "big") - len(self._in)
        return min(PIECE, lacks) if lacks > 0 else FIRST

    def _take(self) -> None:
        while len(self._in) >= HEADER and not self.closed:
            size = HEADER + int.from_bytes(self._in[:HEADER], "big")
            if len(self._in) < size:
                break
            try:
                with memoryview(self._in) as whole, whole[HEADER:size] as body:
                    kind, number, name, values, identities = pickle.loads(body)
            except MemoryError:
                self._loop.call_later(NO_MEMORY, self._take)
                return
            except Exception as error:
                del self._in[:size]
                self._failed("a message", error)
                continue
            del self._in[:size]
            try:
                self._heard(kind, number, name, values, self._claimed(identities) if identities else None)
            except Exception as error:
                # A bug of ours, or no memory: the other messages are others.
                self._failed("a message", error)
        if self._over:
            self._end()

    def _claimed(self, identities: Iterable[Identity]) -> list[int]:
        """Of the descriptors that have come those that are this message's; what is lost is missing."""
        found = []
        for identity in identities:
            if self._descriptors and _identity(self._descriptors[0]) == identity:
                found.append(self._descriptors.popleft())
        return found

    def _heard(self, kind: int, number: int, name: str, values: Any, descriptors: list[int] | None) -> None:
        if kind in (ANSWERS, FAILS):
            return self._answered(number, kind, values)
        more = {} if descriptors is None else {"descriptors": descriptors}
        try:
            found = self.works[name](*values, **more)
        except Exception as error:
            return self._failed_to(number, error) if kind == ASKS else self._told_failed(name, error)
        if isawaitable(found):
            task = self._loop.create_task(self._finish(number if kind == ASKS else 0, name, found))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind == ASKS:
            self._send(ANSWERS, number, "", found)

    async def _finish(self, number: int, name: str, found: Any) -> None:
        try:
            value = await found
        except Exception as error:
            return self._failed_to(number, error) if number else self._told_failed(name, error)
        if number:
            self._send(ANSWERS, number, "", value)

    def _told_failed(self, name: str, error: BaseException) -> None:
        self._failed(name, error)

    def _failed_to(self, number: int, error: BaseException) -> None:
        try:
            self._send(FAILS, number, "", error)
        except Exception:
            # It cannot be pickled.
            self._send(FAILS, number, "", RuntimeError(f"{type(error).__name__}: {error}"))

    def _answered(self, number: int, kind: int, value: Any) -> None:
        answer, late = self._asked.pop(number, None), self._late.pop(number, None)
        if answer is None or answer.done():
            if late is not None and kind == ANSWERS:
                late(value)
            return
        if kind == FAILS:
            answer.set_exception(Failed(value))
        else:
            answer.set_result(value)

    # ---- the end

    def close(self) -> None:
        """From our side; `ended` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        with suppress(OSError):
            self._sock.close()
        self._forget_unsaid()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(LineClosed())
                answer.exception()
        self._asked.clear()
        self._late.clear()
        for task in self._tasks:
            task.cancel()

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._ended()
