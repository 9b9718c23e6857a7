"""Files of ours that cannot be written: one sentence with the reason, nothing half written is left, and when there is
room all is well. Each is tried in a child of its own in which no file may grow (EFBIG, as good as ENOSPC).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.fixtures.process import imports

FULL = """
import os, resource, sys
from pathlib import Path

place = Path(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]


def full():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))


def room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
"""

CERTIFICATE = """
from pooler.commands import certificate

for attempt in (full, room):
    attempt()
    try:
        certificate.ensure(place)
        print("made")
    except certificate.CertificateError as error:
        print(error)
"""

PASSWORDS = """
from pooler.commands import embedded

embedded._write_passwords(place / "pgpass", {"pooler": "first"})
for attempt in (full, room):
    attempt()
    try:
        embedded._write_passwords(place / "pgpass", {"pooler": "second"})
    except OSError as error:
        print(error.strerror)
    print(embedded._passwords(place / "pgpass")["pooler"])
"""

HISTORY = """
from admin.repl.history import opened

history = opened(lambda: place / "history")
for attempt in (full, room):
    attempt()
    history.append_string(f"SHOW {attempt.__name__}")
print(history.get_strings(), list(history.load_history_strings()))
"""

LONG_HISTORY = """
from admin.repl import history

history.OLDEST_LINES = 10
(place / "history").write_text("".join(f"# {n}\\n+SHOW {n}\\n" for n in range(20)))
for attempt in (full, room):
    attempt()
    print(len(list(history.opened(lambda: place / "history").load_history_strings())))
"""

STATE = """
from admin.platform.errors import PlatformError
from admin.platform.operations.access import Actor
from admin.platform.operations.apps import create_app
from admin.platform.state import State

state = State.open(str(place / "state.db"))
for attempt in (full, room):
    attempt()
    try:
        with state.write() as store:
            create_app(store, Actor("root"), "example-app")
    except PlatformError as error:
        print(error.status, error.message)
    with state.read() as store:
        print([app.name for app in store.apps()])
"""

CASES = {
    "certificate": (CERTIFICATE, ["no certificate for TLS can be kept in {place}: [Errno 27] File too large", "made"],
                    {"server.crt", "server.key"}),
    "passwords": (PASSWORDS, ["File too large", "first", "second"], {"pgpass"}),
    "history": (HISTORY, ["['SHOW full', 'SHOW room'] ['SHOW room']"], {"history"}),
    "long history": (LONG_HISTORY, ["20", "10"], {"history"}),
    "state": (STATE, ["503 The state cannot be used: disk I/O error.", "[]", "['example-app']"], {"state.db"}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_written(tmp_path: Path, case: str) -> None:
    code, told, left = CASES[case]
    run = [sys.executable, "-c", textwrap.dedent(FULL + code), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, **imports()})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [line.format(place=tmp_path) for line in told]
    assert {file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))} == left
