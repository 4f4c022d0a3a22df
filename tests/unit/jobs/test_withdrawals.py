"""What peers have is withdrawn from them, all of it and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stenosis_node.domain import BundleIdentity, BundleStatus, JobState
from stenosis_node.errors import LeaseLost, PermanentError, TransientError
from stenosis_node.jobs import JobStore, PeerSpec, RecallTarget, WithdrawalLease, WithdrawalReason, WithdrawalState
from tests.unit.jobs.drive import (
    at,
    claim_delivery,
    claimed,
    claimed_delivery,
    detail,
    document,
    grade,
    graded,
    kinds,
    receive,
    state,
    summary,
)

OTHER = "bb" * 8
NOTE = "ee" * 8
DAY = 86400


def deliver(store: JobStore, second: float, peer: str = "pacs") -> None:
    """Both documents of the result arrive."""
    lease = claimed_delivery(store, second, peer)
    for number in (1, 2):
        uid = f"8.{lease.result_key[:2]}.{number}"
        store.record_document(lease, uid, status=0, text="", now=at(second))
    store.advance_delivery(lease, now=at(second))


def uids(target: RecallTarget) -> list[str]:
    return [row.sop_instance_uid for row in target.documents]


def recall(store: JobStore, second: float, note: str | None = NOTE, **filters: Any) -> int:
    targets = store.recallable(**(filters or {"job_id": 1}))
    notes: Mapping[tuple[int, str], str | None] = {(one.result_id, one.peer): note for one in targets}
    return store.recall(targets, why="trained on a wrong label", notes=notes, now=at(second))


def claim_withdrawal(store: JobStore, second: float, peer: str = "pacs") -> WithdrawalLease | None:
    return store.claim_withdrawal(peer, worker="sender", lease_s=60, max_attempts=3, now=at(second))


def claimed_withdrawal(store: JobStore, second: float, peer: str = "pacs") -> WithdrawalLease:
    lease = claim_withdrawal(store, second, peer)
    assert lease is not None
    return lease


def states(store: JobStore, job_id: int = 1) -> list[tuple[int, str, str]]:
    return [(one.revision, one.peer, str(one.state)) for one in detail(store, job_id).withdrawals]


def test_a_delivered_result_is_withdrawn_and_the_job_says_why(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    (target,) = store.recallable(job_id=1)
    assert (target.revision, target.peer, target.is_latest, uids(target)) == (1, "pacs", True, ["8.aa.1", "8.aa.2"])

    assert recall(store, 30) == 1

    job = summary(store)
    assert (job.state, job.message) == (JobState.CANCELLED, "recalled: trained on a wrong label")
    (result,) = detail(store).results
    assert (result.withdrawn_at, result.withdrawn_why) == (at(30), "trained on a wrong label")
    lease = claimed_withdrawal(store, 31)
    assert (lease.note_key, lease.result_key, lease.attempt) == (NOTE, "aa" * 8, 1)
    assert lease.sop_instance_uids == ("8.aa.1", "8.aa.2")
    assert claim_withdrawal(store, 31) is None
    store.advance_withdrawal(lease, now=at(32))
    assert states(store) == [(1, "pacs", "delivered")]
    assert kinds(store)[-2:] == ["recalled", "withdrawn"]
    assert store.recallable(job_id=1) == ()


def test_only_what_a_peer_confirmed_is_withdrawn_from_it(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive", "mirror", "dead"))
    deliver(store, 21)
    part = claimed_delivery(store, 21, "archive")
    store.record_document(part, "8.aa.1", status=0, text="", now=at(22))
    store.record_document(part, "8.aa.2", status=None, text="aborted", now=at(22))
    store.retry_delivery_later(part, retry_at=at(900), sentence="aborted", max_attempts=9, now=at(22))
    refused = claimed_delivery(store, 21, "dead")
    store.record_document(refused, "8.aa.1", status=0xA700, text="full", now=at(22))
    store.fail_delivery(refused, sentence="full", now=at(22))

    targets = {one.peer: one for one in store.recallable(job_id=1)}
    found = {peer: (uids(one), [row.sop_instance_uid for row in one.unanswered]) for peer, one in targets.items()}
    assert found == {
        "archive": (["8.aa.1"], ["8.aa.2"]), "dead": ([], []), "mirror": ([], []), "pacs": (["8.aa.1", "8.aa.2"], [])
    }  # fmt: skip
    assert recall(store, 30) == 2

    assert states(store) == [(1, "archive", "pending"), (1, "pacs", "pending")]
    assert detail(store).withdrawals[0].sop_instance_uids == ("8.aa.1", "8.aa.2"), "it may have the other one too"
    assert [str(d.state) for d in detail(store).deliveries] == ["cancelled", "cancelled", "cancelled", "delivered"]
    for peer in ("archive", "dead", "mirror"):
        assert claim_delivery(store, 5000, peer) is None
        assert store.retry_peer(peer, now=at(40)) == 0, "a recalled result is not sent again"


def test_a_peer_without_notes_waits_for_a_hand_until_it_takes_them(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    recall(store, 30, note=None)
    assert states(store) == [(1, "pacs", "by-hand")]
    assert claim_withdrawal(store, 1000) is None
    assert store.peers()[0].by_hand == 1

    assert recall(store, 40, note=None) == 0
    assert recall(store, 50) == 1
    assert claimed_withdrawal(store, 51).note_key == NOTE


def test_a_recall_during_a_delivery_is_refused_until_it_is_known_what_arrived(store: JobStore) -> None:
    graded(store)
    (before,) = store.recallable(job_id=1)
    lease = claimed_delivery(store, 21)
    with pytest.raises(TransientError, match="being delivered"):
        store.recall([before], why="x", notes={}, now=at(22))
    store.record_document(lease, "8.aa.1", status=0, text="", now=at(22))
    store.retry_delivery_later(lease, retry_at=at(900), sentence="aborted", max_attempts=9, now=at(23))

    with pytest.raises(TransientError, match="has got more"):
        store.recall([before], why="x", notes={}, now=at(24))
    assert state(store) == JobState.GRADED
    assert detail(store).results[0].withdrawn_at is None

    assert recall(store, 25) == 1


def test_a_document_that_arrived_after_all_is_withdrawn_by_another_recall(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.record_document(lease, "8.aa.1", status=0, text="", now=at(22))
    receive(store, 2, 23)  # takes the lease away while the other document is on its way
    recall(store, 24)
    store.advance_withdrawal(claimed_withdrawal(store, 25), now=at(25))
    assert store.recallable(job_id=1) == ()
    with pytest.raises(LeaseLost):
        store.record_document(lease, "8.aa.2", status=0, text="", now=at(26))

    assert recall(store, 30, note="ff" * 8) == 1

    assert claimed_withdrawal(store, 31).sop_instance_uids == ("8.aa.1", "8.aa.2")


def test_all_targets_are_withdrawn_or_none(store: JobStore) -> None:
    for number in (1, 2):
        graded(store, number=number, study=f"1.{number}")
        deliver(store, 21)
    targets = [target for job_id in (1, 2) for target in store.recallable(job_id=job_id)]
    stale = [targets[0], RecallTarget(**{f: getattr(targets[1], f) for f in targets[1].__slots__} | {"documents": ()})]

    with pytest.raises(TransientError):
        store.recall(stale, why="x", notes={}, now=at(30))

    assert [state(store, job_id) for job_id in (1, 2)] == [JobState.DELIVERED] * 2
    assert states(store) == []


def test_results_are_found_by_their_bundle(store: JobStore) -> None:
    digests = {"a": "0a" * 32, "b": "0b" * 32}
    for number, version in enumerate(("a", "b", "a"), start=1):
        receive(store, number, 0, study=f"1.{number}")
        bundle = BundleIdentity("spine", version, BundleStatus.RESEARCH, digests[version], "research")
        store.advance_graded(
            claimed(store, 15), result_key=f"{number:02x}" * 8, chosen_key="cc", now=at(16), bundle=bundle,
            documents=[document(f"8.{number}")], peers=[PeerSpec("pacs")],
        )  # fmt: skip

    def jobs(bundle: str) -> list[int]:
        return [target.job_id for target in store.recallable(bundle=bundle)]

    assert jobs("spine a") == jobs(digests["a"]) == jobs(digests["a"][:12]) == [1, 3]
    assert jobs("spine b") == [2]
    assert jobs("spine") == [1, 2, 3]
    assert jobs("spin") == jobs("0a") == jobs("%") == jobs("spine _") == jobs("0a0a0a0a0a0_") == []
    assert detail(store, 2).results[0].bundle == "spine b"
    assert store.recallable(bundle="spine a", job_id=3)[0].job_id == 3
    with pytest.raises(PermanentError, match="a job or a bundle"):
        store.recallable()
    recall(store, 20, bundle="spine a")
    assert [state(store, job_id) for job_id in (1, 2, 3)] == [JobState.CANCELLED, JobState.GRADED, JobState.CANCELLED]
    assert jobs("spine a") == [], "nothing had arrived, so nothing is left to recall"


@pytest.mark.parametrize("open_again", [False, True])
def test_a_recalled_study_is_graded_again_when_it_is_retried_and_the_same_result_is_not_sent(
    store: JobStore, open_again: bool
) -> None:
    graded(store)
    deliver(store, 21)
    if open_again:
        receive(store, 2, 25)
    recall(store, 30)
    store.advance_withdrawal(claimed_withdrawal(store, 31), now=at(32))
    assert state(store) == JobState.CANCELLED

    assert store.retry(1, now=at(40)) == JobState.RECEIVED
    assert grade(store, claimed(store, 60), 61) == JobState.CANCELLED
    assert summary(store).message == "recalled: trained on a wrong label"
    assert store.retry(1, now=at(70)) == JobState.RECEIVED
    assert grade(store, claimed(store, 71), 72, OTHER) == JobState.GRADED
    assert claimed_delivery(store, 73).revision == 2


def test_only_the_order_to_retry_asks_for_a_recalled_result_once_more(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    recall(store, 30)
    receive(store, 2, 40)
    lease = claimed(store, 60)
    assert not lease.reissue, "a late image is no order"
    store.fail(lease, sentence="broken", now=at(61))

    store.retry(1, now=at(70))
    lease = claimed(store, 71)
    assert lease.reissue
    store.release(lease, now=at(72))
    assert claimed(store, 73).reissue, "until there is a result"
    store.free_leases_of("grader", now=at(74))
    grade(store, claimed(store, 75), 76, OTHER)

    receive(store, 3, 80)
    assert not claimed(store, 95).reissue


def test_a_grader_at_work_on_a_recalled_study_loses_it(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    receive(store, 2, 25)
    lease = claimed(store, 40)
    recall(store, 41)
    with pytest.raises(LeaseLost):
        grade(store, lease, 42, OTHER)


def supersede(store: JobStore, second: float) -> None:
    earlier = [one for one in store.recallable(job_id=1) if not one.is_latest]
    notes = {(one.result_id, one.peer): NOTE for one in earlier}
    store.recall(earlier, why="by revision 2", notes=notes, reason=WithdrawalReason.SUPERSEDED, now=at(second))


def test_a_superseded_result_is_withdrawn_once_its_successor_has_arrived(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    deliver(store, 21)
    receive(store, 2, 25)
    grade(store, claimed(store, 40), 41, OTHER, peers=("pacs", "archive"))
    supersede(store, 42)
    deliver(store, 43, "archive")
    assert claim_withdrawal(store, 44) is None, "the peer would be left without any"

    deliver(store, 45)

    lease = claimed_withdrawal(store, 46)
    assert (lease.revision, lease.reason) == (1, WithdrawalReason.SUPERSEDED)
    store.advance_withdrawal(lease, now=at(47))
    assert state(store) == JobState.DELIVERED
    (only,) = {one.revision for one in store.recallable(job_id=1)}
    assert only == 2


def test_a_superseded_result_whose_successor_is_recalled_is_withdrawn_too(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    receive(store, 2, 25)
    grade(store, claimed(store, 40), 41, OTHER)
    supersede(store, 42)

    targets = store.recallable(job_id=1)
    assert [(one.revision, uids(one)) for one in targets] == [(1, ["8.aa.1", "8.aa.2"]), (2, [])]
    store.recall(targets, why="wrong weights", notes={(targets[0].result_id, "pacs"): "ff" * 8}, now=at(50))

    lease = claimed_withdrawal(store, 51)
    assert (lease.note_key, lease.reason) == ("ff" * 8, WithdrawalReason.RECALLED)
    assert state(store) == JobState.CANCELLED


def test_a_superseded_result_whose_successor_alone_is_recalled_stays_and_waits_for_nothing(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    receive(store, 2, 25)
    grade(store, claimed(store, 40), 41, OTHER)
    supersede(store, 42)
    (_, second) = store.recallable(job_id=1)

    store.recall([second], why="wrong weights", notes={}, now=at(50))

    assert states(store) == []
    assert store.peers()[0].pending_withdrawals == 0
    assert [one.revision for one in store.recallable(job_id=1)] == [1], "the peer has it"


# --------------------------------------------------------------------------- the note on its way


def test_a_note_that_does_not_arrive_is_tried_again_and_then_needs_a_human(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    recall(store, 30)
    for second in (31, 41, 51):
        last = claimed_withdrawal(store, second)
        again = store.retry_withdrawal_later(
            last, retry_at=at(second + 10), sentence="refused", max_attempts=3, now=at(second)
        )
        assert claim_withdrawal(store, second + 9) is None
    assert again is WithdrawalState.FAILED
    (failed,) = detail(store).withdrawals
    assert failed.message == "given up after 3 attempts: refused"
    assert store.peers()[0].failed_withdrawals == 1

    assert store.retry(1, now=at(60)) == JobState.CANCELLED
    store.fail_withdrawal(claimed_withdrawal(store, 61), sentence="no context", now=at(62))
    assert store.retry_peer("pacs", now=at(70)) == 1
    store.advance_withdrawal(claimed_withdrawal(store, 71), now=at(72))
    assert store.retry_peer("pacs", now=at(80)) == 0
    assert store.peers()[0].last_success_at == at(72)


def test_a_note_is_given_to_one_worker_and_comes_back_when_it_dies_or_stops(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    recall(store, 30)
    first = claimed_withdrawal(store, 31)
    store.renew_withdrawal(first, lease_s=60, now=at(60))
    assert claim_withdrawal(store, 119) is None
    second = claimed_withdrawal(store, 120)
    for use in (
        lambda: store.renew_withdrawal(first, lease_s=60, now=at(121)),
        lambda: store.release_withdrawal(first),
        lambda: store.advance_withdrawal(first, now=at(121)),
        lambda: store.fail_withdrawal(first, sentence="no", now=at(121)),
        lambda: store.retry_withdrawal_later(first, retry_at=at(130), sentence="no", max_attempts=3, now=at(121)),
    ):
        with pytest.raises(LeaseLost):
            use()
    store.release_withdrawal(second)
    assert claimed_withdrawal(store, 121).attempt == 2
    assert store.free_leases_of("sender", now=at(122)) == 1
    claimed_withdrawal(store, 123)
    store.free_leases_of("sender", now=at(124))
    assert claim_withdrawal(store, 125) is None
    assert detail(store).withdrawals[0].message == "the delivering process died 3 times on it"


# --------------------------------------------------------------------------- housekeeping


def test_documents_stay_while_their_withdrawal_is_under_way_and_go_with_the_note(store: JobStore) -> None:
    graded(store)
    deliver(store, 21)
    recall(store, 30)

    def due() -> tuple[str, ...]:
        purge = store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=at(100 * DAY))
        return purge.result_keys

    assert due() == ()
    lease = claimed_withdrawal(store, 100 * DAY)
    store.fail_withdrawal(lease, sentence="refused", now=at(100 * DAY))
    assert due() == (), "it can be retried"
    store.retry_peer("pacs", now=at(100 * DAY))
    store.advance_withdrawal(claimed_withdrawal(store, 100 * DAY), now=at(100 * DAY))
    assert due() == ("aa" * 8, NOTE)
