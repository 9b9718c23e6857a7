"""Every field of a connection goes over by -R, or is here with the reason why it need not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pooler.relay

HERE = Path(pooler.relay.__file__).parent
AGAIN = "made again with the connection"
TURN = "of one turn of the loop, and no turn is under way"
WATCHED = "the socket is watched anew, and read at once"
COPY = "of a copy of what is under way; if that is stale its client is told"
TLS = "what uses TLS does not go over"
COUNTED = "counted again by Ledger.sent, of the entries"
LEFT: dict[str, dict[str, str]] = {
    "conn.pxd": {
        **dict.fromkeys(("relay", "id", "fd", "prev", "next", "home", "pool", "about"), AGAIN),
        "lost": "what is lost does not go over",
        "stmts": "each kind of connection has its own",
        **dict.fromkeys(("ssl", "incoming", "outgoing", "tls", "tls_ready", "tls_partial"), TLS),
        **dict.fromkeys(("hold_cap", "ohead", "ocap"), "of its room, which is made again"),
        **dict.fromkeys(("last_read", "put_off"), TURN),
        **dict.fromkeys(("deaf", "again", "more", "hup"), WATCHED),
    },
    "client.pxd": {
        **dict.fromkeys(("slot", "kept_cap"), AGAIN),
        **dict.fromkeys(("stored", "inbox_bytes", "named_late"), "counted again, of what it has"),
        "quiet": "of a question of a login, which ends here",
        "held": "what it holds is read again at once, and waits again if need be",
        **dict.fromkeys(("loose", "loose_len"), TURN),
        **dict.fromkeys(("named", "hits"), "the rest of the text under way counts as code that is not known"),
        "channels": "by the marks of its hub",
    },
    "server.pxd": {
        "link": "by the client, which names its server",
        "question": "asked again by the new process, and the answer to the old one's is let go",
        "forgets": "set and done within `Pool.link`",
        "weighs": "by what pins it, and what it was touched by",
        "place": "of its address",
        **dict.fromkeys(("read_mode", "volume", "gauge"), "of a long result, which is found to be one again"),
        **dict.fromkeys(("batch", "batch_len", "batch_cap", "batch_start", "means"), COPY),
        **dict.fromkeys(("keeps", "goes_back", "renews", "synced"), COPY),
        "cancels": "one that is being cancelled does not go over",
    },
    "ledger.pxd": {
        "begun": "taken for true where a Sync is missing (`open`)",
        **dict.fromkeys(("log", "head", "cap", "length"), AGAIN),
        **dict.fromkeys(("runs", "changing", "early", "syncs", "describing"), COUNTED),
        "count": "of the guesses",
        "urged": "a Flush more does no harm",
        **dict.fromkeys(("described", "described_name", "failed", "undone"), "of the message that is being dealt with"),
    },
}
CLASSES = {
    "conn.pxd": ("Socket", "Conn"),
    "client.pxd": ("Client",),
    "server.pxd": ("Server",),
    "ledger.pxd": ("Ledger",),
}
FIELD = re.compile(r"    cdef (?:readonly |public )?[\w.]+ \*?(\w+)(?:\[\d+\])?$")


def fields(name: str) -> set[str]:
    found: set[str] = set()
    inside = False
    for line in (HERE / name).read_text().splitlines():
        if line.startswith(("cdef ", "@")):
            inside = line.startswith("cdef class") and re.split(r"[ (:]", line)[2] in CLASSES[name]
        elif inside and (match := FIELD.match(line)):
            found.add(match[1])
    return found


def written(name: str) -> set[str]:
    """Fields that stand in what makes the record."""
    said = (HERE / "takeover.pxi").read_text().partition("\ndef statement(")[0]
    if name == "ledger.pxd":
        source = (HERE / "ledger.pxi").read_text()
        return set(re.findall(r"self\.(\w+)", source.partition("def record(")[2].partition("def revive(")[0])) | {
            "guesses"
        }
    who = {"conn.pxd": "connection", "client.pxd": "c", "server.pxd": "s"}[name]
    return set(re.findall(rf"\b{who}\.(\w+)", said))


@pytest.mark.parametrize("name", CLASSES)
def test_what_does_not_go_over_has_a_reason(name: str) -> None:
    there = fields(name)
    assert there >= LEFT[name].keys(), "gone, but not from here"
    assert there - written(name) - LEFT[name].keys() == set(), "neither written nor harmless"
