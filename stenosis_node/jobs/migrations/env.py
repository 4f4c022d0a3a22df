"""Run by Alembic: migrate on the connection, and in the transaction, that ``Database.migrate`` opened."""

from __future__ import annotations

from alembic import context

from stenosis_node.jobs.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
