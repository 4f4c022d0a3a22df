"""Who gets which rejection note, on a real queue and a real spool. What peers answer is written by hand."""

from __future__ import annotations

import threading
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from stenosis_node.config import Peer
from stenosis_node.domain import Document, JobState
from stenosis_node.errors import TransientError
from stenosis_node.jobs import DeliveryLease, DocumentRow, PeerSpec, WithdrawalReason, WithdrawalState
from stenosis_node.report import compose
from stenosis_node.work import recall
from stenosis_node.work.recall import Means
from tests.unit.completeness import claim_complete
from tests.unit.report import mr_study
from tests.unit.work.conftest import Bench

TAKES_NOTES = Peer(ae_title="PACS", host="127.0.0.1", port=104, rejection_notes=True)
TAKES_NONE = Peer(ae_title="OLD", host="127.0.0.1", port=104)


class Case:
    """A study with one result for each of two peers: ``pacs`` takes rejection notes, ``old`` does not."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        bench.config = bench.config.model_copy(update={"peers": {"old": TAKES_NONE, "pacs": TAKES_NOTES}})
        self.series = mr_study.blinded(mr_study.classic(folder, (4,)), "ABCD")
        self.findings = mr_study.findings(self.series, "ABCD")
        self.uid = self.series.study_instance_uid
        self.first, *self.later = [piece.path for piece in self.series.slices]
        bench.receive(self.first, *self.later[:-1])
        self.documents = self.grade(1)

    def grade(self, revision: int) -> tuple[Document, ...]:
        """The next result, as the grading process makes it."""
        lease = claim_complete(self.bench.store)
        assert lease is not None
        key = f"{revision:064x}"
        context = mr_study.context(self.findings, revision)
        documents = self.bench.spool.put_documents(key, compose(self.findings, [self.series], context))
        rows = [row(one) for document in documents for one in (document, *document.alternatives)]
        self.bench.store.advance_graded(
            lease, result_key=key, chosen_key="c" * 64, documents=rows, bundle=self.findings.bundle,
            peers=[PeerSpec("old"), PeerSpec("pacs")],
        )  # fmt: skip
        return documents

    def claim(self, peer: str) -> DeliveryLease:
        lease = self.bench.store.claim_delivery(peer, worker="deliver", lease_s=60, max_attempts=3)
        assert lease is not None
        return lease

    def deliver(self, peer: str, documents: Collection[Document]) -> None:
        """The peer confirms these documents of the latest result, and that is all it gets."""
        lease = self.claim(peer)
        for document in documents:
            self.bench.store.record_document(lease, document.sop_instance_uid, status=0, text="")
        self.bench.store.advance_delivery(lease)

    def targets(self) -> Any:
        return self.bench.store.recallable(job_id=self.bench.job(self.uid).job.id)

    def planned(self) -> dict[str, recall.Withdrawal]:
        planned = recall.plan(self.targets(), self.bench.config, self.bench.spool)
        return {one.target.peer: one for one in planned}

    def recall(self, why: str = "mirrored", limit_s: float = 20) -> tuple[recall.Withdrawal, ...]:
        bench = self.bench
        planned = recall.plan(self.targets(), bench.config, bench.spool)
        return recall.recall(
            planned, why=why, config=bench.config, spool=bench.spool, store=bench.store, limit_s=limit_s
        )

    def withdrawals(self) -> dict[tuple[int, str], Any]:
        return {(one.revision, one.peer): one for one in self.bench.job(self.uid).withdrawals}

    def noted(self, key: str) -> set[str]:
        """UIDs that a rejection note in the spool lists."""
        (note,) = self.bench.spool.documents(key) or ()
        (study,) = dcmread(BytesIO(note.content)).CurrentRequestedProcedureEvidenceSequence
        return {ref.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for ref in s.ReferencedSOPSequence}


def row(document: Document) -> DocumentRow:
    return DocumentRow(
        sop_instance_uid=document.sop_instance_uid,
        sop_class_uid=document.sop_class_uid,
        series_instance_uid=document.series_instance_uid,
        kind=document.kind,
    )


@pytest.fixture
def case(bench: Bench, tmp_path: Path) -> Case:
    folder = tmp_path / "mr"
    folder.mkdir()
    return Case(bench, folder)


def uids(documents: Collection[Document]) -> set[str]:
    return {document.sop_instance_uid for document in documents}


def test_a_note_lists_exactly_what_its_peer_confirmed_in_the_class_it_took(case: Case) -> None:
    taken = (case.documents[0], case.documents[-1].alternatives[0])
    case.deliver("pacs", taken)
    case.deliver("old", case.documents)

    case.recall()

    done = case.withdrawals()
    assert done[1, "pacs"].state is WithdrawalState.PENDING
    assert case.noted(done[1, "pacs"].note_key) == uids(taken) == set(done[1, "pacs"].sop_instance_uids)
    assert done[1, "old"].state is WithdrawalState.BY_HAND
    assert set(done[1, "old"].sop_instance_uids) == uids(case.documents)
    job = case.bench.job(case.uid)
    assert (job.job.state, job.job.message) == (JobState.CANCELLED, "recalled: mirrored")


def test_a_plan_changes_nothing_and_says_what_is_done_and_why(case: Case) -> None:
    case.deliver("old", case.documents)

    planned = case.planned()

    assert (planned["old"].means, planned["old"].because) == (Means.BY_HAND, "the peer takes no rejection notes")
    assert planned["pacs"].means is Means.STOP
    assert case.withdrawals() == {}
    assert case.bench.job(case.uid).job.state is JobState.GRADED
    assert len(list((case.bench.spool.root / "documents").iterdir())) == 1


def test_what_has_not_reached_a_peer_never_does(case: Case) -> None:
    case.deliver("old", case.documents)

    case.recall()

    assert (1, "pacs") not in case.withdrawals()
    assert case.bench.store.claim_delivery("pacs", worker="deliver", lease_s=60, max_attempts=3) is None
    assert [target.peer for target in case.targets()] == ["old"]  # it may yet say that it takes notes


def test_a_peer_that_left_the_configuration_and_documents_that_are_deleted_are_for_a_hand(case: Case) -> None:
    case.deliver("pacs", case.documents)
    case.bench.spool.delete_result(f"{1:064x}")
    assert case.planned()["pacs"].because.startswith("the documents are not stored here any more")
    case.bench.config = case.bench.config.model_copy(update={"peers": {}})
    assert case.planned()["pacs"].because == "the peer is not configured any more"
    case.recall()
    assert case.withdrawals()[1, "pacs"].state is WithdrawalState.BY_HAND


def test_a_document_without_an_answer_is_listed_but_in_no_note(case: Case) -> None:
    lease = case.claim("pacs")
    sent, unsure = case.documents[:2]
    case.bench.store.record_document(lease, sent.sop_instance_uid, status=0, text="")
    case.bench.store.record_document(lease, unsure.sop_instance_uid, status=None, text="no answer")
    case.bench.store.fail_delivery(lease, sentence="refused")

    case.recall()

    done = case.withdrawals()[1, "pacs"]
    assert case.noted(done.note_key) == {sent.sop_instance_uid}
    assert set(done.sop_instance_uids) == {sent.sop_instance_uid, unsure.sop_instance_uid}


def test_a_delivery_under_way_is_waited_for_and_all_of_it_is_withdrawn(case: Case) -> None:
    lease = case.claim("pacs")
    case.bench.store.record_document(lease, case.documents[0].sop_instance_uid, status=0, text="")

    def finish() -> None:
        for document in case.documents[1:]:
            case.bench.store.record_document(lease, document.sop_instance_uid, status=0, text="")
        case.bench.store.advance_delivery(lease)

    timer = threading.Timer(0.3, finish)
    timer.start()
    done = {one.target.peer: one for one in case.recall()}
    timer.join()
    assert len(done["pacs"].target.documents) == len(case.documents)

    assert case.noted(case.withdrawals()[1, "pacs"].note_key) == uids(case.documents)


def test_a_delivery_that_does_not_end_is_an_error_and_nothing_is_withdrawn(case: Case) -> None:
    case.claim("pacs")
    with pytest.raises(TransientError, match="being delivered"):
        case.recall(limit_s=0.1)
    assert case.withdrawals() == {}


def test_a_recalled_result_is_made_again_but_never_sent(case: Case) -> None:
    case.deliver("pacs", case.documents)
    case.deliver("old", case.documents)
    case.recall()
    store = case.bench.store

    assert store.retry(case.bench.job(case.uid).job.id) is JobState.RECEIVED
    case.grade(1)

    assert case.bench.job(case.uid).job.state is JobState.CANCELLED
    assert store.claim_delivery("pacs", worker="deliver", lease_s=60, max_attempts=3) is None


def test_every_result_of_a_bundle_is_found_by_its_name_and_by_its_digest(case: Case) -> None:
    case.deliver("pacs", case.documents)
    bundle = case.findings.bundle
    for words in (bundle.name, f"{bundle.name} {bundle.version}", bundle.digest, bundle.digest[:12]):
        assert [t.peer for t in case.bench.store.recallable(bundle=words)] == ["old", "pacs"], words
    for words in (bundle.name[:-1], f"{bundle.name} 99", bundle.digest[:11]):
        assert case.bench.store.recallable(bundle=words) == (), words


# --------------------------------------------------------------------------- revisions


@pytest.fixture
def revised(case: Case) -> Case:
    """Both peers have revision 1; a late slice makes revision 2."""
    case.deliver("pacs", case.documents)
    case.deliver("old", case.documents)
    case.bench.receive(case.later[-1])
    case.documents = case.grade(2)
    return case


def withdraw(case: Case, lease: DeliveryLease) -> int:
    bench = case.bench
    return recall.withdraw_predecessors(lease, config=bench.config, spool=bench.spool, store=bench.store)


def test_the_predecessor_is_withdrawn_where_notes_are_taken_once_the_revision_is_delivered(revised: Case) -> None:
    store = revised.bench.store
    lease = revised.claim("pacs")
    for document in revised.documents:
        store.record_document(lease, document.sop_instance_uid, status=0, text="")

    assert withdraw(revised, lease) == 1

    claim = {"worker": "deliver", "lease_s": 60.0, "max_attempts": 3}
    assert store.claim_withdrawal("pacs", **claim) is None  # at no time is the peer without a report
    store.advance_delivery(lease)
    note = store.claim_withdrawal("pacs", **claim)
    assert note is not None
    assert (note.revision, note.reason) == (1, WithdrawalReason.SUPERSEDED)
    (document,) = revised.bench.spool.documents(note.note_key) or ()
    texts = [i.TextValue for i in dcmread(BytesIO(document.content)).ContentSequence if "TextValue" in i]
    assert texts[-1] == "Superseded by revision 2"
    assert revised.bench.job(revised.uid).job.state is JobState.GRADED


def test_a_peer_without_notes_keeps_the_predecessor(revised: Case) -> None:
    assert withdraw(revised, revised.claim("old")) == 0
    assert revised.withdrawals() == {}


def test_asking_again_after_a_crash_makes_no_second_note(revised: Case) -> None:
    lease = revised.claim("pacs")
    withdraw(revised, lease)
    before = revised.withdrawals()[1, "pacs"].note_key
    withdraw(revised, lease)
    assert revised.withdrawals()[1, "pacs"].note_key == before
    assert len(revised.withdrawals()) == 1


def test_the_first_revision_has_no_predecessor(case: Case) -> None:
    assert withdraw(case, case.claim("pacs")) == 0
