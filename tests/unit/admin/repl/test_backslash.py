"""Backslash commands: files, switches, other places for answers, other consoles."""

from __future__ import annotations

from pathlib import Path

import pytest

from admin.client.answers import Answer
from admin.client.link import CannotConnect
from admin.repl.session import Trouble
from tests.unit.repl_console import Console, Person, say, session


def test_a_file_is_a_script(console: Console, tmp_path: Path) -> None:
    console.answers["KILL APP"] = Answer(tag="KILL")
    file = tmp_path / "f.sql"
    file.write_text("KILL app\n-- done\n\\echo said\n")
    made, out = session(console, Person())
    say(made, f"\\i {file}")
    assert console.asked == ["KILL app"]
    assert out.getvalue() == "KILL\nsaid\n"


def test_what_fails_in_a_file_tells_where(console: Console, tmp_path: Path) -> None:
    inner, outer, spaced = tmp_path / "inner.sql", tmp_path / "outer.sql", tmp_path / "two words.sql"
    inner.write_text("SHOW VERSION\n\n-- a\nSHOW\n;\n")
    outer.write_text(f"\\echo x\n\\i {inner}\n")
    spaced.write_text("\\x maybe\n")
    made, _ = session(console, Person())
    with pytest.raises(Trouble, match=rf"^{inner}:4: ERROR:  invalid command 'SHOW'"):
        say(made, f"\\i {inner}")
    with pytest.raises(Trouble, match=rf"^{outer}:2: {inner}:4: ERROR: "):
        say(made, f"\\i {outer}")
    with pytest.raises(Trouble, match=rf"^{spaced}:1: \\x: "):
        say(made, f"\\i {spaced}")


def test_help_on_commands(console: Console) -> None:
    made, out = session(console)
    for asked, told, not_told in (
        ("\\h", "PAUSE [<db>]", "SHOW POOLS"),
        ("\\h pause", "hold new work back", "RESUME"),
        ("\\h SHOW", "SHOW LATENCY", "PAUSE"),
        ("\\h show pools", "the longest wait", "SHOW LATENCY"),
        ("\\h select", "SQL over the views", "PAUSE"),
    ):
        out.truncate(0)
        say(made, asked)
        assert told in out.getvalue(), asked
        assert not_told not in out.getvalue(), asked
    with pytest.raises(Trouble, match='No help for "nonsense"'):
        say(made, "\\h nonsense")


@pytest.mark.parametrize(
    "send", ["\\o {file}\nSHOW POOLS\n\\o", "SHOW POOLS \\g {file}", "SHOW POOLS \\g |cat > {file}"]
)
def test_what_goes_to_a_file_is_the_same_on_every_terminal(console: Console, tmp_path: Path, send: str) -> None:
    written = set()
    for columns, expanded in ((40, "auto"), (300, "auto"), (80, "on"), (80, "off")):
        made, _ = session(console, Person(columns=columns), expanded=expanded)
        say(made, send.format(file=tmp_path / "out"))
        written.add((tmp_path / "out").read_text())
    assert len(written) == 1
    assert next(iter(written)).startswith(" database  | user      |")


def test_switches(console: Console) -> None:
    made, out = session(console)
    say(made, "\\x auto")
    assert made.options.expanded == "auto"
    say(made, "\\x\n\\timing on\n\\human\n\\f csv\n\\pager off\n\\keys vi")
    options = made.options
    assert (options.expanded, options.timing, options.human) == ("on", True, True)
    assert (options.format, options.pager, options.vi) == ("csv", False, True)
    for wrong in ("\\x maybe", "\\f xml", "\\frobnicate", "\\", "\\watch", "\\g", "\\i", "\\i /none/there"):
        with pytest.raises(Trouble):
            say(made, wrong)
    say(made, "\\?")
    assert "\\watch [SEC] [delta] [c=N]" in out.getvalue()


def test_output_goes_to_files_and_programs(console: Console, tmp_path: Path) -> None:
    made, out = session(console, format="csv")
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    say(made, f"\\o {one}\nSHOW VERSION\n\\o\nSHOW VERSION \\g {two}\n\\g |cat > {three}")
    assert one.read_text() == two.read_text() == three.read_text() == "version\nPgBouncer 1.26.1\n"
    assert out.getvalue() == ""
    say(made, "\\g")
    assert out.getvalue() == one.read_text()
    with pytest.raises(Trouble):
        say(made, f"\\o {tmp_path}/none/x")


def test_gx_turns_once(console: Console) -> None:
    made, out = session(console)
    say(made, "SHOW VERSION \\gx\nSHOW VERSION")
    assert out.getvalue().count("RECORD") == 1


def test_describe(console: Console) -> None:
    made, out = session(console)
    say(made, "\\d")
    assert "latency" in out.getvalue()
    say(made, "\\d pools")
    assert " cl_waiting " in out.getvalue()
    with pytest.raises(Trouble, match="Did not find"):
        say(made, "\\d nothing")


def test_edit(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = session(console)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "f() { echo 'SHOW VERSION;' > \"$1\"; }; f")
    say(made, "\\e")
    assert "PgBouncer 1.26.1" in out.getvalue()
    monkeypatch.setenv("EDITOR", "f() { echo 'SELECT 1' > \"$1\"; }; f")
    say(made, "\\e")
    assert made.prefill == "SELECT 1"
    monkeypatch.setenv("EDITOR", "false")
    with pytest.raises(Trouble, match="did not end well"):
        say(made, "\\e")


def test_connecting_elsewhere_keeps_the_connection_when_it_fails(console: Console) -> None:
    made, _ = session(console, Person())
    before = made.connector.link
    console.refusals = [CannotConnect("no such host")]
    with pytest.raises(Trouble, match=r"no such host\nPrevious connection kept") as trouble:
        say(made, "\\c postgresql://elsewhere/")
    assert trouble.value.status == 3
    assert made.connector.link is before
    say(made, "\\c postgresql://u@elsewhere:9/\n\\conninfo")
    assert made.connector.address.place == "elsewhere:9"
