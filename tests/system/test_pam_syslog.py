"""The system's own services: PAM asked through a service file of this test's, syslog heard at its socket."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.process import Bouncer, StartBouncer, imports
from tests.fixtures.waiting import DEADLINE, until

SERVICE = Path("/etc/pam.d/pgbouncer")
CHECK = """\
#!/bin/sh
# Called by pam_exec with the password on stdin, and a NUL behind it.
given=$(tr -d '\\000')
[ "$PAM_USER" = postgres ] && [ "$given" = "right one" ]
"""

# ---- PAM


@pytest.fixture
def pam_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A PAM service `pgbouncer` that lets in `postgres` with `right one`."""
    if importlib.util.find_spec("pam") is None:
        pytest.skip("python-pam is not installed: pip install '.[pam]'")
    if os.geteuid() != 0:
        pytest.skip("only root can make a PAM service")
    if SERVICE.exists() or not SERVICE.parent.is_dir():
        pytest.skip(f"no place for a service of our own at {SERVICE}")
    script = tmp_path_factory.mktemp("pam") / "check"
    script.write_text(CHECK)
    script.chmod(0o755)
    SERVICE.write_text(f"auth required pam_exec.so expose_authtok quiet {script}\naccount required pam_permit.so\n")
    yield
    SERVICE.unlink()


@pytest.mark.usefixtures("pam_service")
def test_pam_decides_who_comes_in(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(auth_type="pam")
    with bouncer.connect(password="right one") as client, bouncer.connect(password="right one") as other:
        assert client.execute("SELECT current_user").fetchone() == ("postgres",)
        for user, password in (("postgres", "wrong one"), ("plain_user", "right one")):
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                bouncer.connect(user=user, password=password)
        assert other.execute("SELECT 1").fetchone() == (1,)
    assert "right one" not in bouncer.log_text()
    assert "wrong one" not in bouncer.log_text()


# ---- syslog

LISTENER = """
import socket, sys
from pooler.log import LOG, WARNING, Log
from pooler.config.whole import parse

log = Log(stderr=False)
log.configure(parse(sys.stdin.read()).settings)
log.line(LOG, "one line")
log.line(WARNING, "another\\nline")
"""
FACILITIES = {"daemon": 3, "auth": 4, "authpriv": 10, "user": 1, "local0": 16, "local7": 23}


@pytest.fixture
def dev_log() -> Iterator[socket.socket]:
    """/dev/log, ours for as long as nobody else's is there."""
    place = Path("/dev/log")
    if os.geteuid() != 0:
        pytest.skip("only root can listen at /dev/log")
    if place.exists() or place.is_symlink():
        pytest.skip("/dev/log is somebody else's here")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(place))
        place.chmod(0o666)
        sock.settimeout(DEADLINE)
        yield sock
    place.unlink()


@pytest.mark.parametrize("facility", FACILITIES)
def test_syslog_has_the_line_its_priority_and_our_name(dev_log: socket.socket, facility: str) -> None:
    text = f"[pgbouncer]\nsyslog = 1\nsyslog_ident = our-pool\nsyslog_facility = {facility}\n"
    run = [sys.executable, "-c", textwrap.dedent(LISTENER)]
    subprocess.run(run, input=text, text=True, check=True, env={**os.environ, **imports()})
    heard = [dev_log.recv(4096).decode() for _ in range(2)]
    informed, warned = FACILITIES[facility] * 8 + 6, FACILITIES[facility] * 8 + 4
    assert re.fullmatch(rf"<{informed}>.* our-pool\[\d+\]: one line\0?", heard[0])
    assert re.fullmatch(rf"<{warned}>.* our-pool\[\d+\]: another\?line\0?", heard[1])


def test_a_pooler_logs_to_syslog_and_to_its_file(dev_log: socket.socket, start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(syslog=1)
    bouncer.sql("SELECT 1")
    wanted = "login attempt: db=app user=postgres"
    heard = [dev_log.recv(4096).decode()]
    while wanted not in heard[-1]:
        heard.append(dev_log.recv(4096).decode())
    assert re.search(rf" pgbouncer\[{bouncer.pid}\]: ", heard[-1])
    assert wanted in bouncer.log.read_text()
    bouncer.settings["syslog_ident"] = "another"
    bouncer.write()
    bouncer.admin("RELOAD")
    bouncer.sql("SELECT 2")
    while " another[" not in heard[-1]:
        heard.append(dev_log.recv(4096).decode())


def answers(bouncer: Bouncer) -> bool:
    return bouncer.sql("SELECT 1") == [(1,)]


def test_without_anybody_at_dev_log_all_goes_on(start_pooler: StartBouncer) -> None:
    bouncer = start_pooler(syslog=1)
    until(lambda: answers(bouncer), "an answer")
    assert "login attempt: db=app" in bouncer.log.read_text()
