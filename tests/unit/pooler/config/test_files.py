"""What a configuration names is read without being kept waiting: regular files, pipes, and what is neither."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pooler.config import files
from pooler.config.files import load, load_regular
from pooler.config.hba import load_hba
from pooler.config.ini import Problem, read
from pooler.config.kinds import SslMode
from pooler.config.settings import Settings
from pooler.config.users import load_users
from pooler.net.tls import FileProblem, server_context

LATE = "nothing has come out of it in time"


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that nobody writes to."""
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    os.mkfifo(tmp_path / "pipe")
    return str(tmp_path / "pipe")


def test_a_file_is_read_as_far_as_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (files.PIECE + 7))
    assert load(str(path), 3) == b"xxx"
    assert load(str(path), 1 << 30) == path.read_bytes() == load_regular(str(path))
    assert load(os.devnull, 10) == b""
    assert load("/dev/zero", 10) == bytes(10)
    with pytest.raises(IsADirectoryError):
        load(str(tmp_path), 10)
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "nothing"), 10)


def test_a_pipe_is_read_to_its_end(pipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 20.0)
    text = b"bob " * 100_000
    writing = threading.Thread(target=lambda: Path(pipe).write_bytes(text))
    writing.start()
    assert load(pipe, 1 << 20) == text
    writing.join()


def test_a_pipe_whose_writer_says_no_more_is_waited_for_no_longer(pipe: str) -> None:
    with open(os.open(pipe, os.O_RDWR), "wb") as writer:
        writer.write(b"half")
        writer.flush()
        with pytest.raises(TimeoutError, match=LATE):
            load(pipe, 100)


READERS: dict[str, Callable[[str], Sequence[Problem]]] = {
    "ini": lambda path: read(path).problems,
    "auth_file": lambda path: load_users(path).problems,
    "hba": lambda path: load_hba(path).problems,
    "ident": lambda path: load_hba(os.devnull, path).problems,
}


@pytest.mark.parametrize("what", READERS)
def test_no_file_of_the_configuration_is_waited_for(pipe: str, what: str) -> None:
    (problem,) = READERS[what](pipe)
    assert LATE in str(problem)


def test_tls_is_not_read_out_of_a_pipe(pipe: str) -> None:
    settings = replace(Settings(), server_tls_sslmode=SslMode.verify_ca, server_tls_ca_file=pipe)
    with pytest.raises(FileProblem, match="not a regular file"):
        server_context(settings)
