"""The state's migrations, run by Alembic inside the caller's transaction: all of them or none.

`upgrade` is called by `state` when a state is behind `schema.HEAD`, under the state's write lock, so that two
processes starting at once migrate once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the state behind `connection` to the newest revision; the caller commits."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
