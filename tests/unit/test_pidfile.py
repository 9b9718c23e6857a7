"""The pidfile: ours until we end or another process goes on."""

from __future__ import annotations

import os
from pathlib import Path

from pooler.daemon import Pidfile


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
