"""Pools of their own, beside a database's default one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = "pooler_named_pools"


def upgrade() -> None:
    op.create_table(
        NAME,
        sa.Column("addon_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("addon_id", "name", name=f"pk_{NAME}"),
        sa.ForeignKeyConstraint(["addon_id"], ["pooler_addons.id"], name=f"fk_{NAME}_addon_id", ondelete="CASCADE"),
    )


def downgrade() -> None:
    op.drop_table(NAME)
