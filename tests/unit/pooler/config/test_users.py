"""auth_file -> secrets: kinds, quoting, limits, what PgBouncer stops at and we do not; and that no secret shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config.users import Secret, SecretKind, load_users, parse_scram, parse_users, stamp

MD5 = "md5" + "0123456789abcdef" * 2
SCRAM = (
    "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$"
    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)


def secrets(text: str) -> dict[str, str]:
    users = parse_users(text, "u")
    assert not users.problems
    return {name: secret.text for name, secret in users.secrets.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a" "b"', {"a": "b"}),
        ('  "a"\t"b"  \r\n\n; c\n"c" "d" "more" junk\n', {"a": "b", "c": "d"}),
        ('"a""b" "c""d"', {'a"b': 'c"d'}),
        ('"""" """"', {'"': '"'}),
        ('"a" ""', {"a": ""}),
        ('"" "x"', {"": "x"}),
        ('"a" x "b"', {"a": "b"}),
        ('"é" "ü"', {"é": "ü"}),
        ("", {}),
    ],
)
def test_lines(text: str, expected: dict[str, str]) -> None:
    assert secrets(text) == expected


def test_the_last_secret_of_a_user_counts_and_that_is_said() -> None:
    found = parse_users('"a" "1"\n"b" "3"\n"a" "2"', "u")
    assert found.secrets["a"].text == "2"
    (problem,) = found.problems
    assert (problem.line, problem.message, problem.level) == (3, "user a is there twice: this line counts", "WARNING")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a b", "broken auth file"),
        ("# c", "broken auth file"),
        ('"c"', "broken auth file"),
        ('"c" "d', "broken auth file"),
        ('"c""d"', "broken auth file"),
        (f'"{"c" * 128}" "d"', "username too long in auth file"),
        (f'"c" "{"d" * 65_536}"', "password too long in auth file"),
        (f'"c" "{"é" * 32_768}"', "password too long in auth file"),
        ('"c" "d\ne"', "broken auth file"),
    ],
)
def test_a_broken_line_costs_nobody_else(line: str, message: str) -> None:
    users = parse_users(f'"a" "b"\n{line}\n"z" "z"\n', "u")
    assert list(users.secrets) == ["a", "z"]
    assert {(p.file, p.message) for p in users.problems} == {("u", message)}
    assert users.problems[0].line == 2


def test_a_file_of_something_else_is_not_quoted_in_full() -> None:
    users = parse_users("nonsense\n" * 1000 + '"z" "z"', "u")
    assert list(users.secrets) == ["z"]
    assert len(users.problems) == 21
    assert users.problems[-1].message == "broken auth file: 980 more"


def test_longest_names_and_passwords() -> None:
    assert secrets(f'"{"c" * 127}" "{"d" * 65_535}"') == {"c" * 127: "d" * 65_535}
    assert secrets(f'"{chr(34) * 254}" "{chr(34) * 131_070}"') == {'"' * 127: '"' * 65_535}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("secret", SecretKind.plain),
        ("", SecretKind.plain),
        (MD5, SecretKind.md5),
        (MD5.upper(), SecretKind.plain),
        (MD5 + "0", SecretKind.plain),
        (SCRAM, SecretKind.scram),
        (SCRAM[:-4], SecretKind.plain),
        (SCRAM.replace("4096", "0"), SecretKind.plain),
        (SCRAM.replace("==$", "$"), SecretKind.plain),
        (SCRAM + "\n", SecretKind.plain),
        ("SCRAM-SHA-256$", SecretKind.plain),
    ],
)
def test_kind(text: str, kind: SecretKind) -> None:
    assert Secret("u", text).kind is kind


def test_scram_parts() -> None:
    secret = parse_scram(SCRAM)
    assert secret is not None
    assert (secret.iterations, secret.salt) == (4096, b"saltsaltsaltsalt")
    assert secret.stored_key == b"0123456789abcdef" * 2
    assert secret.server_key == b"fedcba9876543210" * 2


@pytest.mark.parametrize("text", ["hunter2", MD5, SCRAM])
def test_no_secret_shows(text: str) -> None:
    secret, users = Secret("u", text), parse_users(f'"u" "{text}"')
    for shown in (repr(secret), str(secret), repr(secret.scram), str(users)):
        assert text not in shown
        assert "saltsalt" not in shown
    with pytest.raises(dataclasses.FrozenInstanceError):
        secret.text = ""  # type: ignore[misc]


def test_file_and_its_stamp(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    assert stamp(str(path)) is None
    assert stamp("a\0b") is None
    users = load_users(str(path))
    assert not users.readable
    assert users.problems[0].log_lines == (f"could not open auth_file {path}: No such file or directory",)
    path.write_text('"a" "b"\n')
    before = stamp(str(path))
    assert load_users(str(path)).secrets["a"].text == "b"
    path.write_text('"a" "longer"\n')
    assert stamp(str(path)) != before


PIECES = st.sampled_from(['"', '""', '"a"', " ", "\n", ";", "#", "\0", "md5", "é", "\udc80"])


@pytest.mark.slow
@given(st.lists(PIECES | st.text(max_size=8), max_size=40).map("".join))
def test_any_text_gives_users(text: str) -> None:
    parse_users(text, "u")


@given(st.text(max_size=30), st.text(max_size=100))
def test_what_is_quoted_comes_back(user: str, password: str) -> None:
    line = '"{}" "{}"'.format(user.replace('"', '""'), password.replace('"', '""'))
    users = parse_users(line)
    if "\n" not in line:
        assert [(s.user, s.text) for s in users.secrets.values()] == [(user, password)]


@given(st.binary(max_size=200))
def test_any_scram_text(data: bytes) -> None:
    parse_scram("SCRAM-SHA-256$" + data.decode("latin-1"))
