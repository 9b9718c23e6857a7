"""Alembic's entry: run the revisions on the connection handed over by `migrations.upgrade`, in its
transaction."""

from __future__ import annotations

from alembic import context

from admin.platform.schema import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
