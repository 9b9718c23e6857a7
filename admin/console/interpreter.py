"""From a statement to its Answer: which kind it is, whether it may be, and who answers.

A statement is a command of the table, a courtesy to drivers, or a SELECT over the views; `read` decides
without any effect, `start` acts. The rule: `start` asks `commands.permit` before everything else, and a
`Verb`, which only `permit` makes, is the only thing the house performs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from admin import commands, views
from admin.commands import Request, permit
from admin.console import courtesies, cursors, queries
from admin.console.answers import Answer, Columns, no_rows, paced
from admin.console.courtesies import Courtesy
from admin.console.crew import unless
from admin.console.cursors import Declare, Fetch
from admin.console.queries import SHORT, Asker, Query
from admin.console.seats import Seat, Seated, Seats
from admin.fieldtypes import Row
from admin.sql.backend import Parameter
from admin.views import SOCKETS, Shown, View
from pooler import lexer
from pooler.config.whole import OWN, SETTINGS, config_rows
from pooler.hints import hint
from pooler.lexer import Statement
from pooler.stats import PGBOUNCER_VERSION
from pooler.verbs import CommandError, ConsoleSession, House, Verb

log = logging.getLogger("pooler.console")

MOST_STATEMENTS = 200
"""In one query."""
SHOWING = Seats(16, patience=10.0, wait=15.0)
"""For views of all clients or servers: each answer has some megabytes of them."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """An empty query."""


@dataclass(frozen=True, slots=True)
class Display:
    """SHOW of a view as it is."""

    request: Request
    view: View


@dataclass(frozen=True, slots=True)
class Help:
    request: Request


@dataclass(frozen=True, slots=True)
class Perform:
    """A verb for the house."""

    request: Request


RowPlan = Display | Query
Plan = Nothing | RowPlan | Help | Perform | Courtesy | Declare[RowPlan] | Fetch


class Interpreter:
    """One per session. `perform` is how the session has a verb done, watching its client meanwhile."""

    def __init__(self, session: ConsoleSession, house: House) -> None:
        self._session = session
        self._house = house
        self.server_version = f"{PGBOUNCER_VERSION}/bouncer"
        """`1.26.1/bouncer`, of the same constant as SHOW VERSION."""

    # ---- reading

    async def plans(self, text: str, oids: Sequence[int] | None = None) -> list[Plan]:
        """All statements of a query, read before any is carried out; `oids` are the types the client gives to its
        parameters, None when it has none to give. Raises CommandError."""
        return await self._plans_of(text, text, oids)

    async def _plans_of(self, text: str, whole: str, oids: Sequence[int] | None, begin: int = 0) -> list[Plan]:
        """The plans of a text that begins there in the client's query; `whole` is how a complaint shows it."""
        try:
            statements = await queries.taken_apart(text)
        except lexer.Unterminated:
            raise queries.unterminated(text) or commands.invalid(whole) from None
        if len(statements) > MOST_STATEMENTS:
            raise CommandError(f"too many statements in one query: at most {MOST_STATEMENTS}", "54000")
        one = len(statements) == 1
        return [await self._read(each, whole if one else each.text, oids, begin) for each in statements]

    async def _read(self, statement: Statement, whole: str, oids: Sequence[int] | None, begin: int) -> Plan:
        request = commands.parse(statement.plain) if len(statement.plain) <= SHORT else None  # no command is so long
        if request is not None:
            return self._requested(request)
        courtesy = courtesies.answer(statement.tokens, self._parameters, self._settings)
        if courtesy is not None:
            return courtesy
        plan: Plan | None = await queries.read(statement, self._asker(), oids, begin)
        plan = plan or await self._cursor(statement, whole, oids, begin) or cursors.fetch(statement)
        if plan is None:
            raise commands.invalid(whole)
        return plan

    async def _cursor(self, statement: Statement, whole: str, oids: Sequence[int] | None, begin: int) -> Plan | None:
        declaration = cursors.declaration(statement.text)
        if declaration is None:
            return None
        inner = declaration.text
        begin += statement.start + len(statement.text) - len(inner)
        plans = [] if cursors.declaration(inner) else await self._plans_of(inner, whole, oids, begin)
        plan = plans[0] if len(plans) == 1 else None
        if not isinstance(plan, Display | Query) or (isinstance(plan, Query) and plan.columns is None):
            raise CommandError("a cursor can only be for rows of a view", "42P11")
        return Declare(declaration.name, plan, declaration.held)

    def _requested(self, request: Request) -> Plan:
        if request.command.view == "HELP":
            return Help(request)
        if request.command.view is not None:
            return Display(request, views.BY_NAME[request.command.view])
        if request.command.name == "SET":
            return self._setting(request)
        return Perform(request)

    def _setting(self, request: Request) -> Plan:
        key = (request.argument or "").lower()
        if key in SETTINGS or key in OWN:
            return Perform(request)
        courtesy = courtesies.sets_nothing(key)
        if courtesy is not None:
            return courtesy
        permit(request, self._session.rights)
        log.error("unknown parameter: pgbouncer/%s", key)
        meant = hint(key, (*SETTINGS, *OWN))
        raise CommandError("SET failed", detail=f'There is no setting "{key}".', hint=meant)

    def _parameters(self) -> dict[str, str]:
        """The session's parameters: what it was told at login, over the defaults."""
        told = {name.lower(): value for name, value in self._session.parameters.items()}
        version = self.server_version
        own = {
            "session_authorization": self._session.user,
            "application_name": told.get("application_name", ""),
            "server_version": version,
            "server_version_num": version_number(version),
        }
        return {**courtesies.PARAMETERS, **courtesies.FAKES, **own}

    def _asker(self) -> Asker:
        return Asker(self._session, self._house, self._parameters())

    def _settings(self) -> dict[str, str]:
        return {row[0]: row[1] or "" for row in config_rows(self._house.config)}

    # ---- what is known before it runs

    async def describe(self, plan: Plan) -> Columns | None:
        """Columns of the answer, None when it has no rows."""
        match plan:
            case Display():
                return columns_of(plan.view)
            case Courtesy():
                return plan.columns
            case Query():
                return plan.columns
            case _:
                return None

    # ---- acting

    def verb(self, plan: Perform) -> Verb:
        return permit(plan.request, self._session.rights)

    async def start(self, plan: Plan, parameters: Sequence[Parameter] = (), results: Sequence[int] = ()) -> Answer:
        """Everything but Perform and the effect of a Courtesy, which are the session's; a SELECT's rows come in the
        formats `results`. Raises CommandError."""
        match plan:
            case Display():
                permit(plan.request, self._session.rights)
                return await self._display(plan.view)
            case Help():
                permit(plan.request, self._session.rights)
                return Answer("SHOW", None, no_rows(), "Console usage", commands.usage())
            case Courtesy():
                rows = paced(plan.rows, self._house.pace)
                return Answer(plan.tag, plan.columns, rows, plan.notice, plan.detail)
            case Query():
                return await queries.start(plan, parameters, results, self._asker())
            case _:
                return Answer("", None, no_rows())

    async def _display(self, view: View) -> Answer:
        if not view.needs & SOCKETS:
            return Answer("SHOW", columns_of(view), _read_once(view, await take(self._house, view.needs)))
        first = self._session.rights == "admin"
        seat = await unless(self._session.canceled, SHOWING.take(first=first), Seat.leave)
        try:
            rows = Seated(seat, _read_once(view, await take(self._house, view.needs)))
        except BaseException:
            seat.leave()
            raise
        return Answer("SHOW", columns_of(view), rows, release=seat.leave)


async def _read_once(view: View, shown: Shown) -> AsyncIterator[Sequence[Row]]:
    async for batch in paced(view.rows(shown), shown.house.pace):
        yield batch
    await shown.snapshot.release()


async def take(house: House, needs: frozenset[str]) -> Shown:
    """A Snapshot with the parts that are needed, for a view to read."""
    ready = await house.prepared(needs)
    return Shown(
        ready.snapshot(clients="clients" in needs, servers="servers" in needs, histograms="histograms" in needs),
        ready,
    )


def columns_of(view: View) -> Columns:
    return tuple((column.name, column.oid) for column in view.columns)


def version_number(version: str) -> str:
    """`1.26.1/bouncer` as server_version_num spells it: 12601."""
    parts = [int(part) for part in re.findall(r"\d+", version)[:3]]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return str(major * 10_000 + minor * 100 + patch)
