"""Passwords checked by PAM (auth_type pam), through the optional package `python-pam`.

The service name is `pgbouncer`, so /etc/pam.d/pgbouncer decides. PAM modules block (they sleep after a wrong
password), so each check runs in a thread of its own and the loop goes on.
"""

from __future__ import annotations

import importlib.util

from pooler.clients.threads import in_thread
from pooler.pools.refusal import LoginError
from pooler.wire import decode, encode

SERVICE = "pgbouncer"
MISSING = "auth_type=pam needs the Python package python-pam: pip install python-pam"


def missing() -> str:
    """What is wrong with a configuration that wants PAM here; empty when nothing is."""
    return "" if importlib.util.find_spec("pam") else MISSING


async def check(user: str, password: str) -> bool:
    """Whether PAM accepts the password. Raises LoginError when PAM cannot be asked."""
    if problem := missing():
        raise LoginError("bouncer config error", log=problem)
    return await in_thread(_check, user, password)


def _check(user: str, password: str) -> bool:
    import pam

    name, secret = decode(encode(user)), decode(encode(password))
    # As PgBouncer: authenticate and account. Credentials are of a session's user, which nobody becomes here.
    return bool(pam.pam().authenticate(name, secret, service=SERVICE, call_end=True, resetcreds=False))
