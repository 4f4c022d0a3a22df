"""Completeness, storage commitment, withdrawals, peers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
UID = sa.String(length=64)
DELIVERY_STATES = "state IN ('pending', 'sent', 'delivered', 'failed', 'cancelled')"


def upgrade() -> None:
    """Add what the second version of the queue knows. Rows stay."""
    _completeness()
    _commitment()
    _withdrawals()
    _peers()
    _discarded()


def _completeness() -> None:
    op.add_column("job", sa.Column("n_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("complete_because", sa.Text()))
    op.add_column("job", sa.Column("fetch_rounds", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE job SET n_bytes = "
        "(SELECT coalesce(sum(instance.size_bytes), 0) FROM instance WHERE instance.job_id = job.id)"
    )
    op.execute("UPDATE job SET complete_because = 'quiet' WHERE state <> 'received' OR first_claimed_at IS NOT NULL")
    op.drop_index("ix_job_state_quiet_until", "job")
    _partial_index("ix_job_complete", "job", ["state", "quiet_until"], "complete_because IS NOT NULL")
    _partial_index("ix_job_unchecked", "job", ["state", "quiet_until"], "complete_because IS NULL")
    _partial_index("ix_instance_conflict", "instance", ["job_id"], "conflicts > 0")


def _commitment() -> None:
    columns = (
        sa.Column("commit_attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("commit_requested_at", TIME),
        sa.Column("commit_due_at", TIME),
        sa.Column("committed_at", TIME),
    )
    name = op.f("ck_delivery_state")
    with op.batch_alter_table("delivery") as batch:  # SQLite cannot change a CHECK: the table is made anew there
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, DELIVERY_STATES)
        for column in columns:
            batch.add_column(column)
    op.add_column("receipt", sa.Column("committed_at", TIME))
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", UID, nullable=False),
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("requested_at", TIME, nullable=False),
        sa.Column("answered_at", TIME),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name="fk_commitment_delivery_id"),
        sa.PrimaryKeyConstraint("transaction_uid", name="pk_commitment"),
    )
    op.create_index("ix_commitment_delivery_id", "commitment", ["delivery_id"])


def _withdrawals() -> None:
    op.add_column("job", sa.Column("reissue", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("result", sa.Column("bundle", sa.Text()))
    op.add_column("result", sa.Column("bundle_digest", sa.String(length=64)))
    op.add_column("result", sa.Column("withdrawn_at", TIME))
    op.add_column("result", sa.Column("withdrawn_why", sa.Text()))
    op.create_table(
        "withdrawal",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_since", TIME, nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("note_key", sa.String(length=128)),
        sa.Column("sop_instance_uids", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", TIME, nullable=False),
        sa.Column("lease_token", sa.String(length=32)),
        sa.Column("lease_until", TIME),
        sa.Column("lease_worker", sa.String(length=64)),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed', 'by-hand')", name=op.f("ck_withdrawal_state")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_withdrawal_job_id"),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_withdrawal_result_id"),
        sa.PrimaryKeyConstraint("id", name="pk_withdrawal"),
        sa.UniqueConstraint("result_id", "peer", name="uq_withdrawal_result_id_peer"),
    )
    op.create_index("ix_withdrawal_job_id", "withdrawal", ["job_id"])
    op.create_index("ix_withdrawal_peer_state_retry_at", "withdrawal", ["peer", "state", "retry_at"])
    _partial_index("ix_withdrawal_lease_worker", "withdrawal", ["lease_worker"], "lease_worker IS NOT NULL")


def _peers() -> None:
    op.create_table(
        "peer",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("paused_at", TIME),
        sa.Column("paused_why", sa.Text()),
        sa.Column("report_class", UID),
        sa.Column("capability", sa.JSON()),
        sa.Column("probed_at", TIME),
        sa.Column("last_success_at", TIME),
        sa.Column("last_error", sa.Text()),
        sa.Column("last_error_at", TIME),
        sa.PrimaryKeyConstraint("name", name="pk_peer"),
    )
    op.execute(
        "INSERT INTO peer (name, last_success_at) "
        "SELECT peer, max(CASE WHEN state = 'delivered' THEN state_since END) FROM delivery GROUP BY peer"
    )


def _discarded() -> None:
    op.create_table(
        "discarded",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("n_instances", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_discarded_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_discarded"),
    )


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
