"""The admin database's commands as one table: name, argument, who may, help. Grammar and rights, no
effects.

`parse` turns a statement into a `Request` by PgBouncer's three patterns (src/admin.c); `permit` is the only
place where rights are checked and the only maker of a `Verb`, so nothing can be performed that was not
permitted. The rule: a command exists because it has a row in COMMANDS, and its rights are a column of that
row. The interactive console completes from this table too; it imports nothing of a running server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from pooler.hints import hint, nearest
from pooler.stats import ADMIN_DATABASE
from pooler.verbs import CommandError, Rights, Verb

MAX_COMMAND, MAX_ARGUMENT, MAX_VALUE = 15, 63, 255
"""Longest command, argument and value in bytes; longer ones are `bad arguments`."""
MAX_SHOWN = 1000
"""Characters of an invalid command that the complaint repeats."""
SHUTDOWN_MODES = ("WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS")


class Takes(Enum):
    """What stands behind a command's name, as its usage shows it."""

    NOTHING = ""
    DATABASE = "<db>"
    ANY_DATABASE = "[<db>]"
    CLIENT = "<client_id>"
    SETTING = "key = arg"
    MODE = "[WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]"


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `not_on_admin` is the refusal when the argument names the admin database itself; `ours`:
    PgBouncer has no such command."""

    name: str
    takes: Takes
    rights: Rights
    help: str
    not_on_admin: str = ""
    ours: bool = False

    @property
    def view(self) -> str | None:
        """The view a SHOW command shows, such as `POOLS`; None for the verbs."""
        return self.name[5:] if self.name.startswith("SHOW ") else None

    @property
    def usage(self) -> str:
        return f"{self.name} {self.takes.value}".rstrip()


@dataclass(frozen=True, slots=True)
class Request:
    """A statement that follows the grammar: nobody's rights are checked yet."""

    command: Command
    argument: str | None = None
    value: str | None = None


def _show(name: str, help: str, rights: Rights = "stats", *, ours: bool = False) -> Command:
    return Command(f"SHOW {name}", Takes.NOTHING, rights, help, ours=ours)


COMMANDS: tuple[Command, ...] = (
    _show("HELP", "list the console's commands"),
    _show("CONFIG", "every setting with its default, and whether SET changes it"),
    _show("DATABASES", "the configured databases, their limits and use"),
    _show("POOLS", "clients and servers of each pool by state, and the longest wait"),
    _show("CLIENTS", "each client connection"),
    _show("SERVERS", "each server connection"),
    _show("USERS", "the known users, their limits and use"),
    _show("VERSION", "the PgBouncer release whose console this is"),
    _show("PEERS", "the processes this one forwards cancel requests to"),
    _show("PEER_POOLS", "cancel requests on their way to each peer"),
    _show("SOCKETS", "clients and servers with the state of their buffers"),
    _show("ACTIVE_SOCKETS", "clients and servers that are doing something, with the state of their buffers"),
    _show("LISTS", "how many there are of each kind of object"),
    _show("MEM", "memory by kind of object"),
    _show("STATE", "whether the pooler is active or paused"),
    _show("DNS_HOSTS", "cached host names"),
    _show("DNS_ZONES", "cached DNS zones"),
    _show("STATS", "counts since start and averages, per database"),
    _show("STATS_TOTALS", "counts since start, per database"),
    _show("STATS_AVERAGES", "averages over the last one to two periods, per database"),
    _show("TOTALS", "counts and averages of all databases together"),
    _show("ABOUT", "name, version, build and uptime of this process", ours=True),
    _show("WAITING", "each queued client: since when, for which pool, who it is", ours=True),
    _show("TRANSACTIONS", "each transaction that holds a server: since when, whose it is", ours=True),
    _show("LATENCY", "percentiles of waits, queries and transactions over the last periods, per database", ours=True),
    _show("POOL_LATENCY", "percentiles of waits, queries and transactions over the last periods, per pool", ours=True),
    _show("LOOP", "the longest that traffic had to wait for the pooler itself, last period or this", ours=True),
    _show("HISTORY", "one row per period and database for the last hour", ours=True),
    _show("EVENTS", "connects, disconnects, errors and timeouts by reason", ours=True),
    _show("SESSION_STATE", "what clients have left in their sessions, and what pins a server", ours=True),
    _show("WORKERS", "the processes that share the work, and what each has of it", ours=True),
    _show("SESSION_STATE_SEEN", "statements that touched session state since the start, by kind and fate", ours=True),
    _show("DRAINS", "where the log lines go, and what was lost on the way", ours=True),
    _show("FDS", "file descriptors in use", "admin", ours=True),
    Command("SET", Takes.SETTING, "admin", "change a setting until the next restart or RELOAD"),
    Command("RELOAD", Takes.NOTHING, "admin", "read the configuration files again"),
    Command(
        "PAUSE", Takes.ANY_DATABASE, "admin",
        "wait for running work, close the servers, then hold new work back", "cannot pause admin db: {}",
    ),
    Command("RESUME", Takes.ANY_DATABASE, "admin", "end PAUSE, SUSPEND or KILL"),
    Command(
        "DISABLE", Takes.DATABASE, "admin", "refuse new clients of a database", "cannot disable admin db: {}"
    ),
    Command("ENABLE", Takes.DATABASE, "admin", "allow new clients again", "cannot enable admin db: {}"),
    Command(
        "RECONNECT", Takes.ANY_DATABASE, "admin",
        "close each server once it is free and open a new one", "cannot reconnect admin db: {}",
    ),
    Command(
        "KILL", Takes.ANY_DATABASE, "admin",
        "drop clients and servers at once and hold new work back", "cannot kill admin db: {}",
    ),
    Command("KILL_CLIENT", Takes.CLIENT, "admin", "drop one client by its id in SHOW CLIENTS"),
    Command("SHUTDOWN", Takes.MODE, "admin", "stop at once, or when servers or clients are gone"),
    Command(
        "WAIT_CLOSE", Takes.ANY_DATABASE, "admin",
        "answer when the servers that RECONNECT or RELOAD condemned are gone", "cannot wait in admin db: {}",
    ),
    Command("SUSPEND", Takes.NOTHING, "admin", "flush the buffers and stop reading", ours=True),
)  # fmt: skip
"""In the order of PgBouncer's SHOW HELP; `ours` is what it does not have, or (FDS, SUSPEND) has no more since 1.26."""

HELP_STARTS = ("HELP", "PEERS", "SOCKETS", "DNS_HOSTS", "STATS", "ABOUT")
"""The views with which a line of SHOW HELP begins."""

BY_NAME = {command.name: command for command in COMMANDS}
FIRST_WORDS = ("SHOW", "SELECT", "COPY", *(command.name for command in COMMANDS if not command.view))
SHOWN = tuple(command.view for command in COMMANDS if command.view)
"""What may be shown, and what a command may begin with: what somebody may have meant."""

_BLANK = r"[ \t\r\n]"
_WORD = r'("[^"]*+(?:""[^"]*+)*+"|[0-9a-z_]++)'
_STRING = r"('[^']*+(?:''[^']*+)*+')"
_END = rf"{_BLANK}*+(?:;{_BLANK}*+)?+"
_ASSIGN = rf"{_BLANK}*+(?:=|to(?![0-9a-z_])){_BLANK}*+"
_PLAIN = r"([0-9a-z_.+:/@-]++)"
"""A value without quotes: wider than PgBouncer's, so that `scram-sha-256` and `0.5` need none."""
_COMMAND = re.compile(rf"{_BLANK}*+{_WORD}(?:{_BLANK}++{_WORD})?{_END}", re.IGNORECASE | re.ASCII)
_SET = re.compile(
    rf"{_BLANK}*+set{_BLANK}++{_WORD}{_ASSIGN}(?:{_WORD}|{_PLAIN}|{_STRING}){_END}",
    re.IGNORECASE | re.ASCII,
)


def parse(text: str) -> Request | None:
    """The request that `text` (without comments) spells; None when it is no command of the table.
    Raises CommandError when it is one with an argument it cannot have."""
    if (found := _SET.fullmatch(text)) is not None:
        key, *values = found.groups()
        return _setting(_unquote(key), _unquote(next(value for value in values if value is not None)))
    if (found := _COMMAND.fullmatch(text)) is None:
        return None
    name, argument = found.groups()
    return _command(_unquote(name), _unquote(argument) if argument else None)


def _unquote(word: str) -> str:
    quote = word[0]
    return word[1:-1].replace(quote * 2, quote) if quote in "\"'" else word


def _setting(key: str, value: str) -> Request:
    if _bytes(key) > MAX_ARGUMENT or _bytes(value) > MAX_VALUE:
        raise CommandError("bad arguments")
    return Request(BY_NAME["SET"], key, value)


def _command(name: str, argument: str | None) -> Request | None:
    if _bytes(name) > MAX_COMMAND or _bytes(argument or "") > MAX_ARGUMENT:
        raise CommandError("bad arguments")
    name = name.upper()
    if name in ("SHOW", "SELECT"):
        shown = BY_NAME.get(f"SHOW {argument.upper()}") if argument else None
        return Request(shown) if shown else None
    command = BY_NAME.get(name)
    if command is None or command.takes is Takes.SETTING:
        return None
    return _verb(command, argument or None)


def _verb(command: Command, argument: str | None) -> Request | None:
    match command.takes:
        case Takes.NOTHING:
            return Request(command) if argument is None else None
        case Takes.MODE:
            mode = argument.upper() if argument else None
            return Request(command, mode) if mode is None or mode in SHUTDOWN_MODES else None
        case _:
            return Request(command, argument)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def permit(request: Request, rights: Rights) -> Verb:
    """What may be done now: the request as a Verb, when `rights` are enough for it and its argument is one
    the command can have. Raises CommandError. Every command, also every SHOW, passes here before it has any
    effect."""
    command, argument = request.command, request.argument
    if command.rights == "admin" and rights != "admin":
        raise CommandError("admin access needed")
    if command.takes is Takes.DATABASE and argument is None:
        raise CommandError("a database is required")
    if command.takes is Takes.CLIENT and not (argument and argument.isascii() and argument.isdecimal()):
        raise CommandError("invalid client pointer supplied")
    if command.not_on_admin and argument == ADMIN_DATABASE:
        raise CommandError(command.not_on_admin.format(argument))
    return Verb(command.name, argument, request.value)


def invalid(text: str) -> CommandError:
    """A long text is shown, and logged, by its beginning."""
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
    return CommandError(f"invalid command '{shown}', use SHOW HELP;", hint=_meant(text[:MAX_SHOWN]))


def _meant(text: str) -> str:
    """Which command may have been meant, as a hint."""
    first, *rest = text.replace(";", " ").split()[:2] or [""]
    if first.upper() != "SHOW":
        return hint(first, FIRST_WORDS)
    found = nearest(rest[0], SHOWN) if rest else None
    return f'Perhaps you meant "SHOW {found}".' if found else ""


def usage() -> str:
    """The text of SHOW HELP: PgBouncer's lines as they stand there, then what is ours."""
    lines: dict[bool, list[str]] = {False: [], True: []}
    for command in COMMANDS:
        place = lines[command.ours]
        if command.view in HELP_STARTS or not command.view:
            place.extend(_lines(command))
        else:
            place[-1] += f"|{command.view}"
    lines[True][1:1] = ["SHOW <view> [WHERE ...] [ORDER BY ...] [LIMIT ...]", "SELECT ... FROM <view> ..."]
    return "\n" + "\n".join(f"\t{line}" for line in (*lines[False], *lines[True]))


def _lines(command: Command) -> tuple[str, ...]:
    if command.takes is Takes.MODE:
        return command.name, f"{command.name} {'|'.join(SHUTDOWN_MODES)}"
    return (command.usage,)
