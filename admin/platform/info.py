"""pg:info and pg:wait: what is known of a database, live, in Heroku's labels and order.

Only what is true here is listed: a label whose fact cannot be had is absent, never invented. The database and
the pooler are asked at the moment of the call; one that does not answer is `Unavailable`, which is an answer
and not an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from admin.platform.model import Addon, Credential, direct_url, opens_pool
from admin.platform.truth import Facts, Unreachable, ask_facts, connected, pooler_answers

if TYPE_CHECKING:
    from admin.platform.store import Store

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, slots=True)
class Known:
    """What the state says of a database, read in one transaction before anything is asked of the database.
    `leader` and `followers` are URLs without user and password, enough to recognise a database by."""

    addon: Addon
    credential: Credential
    credentials: int
    pooled: bool
    leader: str | None
    leader_name: str | None
    followers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Live:
    """What the database said: `facts` is None when it did not answer."""

    facts: Facts | None
    status: str


@dataclass(frozen=True, slots=True)
class InfoLine:
    """One line of pg:info. `urls` says that the values are database URLs, which the command line turns into
    names."""

    name: str
    values: tuple[str, ...]
    urls: bool = False


def known(store: Store, addon: Addon, credential: Credential) -> Known:
    addons = store.addons()
    leader = next((other for other in addons if other.id == addon.following), None)
    return Known(
        addon=addon,
        credential=credential,
        credentials=len(store.credentials(addon.id)),
        pooled=any(opens_pool(attachment, addon) for attachment in store.attachments(addon_id=addon.id)),
        leader=_place(leader) if leader is not None else None,
        leader_name=leader.name if leader is not None else None,
        followers=tuple(_place(other) for other in addons if other.following == addon.id),
    )


def _place(addon: Addon) -> str:
    host = f"[{addon.host}]" if ":" in addon.host else addon.host
    return f"postgres://{host}:{addon.port}/{quote(addon.dbname, safe='')}"


def size(count: int) -> str:
    """Bytes as pg:info writes them: `39.9 MB`, `64 GB`, `1.5 TB`."""
    value, power = float(count), 0
    while value >= 1024 and power < len(UNITS) - 1:
        value, power = value / 1024, power + 1
    digits = 0 if power == 0 else 1 if power < 3 else 2
    text = f"{value:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} {UNITS[power]}"


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _data_size(facts: Facts, storage: int | None) -> str:
    if storage is None:
        return size(facts.size)
    return f"{size(facts.size)} / {size(storage)} ({facts.size * 100 / storage:.2f}%)"


def _live(known: Known, facts: Facts) -> list[InfoLine]:
    return [
        InfoLine("Data Size", (_data_size(facts, known.addon.plan.storage),)),
        InfoLine("Tables", (str(facts.tables),)),
        InfoLine("PG Version", (facts.version,)),
        InfoLine("Connections", (f"{facts.connections}/{known.addon.connection_limit}",)),
    ]


def ask(known: Known) -> Live:
    """Ask the database; one that does not answer is an answer."""
    try:
        return Live(ask_facts(known.addon, known.credential), "Available")
    except Unreachable as error:
        return Live(None, "Starting up" if error.starting else "Unavailable")


def rows(known: Known, live: Live) -> list[InfoLine]:
    """Everything, in order. Knocks at the pooler when the database has a pool."""
    facts, addon = live.facts, known.addon
    found = [InfoLine("Plan", (addon.plan.title,)), InfoLine("Status", (live.status,))]
    found += _live(known, facts) if facts is not None else []
    if addon.plan.pooling:
        found.append(InfoLine("Connection Pooling", (_pooling(known),)))
    found.append(InfoLine("Credentials", (str(known.credentials),)))
    found.append(InfoLine("Created", (moment(addon.created_at),)))
    if facts is not None:
        found.append(InfoLine("Continuous Protection", ("On" if facts.archiving else "Off",)))
    if known.followers:
        found.append(InfoLine("Followers", known.followers, urls=True))
    if known.leader:
        found.append(InfoLine("Following", (known.leader,), urls=True))
    return found


def _pooling(known: Known) -> str:
    """Available, unless a pool is attached and no pooler listens where its URL points."""
    if known.pooled and not pooler_answers(known.addon, known.credential):
        return "Unavailable"
    return "Available"


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """Whether one has to wait for a database, whether waiting is no use, and why."""

    waiting: bool
    message: str
    error: bool = False


def wait_status(addon: Addon, credential: Credential) -> WaitStatus:
    try:
        with connected(direct_url(addon, credential)):
            return WaitStatus(False, "available")
    except Unreachable as error:
        if error.refusing:
            return WaitStatus(True, f"refused: {error}", error=True)
        return WaitStatus(True, "starting up" if error.starting else f"unavailable: {error}")
