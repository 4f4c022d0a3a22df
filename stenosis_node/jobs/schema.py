"""The tables. Migrations repeat them as history; a test proves that both agree.

A job is a study. Its ``state`` is the last durable fact; the three ``lease_*`` columns say who works on it now. A claim
needs ``quiet_until`` and ``retry_at`` to have passed and ``held`` to be false; grading also needs ``complete_because``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs.records import WithdrawalState


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC. SQLite has no time zones: there the text is UTC without saying so."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times instead of guessing their zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive datetime cannot be stored: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


ID: Final = BigInteger().with_variant(Integer(), "sqlite")
UID: Final = String(64)
TOKEN: Final = String(32)
KEY: Final = String(128)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, words: Iterable[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(word)) for word in words)})", name=column)


job: Final = Table(
    "job",
    metadata,
    Column("id", ID, primary_key=True),
    Column("study_instance_uid", UID, nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("state_since", UtcDateTime, nullable=False),
    Column("failed_in", String(16)),  # step in which a FAILED or CANCELLED job stopped: grade or deliver
    Column("reason", String(64)),  # code of a rejection
    Column("message", Text),  # the sentence behind the state or the last failed attempt
    Column("created_at", UtcDateTime, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),  # first new instance since the set of instances was last claimed
    Column("last_instance_at", UtcDateTime, nullable=False),
    Column("n_instances", Integer, nullable=False, default=0),
    Column("n_bytes", BigInteger, nullable=False, server_default="0"),  # of the instances when they came
    Column("complete_because", Text),  # the sentence; none: not decided yet
    Column("fetch_rounds", Integer, nullable=False, server_default="0"),  # times that missing instances were fetched
    Column("quiet_until", UtcDateTime, nullable=False),
    Column("ceiling_at", UtcDateTime, nullable=False),  # quiet_until never goes beyond
    Column("retry_at", UtcDateTime),
    Column("held", Boolean, nullable=False, default=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("first_claimed_at", UtcDateTime),  # of the present set of instances
    Column("lease_token", TOKEN),
    Column("lease_until", UtcDateTime),
    Column("lease_worker", String(64)),
    Column("revision", Integer, nullable=False, default=0),  # of the latest result; 0: none yet
    Column("reissue", Boolean, nullable=False, server_default=false()),  # a recalled result is wanted once more
    Column("tidied_at", UtcDateTime),  # bytes that can never be graded are gone
    Column("purged_at", UtcDateTime),  # all received bytes are gone
    _one_of("state", JobState),
    Index(None, "state", "id"),
    Index(
        "ix_job_complete",
        "state",
        "quiet_until",
        sqlite_where=text("complete_because IS NOT NULL"),
        postgresql_where=text("complete_because IS NOT NULL"),
    ),
    Index(
        "ix_job_unchecked",
        "state",
        "quiet_until",
        sqlite_where=text("complete_because IS NULL"),
        postgresql_where=text("complete_because IS NULL"),
    ),
    Index(
        None,
        "lease_worker",
        sqlite_where=text("lease_worker IS NOT NULL"),
        postgresql_where=text("lease_worker IS NOT NULL"),
    ),
    Index(
        "ix_job_untidied",
        "purged_at",
        "state",
        sqlite_where=text("tidied_at IS NULL"),
        postgresql_where=text("tidied_at IS NULL"),
    ),
    Index(
        "ix_job_unpurged",
        "state",
        "state_since",
        sqlite_where=text("purged_at IS NULL"),
        postgresql_where=text("purged_at IS NULL"),
    ),
)

series: Final = Table(
    "series",
    metadata,
    Column("job_id", ID, ForeignKey("job.id"), primary_key=True),
    Column("series_instance_uid", UID, primary_key=True),
    Column("series_number", Integer),
    Column("description", Text, nullable=False),
    Column("n_instances", Integer, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("header_values", JSON, nullable=False),
)

instance: Final = Table(
    "instance",
    metadata,
    Column("id", ID, primary_key=True),
    Column("job_id", ID, ForeignKey("job.id")),  # none: no MR instance of the study has come yet
    Column("study_instance_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("sop_instance_uid", UID, nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("path", Text, nullable=False),  # relative to the spool
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("conflicts", Integer, nullable=False, default=0),  # times other bytes came under the same UID
    Column("purged_at", UtcDateTime),  # the file is to be deleted
    Column("deleted_at", UtcDateTime),  # the file is deleted
    UniqueConstraint("sop_instance_uid", "series_instance_uid", "study_instance_uid", name="uq_instance_uids"),
    Index(None, "job_id"),
    Index(
        "ix_instance_orphan",
        "study_instance_uid",
        sqlite_where=text("job_id IS NULL"),
        postgresql_where=text("job_id IS NULL"),
    ),
    Index(
        "ix_instance_conflict",
        "job_id",
        sqlite_where=text("conflicts > 0"),
        postgresql_where=text("conflicts > 0"),
    ),
    Index(
        "ix_instance_to_delete",
        "purged_at",
        sqlite_where=text("purged_at IS NOT NULL AND deleted_at IS NULL"),
        postgresql_where=text("purged_at IS NOT NULL AND deleted_at IS NULL"),
    ),
)

result: Final = Table(
    "result",
    metadata,
    Column("id", ID, primary_key=True),
    Column("job_id", ID, ForeignKey("job.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("result_key", KEY, nullable=False),
    Column("chosen_key", KEY, nullable=False),
    Column("first_claimed_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("bundle", Text),  # name and version
    Column("bundle_digest", String(64)),
    Column("withdrawn_at", UtcDateTime),
    Column("withdrawn_why", Text),
    Column("purged_at", UtcDateTime),
    Column("deleted_at", UtcDateTime),
    UniqueConstraint("job_id", "revision"),
    Index(
        "ix_result_unpurged",
        "created_at",
        sqlite_where=text("purged_at IS NULL"),
        postgresql_where=text("purged_at IS NULL"),
    ),
    Index(
        "ix_result_to_delete",
        "purged_at",
        sqlite_where=text("purged_at IS NOT NULL AND deleted_at IS NULL"),
        postgresql_where=text("purged_at IS NOT NULL AND deleted_at IS NULL"),
    ),
)

document: Final = Table(
    "document",
    metadata,
    Column("result_id", ID, ForeignKey("result.id"), primary_key=True),
    Column("sop_instance_uid", UID, primary_key=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("kind", String(16), nullable=False),
    Index(None, "sop_instance_uid"),
)

delivery: Final = Table(
    "delivery",
    metadata,
    Column("id", ID, primary_key=True),
    Column("job_id", ID, ForeignKey("job.id"), nullable=False),
    Column("result_id", ID, ForeignKey("result.id"), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("required", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_since", UtcDateTime, nullable=False),
    Column("message", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("retry_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),  # before the first byte could leave
    Column("commit_attempts", Integer, nullable=False, server_default="0"),
    Column("commit_requested_at", UtcDateTime),
    Column("commit_due_at", UtcDateTime),  # everything was sent; commitment is asked for (again) at this time
    Column("committed_at", UtcDateTime),
    Column("lease_token", TOKEN),
    Column("lease_until", UtcDateTime),
    Column("lease_worker", String(64)),
    UniqueConstraint("result_id", "peer"),
    _one_of("state", DeliveryState),
    Index(None, "peer", "state", "retry_at"),
    Index(None, "job_id"),
    Index(
        None,
        "lease_worker",
        sqlite_where=text("lease_worker IS NOT NULL"),
        postgresql_where=text("lease_worker IS NOT NULL"),
    ),
)

receipt: Final = Table(
    "receipt",
    metadata,
    Column("delivery_id", ID, ForeignKey("delivery.id"), primary_key=True),
    Column("sop_instance_uid", UID, primary_key=True),
    Column("status", Integer),  # DIMSE status; none: the peer did not answer
    Column("text", Text, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("committed_at", UtcDateTime),
)

commitment: Final = Table(
    "commitment",
    metadata,
    Column("transaction_uid", UID, primary_key=True),
    Column("delivery_id", ID, ForeignKey("delivery.id"), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    Index(None, "delivery_id"),
)

withdrawal: Final = Table(
    "withdrawal",
    metadata,
    Column("id", ID, primary_key=True),
    Column("job_id", ID, ForeignKey("job.id"), nullable=False),
    Column("result_id", ID, ForeignKey("result.id"), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_since", UtcDateTime, nullable=False),
    Column("reason", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("message", Text),
    Column("note_key", KEY),  # of the rejection note in the spool; none: the peer takes none
    Column("sop_instance_uids", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("retry_at", UtcDateTime, nullable=False),
    Column("lease_token", TOKEN),
    Column("lease_until", UtcDateTime),
    Column("lease_worker", String(64)),
    UniqueConstraint("result_id", "peer"),
    _one_of("state", WithdrawalState),
    Index(None, "peer", "state", "retry_at"),
    Index(None, "job_id"),
    Index(
        None,
        "lease_worker",
        sqlite_where=text("lease_worker IS NOT NULL"),
        postgresql_where=text("lease_worker IS NOT NULL"),
    ),
)

peer: Final = Table(
    "peer",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("paused_at", UtcDateTime),  # none: not paused
    Column("paused_why", Text),
    Column("report_class", UID),  # SOP class of the report that the peer took last
    Column("capability", JSON),  # what it said to the last probe
    Column("probed_at", UtcDateTime),
    Column("last_success_at", UtcDateTime),
    Column("last_error", Text),
    Column("last_error_at", UtcDateTime),
)

discarded: Final = Table(  # one row: of what was deleted together with its rows, because no MR of its study ever came
    "discarded",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("n_instances", BigInteger, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

event: Final = Table(
    "event",
    metadata,
    Column("id", ID, primary_key=True),
    Column("job_id", ID, ForeignKey("job.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("sentence", Text, nullable=False),
    Index(None, "job_id"),
)
