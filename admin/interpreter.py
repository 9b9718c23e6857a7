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

from admin import commands, courtesies, cursors, sql, views
from admin.answers import Answer, Columns, Row, no_rows, paced
from admin.commands import Request, permit
from admin.courtesies import Courtesy
from admin.cursors import Declare, Fetch
from admin.fieldtypes import Value
from admin.lexer import Statement
from admin.views import Shown, View
from pooler.config import SETTINGS, config_rows
from pooler.verbs import CommandError, ConsoleSession, House, Verb

log = logging.getLogger("pooler.console")


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


RowPlan = Display | sql.Query
Plan = Nothing | RowPlan | Help | Perform | Courtesy | Declare[RowPlan] | Fetch


class Interpreter:
    """One per session. `perform` is how the session has a verb done, watching its client meanwhile."""

    def __init__(self, session: ConsoleSession, house: House) -> None:
        self._session = session
        self._house = house
        self.server_version = house.snapshot().pgbouncer_version.rpartition(" ")[2] + "/bouncer"
        """`1.25.2/bouncer`, of the same constant as SHOW VERSION."""

    # ---- reading

    def read(self, statement: Statement, whole: str) -> Plan:
        """What `statement` is; `whole` is how a complaint shows it. Raises CommandError."""
        request = commands.parse(statement.plain)
        if request is not None:
            return self._requested(request)
        courtesy = courtesies.answer(statement.tokens, self._parameters, self._settings)
        if courtesy is not None:
            return courtesy
        query = sql.read(statement) or self._cursor(statement, whole)
        if query is not None:
            return query
        raise commands.invalid(whole)

    def _cursor(self, statement: Statement, whole: str) -> Plan | None:
        declaration = cursors.declaration(statement)
        if declaration is None:
            return cursors.fetch(statement)
        plan = self.read(declaration.statement, whole)
        if not isinstance(plan, Display | sql.Query):
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
        if key in SETTINGS:
            return Perform(request)
        courtesy = courtesies.sets_nothing(key)
        if courtesy is not None:
            return courtesy
        permit(request, self._session.rights)
        log.error("unknown parameter: pgbouncer/%s", key)
        raise CommandError("SET failed")

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

    def _asker(self) -> sql.Asker:
        return sql.Asker(self._session, self._house, self._parameters())

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
            case sql.Query():
                return await sql.describe(plan, self._asker())
            case _:
                return None

    # ---- acting

    def verb(self, plan: Perform) -> Verb:
        return permit(plan.request, self._session.rights)

    async def start(self, plan: Plan, parameters: Sequence[Value] = ()) -> Answer:
        """Everything but Perform and the effect of a Courtesy, which are the session's. Raises
        CommandError."""
        match plan:
            case Display():
                permit(plan.request, self._session.rights)
                return self._display(plan.view)
            case Help():
                permit(plan.request, self._session.rights)
                return Answer("SHOW", None, no_rows(), "Console usage", commands.usage())
            case Courtesy():
                return Answer(plan.tag, plan.columns, paced(plan.rows), plan.notice, plan.detail)
            case sql.Query():
                return await sql.start(plan, parameters, self._asker())
            case _:
                return Answer("", None, no_rows())

    def _display(self, view: View) -> Answer:
        return Answer("SHOW", columns_of(view), _read_once(view, take(self._house, view.needs)))


async def _read_once(view: View, shown: Shown) -> AsyncIterator[Sequence[Row]]:
    async for batch in paced(view.rows(shown)):
        yield batch
    await shown.snapshot.release()


def take(house: House, needs: frozenset[str]) -> Shown:
    """A Snapshot with the parts that are needed, for a view to read."""
    return Shown(
        house.snapshot(clients="clients" in needs, servers="servers" in needs, histograms="histograms" in needs),
        house,
    )


def columns_of(view: View) -> Columns:
    return tuple((column.name, column.oid) for column in view.columns)


def version_number(version: str) -> str:
    """`1.25.2/bouncer` as server_version_num spells it: 12502."""
    parts = [int(part) for part in re.findall(r"\d+", version)[:3]]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return str(major * 10_000 + minor * 100 + patch)
