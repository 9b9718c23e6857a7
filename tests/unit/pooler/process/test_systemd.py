"""Socket activation and notification, with this test as the service manager."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from pooler.process.systemd import READY, STOPPING, Notifier, passed_sockets

SHOW = """
import sys
from pooler.process.systemd import passed_sockets
import os
print([sock.getsockname() for sock in passed_sockets()], "LISTEN_FDS" in os.environ)
"""


def test_nothing_is_passed_without_a_manager() -> None:
    assert passed_sockets({}) == []


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}
    assert passed_sockets(environment) == []
    assert environment == {}


def test_a_passed_socket_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        name = listener.getsockname()
        command = f"exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec {sys.executable} -c '{SHOW}'"
        said = subprocess.run(
            ["bash", "-c", command], pass_fds=[listener.fileno()], capture_output=True, text=True, check=True
        )
    assert said.stdout.strip() == f"[{name}] False"


def test_states_reach_the_manager(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notifier = Notifier({"NOTIFY_SOCKET": path})
        notifier.tell(READY)
        notifier.tell(STOPPING)
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]
        notifier.close()


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notifier = Notifier({"NOTIFY_SOCKET": path})
        for _ in range(10_000):
            notifier.tell(READY)
        assert manager.recv(100) == b"READY=1"
        notifier.close()


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.tell(READY)
    notifier.tell(STOPPING)
    notifier.close()
