"""The pidfile: ours until we end or another process goes on."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pooler.process.daemon import Pidfile
from pooler.process.service import ServiceError
from tests.fixtures.process import imports


def test_it_is_removed_while_it_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "pooler.pid"
    ours = Pidfile(str(path))
    ours.write()
    assert path.read_text() == f"{os.getpid()}\n"
    ours.remove()
    assert not path.exists()


def test_what_another_process_goes_on_with_is_left(tmp_path: Path) -> None:
    """Whatever is in it at that moment: the other may write its own at any time."""
    path = tmp_path / "pooler.pid"
    ours = Pidfile(str(path))
    ours.write()
    ours.leave()
    ours.remove()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    "content",
    ["", "\n", "\0" * 512, f"{os.getpid()}\n", f" {os.getpid()} \n\n", "99999999999999999999\n", "0\n", "-5\n",
     f"{(1 << 22) + 1}\n", f"{2**31}\n", f"{2**63}\n"],
)  # fmt: skip
def test_what_no_other_process_can_have_written_is_stale(tmp_path: Path, content: str) -> None:
    """Our own number is that of a process before us: a killed container's first process is number 1 each time. A write
    that was cut short leaves nothing, and a loss of power zeros."""
    path = tmp_path / "pooler.pid"
    path.write_text(content)
    assert Pidfile(str(path)).check()
    assert not path.exists()


def test_that_of_a_process_that_has_ended_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "pooler.pid"
    ended = subprocess.Popen(["true"])
    ended.wait()
    path.write_text(f"{ended.pid}\n")
    assert Pidfile(str(path)).check()


@pytest.mark.parametrize("pid", [1, os.getppid()])
def test_that_of_a_process_that_lives_is_respected(tmp_path: Path, pid: int) -> None:
    path = tmp_path / "pooler.pid"
    path.write_text(f"{pid}\n")
    with pytest.raises(ServiceError, match=rf"pidfile '{re.escape(str(path))}' exists, another instance running\?"):
        Pidfile(str(path)).check()
    assert path.read_text() == f"{pid}\n"


@pytest.mark.parametrize(
    "content", [b"garbage\n", b"12 34\n", b'"anna" "secret"\n', b"0x10\n", b"1.5\n", b"\xff\xfe", b"+1\n"]
)
def test_what_is_no_pidfile_is_not_removed(tmp_path: Path, content: bytes) -> None:
    """A name that was mistyped, as that of the auth_file. PgBouncer 1.26.1 does not start either."""
    path = tmp_path / "users.txt"
    path.write_bytes(content)
    with pytest.raises(ServiceError, match=r"holds no process id: remove it, if it is a pidfile") as caught:
        Pidfile(str(path)).check()
    assert "secret" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_directory_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"could not read pidfile '.*': Is a directory"):
        Pidfile(str(tmp_path)).check()
    with pytest.raises(ServiceError, match=r"could not write pidfile '.*': "):
        Pidfile(str(tmp_path)).write()
    assert list(tmp_path.parent.glob(f"{tmp_path.name}.*")) == []


def test_a_fifo_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert Pidfile(str(tmp_path / "fifo")).check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_one_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pooler.pid"
    path.write_text("1\n")
    path.chmod(0)
    with pytest.raises(ServiceError, match=r"could not read pidfile '.*': Permission denied"):
        Pidfile(str(path)).check()


@pytest.mark.parametrize("laid", ["link", "dangling", "file"])
def test_it_is_not_written_through_what_lies_in_its_way(tmp_path: Path, laid: str) -> None:
    """A pooler of root's overwrote a file through a link with the name that it was about to write to."""
    victim, path = tmp_path / "victim", tmp_path / "pooler.pid"
    if laid != "dangling":
        victim.write_text("precious")
    way = tmp_path / f"pooler.pid.{os.getpid()}"
    way.write_text("left behind") if laid == "file" else way.symlink_to(victim)
    Pidfile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert not path.is_symlink()
    assert not way.exists()
    assert not way.is_symlink()
    assert victim.exists() == (laid != "dangling")
    assert laid == "dangling" or victim.read_text() == "precious"


def test_a_pidfile_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "pooler.pid"
    victim.write_text("precious")
    path.symlink_to(victim)
    Pidfile(str(path)).write()
    assert (victim.read_text(), path.read_text()) == ("precious", f"{os.getpid()}\n")


FULL = """
import resource, sys
from pooler.process.daemon import Pidfile
from pooler.process.service import ServiceError

resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    Pidfile(sys.argv[1]).write()
except ServiceError as error:
    print(error)
"""


def test_one_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "pooler.pid"
    path.write_text("4711\n")
    run = [sys.executable, "-P", "-c", FULL, str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={**os.environ, **imports()})
    assert done.stdout == f"could not write pidfile '{path}': File too large\n"
    assert [file.name for file in tmp_path.iterdir()] == ["pooler.pid"]
    assert path.read_text() == "4711\n"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0


def test_the_end_comes_whatever_became_of_it(tmp_path: Path) -> None:
    for change in ("gone", "directory", "another's"):
        path = tmp_path / change / "pooler.pid"
        path.parent.mkdir()
        ours = Pidfile(str(path))
        ours.write()
        if change == "another's":
            path.write_text("4711\n")
        else:
            path.unlink()
        if change == "directory":
            path.mkdir()
        ours.remove()
        assert path.exists() == (change != "gone")
