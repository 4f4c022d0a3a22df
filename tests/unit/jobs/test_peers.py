"""What is known of each peer, and of the whole node."""

from __future__ import annotations

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs import JobStore, PeerSpec
from tests.unit.jobs.drive import (
    CT,
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

OPTIONAL = PeerSpec("mirror", required=False)
SR_3D = "1.2.840.10008.5.1.4.1.1.88.34"


def test_nothing_is_given_out_for_a_paused_peer_and_other_peers_go_on(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    under_way = claimed_delivery(store, 21)
    store.pause_peer("pacs", why="moved to a new machine", now=at(22))
    store.retry_delivery_later(under_way, retry_at=at(23), sentence="refused", max_attempts=9, now=at(23))

    assert claim_delivery(store, 1000) is None
    assert claim_delivery(store, 1000, "archive") is not None
    pacs = next(peer for peer in store.peers() if peer.name == "pacs")
    assert (pacs.paused, pacs.paused_at, pacs.paused_why) == (True, at(22), "moved to a new machine")
    assert store.status(now=at(30)).paused_peers == ("pacs",)
    assert store.resume_peer("pacs", now=at(2000)) == 1
    assert claimed_delivery(store, 2000).attempt == 2
    assert not store.peers()[1].paused


def test_what_is_being_sent_when_a_peer_is_paused_is_ended(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.pause_peer("pacs", why="", now=at(22))

    store.record_document(lease, "8.aa.1", status=0, text="", now=at(23))
    assert store.advance_delivery(lease, now=at(24)) == JobState.DELIVERED


def test_commitment_and_withdrawals_wait_with_a_paused_peer(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.record_document(lease, "8.aa.1", status=0, text="", now=at(22))
    store.advance_delivery(lease, commitment=True, now=at(22))
    store.pause_peer("pacs", why="", now=at(23))
    assert store.claim_commitment("pacs", worker="w", lease_s=60, now=at(100)) is None
    targets = store.recallable(job_id=1)
    store.recall(targets, why="x", notes={(targets[0].result_id, "pacs"): "ee" * 8}, now=at(110))
    assert store.claim_withdrawal("pacs", worker="w", lease_s=60, max_attempts=3, now=at(120)) is None

    store.resume_peer("pacs", now=at(130))

    assert store.claim_withdrawal("pacs", worker="w", lease_s=60, max_attempts=3, now=at(130)) is not None


def test_withdrawals_that_wait_for_another_attempt_are_due_when_the_peer_is_resumed(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.record_document(lease, "8.aa.1", status=0, text="", now=at(21))
    store.advance_delivery(lease, now=at(21))
    targets = store.recallable(job_id=1)
    store.recall(targets, why="wrong", notes={(targets[0].result_id, "pacs"): "ee" * 8}, now=at(22))
    note = store.claim_withdrawal("pacs", worker="sender", lease_s=60, max_attempts=3, now=at(23))
    assert note is not None
    store.retry_withdrawal_later(note, retry_at=at(3600), sentence="refused", max_attempts=3, now=at(24))
    store.pause_peer("pacs", why="repair", now=at(25))

    store.resume_peer("pacs", now=at(30))

    assert store.claim_withdrawal("pacs", worker="sender", lease_s=60, max_attempts=3, now=at(30)) is not None


def test_a_peer_is_paused_before_anything_was_sent_to_it(store: JobStore) -> None:
    store.pause_peer("pacs", why="not there yet", now=at(0))
    store.pause_peer("pacs", why="still not", now=at(1))
    graded(store)
    assert claim_delivery(store, 1000) is None
    assert [peer.paused_why for peer in store.peers()] == ["still not"]


def test_what_a_peer_can_do_is_remembered(store: JobStore) -> None:
    assert store.capability("pacs") is None
    store.remember_capability("pacs", report_class=SR_3D, now=at(1))
    known = store.capability("pacs")
    assert known is not None
    assert (known.report_class, known.capability, known.probed_at) == (SR_3D, {}, None)

    store.remember_capability("pacs", capability={"commitment": True}, now=at(2))

    known = store.capability("pacs")
    assert known is not None
    assert (known.report_class, known.capability, known.probed_at) == (SR_3D, {"commitment": True}, at(2))
    assert store.peers()[0].report_class == SR_3D


def test_the_queue_of_each_peer_is_counted(store: JobStore) -> None:
    for number in range(1, 5):
        graded(store, peers=("pacs", OPTIONAL), number=number, study=f"1.{number}")
    store.advance_delivery(claimed_delivery(store, 30), now=at(31))
    store.fail_delivery(claimed_delivery(store, 30), sentence="SOP class refused", now=at(32))
    sent = claimed_delivery(store, 30)
    store.record_document(sent, "8.aa.1", status=0, text="", now=at(33))
    store.advance_delivery(sent, commitment=True, now=at(33))
    store.cancel(4, now=at(34))

    mirror, pacs = store.peers()
    assert (mirror.name, mirror.pending, mirror.failed, mirror.waiting_commitment) == ("mirror", 3, 0, 0)
    assert (mirror.oldest_pending_at, mirror.last_success_at) == (at(20), None)
    assert (pacs.name, pacs.pending, pacs.failed, pacs.waiting_commitment) == ("pacs", 0, 1, 1), "one is cancelled"
    assert (pacs.oldest_pending_at, pacs.last_success_at) == (None, at(33))
    assert (pacs.last_error, pacs.last_error_at) == ("SOP class refused", at(32))


def test_what_was_superseded_is_no_dead_letter(store: JobStore) -> None:
    graded(store)
    store.fail_delivery(claimed_delivery(store, 21), sentence="refused", now=at(22))
    receive(store, 2, 30)
    grade(store, claimed(store, 45), 46, "bb" * 8)

    assert [peer.failed for peer in store.peers()] == [0]
    assert store.retry_peer("pacs", now=at(50)) == 0
    assert [str(d.state) for d in detail(store).deliveries] == ["failed", "pending"]


def test_everything_that_failed_for_a_peer_is_tried_again_by_one_order(store: JobStore) -> None:
    for number in range(1, 4):
        graded(store, peers=("pacs", OPTIONAL), number=number, study=f"1.{number}")
        store.fail_delivery(claimed_delivery(store, 21), sentence="refused", now=at(22))
    lease = claimed_delivery(store, 23, "mirror")
    store.fail_delivery(lease, sentence="refused", now=at(23))
    store.cancel(3, now=at(24))

    assert store.retry_peer("pacs", now=at(30)) == 2, "not that of the cancelled job"

    assert [state(store, job_id) for job_id in (1, 2, 3)] == [JobState.GRADED, JobState.GRADED, JobState.CANCELLED]
    assert summary(store).message is None
    assert kinds(store)[-1] == "retried"
    for _ in range(2):
        store.advance_delivery(claimed_delivery(store, 31), now=at(32))
    assert state(store) == JobState.DELIVERED
    assert store.retry_peer("mirror", now=at(40)) == 1
    assert state(store) == JobState.DELIVERED
    assert detail(store).deliveries[0].state is DeliveryState.PENDING
    assert store.retry_peer("nobody", now=at(40)) == 0


def test_a_job_with_another_peer_that_failed_stays_failed(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    for peer in ("pacs", "archive"):
        store.fail_delivery(claimed_delivery(store, 21, peer), sentence="refused", now=at(22))

    assert store.retry_peer("pacs", now=at(30)) == 1
    assert state(store) == JobState.FAILED
    assert claim_delivery(store, 31) is not None


def test_the_node_says_how_it_stands(store: JobStore) -> None:
    nothing = store.status(now=at(0))
    assert (nothing.jobs, nothing.peers, nothing.instances) == (dict.fromkeys(JobState, 0), (), 0)
    assert (nothing.oldest_waiting_s, nothing.oldest_pending_s, nothing.failed) == (0.0, 0.0, 0)
    assert nothing.last_result_at is None

    receive(store, 9, 0, sop_class=CT)
    graded(store)
    receive(store, 2, 0, study="1.2")
    store.reject(claimed(store, 30), reason="no-candidate", sentence="none", now=at(31))
    receive(store, 3, 0, study="1.3")
    store.fail(claimed(store, 30), sentence="broken", now=at(31))
    receive(store, 4, 40, study="1.4")
    receive(store, 4, 41, study="1.4", conflict=True)
    receive(store, 5, 95, study="1.5")

    status = store.status(now=at(100))
    assert {state: n for state, n in status.jobs.items() if n} == {
        JobState.GRADED: 1, JobState.REJECTED: 1, JobState.FAILED: 1, JobState.RECEIVED: 2
    }  # fmt: skip
    assert (status.failed, status.results_24h, status.rejected_24h, status.conflicts) == (1, 1, 1, 1)
    assert (status.instances, status.instance_bytes) == (6, 6000), "the CT image is of the study of job 1"
    assert (status.oldest_waiting_at, status.oldest_waiting_s) == (at(50), 50.0)
    assert (status.last_result_at, status.oldest_pending_s) == (at(20), 80.0)
    day_later = store.status(now=at(90_000))
    assert (day_later.results_24h, day_later.rejected_24h, day_later.oldest_waiting_at) == (0, 0, at(50))
