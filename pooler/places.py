"""Where the pooler keeps what must survive a restart when no ini says otherwise: passwords, certificate,
data, the control plane's state, what was typed at the console.

One answer to "where", for servers and for their clients. As root it is a system directory, since root's home is
closed to the account PostgreSQL has to run as; so whoever makes that directory leaves it open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM = Path("/var/lib/pooler")
STATE_HOME = "XDG_STATE_HOME"


class NoPlace(Exception):
    """There is nowhere to keep anything. The message is one line for the user."""


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """$XDG_STATE_HOME/pooler if that is set, /var/lib/pooler for root, else ~/.local/state/pooler. Raises NoPlace."""
    chosen = environment.get(STATE_HOME, "")
    if os.path.isabs(chosen):
        return Path(chosen) / "pooler"
    if os.geteuid() == 0:
        return SYSTEM
    try:
        return Path.home() / ".local" / "state" / "pooler"
    except RuntimeError:
        raise NoPlace("this account has no home directory to keep data in: set XDG_STATE_HOME") from None


def make(directory: Path) -> None:
    """See to it that the directory is there; a new one is closed to others, but for root's state directory: another
    account goes through it to the database that is kept there. Raises OSError."""
    if directory.is_dir():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0 and directory == state_directory():
        directory.chmod(0o755)
