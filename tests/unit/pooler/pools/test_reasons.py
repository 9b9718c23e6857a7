"""Reasons: every sentence by which the relay, or anybody here, ends a connection is one of the list."""

from __future__ import annotations

import re

import pytest

from pooler.pools.reasons import BY_SENTENCE, Reason
from tests import TREE

ENDS = re.compile(
    r"\b(?:lose\([^,]+, |stop\(&out, b, run, pos, n, |append\(\(s, )(?P<why>[^)]*)",
    re.DOTALL,
)
TEXT = re.compile(r'"([^"]*)"')


def relay() -> str:
    return "\n".join(path.read_text() for path in sorted((TREE / "pooler" / "relay").glob("*.pxi")))


def sentences() -> set[str]:
    """In the relay: what is given to `lose` and `stop`, and the tables and functions they take it from."""
    source = relay()
    found = {text for call in ENDS.finditer(source) for text in TEXT.findall(call["why"])}
    for name in ("TOO_MANY", "TOO_LONG_TO_REFUSE", "TASK_FAILED"):
        table = re.search(rf"cdef (?:str|tuple) {name} = (.*?)\n(?:\n|cdef)", source, re.DOTALL)
        assert table, name
        found |= set(TEXT.findall(table[1]))
    broken = re.search(r"cdef dict BROKEN = \{(.*?)\n\}", source, re.DOTALL)
    unfit = re.search(r"cdef str unfit\(self\):(.*?)\n\n", source, re.DOTALL)
    assert broken
    assert unfit
    return found | set(TEXT.findall(broken[1])) | set(TEXT.findall(unfit[1]))


def test_every_sentence_of_the_relay_is_a_reason() -> None:
    found = sentences()
    assert len(found) > 30
    assert {"client unexpected eof", "reset query failed", "broken Bind packet", "query timeout"} <= found
    assert [text for text in sorted(found) if Reason.of(text) is None] == []


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_is_found_by_its_sentence(reason: Reason) -> None:
    assert Reason.of(reason.value) is reason
    assert Reason.of(f"{reason.value}: what a stranger says") is reason


def test_what_a_peer_says_is_no_reason() -> None:
    assert Reason.of("sorry, too many clients already") is None
    assert Reason.of("bad packet header: '5100000000'") is Reason.BAD_PACKET_HEADER
    assert Reason.of("expected 2 columns from auth_query, not 3") is Reason.COLUMNS
    assert len(BY_SENTENCE) == len(Reason)
