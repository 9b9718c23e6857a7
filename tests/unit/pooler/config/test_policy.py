"""session_state: what is understood, and what is not."""

from __future__ import annotations

import pytest

from pooler.config.policy import POLICY, Fate
from pooler.touches import WORDS, Held


def test_one_word_for_all_and_exceptions_behind_it() -> None:
    policy = POLICY.parse("keep listen:refuse, advisory_lock:leak")
    assert policy.fate(Held.SETTING) is Fate.keep
    assert policy.mask(Fate.refuse) == Held.LISTEN
    assert policy.mask(Fate.leak) == Held.LOCK
    assert policy.mask(Fate.keep) | Held.LISTEN | Held.LOCK == sum(WORDS)
    assert POLICY.show(policy) == "keep listen:refuse advisory_lock:leak"
    assert POLICY.parse(POLICY.show(policy)) == policy


@pytest.mark.parametrize("text", ["", "kept", "keep listen", "keep lissen:leak", "keep listen:maybe", "listen:keep"])
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        POLICY.parse(text)
