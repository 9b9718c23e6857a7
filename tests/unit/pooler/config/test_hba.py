"""HBA rules and user name maps: which rule a client meets, and which lines are refused, in PgBouncer's
words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config.hba import Hba, load_hba, parse_hba, parse_ident
from pooler.config.ini import MOST_PROBLEMS, Problem
from pooler.config.kinds import AuthType


def rules(text: str, files: dict[str, str] | None = None) -> Hba:
    hba = parse_hba(text, "hba.conf", {"m": ()}, (files or {}).__getitem__)
    assert [p.message for p in hba.problems] == []
    return hba


def method(hba: Hba, client: str) -> str | None:
    """`db user address [tls] [replication]`; address `-` is a Unix socket."""
    database, user, address, *more = client.split()
    rule = hba.match(
        database,
        user,
        None if address == "-" else address,
        tls="tls" in more,
        replication="replication" in more,
    )
    return str(rule.method) if rule else None


RULES = """
# comment
local   all             all                             peer
hostssl all             all     10.0.0.0/8              cert
hostnossl all           all     10.0.0.0    255.0.0.0   reject   # comment
host    replication     repl    all                     md5
host    sameuser        all     192.168.0.0/16          trust
host    db1,"db 2" , db3 ann,"all"  192.168.0.0/16      scram-sha-256
host    all             bob     ::1/128                 password
host    "all"           all     127.0.0.1/32            ldap ldapurl="ldap://x/dc=y?uid?sub"
"""


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("x y -", "peer"),
        ("x y 10.1.2.3 tls", "cert"),
        ("x y 10.1.2.3", "reject"),
        ("x y 11.1.2.3", None),
        ("x repl 1.2.3.4 replication", "md5"),
        ("x repl 1.2.3.4", None),
        ("x ann 1.2.3.4 replication", None),
        ("ann ann 192.168.3.4", "trust"),
        ("db1 ann 192.168.3.4", "scram-sha-256"),
        ("db3 all 192.168.3.4", "scram-sha-256"),
        ("db4 ann 192.168.3.4", None),
        ("db1 eve 192.168.3.4", None),
        ("x bob ::1", "password"),
        ("x bob ::2", None),
        ("x bob ::ffff:10.0.0.1 tls", "cert"),
        ("all x 127.0.0.1", "ldap"),
        ("x x 127.0.0.1", None),
    ],
)
def test_first_match_decides(client: str, expected: str | None) -> None:
    assert method(rules(RULES), client) == (expected and expected.replace("password", "plain"))


def test_rule_knows_its_line_map_and_options() -> None:
    hba = rules(RULES + "hostssl all all all cert map=m\nlocal all all peer map = m\n".replace(" = m", "=m"))
    assert [rule.line for rule in hba.rules][:2] == [3, 4]
    assert hba.rules[7].options == 'ldapurl="ldap://x/dc=y?uid?sub"'
    assert [rule.map for rule in hba.rules[-2:]] == ["m", "m"]


def test_options_end_before_a_comment() -> None:
    hba = parse_hba('host all all 127.0.0.1/32 ldap ldapserver=a, ldapprefix="#x" # here')
    assert hba.rules[0].options == 'ldapserver=a, ldapprefix="#x"'


def test_rule_without_its_users_is_for_nobody_but_them() -> None:
    hba = rules("host all @names 0.0.0.0/0 trust\n", {"names": "ann, bob\n# c\n@more\n", "more": '"carl"\n'})
    found = [method(hba, f"x {user} 1.1.1.1") for user in ("ann", "bob", "carl", "dora")]
    assert found == ["trust", "trust", "trust", None]


def test_names_files_are_relative_to_the_file_that_names_them() -> None:
    files = {"/etc/h/dbs": "@sub/more", "/etc/h/sub/more": "sameuser x"}
    hba = parse_hba("host @dbs all 0.0.0.0/0 trust", "/etc/h/hba.conf", None, files.__getitem__)
    assert method(hba, "x y 1.1.1.1") == "trust"
    assert method(hba, "y y 1.1.1.1") == "trust"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("foo all all 1.1.1.1/32 trust", "unknown type"),
        ("HOST all all 1.1.1.1/32 trust", "unknown type"),
        ("host samerole all 1.1.1.1/32 trust", "samerole is not supported"),
        ("host all +g 1.1.1.1/32 trust", "group names are not supported"),
        ("host all all localhost trust", "failed to parse address - localhost"),
        ("host all all fe80::1%eth0/64 trust", "failed to parse address - fe80::1%eth0"),
        ("host all all 1.1.1.1 trust", "failed to parse mask: trust"),
        ("host all all 1.1.1.1 ffff:: trust", "failed to parse mask: ffff::"),
        ("host all all 1.1.1.1/33 trust", "invalid mask"),
        ("host all all ::1/129 trust", "invalid mask"),
        ("host all all 1.1.1.1/ trust", "invalid mask"),
        ("host all all 1.1.1.1/-1 trust", "invalid mask"),
        ('host all all "1.1.1.1/32" trust', "did not find address - 0 - '1.1.1.1/32'"),
        ("host all all", "did not find address - 4 - ''"),
        ("host all all 1.1.1.1/32 any", "unsupported method: buf=any"),
        ("host all all 1.1.1.1/32 Trust", "unsupported method: buf=Trust"),
        ("host all all 1.1.1.1/32", "did not find a method"),
        ("host all all 1.1.1.1/32 trust x=1", "unsupported parameters"),
        ("host all all 1.1.1.1/32 trust map=m", "map= cannot be used with trust"),
        ("host all all 1.1.1.1/32 cert map=none", "ident map none is not defined"),
        ("host all, 1.1.1.1/32 trust", "did not find address - 4 - ''"),
        ("host , all 1.1.1.1/32 trust", "did not find a name"),
        ('host all "x 1.1.1.1/32 trust', "a quote is missing"),
        ("host all @none 1.1.1.1/32 trust", "could not open file of names none: No such file or directory"),
    ],
)
def test_bad_line_is_named_and_left_out(line: str, message: str) -> None:
    hba = parse_hba(f"{line}\nlocal all all trust\n", "hba.conf")
    assert [(p.line, p.message, p.level) for p in hba.problems] == [
        (1, f"hba line 1: {message}", "WARNING"),
        (1, "could not parse hba config line 1", "WARNING"),
    ]
    assert [rule.line for rule in hba.rules] == [2]


def test_address_outside_its_mask_meets_nobody() -> None:
    hba = parse_hba("host all all 127.0.0.2/24 trust", "h")
    assert [p.message for p in hba.problems] == ["address does not match mask in h line #1"]
    assert method(hba, "x y 127.0.0.2") is None


def test_mask_with_holes() -> None:
    hba = rules("host all all 1.0.3.0 255.0.255.0 trust")
    assert method(hba, "x y 1.99.3.7") == "trust"
    assert method(hba, "x y 1.99.4.7") is None


def test_files_of_names_that_go_round_in_circles() -> None:
    text = "@again @again\n"
    hba = parse_hba("host @again all all trust", "h", None, lambda path: text)
    assert "nest too deep" in hba.problems[0].message


def test_maps() -> None:
    problems: list[Problem] = []
    maps = parse_ident('m root pooler\nm "Ann B" ann # c\n\nm boss all\nbad\nn x y z\n', "ident", problems)
    assert [p.message for p in problems] == [
        "ident line 5: did not find a system user",
        "could not parse ident config line 5",
        "ident line 6: unsupported parameters",
        "could not parse ident config line 6",
    ]
    hba = parse_hba("local all all peer map=m\nlocal x all peer", "h", maps)
    mapped, plain = hba.rules
    assert hba.system_names(mapped, "pooler") == ("root", "boss")
    assert hba.system_names(mapped, "ann") == ("Ann B", "boss")
    assert hba.system_names(mapped, "anyone") == ("boss",)
    assert hba.system_names(plain, "ann") == ("ann",)


def test_files(tmp_path: Path) -> None:
    hba_file, ident_file = tmp_path / "hba", tmp_path / "ident"
    missing = load_hba(str(hba_file), str(ident_file))
    assert not missing.readable
    assert [p.message for p in missing.problems] == [
        f"could not open ident config file {ident_file}: No such file or directory",
        f"could not open hba config file {hba_file}: No such file or directory",
    ]
    assert missing.match("a", "b", "1.1.1.1", tls=True) is None
    hba_file.write_text("local all all peer map=m\n")
    ident_file.write_text("m a b\n")
    hba = load_hba(str(hba_file), str(ident_file))
    assert not hba.problems
    assert [rule.method for rule in hba.rules] == [AuthType.peer]


LINE = 'local host hostssl all replication @f + , " # 1.1.1.1/32 ::1/0 255.0.0.0 trust cert map=m é'
WORDS = [*LINE.split(), "\n", "\0"]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=60).map(" ".join))
def test_any_text_gives_rules(text: str) -> None:
    hba = parse_hba(text, "h", {"m": ()}, lambda path: text)
    for address in (None, "1.1.1.1", "::1"):
        hba.match("a", "b", address, tls=False)
    parse_ident(text, "i", [])


@pytest.mark.parametrize("piece", ['"', '""', "a", "a,", ",", " ", "@f,", "a "])
def test_one_long_line_is_read_once(piece: str) -> None:
    parse_hba("host " + piece * 100_000, "h", None, lambda path: "x")


def test_a_file_of_something_else_is_not_quoted_in_full() -> None:
    """Each problem is a line of the log, which traffic waits for."""
    problems = parse_hba("nonsense\n" * 10_000).problems
    assert len(problems) == MOST_PROBLEMS + 1
    assert (problems[-1].message, problems[-1].level) == ("broken lines: 19900 more", "WARNING")
