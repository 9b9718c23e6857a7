"""LIKE and regular expressions against Python's own matcher, and against patterns made to be slow."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.sql.patterns import PatternError, Regex, like


@given(st.text("ab%_", max_size=8), st.text("ab", max_size=10))
def test_like_is_what_its_regular_expression_is(pattern: str, text: str) -> None:
    meaning = "".join({"%": ".*", "_": "."}.get(sign, sign) for sign in pattern)
    assert like(pattern, text) == bool(re.fullmatch(meaning, text))


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (r"50\%", "50%", True),
        (r"50\%", "50x", False),
        ("a!_b", "a_b", False),
        ("", "", True),
        ("%", "", True),
        ("_", "", False),
        ("%b%", "abc", True),
        ("ü_", "üé", True),
    ],
)
def test_like_escapes(pattern: str, text: str, matches: bool) -> None:
    assert like(pattern, text) is matches


def test_like_knows_another_escape() -> None:
    assert like("a!_b", "a_b", "!")
    with pytest.raises(PatternError):
        like("a!", "a", "!")


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "[ab]",
        "[^a]",
        "(a|b)",
        "(ab)",
        r"\d",
        "(a*)",
        "[a-c]",
        "()",
        "(?:b+)",
        r"\.",
        r"[\[]",
        "[]a]",
        r"\W",
    ]
)
TIMES = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "{0}", "{0,}", "*?"])
PIECES = st.tuples(ATOMS, TIMES).map("".join) | st.sampled_from(["^", "$", "|"])


@given(st.lists(PIECES, max_size=5).map("".join), st.text("abc1.[", max_size=7))
def test_a_regular_expression_finds_what_pythons_finds(pattern: str, text: str) -> None:
    assert Regex(pattern).search(text) == bool(re.search(pattern, text))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*)*x", "a*" * 20 + "$", "(a{1,9}){1,9}$"])
def test_no_pattern_is_slow(pattern: str) -> None:
    """A backtracking matcher would still be at it next year."""
    assert Regex(pattern).search("a" * 60 + "!") in (False, True)


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a)", "[", "[a", "*", "a{2", "a{3,1}", "a{999}", "\\", "(?=a)", "(?P<x>a)", r"\1", "[[:nope:]]",
     "(" * 60, "(a{200}){200}"],
)  # fmt: skip
def test_what_cannot_be_used_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternError):
        Regex(pattern)


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_any_pattern_matches_or_is_refused(pattern: str, text: str, fold: bool) -> None:
    with contextlib.suppress(PatternError):
        assert Regex(pattern, fold=fold).search(text) in (False, True)


def test_case_and_named_classes() -> None:
    assert Regex("^SHOP$", fold=True).search("shop")
    assert not Regex("^SHOP$").search("shop")
    assert Regex("^[[:alpha:]_]+$").search("a_b")
    assert not Regex("^[[:alpha:]]+$").search("a1")
    with pytest.raises(PatternError, match="too long"):
        Regex("a").search("b" * 1_000_001)
    with pytest.raises(PatternError, match="too long"):
        like("%a" * 1_000 + "b", "a" * 10_000)
