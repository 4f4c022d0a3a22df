"""A peer that studies come from, as far as it can be asked for them: what it knows, and how a gap is fetched."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from stenosis_node.audit import AuditTrail, StudyPart, patient_of
from stenosis_node.config import Config, Peer
from stenosis_node.errors import NodeError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import MR_CLASSES, JobStore
from stenosis_node.query import (
    KnownInstance,
    PeerAway,
    Progress,
    find_instances,
    get_instances,
    move_instances,
)
from stenosis_node.spool import Spool
from stenosis_node.work.auditing import FIND, RETRIEVE
from stenosis_node.work.intake import Intake

AT_ONCE: Final = 2
"""Associations to one peer for queries."""


class Source:
    """One peer with ``query``. Threads share it: a peer that does not answer costs them its time limit once."""

    def __init__(self, name: str, config: Config, spool: Spool, store: JobStore) -> None:
        self.name: Final = name
        self.peer: Final[Peer] = config.peers[name]
        self._config = config
        self._spool = spool
        self._store = store
        self._audit = AuditTrail(config)
        self.ae_title: Final = self.peer.dimse[0]
        self._calling_ae_title = self.peer.calling_ae_title or config.receive.ae_title
        self._turn = threading.BoundedSemaphore(AT_ONCE)
        self._away_until = 0.0
        self._away_why = ""

    @property
    def fetches(self) -> bool:
        """Whether gaps are fetched, or only seen."""
        return self.peer.query in ("get", "move")

    def known(self, study_uid: str) -> tuple[KnownInstance, ...]:
        """The MR instances of a study that the peer has: what only it can give. PeerAway, TransientError,
        PermanentError."""
        with self._asking(), self._reporting(FIND, study_uid):
            found = find_instances(self.peer, study_uid, calling_ae_title=self._calling_ae_title)
            failpoint("check.asked")
        return tuple(i for i in found if not i.sop_class_uid or i.sop_class_uid in MR_CLASSES)

    def fetch(
        self,
        study_uid: str,
        wanted: Sequence[KnownInstance],
        *,
        quiet_period_s: float,
        known: Collection[str] = (),
        progress: Progress | None = None,
    ) -> None:
        """Bring the wanted instances, by C-GET here, by C-MOVE to the receiving process; what comes is kept.

        quiet_period_s  after which the study is quiet, when all went well and by C-GET; else that of the configuration
        known           SOP Instance UIDs with a row whose file is gone
        raises          PeerAway, TransientError, PermanentError
        """
        with self._asking(), self._reporting(RETRIEVE[self.peer.query], study_uid):
            if self.peer.query == "move":
                move_instances(
                    self.peer,
                    study_uid,
                    wanted,
                    calling_ae_title=self._calling_ae_title,
                    destination=self._config.receive.ae_title,
                    progress=progress,
                )
                failpoint("check.moved")
                return
            intake = Intake(self._config, self._spool, self._store, calling_ae_title=self.ae_title, known=known)
            try:
                get_instances(
                    self.peer,
                    study_uid,
                    wanted,
                    calling_ae_title=self._calling_ae_title,
                    keep=intake.keep,
                    max_object_bytes=self._config.receive.max_object_mb * 1_000_000,
                    progress=progress,
                )
            except BaseException:
                intake.commit(quiet_period_s=self._config.jobs.quiet_period_s)
                self._report_fetched(study_uid, intake)
                raise
            failpoint("check.kept")
            intake.commit(quiet_period_s=quiet_period_s)
            self._report_fetched(study_uid, intake)

    def _report_fetched(self, study_uid: str, intake: Intake) -> None:
        """To the audit stream: what came by C-GET. What comes by C-MOVE, reception reports."""
        if intake.first is not None:
            part = StudyPart(study_uid, patient_of(self._spool.root / intake.first), intake.by_class)
            message = self._audit.events.received(self.ae_title, self.peer.address, part, we_asked=True)
            self._audit.record(message)

    @contextmanager
    def _reporting(self, sop_class: str, study_uid: str) -> Iterator[None]:
        """To the audit stream: the peer was asked, and whether it answered."""
        try:
            yield
        except NodeError as error:
            self._audit.record(self._audit.events.queried(self.peer, sop_class, study_uid, failure=str(error)))
            raise
        self._audit.record(self._audit.events.queried(self.peer, sop_class, study_uid))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._turn:
            if time.monotonic() < self._away_until:
                raise PeerAway(self._away_why)
            try:
                yield
            except PeerAway as error:
                self._away_why = str(error)
                self._away_until = time.monotonic() + self.peer.retry_base_s / 2
                raise
