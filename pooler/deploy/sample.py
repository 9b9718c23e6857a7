"""An ini to begin with: every setting with its default and what it is, made from the tables that the pooler reads by.

The rule: as it is printed it changes nothing, and each line that is uncommented reads.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from pooler.config.databases import KEYS, DatabaseConfig, PeerConfig, UserConfig
from pooler.config.kinds import Setting
from pooler.config.settings import OWN, SETTINGS, OwnSettings, Settings

WIDTH = 100
HEAD = """\
; A configuration of pooler, which is one of PgBouncer as well but for the section [pooler].
; Each setting stands here with its default. `pooler check FILE` tells what is wrong with it.
"""
DATABASES = """\
; One line for each database that clients may ask for: name = key=value ...; a value with blanks stands in '...'.
; `*` is for every name that has no line of its own.
;app = host=127.0.0.1 port=5432 dbname=app
;* = host=127.0.0.1
"""
USERS = """\
; One line for each user who has limits of his own.
;batch = pool_mode=session max_user_connections=10
"""
PEERS = """\
; One line for each process that shares the port (so_reuseport) or stands behind the same balancer, by its peer_id.
; Those of a headless service are found by peers_name of section [pooler].
;1 = host=/run/pooler/1
;2 = host=/run/pooler/2
"""
ABOUT_NOBODY = {"conffile"}
"""Settings that are no line of a file."""


def sample() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield HEAD
    for title, text, config in (("databases", DATABASES, DatabaseConfig), ("users", USERS, UserConfig)):
        yield f"[{title}]\n{text}{_keys(KEYS[config])}\n"
    yield "[pgbouncer]"
    yield from _settings(SETTINGS, Settings())
    yield f"[peers]\n{PEERS}{_keys(KEYS[PeerConfig])}\n"
    yield "[pooler]\n; What PgBouncer does not have."
    yield from _settings(OWN, OwnSettings())


def _keys(table: Mapping[str, object]) -> str:
    return _comment(f"Keys: {', '.join(sorted(table))}.")


def _settings(table: Mapping[str, Setting], defaults: object) -> Iterator[str]:
    for row in table.values():
        if row.key in ABOUT_NOBODY:
            continue
        text = row.kind.show(getattr(defaults, row.key)) if row.default is None else row.default
        setting = f";{row.key} = {text}".rstrip()
        yield f"{_comment(explained(row))}\n{setting}\n"


def explained(row: Setting) -> str:
    """What a setting is, which words it knows, and what is to be known of a change."""
    words = [f"One of {', '.join(row.kind.words)}."] if row.kind.words else []
    idle = [f"No effect here: {row.idle}."] if row.idle else []
    return " ".join([row.help, *words, *idle, *([] if row.live else ["A change takes a restart."])])


def _comment(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="; ", subsequent_indent="; ", break_on_hyphens=False)
