"""Where an app's log lines go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = "pooler_log_drains"


def upgrade() -> None:
    op.create_table(
        NAME,
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("app_id", sa.String(36), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{NAME}"),
        sa.UniqueConstraint("app_id", "url", name=f"uq_{NAME}_app_id_url"),
        sa.ForeignKeyConstraint(["app_id"], ["pooler_apps.id"], name=f"fk_{NAME}_app_id", ondelete="CASCADE"),
    )


def downgrade() -> None:
    op.drop_table(NAME)
