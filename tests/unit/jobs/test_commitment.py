"""What is sent is delivered once the peer has committed to it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import CommitmentLease, CommitmentOutcome, DeliverySummary, JobStore, PeerSpec, Step
from tests.unit.jobs.drive import (
    at,
    claim_delivery,
    claimed,
    claimed_delivery,
    detail,
    grade,
    graded,
    kinds,
    receive,
    state,
    summary,
)

OTHER = "bb" * 8
BOTH = ("8.aa.1", "8.aa.2")


def send(store: JobStore, second: float, peer: str = "pacs", key: str = "aa") -> JobState:
    """Everything is confirmed, and commitment is wanted."""
    lease = claimed_delivery(store, second, peer)
    for number in (1, 2):
        if f"8.{key}.{number}" not in lease.confirmed:
            store.record_document(lease, f"8.{key}.{number}", status=0, text="", now=at(second))
    return store.advance_delivery(lease, commitment=True, now=at(second))


def claim_commitment(store: JobStore, second: float, peer: str = "pacs") -> CommitmentLease | None:
    return store.claim_commitment(peer, worker="sender", lease_s=60, now=at(second))


def ask(store: JobStore, second: float, transaction: str = "7.1", peer: str = "pacs", wait_s: float = 600) -> None:
    lease = claim_commitment(store, second, peer)
    assert lease is not None
    store.request_commitment(lease, transaction_uid=transaction, due_at=at(second + wait_s), now=at(second))
    store.release_commitment(lease)


def answer(
    store: JobStore, second: float, committed: tuple[str, ...] = BOTH, failed: Mapping[str, int] | None = None,
    transaction: str = "7.1",
) -> CommitmentOutcome:  # fmt: skip
    return store.record_commitment(
        transaction, committed=committed, failed=failed or {}, resend_after_s=5, now=at(second)
    )


def delivery(store: JobStore, number: int = 0) -> DeliverySummary:
    return detail(store).deliveries[number]


def test_a_delivery_is_done_when_the_peer_has_committed_to_everything(store: JobStore) -> None:
    graded(store)
    assert claim_commitment(store, 20) is None, "nothing is sent"
    assert send(store, 21) == JobState.GRADED
    assert (delivery(store).state, state(store)) == (DeliveryState.SENT, JobState.GRADED)
    assert claim_delivery(store, 1000) is None, "it is not sent again"

    lease = claim_commitment(store, 22)

    assert lease is not None
    assert lease.documents == (("1.2.3", "8.aa.1"), ("1.2.3", "8.aa.2"))
    assert (lease.attempt, lease.result_key, lease.peer) == (1, "aa" * 8, "pacs")
    assert claim_commitment(store, 22) is None
    store.request_commitment(lease, transaction_uid="7.1", due_at=at(600), now=at(23))
    assert delivery(store).commit_requested_at == at(23)
    assert answer(store, 24) is CommitmentOutcome.COMMITTED

    done = delivery(store)
    assert (done.state, done.committed_at, done.commit_due_at) == (DeliveryState.DELIVERED, at(24), None)
    assert [r.committed_at for r in done.receipts] == [at(24)] * 2
    assert state(store) == JobState.DELIVERED
    assert kinds(store)[-4:] == ["delivery-sent", "commitment-requested", "delivery-committed", "delivered"]
    assert "delivered and committed: pacs" in detail(store).events[-2].sentence
    with pytest.raises(LeaseLost):
        store.release_commitment(lease)


def test_an_answer_that_comes_again_or_to_nobody_changes_nothing(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22)
    answer(store, 23)
    before = store.job(1)

    assert answer(store, 24) is CommitmentOutcome.REPEATED
    assert answer(store, 24, (), {"8.aa.1": 0x0112}) is CommitmentOutcome.REPEATED
    assert answer(store, 24, transaction="7.9") is CommitmentOutcome.UNKNOWN
    assert store.job(1) == before


def test_without_an_answer_it_is_asked_again_and_the_late_answer_to_the_first_counts(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, "7.1", wait_s=100)
    assert claim_commitment(store, 121) is None
    ask(store, 122, "7.2")

    assert answer(store, 123, transaction="7.1") is CommitmentOutcome.COMMITTED
    assert answer(store, 124, transaction="7.2") is CommitmentOutcome.COMMITTED
    assert kinds(store).count("delivery-committed") == 1
    assert delivery(store).commit_attempts == 2


def test_what_the_peer_does_not_have_after_all_is_sent_again_and_nothing_else(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22)

    assert answer(store, 23, ("8.aa.1",), {"8.aa.2": 0x0112}) is CommitmentOutcome.INCOMPLETE

    assert (delivery(store).state, state(store)) == (DeliveryState.PENDING, JobState.GRADED)
    assert delivery(store).receipts[1].text == "not committed, failure reason 0x0112"
    assert claim_delivery(store, 27) is None, "the peer gets a moment"
    again = claimed_delivery(store, 28)
    assert again.confirmed == {"8.aa.1"}
    assert again.attempt == 2, "a peer that never keeps what it confirms is given up some day"
    store.record_document(again, "8.aa.2", status=0, text="", now=at(29))
    store.advance_delivery(again, commitment=True, now=at(29))
    lease = claim_commitment(store, 30)
    assert lease is not None
    assert lease.documents == (("1.2.3", "8.aa.2"),)
    store.request_commitment(lease, transaction_uid="7.2", due_at=at(600), now=at(30))
    assert answer(store, 31, ("8.aa.2",), transaction="7.2") is CommitmentOutcome.COMMITTED
    assert state(store) == JobState.DELIVERED


def test_a_peer_that_never_keeps_what_it_confirms_is_given_up(store: JobStore) -> None:
    graded(store)
    for turn in range(3):
        send(store, 30 + 10 * turn)
        ask(store, 31 + 10 * turn, f"7.{turn}")
        answer(store, 32 + 10 * turn, (), dict.fromkeys(BOTH, 0x0112), f"7.{turn}")

    assert claim_delivery(store, 100) is None
    job = summary(store)
    assert (job.state, job.failed_in) == (JobState.FAILED, Step.DELIVER)
    assert job.message == (
        "delivery to pacs failed: given up after 3 attempts: pacs did not commit to 2 documents that it had confirmed"
    )


def test_a_failure_that_is_older_than_the_last_sending_is_void(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, "7.1", wait_s=1)
    ask(store, 24, "7.2")
    answer(store, 25, ("8.aa.1",), {"8.aa.2": 0x0112}, "7.2")
    send(store, 31)

    assert answer(store, 32, ("8.aa.1",), {"8.aa.2": 0x0112}, "7.1") is CommitmentOutcome.PARTIAL
    assert delivery(store).state is DeliveryState.SENT
    assert [r.confirmed for r in delivery(store).receipts] == [True, True]


def test_a_failure_does_not_undo_what_the_peer_committed_to_under_another_request(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, "7.1", wait_s=1)
    ask(store, 24, "7.2")
    assert answer(store, 25, transaction="7.2") is CommitmentOutcome.COMMITTED

    answer(store, 26, ("8.aa.1",), {"8.aa.2": 0x0112}, "7.1")

    assert delivery(store).state is DeliveryState.DELIVERED
    (target,) = store.recallable(job_id=1)
    assert len(target.documents) == 2, "the peer keeps both, so both are withdrawn"


def test_a_sender_at_work_does_not_take_for_sent_what_the_peer_has_lost_meanwhile(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, "7.1", wait_s=1)
    ask(store, 24, "7.2")
    answer(store, 25, (), {"8.aa.2": 0x0112}, "7.2")
    at_work = claimed_delivery(store, 31)
    assert at_work.confirmed == {"8.aa.1"}

    assert answer(store, 32, (), {"8.aa.1": 0x0112}, "7.1") is CommitmentOutcome.INCOMPLETE

    with pytest.raises(LeaseLost):
        store.advance_delivery(at_work, commitment=True, now=at(33))
    assert claimed_delivery(store, 40).confirmed == frozenset()


def test_a_peer_that_says_nothing_about_some_is_asked_again(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, wait_s=100)

    assert answer(store, 23, ("8.aa.1",)) is CommitmentOutcome.PARTIAL

    assert delivery(store).state is DeliveryState.SENT
    lease = claim_commitment(store, 122)
    assert lease is not None
    assert lease.documents == (("1.2.3", "8.aa.2"),)
    assert answer(store, 123, ("8.aa.2",)) is CommitmentOutcome.COMMITTED, "the rest of the first answer"


def test_each_required_peer_must_commit_where_it_is_asked_to(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive", PeerSpec("mirror", required=False)))
    store.advance_delivery(claimed_delivery(store, 21, "archive"), now=at(21))
    send(store, 21, "mirror")
    send(store, 21)
    assert state(store) == JobState.GRADED
    ask(store, 22)
    answer(store, 23)

    assert state(store) == JobState.DELIVERED
    assert [str(d.state) for d in detail(store).deliveries] == ["delivered", "sent", "delivered"]
    ask(store, 24, "7.2", "mirror")
    assert answer(store, 25, transaction="7.2") is CommitmentOutcome.COMMITTED, "of a job that is DELIVERED"
    assert [d.committed_at for d in detail(store).deliveries] == [None, at(25), at(23)]


def test_a_peer_that_cannot_be_asked_is_asked_later_or_needs_a_human(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    lease = claim_commitment(store, 22)
    assert lease is not None
    store.commitment_refused(lease, retry_at=at(50), sentence="nothing listens there", permanent=False, now=at(23))
    assert claim_commitment(store, 49) is None
    assert delivery(store).message == "nothing listens there"
    again = claim_commitment(store, 50)
    assert again is not None
    assert again.attempt == 2

    store.commitment_refused(again, retry_at=at(60), sentence="no presentation context", permanent=True, now=at(51))

    assert state(store) == JobState.FAILED
    assert summary(store).message == "delivery to pacs failed: no storage commitment: no presentation context"
    assert store.peers()[0].last_error == "no presentation context"
    with pytest.raises(LeaseLost):
        store.commitment_refused(again, retry_at=at(60), sentence="again", permanent=True, now=at(52))


def test_what_was_given_up_is_delivered_if_the_peer_commits_after_all(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, wait_s=10)
    lease = claim_commitment(store, 40)
    assert lease is not None
    store.commitment_refused(lease, retry_at=at(60), sentence="no answer", permanent=True, now=at(41))

    assert answer(store, 50) is CommitmentOutcome.COMMITTED

    assert state(store) == JobState.DELIVERED


def test_an_incomplete_answer_to_what_was_given_up_is_no_commitment_to_the_rest(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, "7.1", wait_s=10)
    ask(store, 33, "7.2", wait_s=10)
    lease = claim_commitment(store, 50)
    assert lease is not None
    store.commitment_refused(lease, retry_at=at(60), sentence="no answer", permanent=True, now=at(51))
    answer(store, 52, (), {"8.aa.1": 0x0112}, "7.1")

    answer(store, 53, ("8.aa.2",), transaction="7.2")

    assert (delivery(store).state, state(store)) == (DeliveryState.FAILED, JobState.FAILED)


def test_retry_asks_again_and_sends_nothing_again(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, wait_s=6000)
    assert store.retry(1, now=at(30)) == JobState.GRADED
    lease = claim_commitment(store, 31)
    assert lease is not None
    store.commitment_refused(lease, retry_at=at(60), sentence="no", permanent=True, now=at(32))

    assert store.retry(1, now=at(40)) == JobState.GRADED
    again = claimed_delivery(store, 41)
    assert again.confirmed == set(BOTH)
    store.advance_delivery(again, commitment=True, now=at(42))
    assert delivery(store).state is DeliveryState.SENT


def test_a_worker_that_dies_while_it_asks_is_followed_by_another(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    lease = claim_commitment(store, 22)
    assert lease is not None
    store.renew_commitment(lease, lease_s=60, now=at(40))
    store.free_leases_of("sender", now=at(41))

    assert claim_commitment(store, 42) is not None
    with pytest.raises(LeaseLost):
        store.request_commitment(lease, transaction_uid="7.1", due_at=at(99), now=at(43))
    with pytest.raises(LeaseLost):
        store.renew_commitment(lease, lease_s=60, now=at(43))


# --------------------------------------------------------------------------- a study that goes on


def test_the_answer_for_a_study_that_is_open_again_is_kept_and_opens_nothing(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22)
    receive(store, 2, 23)

    assert claim_commitment(store, 1000) is None, "nothing leaves while the study is open"
    assert answer(store, 24) is CommitmentOutcome.COMMITTED

    assert (delivery(store).state, state(store)) == (DeliveryState.DELIVERED, JobState.RECEIVED)
    assert grade(store, claimed(store, 40), 41) == JobState.DELIVERED, "the same result is done"


def test_the_same_result_of_a_study_that_was_open_again_goes_on_waiting(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22, wait_s=10)
    receive(store, 2, 23)

    assert grade(store, claimed(store, 40), 41) == JobState.GRADED

    assert claim_delivery(store, 42) is None
    assert claim_commitment(store, 42) is not None


def test_a_revision_ends_the_wait_for_the_earlier_result_and_keeps_what_its_peer_said(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22)
    receive(store, 2, 23)
    (earlier,) = store.predecessors(1)
    assert earlier.revision == 1, "sent is started"

    grade(store, claimed(store, 40), 41, OTHER)

    assert [str(d.state) for d in detail(store).deliveries] == ["cancelled", "pending"]
    assert [r.confirmed for r in delivery(store).receipts] == [True, True]
    assert store.predecessors(1) == (earlier,)
    assert answer(store, 42) is CommitmentOutcome.COMMITTED
    assert (delivery(store).state, state(store)) == (DeliveryState.CANCELLED, JobState.GRADED)
    assert [r.committed_at for r in delivery(store).receipts] == [at(42)] * 2
    send(store, 43, key="bb")
    lease = claim_commitment(store, 44)
    assert lease is not None
    assert [uid for _, uid in lease.documents] == ["8.bb.1", "8.bb.2"]


def test_a_cancelled_job_stays_so_when_the_answer_comes_and_is_delivered_when_retried(store: JobStore) -> None:
    graded(store)
    send(store, 21)
    ask(store, 22)
    store.cancel(1, now=at(23))

    assert answer(store, 24) is CommitmentOutcome.COMMITTED
    assert state(store) == JobState.CANCELLED
    assert store.retry(1, now=at(30)) == JobState.DELIVERED


def test_documents_of_a_result_that_waits_for_an_optional_commitment_are_kept(store: JobStore) -> None:
    day = 86400
    graded(store, peers=(PeerSpec("mirror", required=False),))
    send(store, 21, "mirror")
    assert state(store) == JobState.DELIVERED

    due = store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=at(100 * day))
    assert due.result_keys == ()
    ask(store, 100 * day, peer="mirror")
    answer(store, 100 * day)
    due = store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=at(100 * day))
    assert due.result_keys == ("aa" * 8,)
