"""Manual pages in the language of man(7): pooler(1) from the parsers of the commands, pooler.ini(5) from the tables of
settings. What stands in no table is written here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from pooler.config.databases import KEYS, DatabaseConfig, PeerConfig, UserConfig
from pooler.config.kinds import Setting
from pooler.config.settings import OWN, SETTINGS
from pooler.deploy.listed import Listed, arguments, help_of, value_of
from pooler.deploy.sample import explained
from pooler.places import STATE_HOME, SYSTEM

ABOUT = "connection pooling for PostgreSQL"
ENVIRONMENT = {
    "DATABASE_URL": "The PostgreSQL that serve pools when there is no ini file; where console and top look for it.",
    "POOLER_STATE": "The control plane's state, a file or a postgres:// URL.",
    "POOLER_APP, HEROKU_APP": "The app that a command is about when there is no -a.",
    "POOLER_URL": "Where logs looks for the pooler.",
    "PGBOUNCER_URL": "The console that metrics asks.",
    STATE_HOME: "Below it, in pooler, are the embedded PostgreSQL, its passwords and keys.",
    "PGPASSFILE": "The file of passwords that serve names when it starts.",
    "LISTEN_FDS, NOTIFY_SOCKET": "Sockets from systemd, and where it is told that we are ready.",
}
FILES = {
    str(SYSTEM): "Root's state directory; everybody else's is ~/.local/state/pooler.",
    "pgpass": "In it: the passwords of the embedded PostgreSQL.",
    "platform.db": "In it: the control plane's state.",
}
SIGNALS = {
    "HUP": "Read the ini again and reopen the logs.",
    "TERM": "Stop when the last client has left.",
    "INT": "Stop when the servers are free.",
    "QUIT": "Stop at once; as a second TERM or INT.",
    "USR1, USR2": "Pause, and resume.",
}


def escaped(text: str) -> str:
    """Text as roff prints it: no request, no escape, and a hyphen that can be searched for."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in safe.splitlines())


def commands_page(commands: Sequence[Listed], version: str) -> str:
    """pooler(1)."""
    lines = [*_head("POOLER", 1, version), ".SH NAME", f"pooler \\- {ABOUT}", ".SH SYNOPSIS"]
    lines += [".B pooler", ".I COMMAND", "[\\fIARGUMENT\\fR...]", ".SH DESCRIPTION"]
    lines.append(escaped("A drop-in for PgBouncer: the same ini, the same admin database and the same words. See"))
    lines.append(".BR pooler.ini (5)\nfor the settings.")
    for topic, group in groupby(commands, key=lambda command: command.topic):
        lines.append(f".SH {escaped(topic.upper())}")
        for command in group:
            lines += _command(command)
    for title, rows in (("SIGNALS", SIGNALS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines += [f".SH {title}", *_rows(rows.items())]
    lines += [".SH EXIT STATUS", "0 done, 1 failed, 2 wrong usage; console and top: 3 no connection."]
    lines += [".SH SEE ALSO", ".BR pooler.ini (5),\n.BR psql (1)"]
    return "\n".join(lines) + "\n"


def _head(name: str, section: int, version: str) -> list[str]:
    return [f'.TH {name} {section} "" "pooler {escaped(version)}" "pooler"', ".ad l", ".nh"]


def _command(command: Listed) -> Iterator[str]:
    parser = command.parser()
    yield f".SS pooler {escaped(command.name)}"
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    yield from (".PP", f"\\fB{escaped(usage)}\\fR", ".PP")
    yield escaped(_sentence(parser.description or command.help))
    for action in arguments(parser):
        yield from (".TP", _synopsis(action), escaped(_sentence(help_of(action, parser))) or "\\&")
    if parser.epilog:
        yield from (".PP", escaped(parser.epilog))


def _synopsis(action: argparse.Action) -> str:
    value = value_of(action)
    told = f" \\fI{escaped(value)}\\fR" if value else ""
    if not action.option_strings:
        return told.strip()
    return ", ".join(f"\\fB{escaped(flag)}\\fR{told}" for flag in action.option_strings)


def _sentence(text: str) -> str:
    if text.partition(" ")[0].isalpha():
        text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".)?" else f"{text}."


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield from (".TP", f"\\fB{escaped(name)}\\fR", escaped(text))


def settings_page(version: str) -> str:
    """pooler.ini(5)."""
    lines = [*_head("POOLER.INI", 5, version), ".SH NAME", f"pooler.ini \\- settings of pooler, {ABOUT}"]
    lines += [".SH DESCRIPTION", escaped(FORM)]
    lines += [".SH SECTION [pgbouncer]", *_settings(SETTINGS.values())]
    lines += [".SH SECTION [pooler]", "PgBouncer has none of these.", *_settings(OWN.values())]
    for title, config in (("databases", DatabaseConfig), ("users", UserConfig), ("peers", PeerConfig)):
        lines += [f".SH SECTION [{title}]", escaped(ENTRIES[title]), ".PP"]
        lines.append(escaped(f"Keys: {', '.join(sorted(KEYS[config]))}."))
    lines += [".SH SEE ALSO", ".BR pooler (1)"]
    return "\n".join(lines) + "\n"


FORM = """\
Lines are key = value below the name of a section; those that begin with ; or # are comments. A line %include FILE reads
another file in its place. "pooler check FILE" tells all that is wrong with one, "pooler print ini" writes one with
every setting and its default."""
ENTRIES = {
    "databases": "A line for each database: its name, and a connection string of key=value pairs. * is for all others.",
    "users": "A line for each user who has limits of his own.",
    "peers": "A line for each process that shares the port or the balancer, by its peer_id.",
}


def _settings(rows: Iterable[Setting]) -> Iterator[str]:
    for row in rows:
        default = "not set" if row.default is None else row.default or "empty"
        text = f"{explained(row)} Default: {default}."
        yield from (".TP", f"\\fB{escaped(row.key)}\\fR ({row.kind.name})", escaped(text))
