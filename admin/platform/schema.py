"""The state's tables, in SQLAlchemy Core: what `store` queries and what the migrations build up to.

All names begin with `pooler_`, so that a state kept in a PostgreSQL database shared with an application stays
apart from its tables. A change here needs a new file in migrations/versions, and a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

HEAD = "0003"
"""The newest migration. A state at this revision is used as it is, without loading Alembic."""

VERSION_TABLE = "pooler_schema_version"


def _id() -> Column[str]:
    return Column("id", String(36), primary_key=True)


def _owned(column: str, parent: str, *, nullable: bool = False, primary: bool = False) -> Column[str]:
    return Column(column, ForeignKey(f"{parent}.id", ondelete="CASCADE"), nullable=nullable, primary_key=primary)


APPS = Table(
    "pooler_apps",
    METADATA,
    _id(),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

CONFIG = Table(
    "pooler_config_vars",
    METADATA,
    _owned("app_id", "pooler_apps", primary=True),
    Column("name", String(128), primary_key=True),
    Column("value", Text, nullable=False),
)

RELEASES = Table(
    "pooler_releases",
    METADATA,
    _id(),
    _owned("app_id", "pooler_apps"),
    Column("version", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("app_id", "version"),
)

ADDONS = Table(
    "pooler_addons",
    METADATA,
    _id(),
    Column("name", String(64), nullable=False, unique=True),
    Column("plan_name", String(64), nullable=False),
    Column("connection_limit", Integer, nullable=False),
    _owned("app_id", "pooler_apps"),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("dbname", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("following", ForeignKey("pooler_addons.id", ondelete="SET NULL"), nullable=True),
    Column("pool_host", Text, nullable=True),
    Column("pool_port", Integer, nullable=True),
    Column("exposed", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

CREDENTIALS = Table(
    "pooler_credentials",
    METADATA,
    _owned("addon_id", "pooler_addons", primary=True),
    Column("name", String(64), primary_key=True),
    Column("user", Text, nullable=False),
    Column("password", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

ATTACHMENTS = Table(
    "pooler_attachments",
    METADATA,
    _id(),
    Column("name", String(128), nullable=False),
    _owned("app_id", "pooler_apps"),
    _owned("addon_id", "pooler_addons"),
    Column("namespace", String(128), nullable=True),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("app_id", "name"),
)
Index(None, ATTACHMENTS.c.addon_id)

NAMED_POOLS = Table(
    "pooler_named_pools",
    METADATA,
    _owned("addon_id", "pooler_addons", primary=True),
    Column("name", String(64), primary_key=True),
    Column("mode", String(16), nullable=False),
    Column("size", Integer, nullable=False),
)

LOG_DRAINS = Table(
    "pooler_log_drains",
    METADATA,
    _id(),
    _owned("app_id", "pooler_apps"),
    Column("url", Text, nullable=False),
    Column("token", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("app_id", "url"),
)

TOKENS = Table(
    "pooler_tokens",
    METADATA,
    _id(),
    Column("hash", String(64), nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("everything", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

TOKEN_APPS = Table(
    "pooler_token_apps",
    METADATA,
    _owned("token_id", "pooler_tokens", primary=True),
    _owned("app_id", "pooler_apps", primary=True),
)

CHANGES = Table(
    "pooler_changes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("counter", BigInteger, nullable=False),
)
"""One row: how many writes there have been. Watchers poll it."""
