"""Reports of peers that were asked to commit to our results, over associations that they open."""

from __future__ import annotations

import logging
from typing import Final

from pynetdicom import evt
from pynetdicom.association import Association

from stenosis_node.config import Config
from stenosis_node.jobs import CommitmentOutcome, JobStore
from stenosis_node.wire.commitment import PUSH_MODEL, CommitmentReport, answer_report

log = logging.getLogger("stenosis_node.receive")

RESEND_AFTER_S: Final = 60.0
"""For a peer whose configuration is not known from its AE title."""


class CommitmentReports:
    """Takes N-EVENT-REPORT and writes it down. Peers may report from an AE title that is not in the configuration."""

    def __init__(self, config: Config, store: JobStore) -> None:
        self._store = store
        self._peers = {peer.ae_title: peer for peer in config.peers.values() if peer.commitment}

    def are_taken(self, association: Association, calling_ae_title: str) -> bool:
        """Whether a requested association may carry reports.

        Its requestor must propose to be the provider of storage commitment; archives that leave role selection out are
        known by their AE title. Whoever wants *us* to commit to something proposes the other role, and is refused.
        """
        if not self._peers:
            return False
        role = association.requestor.role_selection.get(PUSH_MODEL)
        if role is None:
            return calling_ae_title.strip() in self._peers
        return bool(role.scp_role)

    def answer(self, event: evt.Event) -> tuple[int, None]:
        """Status of the response to an N-EVENT-REPORT request."""
        calling = event.assoc.requestor.ae_title.strip()
        return answer_report(event, lambda report: self._record(report, calling))

    def _record(self, report: CommitmentReport, calling: str) -> bool:
        peer = self._peers.get(calling)
        outcome = self._store.record_commitment(
            report.transaction_uid,
            committed=report.committed,
            failed=report.failed,
            resend_after_s=RESEND_AFTER_S if peer is None else peer.retry_base_s,
        )
        if outcome is CommitmentOutcome.UNKNOWN:
            return False
        counts = f"{len(report.committed)} documents, not to {len(report.failed)}"
        log.info("%s commits to %s (%s)", calling, counts, outcome, extra={"event": "commitment", "outcome": outcome})
        return True
