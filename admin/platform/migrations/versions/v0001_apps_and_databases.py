"""The first shape of the state: apps, config vars, releases, add-ons, credentials, attachments, tokens, the
change counter."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _apps()
    _addons()
    _tokens()
    changes = op.create_table(
        "pooler_changes",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pooler_changes"),
    )
    op.bulk_insert(changes, [{"id": 1, "counter": 0}])


def _parent(column: str, table: str, parent: str, ondelete: str = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.id"], name=f"fk_{table}_{column}", ondelete=ondelete)


def _apps() -> None:
    op.create_table(
        "pooler_apps",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pooler_apps"),
        sa.UniqueConstraint("name", name="uq_pooler_apps_name"),
    )
    op.create_table(
        "pooler_config_vars",
        sa.Column("app_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("app_id", "name", name="pk_pooler_config_vars"),
        _parent("app_id", "pooler_config_vars", "pooler_apps"),
    )
    op.create_table(
        "pooler_releases",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("app_id", sa.String(36), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pooler_releases"),
        sa.UniqueConstraint("app_id", "version", name="uq_pooler_releases_app_id_version"),
        _parent("app_id", "pooler_releases", "pooler_apps"),
    )


def _addons() -> None:
    op.create_table(
        "pooler_addons",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("plan_name", sa.String(64), nullable=False),
        sa.Column("connection_limit", sa.Integer, nullable=False),
        sa.Column("app_id", sa.String(36), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("dbname", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("following", sa.String(36), nullable=True),
        sa.Column("pool_host", sa.Text, nullable=True),
        sa.Column("pool_port", sa.Integer, nullable=True),
        sa.Column("exposed", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pooler_addons"),
        sa.UniqueConstraint("name", name="uq_pooler_addons_name"),
        _parent("app_id", "pooler_addons", "pooler_apps"),
        _parent("following", "pooler_addons", "pooler_addons", "SET NULL"),
    )
    op.create_table(
        "pooler_credentials",
        sa.Column("addon_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("addon_id", "name", name="pk_pooler_credentials"),
        _parent("addon_id", "pooler_credentials", "pooler_addons"),
    )
    op.create_table(
        "pooler_attachments",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("app_id", sa.String(36), nullable=False),
        sa.Column("addon_id", sa.String(36), nullable=False),
        sa.Column("namespace", sa.String(128), nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pooler_attachments"),
        sa.UniqueConstraint("app_id", "name", name="uq_pooler_attachments_app_id_name"),
        _parent("app_id", "pooler_attachments", "pooler_apps"),
        _parent("addon_id", "pooler_attachments", "pooler_addons"),
    )
    op.create_index("ix_pooler_attachments_addon_id", "pooler_attachments", ["addon_id"])


def _tokens() -> None:
    op.create_table(
        "pooler_tokens",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("everything", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pooler_tokens"),
        sa.UniqueConstraint("hash", name="uq_pooler_tokens_hash"),
    )
    op.create_table(
        "pooler_token_apps",
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("app_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("token_id", "app_id", name="pk_pooler_token_apps"),
        _parent("token_id", "pooler_token_apps", "pooler_tokens"),
        _parent("app_id", "pooler_token_apps", "pooler_apps"),
    )


TABLES = "changes token_apps tokens attachments credentials addons releases config_vars apps"


def downgrade() -> None:
    for name in TABLES.split():
        op.drop_table(f"pooler_{name}")
