"""The history file: private, bounded, and dispensable."""

from __future__ import annotations

import stat
from pathlib import Path

from admin.repl.history import opened, place


def test_history_is_private_and_keeps_no_password(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    history = opened(lambda: file)
    history.append_string("\\c postgresql://u:s3cret@h/")
    history.append_string("SHOW POOLS")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "s3cret" not in file.read_text()
    assert next(iter(opened(lambda: file).load_history_strings())) == "SHOW POOLS"
    assert place({"XDG_STATE_HOME": "/x"}) == Path("/x/pooler/console_history")
    assert place({"POOLER_HISTORY": "/y"}) == Path("/y")


def test_what_failed_is_marked_for_the_next_session(tmp_path: Path) -> None:
    file = tmp_path / "history"
    history = opened(lambda: file)
    for line, failed in (("SHOW POLS", True), ("SHOW POOLS", False), ("RELAOD", True), ("SHOW X\n", True)):
        history.append_string(line)
        if failed:
            history.failed(line)
    history.append_string("RELAOD")
    with file.open("a") as more:
        more.write('# failed nonsense\n# failed "SHOW POOLS"\n\n# then\n+SHOW POOLS\n')
    later = opened(lambda: file)
    lines = list(later.load_history_strings())
    assert lines == ["SHOW POOLS", "RELAOD", "SHOW X\n", "RELAOD", "SHOW POOLS", "SHOW POLS"]
    assert [line for line in lines if later.has_failed(line)] == ["SHOW X\n", "SHOW POLS"]


def test_a_long_history_is_shortened_and_one_that_cannot_be_written_is_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("".join(f"\n# then\n+SHOW {n}\n" for n in range(10_000)))
    kept = list(opened(lambda: file).load_history_strings())
    assert kept[0] == "SHOW 9999"
    assert 4_000 < len(kept) < 6_000
    (tmp_path / "file").touch()
    opened(lambda: tmp_path / "file" / "history").append_string("x")
