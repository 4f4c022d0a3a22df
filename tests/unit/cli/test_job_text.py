"""What `job` says of completeness, storage commitment and withdrawals by note."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from stenosis_node.jobs import JobStore, WithdrawalState
from tests.unit.cli.conftest import Run, documents, grade, later, receive


def sent(store: JobStore) -> None:
    """A result whose peer has confirmed everything and is asked to commit."""
    receive(store, 1)
    grade(store, now=later(10))
    lease = store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=3, now=later(11))
    assert lease is not None
    for row in documents(1):
        store.record_document(lease, row.sop_instance_uid, status=0, text="Success", now=later(11))
    store.advance_delivery(lease, commitment=True, now=later(12))
    asking = store.claim_commitment("pacs", worker="d", lease_s=60, now=later(13))
    assert asking is not None
    store.request_commitment(asking, transaction_uid="2.25.1", due_at=later(13) + timedelta(hours=1), now=later(13))
    store.release_commitment(asking)


def test_job_says_why_the_study_was_complete(run: Run, config: Path, store: JobStore) -> None:
    receive(store, 1)
    grade(store, now=later(10))
    assert "Complete because it is quiet" in run("job", "1", "-c", config).out


def test_commitment_that_is_awaited_and_that_came(run: Run, config: Path, store: JobStore) -> None:
    sent(store)
    assert "Delivery of revision 1 to pacs: sent since" in run("job", "1", "-c", config).out
    assert "Commitment was asked for 1 time, last at" in run("job", "1", "-c", config).out
    assert "1 not committed yet" in " ".join(run("peers", "-c", config).out.split())

    store.record_commitment("2.25.1", committed=[row.sop_instance_uid for row in documents(1)], failed={})
    assert "Delivered and committed at" in run("job", "1", "-c", config).out


def test_withdrawals_by_note(run: Run, config: Path, store: JobStore) -> None:
    receive(store, 1)
    grade(store, now=later(10))
    lease = store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=3, now=later(11))
    assert lease is not None
    for row in documents(1):
        store.record_document(lease, row.sop_instance_uid, status=0, text="Success", now=later(11))
    store.advance_delivery(lease, now=later(11))
    (target,) = store.recallable(job_id=1)
    store.recall([target], why="mirrored", notes={(target.result_id, "pacs"): "a" * 64}, now=later(12))

    def said() -> str:
        return " ".join(run("job", "1", "-c", config).out.split())

    assert "Withdrawal of revision 1 from pacs, recalled (mirrored): pending since" in said()
    assert "A rejection note for 3 documents waits to be sent" in said()
    assert "pacs ok 0 0 1 waiting" in " ".join(run("peers", "-c", config).out.split())

    sending = store.claim_withdrawal("pacs", worker="d", lease_s=60, max_attempts=3, now=later(13))
    assert sending is not None
    store.fail_withdrawal(sending, sentence="no Key Object Selection accepted", now=later(13))
    assert "no Key Object Selection accepted Nobody sends the rejection note any more" in said()
    assert "pacs dead-letters 0 0 1 dead" in " ".join(run("peers", "-c", config).out.split())

    assert "1 delivery or withdrawal is tried again now" in run("retry", "--peer", "pacs", "-c", config).out
    again = store.claim_withdrawal("pacs", worker="d", lease_s=60, max_attempts=3)
    assert again is not None
    store.advance_withdrawal(again)
    assert "A rejection note for 3 documents was sent" in said()


def test_a_withdrawal_that_failed_becomes_one_by_hand_when_the_peer_takes_no_notes_after_all(
    run: Run, config: Path, store: JobStore
) -> None:
    receive(store, 1)
    grade(store, now=later(10))
    lease = store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=3, now=later(11))
    assert lease is not None
    store.record_document(lease, documents(1)[0].sop_instance_uid, status=0, text="Success", now=later(11))
    store.advance_delivery(lease, now=later(11))
    (target,) = store.recallable(job_id=1)
    store.recall([target], why="mirrored", notes={(target.result_id, "pacs"): "a" * 64}, now=later(12))
    sending = store.claim_withdrawal("pacs", worker="d", lease_s=60, max_attempts=3, now=later(13))
    assert sending is not None
    store.fail_withdrawal(sending, sentence="refused", now=later(13))

    assert run("recall", "--job", "1", "--yes", "-c", config).code == 0

    job = store.job(1)
    assert job is not None
    assert [one.state for one in job.withdrawals] == [WithdrawalState.BY_HAND]
