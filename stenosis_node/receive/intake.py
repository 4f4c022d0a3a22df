"""What is done with a complete instance, whichever path it came by: checked, durable, answered, counted, logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from stenosis_node.config import Config
from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import NodeError, PermanentError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import MR_CLASSES, JobStore
from stenosis_node.receive.associations import OpenAssociation
from stenosis_node.receive.commit import Arrival, Committer
from stenosis_node.spool import Arriving, Chunk, PutOutcome, Spool, least_free_bytes
from stenosis_node.wire.header import InstanceUids, MissingUid, UnreadableHeader, read_uids
from stenosis_node.wire.part10 import UID, file_meta, syntax_of

log = logging.getLogger("stenosis_node.receive")

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

FIRST_LOOK_BYTES: Final = 1 << 16
"""The UIDs of an ordinary instance are found within these."""
MAX_HEADER_BYTES: Final = 8 << 20
"""The UIDs of any instance must be: more is never held in memory to look for them."""

LOOK_EVERY_S: Final = 0.1
"""Between looks at the disks, what is taken is subtracted from what was free."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status of a C-STORE response. ``comment``: at most 64 ASCII characters (PS3.7 C.4), empty with Success."""

    status: int = SUCCESS
    comment: str = ""


STORED: Final = Answer()


@dataclass(frozen=True, slots=True)
class Incoming:
    """An instance of which the last byte has come. The UIDs are those of the C-STORE command."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    dataset: bytes | memoryview | Arriving | None
    """As encoded by the sender; on the disk it stands behind its file meta information. None: it was not sent."""
    size_bytes: int
    """Of the data set. More than receive.max_object_mb: it was not kept, only measured."""
    fault: NodeError | None = None
    """Why its bytes could not be kept while they came."""

    def complete(self, dataset: memoryview | Arriving | None, size_bytes: int, fault: NodeError | None) -> Incoming:
        """The instance with its data set."""
        return Incoming(self.sop_class, self.sop_instance, self.transfer_syntax, dataset, size_bytes, fault)

    def check_names(self, uids: InstanceUids) -> None:
        """MissingUid when the data set has other UIDs than the command."""
        if (uids.sop_class, uids.sop_instance) != (self.sop_class, self.sop_instance):
            raise MissingUid("SOP class or instance UID differs from the command")

    def meta(self) -> bytes:
        """File meta information, in front of the data set. MissingUid when a UID of the command or context is none."""
        if not all(map(UID.fullmatch, (self.sop_class, self.sop_instance, self.transfer_syntax))):
            raise MissingUid("a UID of the command or of its presentation context is no UID")
        return file_meta(
            sop_class_uid=self.sop_class, sop_instance_uid=self.sop_instance, transfer_syntax_uid=self.transfer_syntax
        )


class _Refused(Exception):
    """The instance is answered with a failure status."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.answer = Answer(status, comment)


class Intake:
    """Takes instances from the threads of all associations. Success means: bytes and row are durable."""

    def __init__(self, config: Config, spool: Spool, store: JobStore) -> None:
        self._rules = config.receive
        self._jobs = config.jobs
        self._spool = spool
        self._folders = config.written_folders
        self._store = store
        self._committer = Committer(self._touch)
        self._floor_bytes = config.receive.min_free_mb * 1_000_000
        self._left_bytes = 0
        self._look_again_at = 0.0
        self.max_bytes: Final = config.receive.max_object_mb * 1_000_000

    @property
    def spool(self) -> Spool:
        """Where instances are kept."""
        return self._spool

    def has_room(self, size_bytes: int) -> bool:
        """Whether every disk of the node stays above receive.min_free_mb when this much is written."""
        if time.monotonic() >= self._look_again_at or self._left_bytes - size_bytes < self._floor_bytes:
            self._left_bytes = least_free_bytes(self._folders)
            self._look_again_at = time.monotonic() + LOOK_EVERY_S
        self._left_bytes -= size_bytes
        return self._left_bytes >= self._floor_bytes

    def take(self, incoming: Incoming, record: OpenAssociation) -> Answer:
        """Keep one instance; every failure is logged with its reason. Never raises."""
        uid = incoming.sop_instance if UID.fullmatch(incoming.sop_instance) else repr(incoming.sop_instance[:64])
        try:
            self._store_instance(incoming, record)
        except _Refused as refused:
            answer = refused.answer
            log.warning("instance %s refused with 0x%04X: %s", uid, answer.status, refused, extra={"event": "refused"})
        except PermanentError as error:
            answer = Answer(CANNOT_UNDERSTAND, "cannot be written down as it is")
            log.error("instance %s refused with 0x%04X: %s", uid, answer.status, error, extra={"event": "refused"})  # noqa: TRY400
        except (NodeError, OSError) as error:
            answer = Answer(OUT_OF_RESOURCES, "cannot be stored durably now, send again later")
            log.error("instance %s refused with 0x%04X: %s", uid, answer.status, error, extra={"event": "refused"})  # noqa: TRY400
        except Exception:
            answer = Answer(PROCESSING_FAILURE, "internal error, see the log of the node")
            log.exception("instance %s refused with 0x%04X", uid, answer.status, extra={"event": "refused"})
        else:
            record.stored += 1
            return STORED
        record.refused += 1
        record.tally.refused()
        return answer

    def _store_instance(self, incoming: Incoming, record: OpenAssociation) -> None:
        """Bytes, then row. Nothing of the data set is decoded but its UIDs."""
        sop_instance = incoming.sop_instance
        if incoming.size_bytes > self.max_bytes:
            raise _Refused(OUT_OF_RESOURCES, f"larger than the {self._rules.max_object_mb} MB this node takes")
        if incoming.fault is not None:
            raise incoming.fault
        if incoming.dataset is None:
            raise _Refused(DOES_NOT_MATCH, "no data set")
        on_disk = isinstance(incoming.dataset, Arriving)
        if not self.has_room(0 if on_disk else incoming.size_bytes):
            raise _Refused(OUT_OF_RESOURCES, "disk of the node is almost full")
        if incoming.sop_class not in MR_CLASSES and self._store.is_own_document(sop_instance):
            log.info("own document %s came back", sop_instance, extra={"event": "own_document"})
            return

        uids, content = self._checked(incoming)
        record.studies.add(uids.study)
        put = self._spool.put(uids.study, uids.series, sop_instance, content, is_flushed=False)
        conflict = put.outcome is PutOutcome.CONFLICT
        path = self._spool.instance_path(put.path)
        received = ReceivedInstance(
            study_instance_uid=uids.study,
            series_instance_uid=uids.series,
            sop_instance_uid=sop_instance,
            sop_class_uid=incoming.sop_class,
            transfer_syntax_uid=syntax_of(path, incoming.transfer_syntax) if conflict else incoming.transfer_syntax,
            path=put.path,
            size_bytes=put.size_bytes,
            sha256=put.sha256,
            calling_ae_title=record.calling_ae_title,
            received_at=datetime.now(UTC),
        )
        if conflict:
            log.warning(
                "instance %s came with other bytes than before; the first are kept", sop_instance,
                extra={"event": "conflict"},
            )  # fmt: skip
        failpoint("receive.put")
        self._committer.commit(Arrival(received, conflict))
        if not path.exists():  # deleted by the housekeeping before the row was touched
            self._spool.put(uids.study, uids.series, sop_instance, content)
        record.tally.stored(uids.study, incoming.sop_class, put.path)
        failpoint("receive.committed")

    def _checked(self, incoming: Incoming) -> tuple[InstanceUids, Iterable[Chunk] | Arriving]:
        """UIDs and the whole file. What is no valid instance goes to the quarantine and is refused."""
        dataset = incoming.dataset
        assert dataset is not None  # noqa: S101  refused before
        content: Iterable[Chunk] | Arriving = dataset if isinstance(dataset, Arriving) else (dataset,)
        try:
            meta = incoming.meta()
            if not isinstance(dataset, Arriving):
                content = (meta, dataset)
            uids = _uids(dataset, len(meta), incoming.transfer_syntax)
            incoming.check_names(uids)
        except UnreadableHeader as error:
            self._spool.quarantine(incoming.sop_instance, content, str(error))
            raise _Refused(CANNOT_UNDERSTAND, "data set unreadable in its transfer syntax") from error
        except MissingUid as error:
            self._spool.quarantine(incoming.sop_instance, content, str(error))
            raise _Refused(DOES_NOT_MATCH, str(error)[:64]) from error
        return uids, content

    def _touch(self, arrivals: Sequence[Arrival]) -> None:
        """One flush of each folder and one transaction for a group of arrivals."""
        self._spool.flush(arrival.received.path for arrival in arrivals)
        self._store.touch_many(arrivals, quiet_period_s=self._jobs.quiet_period_s, ceiling_s=self._jobs.ceiling_s)


def _uids(dataset: bytes | memoryview | Arriving, meta_bytes: int, transfer_syntax: str) -> InstanceUids:
    """The UIDs of a data set: from its first bytes, and only when they do not do, from more of them."""

    def head(size: int) -> bytes:
        return dataset.head(size, skip=meta_bytes) if isinstance(dataset, Arriving) else bytes(dataset[:size])

    first = head(FIRST_LOOK_BYTES)
    try:
        return read_uids(first, transfer_syntax)
    except (UnreadableHeader, MissingUid):
        if len(first) < FIRST_LOOK_BYTES:
            raise
    return read_uids(head(MAX_HEADER_BYTES), transfer_syntax)
