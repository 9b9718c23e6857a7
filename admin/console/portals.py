"""The extended query protocol on the console: prepared statements, portals, and the steps between them.

Parse, Bind, Describe, Execute and Close as PostgreSQL documents them ("Extended Query", "Message Flow"),
for whatever the host can answer. A portal keeps its answer between two Executes, so a row limit suspends
it. Values of parameters are not read here: they are bytes until their statement runs. The rules: a column's type, once
told to the client, does not change, values are fitted to it; and all that a session keeps here is bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from admin.console.answers import Answer, Columns, Encoder, answer_encoder, encode_rows, no_rows
from admin.console.cursors import Declare, Fetch
from admin.console.interpreter import Nothing, Plan, RowPlan
from admin.console.queries import Query
from admin.fieldtypes import TEXT, UNKNOWN, Row
from admin.sql.backend import Parameter
from pooler import wire
from pooler.verbs import CommandError
from pooler.wire import format_at

MOST_BYTES = 512 << 10
"""Of the messages that made the prepared statements and portals of a session."""
MOST_OPEN = 8
"""Portals of a session that have given some of their rows and hold the others."""
OWN_BYTES = 200
"""What each of them takes at least."""


class Host(Protocol):
    """What the steps need of the session."""

    async def plans(self, text: str, oids: Sequence[int] | None = None) -> list[Plan]: ...
    async def describe(self, plan: Plan) -> Columns | None: ...
    async def carry_out(
        self, plan: Plan, parameters: Sequence[Parameter] = (), results: Sequence[int] = ()
    ) -> Answer: ...
    async def put(self, data: bytes) -> None: ...
    async def notice(self, answer: Answer) -> None: ...


@dataclass(slots=True)
class Prepared:
    """`oids` are the parameters' types, `size` the bytes it was made of. `columns` are known once described."""

    plan: Plan
    oids: tuple[int, ...]
    size: int
    described: bool = False
    columns: Columns | None = None


@dataclass(slots=True)
class Portal:
    """A bound statement. `answer` exists once it runs; `rest` are rows taken from it and not sent yet."""

    prepared: Prepared
    parameters: tuple[Parameter, ...]
    formats: tuple[int, ...]
    size: int
    answer: Answer | None = None
    columns: Columns | None = None
    encode: Encoder | None = None
    rest: Sequence[Row] = ()
    done: bool = False
    held: bool = False
    """A cursor WITH HOLD: it stays when its transaction ends."""

    async def take(self, answer: Answer, most: int | None) -> AsyncIterator[Sequence[Row]]:
        """The next rows of its answer, at most so many, in batches."""
        left = most
        while left is None or left > 0:
            if not self.rest:
                batch = await anext(answer.batches, None)
                if batch is None:
                    self.done = True
                    return
                self.rest = batch
            rows = self.rest if left is None else self.rest[:left]
            self.rest = self.rest[len(rows) :]
            left = None if left is None else left - len(rows)
            yield rows

    @property
    def open(self) -> bool:
        """Whether it holds rows."""
        return self.answer is not None and self.columns is not None and not self.done

    def release(self) -> None:
        if self.answer is not None:
            self.answer.release()


Step = Callable[[bytes], Coroutine[Any, Any, None]]


class Portals:
    """One session's statements and portals. A step raises CommandError or BadValue when it cannot be done,
    and ProtocolError when its message is broken."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._statements: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._steps: dict[bytes, Step] = {
            b"P": self._parse,
            b"B": self._bind,
            b"D": self._describe,
            b"E": self._execute,
            b"C": self._close,
        }

    def step(self, kind: bytes) -> Step | None:
        """What to do with the body of a message of this type; None when it is none of this protocol."""
        return self._steps.get(kind)

    # ---- forgetting

    def end(self) -> None:
        """The transaction is over, and with it every portal but cursors WITH HOLD."""
        for name in [name for name, portal in self._portals.items() if not portal.held]:
            self._drop(name)

    def close_all(self) -> None:
        for name in list(self._portals):
            self._drop(name)

    def close(self, name: str) -> None:
        """CLOSE. Raises CommandError."""
        self._cursor(name)
        self._drop(name)

    def _drop(self, name: str) -> None:
        portal = self._portals.pop(name, None)
        if portal is not None:
            portal.release()

    def forget_unnamed(self) -> None:
        """A simple query replaces the unnamed statement and portal."""
        self._statements.pop("", None)
        self._drop("")

    def forget_all(self) -> None:
        self._statements.clear()

    def forget(self, name: str) -> None:
        """DEALLOCATE. Raises CommandError."""
        self._statement(name)
        del self._statements[name]

    # ---- the steps

    async def _parse(self, body: bytes) -> None:
        message = wire.read_parse(body)
        if message.name and message.name in self._statements:
            raise CommandError(f'prepared statement "{message.name}" already exists', "42P05")
        self._check_room(len(body), "prepared statements")
        plans = await self._host.plans(message.sql, message.oids)
        if len(plans) > 1:
            raise CommandError("cannot insert multiple commands into a prepared statement", "42601")
        plan = plans[0] if plans else Nothing()
        oids = _parameter_types(plan, message.oids)
        self._statements[message.name] = Prepared(plan, oids, len(body))
        await self._host.put(wire.parse_complete())

    def _check_room(self, size: int, what: str) -> None:
        """Raises CommandError when the session keeps too much already."""
        kept = [each.size for each in self._statements.values()] + [each.size for each in self._portals.values()]
        if size + sum(kept) + OWN_BYTES * len(kept) > MOST_BYTES:
            raise CommandError(f"too many {what}", "53400")

    async def _bind(self, body: bytes) -> None:
        message = wire.read_bind(body)
        prepared = self._statement(message.statement)
        values = _parameters(message, prepared.oids)
        self._add(message.portal, Portal(prepared, values, message.result_formats, len(body)), "portal")
        await self._host.put(wire.bind_complete())

    def _add(self, name: str, portal: Portal, what: str) -> None:
        if name and name in self._portals:
            raise CommandError(f'{what} "{name}" already exists', "42P03")
        self._check_room(portal.size, "portals")
        self._drop(name)
        self._portals[name] = portal

    async def _describe(self, body: bytes) -> None:
        message = wire.read_describe(body)
        if message.kind == "P":
            portal = self._portal(message.name)
            columns = await self._columns(portal)
            await self._row_description(columns, portal.formats)
            return
        prepared = self._statement(message.name)
        await self._host.put(wire.parameter_description(prepared.oids))
        await self._row_description(await self._promise(prepared), ())

    async def _row_description(self, columns: Columns | None, formats: Sequence[int]) -> None:
        known = wire.no_data() if columns is None else wire.row_description(columns, formats)
        await self._host.put(known)

    async def _promise(self, prepared: Prepared) -> Columns | None:
        if not prepared.described:
            prepared.columns = await self._host.describe(prepared.plan)
            prepared.described = True
        return prepared.columns

    async def _columns(self, portal: Portal) -> Columns | None:
        return portal.columns if portal.answer is not None else await self._promise(portal.prepared)

    async def _run(self, portal: Portal) -> Answer:
        if portal.answer is not None:
            return portal.answer
        if sum(each.open for each in self._portals.values()) >= MOST_OPEN:
            raise CommandError(f"too many open portals: at most {MOST_OPEN} may hold rows", "53400")
        prepared = portal.prepared
        answer = await self._host.carry_out(prepared.plan, portal.parameters, portal.formats)
        if answer.copy is not None:
            answer.release()
            raise CommandError("COPY is possible in a simple query only", "0A000")
        portal.columns = answer.columns
        if prepared.columns is not None and answer.columns is not None:
            if len(prepared.columns) != len(answer.columns):
                answer.release()
                raise CommandError("cached plan must not change result type", "0A000")
            portal.columns = prepared.columns
        portal.answer = answer
        return answer

    async def _execute(self, body: bytes) -> None:
        message = wire.read_execute(body)
        portal = self._portal(message.portal)
        if isinstance(portal.prepared.plan, Nothing):
            await self._host.put(wire.empty_query_response())
            return
        if portal.done and portal.columns is None:
            raise CommandError(f'portal "{message.portal}" cannot be run', "55000")
        answer = await self._run(portal)
        await self._host.notice(answer)
        count = await self._rows(portal, answer, message.max_rows)
        done = wire.command_complete(answer.complete(count)) if portal.done else wire.portal_suspended()
        await self._host.put(done)

    async def _rows(self, portal: Portal, answer: Answer, limit: int) -> int:
        """Send at most `limit` rows (0: all); how many were sent."""
        if portal.columns is None:
            portal.done = True
            return 0
        encode = portal.encode = portal.encode or _encoder(portal, answer)
        sent = 0
        async for rows in portal.take(answer, limit or None):
            sent += len(rows)
            await self._host.put(encode_rows(encode, rows))
        return sent

    async def _close(self, body: bytes) -> None:
        message = wire.read_close(body)
        if message.kind == "S":
            self._statements.pop(message.name, None)
        else:
            self._drop(message.name)
        await self._host.put(wire.close_complete())

    # ---- cursors named in SQL

    def declare(self, plan: Declare[RowPlan], parameters: Sequence[Parameter]) -> Answer:
        """DECLARE: a portal that FETCH takes rows from. Raises CommandError."""
        text = plan.plan.text if isinstance(plan.plan, Query) else ""
        size = len(text) + sum(len(data or b"") for _, _, data in parameters)
        self._add(plan.name, Portal(Prepared(plan.plan, (), 0), tuple(parameters), (), size, held=plan.held), "cursor")
        return Answer("DECLARE CURSOR", None, no_rows())

    async def columns_of(self, name: str) -> Columns | None:
        return await self._columns(self._cursor(name))

    async def fetch(self, plan: Fetch) -> Answer:
        """FETCH or MOVE. Raises CommandError."""
        portal = self._cursor(plan.name)
        answer = await self._run(portal)
        rows = portal.take(answer, plan.count)
        if not plan.move:
            return Answer(plan.tag, portal.columns, rows, counted=True, wired=answer.wired)
        passed = 0
        async for batch in rows:
            passed += len(batch)
        return Answer(f"{plan.tag} {passed}", None, no_rows())

    def _cursor(self, name: str) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise CommandError(f'cursor "{name}" does not exist', "34000")
        return portal

    # ---- by name

    def _statement(self, name: str) -> Prepared:
        prepared = self._statements.get(name)
        if prepared is None:
            what = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise CommandError(f"{what} does not exist", "26000")
        return prepared

    def _portal(self, name: str) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise CommandError(f'portal "{name}" does not exist', "34000")
        return portal


def _parameter_types(plan: Plan, told: Sequence[int]) -> tuple[int, ...]:
    """Types of the parameters: as the client says, else as the query suggests."""
    asked = plan.plan if isinstance(plan, Declare) else plan
    known = asked.parameters if isinstance(asked, Query) else ()
    width = max(len(known), len(told))
    guessed = (*known, *[TEXT] * (width - len(known)))
    said = (*told, *[0] * (width - len(told)))
    return tuple(oid if oid not in (0, UNKNOWN) else guess for oid, guess in zip(said, guessed, strict=True))


def _parameters(message: wire.Bind, oids: Sequence[int]) -> tuple[Parameter, ...]:
    if len(message.parameters) != len(oids):
        raise CommandError(
            f"bind message supplies {len(message.parameters)} parameters, but prepared statement "
            f'"{message.statement}" requires {len(oids)}',
            "08P01",
        )
    return tuple(
        (oid, format_at(message.parameter_formats, place), data)
        for place, (oid, data) in enumerate(zip(oids, message.parameters, strict=True))
    )


def _encoder(portal: Portal, answer: Answer) -> Encoder:
    columns = portal.columns or ()
    formats = portal.formats
    if len(formats) > 1 and len(formats) != len(columns):
        raise CommandError(
            f"bind message has {len(formats)} result formats but query has {len(columns)} columns", "08P01"
        )
    return answer_encoder(answer, columns, formats)
