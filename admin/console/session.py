"""The wire session on the admin database: simple and extended query protocol for one client.

Reads messages, has the interpreter answer, writes rows in batches. PgBouncer's console knows the simple
protocol only; here psycopg, asyncpg and JDBC work as with any server. The rule: whatever a client sends, it
gets rows, a tag or an error and stays connected; only a message that is no message ends the session, with
FATAL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from functools import lru_cache
from typing import Any

from admin import commands
from admin.commands import Request
from admin.console import courtesies
from admin.console.answers import Answer, Columns, answer_encoder, encode_rows, no_rows
from admin.console.courtesies import Courtesy, Effect
from admin.console.cursors import Declare, Fetch
from admin.console.inbox import LONGEST, Inbox, Message
from admin.console.interpreter import Interpreter, Perform, Plan
from admin.console.outbox import Outbox
from admin.console.portals import Portals
from admin.fieldtypes import BadValue
from admin.sql.backend import Parameter
from pooler import wire
from pooler.net.channel import Channel, ConnectionClosed
from pooler.stats import PGBOUNCER_VERSION
from pooler.verbs import CommandError, ConsoleSession, House, Remark, Verb
from pooler.wire import ProtocolError

log = logging.getLogger("pooler.console")

WELCOME = (
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
)
"""ParameterStatus after server_version, in PgBouncer's order."""
INTERVALS = frozenset({1186, 1187})
"""Types of columns that drivers read by the session's IntervalStyle. PgBouncer has no such values, and tells of no
style; ours does with the first of them."""

UNDONE_BY_CANCEL = frozenset({"PAUSE", "SUSPEND", "KILL"})
"""Commands that a cancel request ends as RESUME would; as PgBouncer does."""

described = lru_cache(maxsize=64)(wire.row_description)
"""Who polls asks for the same columns each second."""


async def serve(channel: Channel, session: ConsoleSession, house: House) -> None:
    """The whole session, from the welcome to the client's leaving; the channel is the caller's to close.
    Raises ConnectionClosed when the client left in any other way than by saying so."""
    inbox = Inbox(channel, lambda: house.config.settings.max_packet_size, session.on_left)
    try:
        await Console(Outbox(channel), inbox, session, house).run()
    finally:
        await inbox.close()


class Leave(Exception):
    """The session is over and says nothing more."""


class Console:
    """One client's session. `status` is its transaction status: there is nothing to roll back here, but
    drivers believe what they are told."""

    def __init__(self, outbox: Outbox, inbox: Inbox, session: ConsoleSession, house: House) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._session = session
        self._house = house
        self._interpreter = Interpreter(session, house)
        self._portals = Portals(self)
        self._status = b"I"
        self._skipping = False
        """After an error in the extended protocol: until Sync."""
        self._style_told = False

    # ---- the session

    async def run(self) -> None:
        await self._welcome()
        try:
            message = await self._inbox.next()
            self._house.asked()
            while True:
                await self._answer(message)
                if not self._inbox.empty:
                    await self._breathe()
                message = await self._inbox.next()
        except Leave:
            return
        except ProtocolError as error:
            await self._fatal(error)
        except ConnectionClosed as end:
            if end.message != "client close request":
                raise
        finally:
            self._portals.close_all()

    async def _welcome(self) -> None:
        parts = [wire.parameter_status("pgbouncer.version", PGBOUNCER_VERSION)]
        parts.append(wire.parameter_status("server_version", self._interpreter.server_version))
        parts.extend(wire.parameter_status(name, value) for name, value in WELCOME)
        parts.append(wire.backend_key_data(self._session.cancel_key))
        if notice := self._house.config.settings.login_notify_message:
            parts.append(wire.notice_response("NOTICE", "00000", notice))
        await self._outbox.put(b"".join(parts))
        await self._ready()

    async def _ready(self) -> None:
        if self._status == b"I":
            self._portals.end()
        await self._outbox.put(wire.ready_for_query(self._status))
        await self._outbox.flush()

    async def _fatal(self, error: ProtocolError) -> None:
        await self._outbox.put(wire.error_response("FATAL", error.sqlstate, error.message))
        await self._outbox.flush()

    async def _breathe(self) -> None:
        """Between two answers: whoever sends many questions at once has them answered in as many turns of the loop."""
        self._house.pace()
        await asyncio.sleep(0)

    async def _answer(self, message: Message) -> None:
        self._session.canceled.clear()  # a cancel request that came when nothing ran has nothing to cancel
        kind, body = message.kind, message.body
        if kind == b"S":
            await self._sync()
        elif self._skipping:
            return
        elif body is None:
            await self._error(CommandError(f"message is too long: {message.size} bytes, at most {LONGEST}", "54000"))
            if kind in b"QF":
                await self._ready()
            else:
                self._skipping = True
        elif kind == b"Q":
            await self._guarded(self._simple(body))
            await self._ready()
        elif kind == b"F":
            await self._error(CommandError("function calls are not possible on the admin console", "0A000"))
            await self._ready()
        elif kind == b"H":
            await self._outbox.flush()
        else:
            step = self._portals.step(kind)
            if step is None:
                raise ProtocolError(f"unsupported packet type for admin console: {kind[0]}")
            self._skipping = not await self._guarded(step(body))

    async def _sync(self) -> None:
        self._skipping = False
        await self._ready()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work`; an error becomes an ErrorResponse. Whether there was none."""
        try:
            await work
        except CommandError as error:
            await self._error(error)
        except BadValue as error:
            await self._error(CommandError(error.message, error.sqlstate))
        except (ConnectionClosed, ProtocolError, Leave):
            raise
        except Exception:
            log.exception("console: a statement failed unexpectedly")
            await self._error(CommandError("internal error, see logs for additional details", "XX000"))
        else:
            return True
        return False

    async def _error(self, error: CommandError) -> None:
        """Sent at once, as PostgreSQL does: asyncpg waits for it before it says Sync."""
        log.error("%s", error.message)
        if self._house.config.settings.log_pooler_errors:
            log.warning("%s pooler error: %s", self._session.label, error.message)
        report = wire.error_response(
            "ERROR",
            error.sqlstate,
            error.message,
            detail=error.detail or None,
            hint=error.hint or None,
            position=error.position,
        )
        await self._outbox.put(report)
        await self._outbox.flush()

    # ---- the simple protocol

    async def _simple(self, body: bytes) -> None:
        text = wire.read_query(body)
        log.debug("got admin query: %s", text)
        self._portals.forget_unnamed()
        plans = await self.plans(text)
        if not plans:
            await self.put(wire.empty_query_response())
        for place, plan in enumerate(plans):
            if place:
                await self._breathe()
            await self._whole(await self.carry_out(plan))

    async def plans(self, text: str, oids: Sequence[int] | None = None) -> list[Plan]:
        return await self._interpreter.plans(text, oids)

    async def _whole(self, answer: Answer) -> None:
        """An answer of the simple protocol, all of it, in text."""
        try:
            await self.notice(answer)
            count = 0
            if answer.columns is not None:
                await self.put(described(answer.columns))
                encode = answer_encoder(answer, answer.columns, ())
                async for batch in answer.batches:
                    count += len(batch)
                    await self.put(encode_rows(encode, batch))
            elif answer.copy is not None:
                await self.put(answer.copy.head)
                async for batch in answer.batches:
                    await self.put(encode_rows(bytes, batch))
                await self.put(wire.message(b"c"))
            await self.put(wire.command_complete(answer.complete(count)))
        finally:
            answer.release()

    # ---- what both protocols do

    async def put(self, data: bytes) -> None:
        await self._outbox.put(data)

    async def notice(self, answer: Answer) -> None:
        if answer.notice:
            await self.put(wire.notice_response("NOTICE", "00000", answer.notice, detail=answer.detail))

    async def describe(self, plan: Plan) -> Columns | None:
        if isinstance(plan, Fetch):
            return None if plan.move else await self._portals.columns_of(plan.name)
        return await self._interpreter.describe(plan)

    async def carry_out(self, plan: Plan, parameters: Sequence[Parameter] = (), results: Sequence[int] = ()) -> Answer:
        """Have a plan done; return what to say, a SELECT's rows in the formats `results`. Raises CommandError."""
        match plan:
            case Perform():
                return await self._perform(plan)
            case Declare():
                if self._status == b"I" and not plan.held:
                    raise CommandError("DECLARE CURSOR can only be used in transaction blocks", "25P01")
                return self._portals.declare(plan, parameters)
            case Fetch():
                return await self._portals.fetch(plan)
        answer = await self._interpreter.start(plan, parameters, results)
        if not self._style_told and any(oid in INTERVALS for _, oid in answer.columns or ()):
            self._style_told = True
            await self.put(wire.parameter_status("IntervalStyle", courtesies.PARAMETERS["intervalstyle"]))
        if isinstance(plan, Courtesy):
            self._apply(plan)
        return answer

    def _apply(self, courtesy: Courtesy) -> None:
        match courtesy.effect:
            case Effect.BEGIN:
                self._status = b"T"
            case Effect.END:
                self._status = b"I"
            case Effect.FORGET_ALL:
                self._portals.forget_all()
            case Effect.FORGET:
                self._portals.forget(courtesy.name)
            case Effect.CLOSE_ALL:
                self._portals.close_all()
            case Effect.CLOSE:
                self._portals.close(courtesy.name)

    async def _perform(self, plan: Perform) -> Answer:
        verb = self._interpreter.verb(plan)
        await self._outbox.flush()
        remark = await self._watched(verb)
        if verb.name == "SHUTDOWN" and verb.argument is None:
            raise Leave
        tag = f"SET {verb.argument}={verb.value}" if verb.name == "SET" else verb.name
        if remark is None:
            return Answer(tag, None, no_rows())
        return Answer(tag, None, no_rows(), notice=remark.message, detail=remark.detail or None)

    async def _watched(self, verb: Verb) -> Remark | None:
        """Have `verb` performed; stop waiting for it when the client leaves or asks to cancel."""
        work = asyncio.ensure_future(self._house.perform(verb))
        cancel = asyncio.ensure_future(self._session.canceled.wait())
        try:
            await asyncio.sleep(0)  # so that what needs no waiting is done even for a client that has left
            if not work.done():
                await asyncio.wait((work, cancel, self._inbox.gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if self._inbox.gone.done():
                raise ConnectionClosed("client unexpected eof")
        finally:
            await _stopped(work)
            await _stopped(cancel)
        await self._undo(verb)
        raise CommandError("canceling statement due to user request", "57014")

    async def _undo(self, verb: Verb) -> None:
        if verb.name in UNDONE_BY_CANCEL:
            resume = Request(commands.BY_NAME["RESUME"], verb.argument)
            with contextlib.suppress(CommandError):  # it was not paused yet
                await self._house.perform(commands.permit(resume, self._session.rights))


async def _stopped(work: asyncio.Future[Any]) -> None:
    """`work` done or cancelled; its outcome is its owner's."""
    if not work.done():
        work.cancel()
        await asyncio.wait((work,))
    if not work.cancelled():
        work.exception()
