"""Where the pooler keeps what must survive a restart when no ini says otherwise: passwords, certificate,
data.

Only the answer to "where": nothing is created here. As root it is a system directory, since root's home is
closed to the account PostgreSQL has to run as.
"""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/var/lib/pooler")


class NoPlace(Exception):
    """There is nowhere to keep anything. The message is one line for the user."""


def state_directory() -> Path:
    """$XDG_STATE_HOME/pooler if that is set, /var/lib/pooler for root, else ~/.local/state/pooler. Raises NoPlace."""
    chosen = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(chosen):
        return Path(chosen) / "pooler"
    if os.geteuid() == 0:
        return SYSTEM
    try:
        return Path.home() / ".local" / "state" / "pooler"
    except RuntimeError:
        raise NoPlace("this account has no home directory to keep data in: set XDG_STATE_HOME") from None
