"""Startup parameters and the little language inside `options`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.clients.startup import (
    BAD_OPTIONS,
    LONGEST,
    REMEMBERED,
    Parameters,
    Readings,
    read_parameters,
    split_options,
)
from pooler.config.whole import compose
from pooler.pools.refusal import LoginError

DEFAULTS = compose().settings


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("   ", []),
        ("-c a=b", [("a", "b")]),
        ("-ca=b", [("a", "b")]),
        ("--a=b", [("a", "b")]),
        ("--search-path=b-c", [("search_path", "b-c")]),
        ("-c a=b  --c=d ", [("a", "b"), ("c", "d")]),
        ("-c =b -c= --=c", [("", "b"), ("", ""), ("", "c")]),
        ("-c\ta=b\n-c c=d", [("a", "b"), ("c", "d")]),
        (r"-c a=b\ c", [("a", "b c")]),
        (r"-c a=b\\c", [("a", r"b\c")]),
        ("-c a=b\\", [("a", "b\\")]),
        ("-c a=", [("a", "")]),
        ("-c a=b=c", [("a", "b=c")]),
        ("-c =b -c=", [("", "b"), ("", "")]),
        ("-c search_path=x,y", [("search_path", "x,y")]),
    ],
)
def test_options(text: str, pairs: list[tuple[str, str]]) -> None:
    assert list(split_options(text)) == pairs


@pytest.mark.parametrize("text", ["a=b", "-d x", "-c", "-c a", "--", "-- a=b x", "-c a=b c"])
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"-|="):
        list(split_options(text))


@given(st.lists(st.tuples(st.text("abc_", min_size=1), st.text(st.characters(exclude_characters="\0"), max_size=9))))
def test_escaped_options_survive(pairs: list[tuple[str, str]]) -> None:
    def escaped(value: str) -> str:
        return "".join("\\" + letter if letter in " \t\n\v\f\r\\" else letter for letter in value)

    assert list(split_options(" ".join(f"-c {name}={escaped(value)}" for name, value in pairs))) == pairs


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=40)), st.booleans())
def test_any_parameters_are_read_or_refused(given_: dict[str, str], lenient: bool) -> None:
    refusals = () if lenient else (LoginError,)
    with contextlib.suppress(*refusals):
        read_parameters(given_ | {"user": "bob"}, DEFAULTS, lenient=lenient)


def test_names_are_those_postgresql_reports() -> None:
    given_ = {"user": "u", "datestyle": "ISO", "TIMEZONE": "UTC", "intervalstyle": "x", "_pq_.x": "1"}
    assert read_parameters(given_, DEFAULTS) == Parameters(
        "u", "u", tracked={"DateStyle": "ISO", "TimeZone": "UTC", "IntervalStyle": "x"}
    )


def test_options_come_after_the_parameters() -> None:
    parameters = read_parameters({"user": "u", "options": "-c TimeZone=CET", "timezone": "UTC"}, DEFAULTS)
    assert parameters.tracked == {"TimeZone": "CET"}


@pytest.mark.parametrize(
    ("ignored", "options", "message"),
    [
        ("", "-c geqo=off", "unsupported startup parameter in options: geqo"),
        ("GEQO", "-c geqo=off", ""),
        ("options", "-c geqo=off", ""),
        ("options", "nonsense", ""),
        ("geqo", "nonsense", BAD_OPTIONS),
    ],
)
def test_ignore_startup_parameters(ignored: str, options: str, message: str) -> None:
    settings = compose({"ignore_startup_parameters": ignored}).settings
    if not message:
        assert read_parameters({"user": "u", "options": options}, settings).tracked == {}
        return
    with pytest.raises(LoginError) as caught:
        read_parameters({"user": "u", "options": options}, settings)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((value, "physical") for value in ("true", "on", "ON", "1", "t", "tr", "y", "Yes")),
        ("database", "logical"),
        # What is none of these is no replication, as with PgBouncer.
        *((value, "none") for value in ("no", "false", "f", "off", "0", "o", "", "maybe", "2", "Database", "yess")),
    ],
)
def test_replication(value: str, kind: str) -> None:
    assert read_parameters({"user": "u", "replication": value}, DEFAULTS).replication.value == kind


def test_track_extra_parameters() -> None:
    settings = compose({"track_extra_parameters": "search_path"}).settings
    assert read_parameters({"user": "u", "Search_Path": "x"}, settings).tracked == {"search_path": "x"}


# ---- what is remembered of them


def test_what_was_read_before_is_not_read_again_under_the_same_configuration() -> None:
    readings, config = Readings(), compose({})
    given = {"user": "u", "application_name": "x"}
    first = readings.read(given, config)
    assert first == read_parameters(given, config.settings)
    assert readings.read(dict(given), config) is first
    assert readings.read(given | {"application_name": "y"}, config).tracked == {"application_name": "y"}


def test_another_configuration_reads_anew() -> None:
    readings, given = Readings(), {"user": "u", "extra_float_digits": "3"}
    readings.read(given, compose({"ignore_startup_parameters": "extra_float_digits"}))
    with pytest.raises(LoginError, match="unsupported startup parameter: extra_float_digits"):
        readings.read(given, compose({}))


def test_the_admin_database_takes_anything_also_by_default_name() -> None:
    readings, config = Readings(), compose({})
    assert readings.read({"user": "pgbouncer", "whatever": "1"}, config).tracked == {}
    assert readings.read({"user": "u", "database": "pgbouncer", "whatever": "1"}, config).tracked == {}


def test_few_are_remembered_and_none_that_is_long() -> None:
    readings, config = Readings(), compose({})
    for number in range(3 * REMEMBERED):
        readings.read({"user": f"u{number}"}, config)
    assert len(readings._known) <= REMEMBERED
    long = {"user": "u", "application_name": "x" * LONGEST}
    assert readings.read(long, config) is not readings.read(long, config)
