"""Items through a session: what reaches the console, what is asked first, what comes back and how it fails."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from admin.repl import script, watch
from admin.repl.address import Address
from admin.repl.answers import Answer
from admin.repl.background import Background
from admin.repl.connector import Connector, Manners
from admin.repl.history import opened, place
from admin.repl.link import CannotConnect, CommandFailed, Lost
from admin.repl.rates import rates
from admin.repl.session import Quit, Session, Trouble
from admin.repl.statements import split
from tests.fixtures.waiting import until
from tests.unit.repl_console import HELP_1_18, POOLS, Console, Person, replace_link, rows, session


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return replace_link(monkeypatch, Console())


@pytest.fixture
def old_console(monkeypatch: pytest.MonkeyPatch) -> Console:
    return replace_link(monkeypatch, Console(HELP_1_18, SHOW_STATS=rows("database total", ("app", 7))))


def say(made: Session, text: str) -> None:
    for item in split(text):
        made.run(item)


def test_select_goes_to_a_console_that_knows_it(console: Console) -> None:
    console.answers["SELECT 1 FROM POOLS"] = rows("x", (1,))
    made, out = session(console)
    say(made, "SELECT 1 FROM pools;")
    assert console.asked == ["SHOW HELP", "SELECT 1 FROM pools"]
    assert "(1 row)" in out.getvalue()


def test_select_over_views_of_an_old_console_is_answered_here(old_console: Console) -> None:
    made, out = session(old_console, format="json")
    say(made, "SELECT p.user, s.total FROM pools p JOIN stats s USING (database) WHERE cl_waiting > 0;")
    assert json.loads(out.getvalue()) == [{"user": "alice", "total": 7}]
    assert old_console.asked == ["SHOW HELP", "SHOW POOLS", "SHOW STATS"]


def test_shorthand_and_synonym_on_an_old_console(old_console: Console) -> None:
    old_console.answers["SELECT POOLS"] = POOLS
    made, out = session(old_console, format="csv")
    say(made, "SHOW POOLS WHERE database = 'billing'")
    assert out.getvalue().splitlines()[1].startswith("billing,bob")
    say(made, "SELECT pools;")
    assert old_console.asked[-1] == "SELECT pools"


@pytest.mark.parametrize("sql", ["SELECT * FROM nowhere;", "SELECT * FROM fds;", "SELECT nosuch FROM pools;"])
def test_select_that_cannot_be_answered(old_console: Console, sql: str) -> None:
    made, _ = session(old_console)
    with pytest.raises(Trouble, match=r"^ERROR:  ") as trouble:
        say(made, sql)
    assert trouble.value.status == 1


@pytest.mark.parametrize("verb", ["KILL app", "KILL_CLIENT 3", "SHUTDOWN", "SUSPEND", "DISABLE app", "kill app"])
def test_verbs_that_hurt_ask_a_person_and_no_script(console: Console, verb: str) -> None:
    console.answers[verb.upper()] = Answer(tag=verb.split()[0])
    person = Person(False, True)
    made, _ = session(console, person)
    say(made, verb)
    assert console.asked == []
    assert verb in person.asked[0]
    say(made, verb)
    assert console.asked == [verb]
    script_session, _ = session(console)
    say(script_session, verb)
    assert console.asked == [verb, verb]


@pytest.mark.parametrize("verb", ["PAUSE app", "RESUME", "RELOAD", "SET verbose = 1", "ENABLE app"])
def test_other_verbs_do_not_ask(console: Console, verb: str) -> None:
    console.answers[verb.upper()] = Answer(tag="x")
    made, _ = session(console, Person())
    say(made, verb)
    assert console.asked == [verb]


def test_a_file_is_a_script(console: Console, tmp_path: Path) -> None:
    console.answers["KILL APP"] = Answer(tag="KILL")
    file = tmp_path / "f.sql"
    file.write_text("KILL app\n-- done\n\\echo said\n")
    made, out = session(console, Person())
    say(made, f"\\i {file}")
    assert console.asked == ["KILL app"]
    assert out.getvalue() == "KILL\nsaid\n"


def test_errors_guess_what_was_meant(console: Console) -> None:
    made, _ = session(console, Person())
    with pytest.raises(Trouble, match=r"HINT:  Did you mean SHOW POOLS\?"):
        say(made, "SHOW POLS")
    with pytest.raises(Trouble, match=r"HINT:  Did you mean RELOAD\?"):
        say(made, "RELAOD")
    made, _ = session(console)
    with pytest.raises(Trouble) as plain:
        say(made, "SHOW POLS")
    assert str(plain.value) == "ERROR:  invalid command 'SHOW POLS', use SHOW HELP;"


@pytest.mark.parametrize("text", ["\\q", "exit", "quit;", "EXIT"])
def test_leaving(console: Console, text: str) -> None:
    made, _ = session(console)
    with pytest.raises(Quit):
        say(made, text)


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
    assert one.read_text() == two.read_text() == three.read_text() == "version\nPgBouncer 1.25.2\n"
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
    assert "PgBouncer 1.25.2" in out.getvalue()
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


# ---- connections


def test_a_lost_connection_is_retried_and_said_so(console: Console) -> None:
    answers = iter([Lost("server closed the connection"), POOLS])
    console.answers["SHOW POOLS"] = lambda: _next(answers)
    person = Person()
    made, out = session(console, person, format="csv")
    say(made, "SHOW POOLS")
    assert "app,alice" in out.getvalue()
    assert person.heard == [
        "connection to h:1/pgbouncer lost: server closed the connection",
        "connected to h:1/pgbouncer again",
    ]


def _next(answers: object) -> Answer:
    found = next(answers)  # type: ignore[call-overload]
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Answer)
    return found


def test_a_verb_is_not_repeated(console: Console) -> None:
    console.answers["PAUSE APP"] = Lost("gone")
    made, _ = session(console)
    with pytest.raises(Trouble, match="PAUSE was not repeated"):
        say(made, "PAUSE app")
    assert console.asked == ["PAUSE app"]
    assert len(console.opened) == 2


def test_shutdown_ends_the_connection_and_that_is_its_answer(console: Console) -> None:
    console.answers["SHUTDOWN"] = Lost("gone")
    made, out = session(console)
    say(made, "SHUTDOWN")
    assert out.getvalue() == "SHUTDOWN\n"
    assert len(console.opened) == 1


def test_no_connection_is_status_3(console: Console) -> None:
    console.answers["SHOW POOLS"] = Lost("gone")
    made, _ = session(console)
    console.refusals = [CannotConnect("refused")] * 3
    with pytest.raises(Trouble, match="cannot connect to h:1/pgbouncer: refused") as trouble:
        say(made, "SHOW POOLS")
    assert trouble.value.status == 3


def test_a_wrong_password_asks_again(console: Console) -> None:
    wrong = CannotConnect("password authentication failed", password=True)
    console.refusals = [wrong, wrong]
    passwords = iter(["bad", "good"])
    heard: list[str] = []
    connector = Connector([Address({"host": "h"})], Manners(heard.append, lambda address: next(passwords)))
    connector.connect()
    assert [address.password for address in console.opened] == [None, "bad", "good"]
    assert connector.address.password == "good"
    assert heard == ["password authentication failed"]


def test_a_script_is_not_asked_for_a_password(console: Console) -> None:
    console.refusals = [CannotConnect("password needed", password=True)]
    with pytest.raises(CannotConnect):
        Connector([Address({"host": "h"})], Manners(lambda text: None)).connect()
    assert len(console.opened) == 1


def test_the_next_address_is_tried(console: Console) -> None:
    console.refusals = [CannotConnect("no socket")]
    connector = Connector([Address({"host": "a"}), Address({"host": "b"})], Manners(lambda text: None))
    assert connector.connect().address.place == "b:5432"
    assert connector.address.place == "b:5432"


# ---- scripts


@pytest.mark.parametrize(
    ("commands", "status", "asked"),
    [
        (["SHOW VERSION", "RELOAD"], 0, ["SHOW VERSION", "RELOAD"]),
        (["SHOW VERSION; NONSENSE; RELOAD"], 1, ["SHOW VERSION", "NONSENSE"]),
        (["\\q", "RELOAD"], 0, []),
        (["\\nonsense"], 1, []),
    ],
)
def test_exit_status(console: Console, commands: list[str], status: int, asked: list[str]) -> None:
    made, _ = session(console)
    assert script.run(made, script.of_commands(commands)) == status
    assert console.asked == asked


def test_json_is_one_document_per_command(console: Console) -> None:
    made, out = session(console, format="json")
    assert script.run(made, script.of_lines(["SHOW VERSION\n", "RELOAD\n"])) == 0
    decoder, text, documents = json.JSONDecoder(), out.getvalue(), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    assert documents == [[{"version": "PgBouncer 1.25.2"}], {"command": "RELOAD"}]


# ---- watch and rates


@pytest.mark.parametrize(
    ("argument", "plan"),
    [
        ("", watch.Plan()),
        ("0.5", watch.Plan(0.5)),
        ("delta", watch.Plan(delta=True)),
        ("5 delta c=3", watch.Plan(5, 3, True)),
        ("i=1 c=2", watch.Plan(1, 2)),
    ],
)
def test_plan(argument: str, plan: watch.Plan) -> None:
    assert watch.plan(argument) == plan


@pytest.mark.parametrize("argument", ["x", "0", "-1", "1e9", "nan", "c=x", "c=-1", "q=1", "1 2 x"])
def test_what_watch_does_not_take(argument: str) -> None:
    with pytest.raises(watch.BadPlan):
        watch.plan(argument)


def test_watch_repeats_only_what_reads(console: Console) -> None:
    made, out = session(console)
    say(made, "SHOW VERSION \\watch 0.1 c=3")
    assert console.asked == ["SHOW VERSION"] * 3
    assert out.getvalue().count("every 0.1 s: SHOW VERSION") == 3
    with pytest.raises(Trouble, match="only what reads"):
        say(made, "RELOAD \\watch 1")
    assert console.asked == ["SHOW VERSION"] * 3


def test_rates() -> None:
    names = "database total_xact_count total_received avg_xact_count cl_waiting"
    before = rows(names, ("app", 1000, 2048, 5, 4), ("gone", 1, 1, 1, 1))
    after = rows(names, ("app", 1500, 4096, 7, 1), ("new", 9, 9, 9, 9))
    found = rates(before, after, 2.0, "SHOW STATS")
    assert found.names == ("database", "total_xact_count/s", "total_received/s", "avg_xact_count", "cl_waiting")
    assert list(found.rows) == [("app", "250", "1,024", "7 (+2)", "1 (-3)"), ("new", "0", "0", "9", "9")]
    human = rates(before, after, 2.0, "SHOW STATS", human=True)
    assert human.rows[0][2] == "1.00 kB"


def test_rates_of_totals_and_of_averages() -> None:
    before, after = rows("name value", ("total_xact_count", 10)), rows("name value", ("total_xact_count", 30))
    assert list(rates(before, after, 2.0, "SHOW TOTALS").rows) == [("total_xact_count", "10.0")]
    before, after = rows("database xact_count", ("a", 10)), rows("database xact_count", ("a", 30))
    assert list(rates(before, after, 2.0, "SHOW STATS_AVERAGES").rows) == [("a", "30 (+20)")]
    assert list(rates(after, after, 0.0, "SHOW STATS").rows) == [("a", "0")]


# ---- history and background


def test_history_is_private_and_keeps_no_password(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    history = opened(file)
    history.append_string("\\c postgresql://u:s3cret@h/")
    history.append_string("SHOW POOLS")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "s3cret" not in file.read_text()
    assert next(iter(opened(file).load_history_strings())) == "SHOW POOLS"
    assert place({"XDG_STATE_HOME": "/x"}) == Path("/x/pooler/console_history")
    assert place({"POOLER_HISTORY": "/y"}) == Path("/y")


def test_a_long_history_is_shortened_and_one_that_cannot_be_written_is_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("".join(f"\n# then\n+SHOW {n}\n" for n in range(10_000)))
    kept = list(opened(file).load_history_strings())
    assert kept[0] == "SHOW 9999"
    assert 4_000 < len(kept) < 6_000
    (tmp_path / "file").touch()
    opened(tmp_path / "file" / "history").append_string("x")


STATS = "database total_xact_count"
DATABASES = rows("name paused", ("app", 1), ("billing", 0), ("pgbouncer", 0))


def test_the_background_keeps_pulse_and_facts(console: Console) -> None:
    counts = iter(range(100, 10_000, 50))
    console.answers |= {
        "SHOW STATS": lambda: rows(STATS, ("app", next(counts)), ("pgbouncer", 1)),
        "SHOW DATABASES": DATABASES,
        "SHOW USERS": rows("name", ("alice",)),
        "SHOW CONFIG": rows("key value default changeable", ("verbose", "0", "0", "yes")),
        "SHOW STATE": rows("key value", ("active", "yes"), ("paused", "no"), ("suspended", "no")),
        "SHOW CLIENTS": rows("id user database state addr ptr", (7, "a", "app", "idle", "::1", "0x7")),
    }
    background = Background(lambda: Address({"host": "h"}), period=0.02)
    background.start()
    try:
        until(lambda: background.facts.settings, "the facts")
        assert background.facts.databases == ("app", "billing")
        assert background.facts.users == ("alice",)
        assert "SHOW POOLS" not in console.asked, "nobody looks at the toolbar"
        assert "SHOW CLIENTS" not in console.asked, "nobody completes a client"
        background.show(True)
        until(lambda: background.pulse.tps, "a rate")
        background.show(False)
        pulse = background.pulse
        assert (pulse.pools, pulse.waiting, pulse.maxwait, pulse.paused) == (2, 2, 1.5, ("app",))
        background.want("clients")
        until(lambda: background.facts.clients, "the clients")
        assert background.facts.clients == (("7", "a@app idle ::1"),)
        background.learn("POOLS", ("x",))
        background.expire("settings")
        until(lambda: console.asked.count("SHOW CONFIG") == 2, "settings again")
        assert background.facts.vocabulary.columns["pools"] == ("x",)
    finally:
        background.stop()
        background.join()


def test_the_background_survives_what_a_console_refuses_and_its_absence(console: Console) -> None:
    console.answers["SHOW CONFIG"] = CommandFailed("admin access needed")
    console.refusals = [CannotConnect("refused")]
    background = Background(lambda: Address({"host": "h"}), period=0.02)
    background.start()
    try:
        until(lambda: background.pulse.trouble, "the trouble")
        assert background.pulse.trouble == "refused"
        console.answers |= {"SHOW STATS": rows(STATS, ("app", 1)), "SHOW DATABASES": DATABASES}
        console.answers["SHOW STATE"] = rows("key value", ("paused", "yes"))
        background.show(True)
        until(lambda: background.pulse.connected, "the connection")
        assert background.pulse.state == "paused"
    finally:
        background.stop()
        background.join()
