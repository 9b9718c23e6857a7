"""Database URLs, names and plans: what is let in, what is written out, and that no password shows by accident."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.platform import names
from admin.platform.errors import PlatformError
from admin.platform.plans import PLANS, plan_named, pooling_refusal
from admin.platform.urls import DatabaseUrl, parse_url

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(user=TEXT, password=TEXT, dbname=TEXT, port=st.integers(1, 65535))
def test_what_is_written_is_read_back(user: str, password: str, dbname: str, port: int) -> None:
    url = DatabaseUrl(user, password, "db.example.com", port, dbname, (("sslmode", "require"),))
    assert parse_url(url.text()) == url


@given(user=TEXT, password=TEXT)
def test_no_password_in_words_about_a_url(user: str, password: str) -> None:
    secret = f"sesame-{password}"
    url = DatabaseUrl(user, secret, "h", 1, "d")
    assert secret not in repr(url)
    assert secret not in str(url)
    assert quote(secret, safe="") not in str(url)


@given(st.text(max_size=80))
def test_anything_is_read_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(PlatformError):
        assert parse_url(text).host


@pytest.mark.parametrize(
    ("text", "password", "host", "port", "dbname"),
    [
        ("postgres://u:p@h/d", "p", "h", 5432, "d"),
        ("postgresql://u:p@h:6000/d?sslmode=require", "p", "h", 6000, "d"),
        ("postgres://u:p@ss@h/d", "p@ss", "h", 5432, "d"),
        ("postgres://u:p/a#s?s:w@h/d", "p/a#s?s:w", "h", 5432, "d"),
        ("postgres://u:p%40%2F%3A%25@h/d", "p@/:%", "h", 5432, "d"),
        ("postgres://u@h/d", "", "h", 5432, "d"),
        ("postgres://u:p@[::1]:5433/d", "p", "::1", 5433, "d"),
        ("postgres://u:p@h", "p", "h", 5432, "u"),
        ("  postgres://u:p@h/d\n", "p", "h", 5432, "d"),
        ("postgres://u:p@h/d?options=-c%20a@b", "p", "h", 5432, "d"),
    ],
)
def test_urls_as_people_paste_them(text: str, password: str, host: str, port: int, dbname: str) -> None:
    url = parse_url(text)
    assert (url.password, url.host, url.port, url.dbname) == (password, host, port, dbname)


@pytest.mark.parametrize(
    "text",
    ["", "d1", "mysql://u:p@h/d", "postgres://", "postgres:///d", "postgres://u:sesame@h:0/d", "postgres://u:sesame@h:99999/d",
     "postgres://u:sesame@h:x/d", "postgres://u:sesame%00@h/d", "postgres://u:sesame%ff@h/d", "postgres://u:sesame@h/d/e"],
)  # fmt: skip
def test_no_url_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(PlatformError) as caught:
        parse_url(text)
    assert caught.value.id == "invalid_params"
    assert "sesame" not in caught.value.message


@pytest.mark.parametrize("name", ["example-app", "abc", "a1b", "x" * 30])
def test_app_names(name: str) -> None:
    assert names.valid_app(name) == name


@pytest.mark.parametrize("name", ["", "ab", "-ab", "ab-", "1ab", "Abc", "a_b", "x" * 31, "abc\n", "äbc"])
def test_what_no_app_is_called(name: str) -> None:
    with pytest.raises(PlatformError, match="Name must start with a letter"):
        names.valid_app(name)


@pytest.mark.parametrize("name", ["lower", "1A", "A-B", "A B", "", "A\n", "É"])
def test_what_no_attachment_is_called(name: str) -> None:
    with pytest.raises(PlatformError):
        names.valid_attachment(name)


@pytest.mark.parametrize("name", ["1A", "A-B", "A B", "", "A=B", "A\n", "É", "A" * 129])
def test_what_no_config_var_is_called(name: str) -> None:
    with pytest.raises(PlatformError):
        names.valid_config_var(name)


def test_invented_names_are_free_and_valid() -> None:
    seen: set[str] = set()
    for _ in range(100):
        name = names.new_attachment(seen.__contains__)
        assert name not in seen
        assert name.startswith("HEROKU_POSTGRESQL_")
        seen.add(names.valid_attachment(name))
    assert names.valid_addon(names.new_addon(seen.__contains__)).startswith("postgresql-")
    assert names.valid_app(names.new_app(seen.__contains__))


@pytest.mark.parametrize(("name", "title"), [("standard-0", "Standard 0"), ("premium-xl-6", "Premium XL 6")])
def test_plans_by_either_name(name: str, title: str) -> None:
    assert plan_named(name) is plan_named(f"heroku-postgresql:{name}")
    assert plan_named(name).title == title


@pytest.mark.parametrize("name", ["standard-1", "standard-xl-6", "gold", "", "redis:standard-0"])
def test_no_plan(name: str) -> None:
    with pytest.raises(PlatformError) as caught:
        plan_named(name)
    assert (caught.value.id, caught.value.status) == ("not_found", 404)
    first, *tiers = caught.value.message.splitlines()
    assert first.startswith("Couldn't find that plan.")
    assert ("Did you mean standard-" in first) == ("standard" in name)
    assert {plan for tier in tiers for plan in tier.split(", ")} == set(PLANS)


@pytest.mark.parametrize(
    ("name", "tier"), [("essential-0", "Essential"), ("mini", "Essential"), ("advanced-4g", "Advanced")]
)
def test_plans_without_pools_in_herokus_words(name: str, tier: str) -> None:
    refusal = pooling_refusal(plan_named(name))
    assert refusal is not None
    assert refusal.message == f"You can't perform this operation on {tier}-tier databases."


def test_all_other_plans_have_pools() -> None:
    assert all(pooling_refusal(plan) is None for plan in PLANS.values() if plan.tier != "essential")
