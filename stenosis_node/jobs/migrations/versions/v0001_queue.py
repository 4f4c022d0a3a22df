"""The queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_since", TIME, nullable=False),
        sa.Column("failed_in", sa.String(length=16)),
        sa.Column("reason", sa.String(length=64)),
        sa.Column("message", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("last_instance_at", TIME, nullable=False),
        sa.Column("n_instances", sa.Integer(), nullable=False),
        sa.Column("quiet_until", TIME, nullable=False),
        sa.Column("ceiling_at", TIME, nullable=False),
        sa.Column("retry_at", TIME),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_claimed_at", TIME),
        sa.Column("lease_token", sa.String(length=32)),
        sa.Column("lease_until", TIME),
        sa.Column("lease_worker", sa.String(length=64)),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("tidied_at", TIME),
        sa.Column("purged_at", TIME),
        sa.CheckConstraint(
            "state IN ('received', 'graded', 'delivered', 'rejected', 'failed', 'cancelled')", name=op.f("ck_job_state")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("study_instance_uid", name="uq_job_study_instance_uid"),
    )
    _partial_index("ix_job_lease_worker", "job", ["lease_worker"], "lease_worker IS NOT NULL")
    op.create_index("ix_job_state_id", "job", ["state", "id"])
    op.create_index("ix_job_state_quiet_until", "job", ["state", "quiet_until"])
    _partial_index("ix_job_unpurged", "job", ["state", "state_since"], "purged_at IS NULL")
    _partial_index("ix_job_untidied", "job", ["purged_at", "state"], "tidied_at IS NULL")
    op.create_table(
        "event",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_event_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_job_id", "event", ["job_id"])
    op.create_table(
        "instance",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("conflicts", sa.Integer(), nullable=False),
        sa.Column("purged_at", TIME),
        sa.Column("deleted_at", TIME),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_instance_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
        sa.UniqueConstraint("sop_instance_uid", "series_instance_uid", "study_instance_uid", name="uq_instance_uids"),
    )
    op.create_index("ix_instance_job_id", "instance", ["job_id"])
    _partial_index("ix_instance_orphan", "instance", ["study_instance_uid"], "job_id IS NULL")
    _partial_index("ix_instance_to_delete", "instance", ["purged_at"], "purged_at IS NOT NULL AND deleted_at IS NULL")
    op.create_table(
        "result",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("result_key", sa.String(length=128), nullable=False),
        sa.Column("chosen_key", sa.String(length=128), nullable=False),
        sa.Column("first_claimed_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("purged_at", TIME),
        sa.Column("deleted_at", TIME),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_result_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_result"),
        sa.UniqueConstraint("job_id", "revision", name="uq_result_job_id_revision"),
    )
    _partial_index("ix_result_unpurged", "result", ["created_at"], "purged_at IS NULL")
    _partial_index("ix_result_to_delete", "result", ["purged_at"], "purged_at IS NOT NULL AND deleted_at IS NULL")
    op.create_table(
        "series",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_number", sa.Integer()),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("n_instances", sa.Integer(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("header_values", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_series_job_id"),
        sa.PrimaryKeyConstraint("job_id", "series_instance_uid", name="pk_series"),
    )
    op.create_table(
        "delivery",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("required", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_since", TIME, nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("lease_token", sa.String(length=32)),
        sa.Column("lease_until", TIME),
        sa.Column("lease_worker", sa.String(length=64)),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed', 'cancelled')", name=op.f("ck_delivery_state")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_delivery_job_id"),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_delivery_result_id"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sa.UniqueConstraint("result_id", "peer", name="uq_delivery_result_id_peer"),
    )
    op.create_index("ix_delivery_job_id", "delivery", ["job_id"])
    _partial_index("ix_delivery_lease_worker", "delivery", ["lease_worker"], "lease_worker IS NOT NULL")
    op.create_index("ix_delivery_peer_state_retry_at", "delivery", ["peer", "state", "retry_at"])
    op.create_table(
        "document",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_document_result_id"),
        sa.PrimaryKeyConstraint("result_id", "sop_instance_uid", name="pk_document"),
    )
    op.create_index("ix_document_sop_instance_uid", "document", ["sop_instance_uid"])
    op.create_table(
        "receipt",
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name="fk_receipt_delivery_id"),
        sa.PrimaryKeyConstraint("delivery_id", "sop_instance_uid", name="pk_receipt"),
    )


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
