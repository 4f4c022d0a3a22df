"""Instances that we fetched ourselves, on the way every received instance goes: bytes to the spool, then the row."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from stenosis_node.config import Config
from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import TransientError
from stenosis_node.jobs import JobStore
from stenosis_node.query import FetchedInstance
from stenosis_node.spool import PutOutcome, Spool, least_free_bytes
from stenosis_node.wire.part10 import syntax_of


class Intake:
    """Keeps the instances of one study; their rows are written together, so that the study appears as a whole."""

    def __init__(
        self, config: Config, spool: Spool, store: JobStore, *, calling_ae_title: str, known: Collection[str] = ()
    ) -> None:
        """
        calling_ae_title  of the peer, as if it had sent the instances by itself
        known             SOP Instance UIDs with a row whose file is gone
        """
        self._config = config
        self._spool = spool
        self._store = store
        self._calling_ae_title = calling_ae_title
        self._known = known
        self._arrivals: list[tuple[ReceivedInstance, bool]] = []
        self._lock = threading.Lock()
        self.by_class: Counter[str] = Counter()
        """How many instances were kept, by SOP class."""
        self.first: Path | None = None
        """Where the first of them is, relative to the spool."""

    def keep(self, instance: FetchedInstance) -> None:
        """Make the bytes durable. Raises TransientError when there is no room, or the disk or database fail."""
        rules = self._config.receive
        left = least_free_bytes(self._config.written_folders) - len(instance.chunks[1])
        if left < rules.min_free_mb * 1_000_000:
            raise TransientError("the disk of the node is almost full: nothing more is fetched")
        names = instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid
        put = self._spool.put(*names, instance.chunks)
        conflict, syntax = put.outcome is PutOutcome.CONFLICT, instance.transfer_syntax_uid
        received = ReceivedInstance(
            study_instance_uid=instance.study_instance_uid,
            series_instance_uid=instance.series_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            sop_class_uid=instance.sop_class_uid,
            transfer_syntax_uid=syntax_of(self._spool.instance_path(put.path), syntax) if conflict else syntax,
            path=put.path,
            size_bytes=put.size_bytes,
            sha256=put.sha256,
            calling_ae_title=self._calling_ae_title,
            received_at=datetime.now(UTC),
        )
        with self._lock:
            self.by_class[instance.sop_class_uid] += 1
            self.first = self.first or put.path
        arrival = (received, conflict)
        if instance.sop_instance_uid in self._known:
            self._touch([arrival], self._config.jobs.quiet_period_s)
            if not self._spool.instance_path(put.path).exists():  # the housekeeping was faster than the row
                self._spool.put(*names, instance.chunks)
            return
        with self._lock:
            self._arrivals.append(arrival)

    def commit(self, *, quiet_period_s: float) -> None:
        """Write the rows of what was kept, in one transaction; the study is quiet after so many seconds.

        raises  TransientError when the database is away: to fetch the same again does no harm
        """
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
        if arrivals:
            self._touch(arrivals, quiet_period_s)

    def _touch(self, arrivals: list[tuple[ReceivedInstance, bool]], quiet_period_s: float) -> None:
        self._store.touch_many(arrivals, quiet_period_s=quiet_period_s, ceiling_s=self._config.jobs.ceiling_s)
