"""Claims, fencing, attempts, and results."""

from __future__ import annotations

import pytest

from stenosis_node.domain import Decision, JobState, SeriesReason
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import JobStore, PeerSpec, Step
from tests.unit.completeness import conclude_checks
from tests.unit.jobs.drive import (
    CT,
    at,
    claim,
    claim_delivery,
    claimed,
    claimed_delivery,
    decision,
    grade,
    graded,
    kinds,
    receive,
    state,
    summary,
)

OTHER = "bb" * 8


def test_a_job_is_given_to_one_worker(store: JobStore) -> None:
    receive(store, 1, 0)

    lease = claimed(store, 15)

    assert (lease.study_instance_uid, lease.attempt, lease.first_claimed_at) == ("1.1", 1, at(15))
    assert lease.lease_until == at(75)
    assert claim(store, 16) is None
    assert summary(store).worker == "grader"


def test_the_study_that_has_waited_longest_comes_first(store: JobStore) -> None:
    receive(store, 1, 5, study="1.1")
    receive(store, 2, 3, study="1.2")
    receive(store, 3, 4, study="1.3")

    assert [claimed(store, 20).study_instance_uid for _ in range(3)] == ["1.2", "1.3", "1.1"]


def test_an_expired_lease_is_given_to_another_and_the_first_is_fenced_out(store: JobStore) -> None:
    receive(store, 1, 0)
    first = claimed(store, 15)
    assert claim(store, 74.9) is None

    second = claimed(store, 75)

    assert (second.attempt, second.first_claimed_at) == (2, first.first_claimed_at)
    for use in (
        lambda: store.renew(first, lease_s=60, now=at(76)),
        lambda: store.record_decisions(first, [decision("2.1")]),
        lambda: grade(store, first, 76),
        lambda: store.reject(first, reason="no-candidate", sentence="none", now=at(76)),
        lambda: store.fail(first, sentence="broken", now=at(76)),
        lambda: store.retry_later(first, retry_at=at(80), sentence="later", max_attempts=3, now=at(76)),
        lambda: store.release(first, now=at(76)),
    ):
        with pytest.raises(LeaseLost):
            use()
    assert grade(store, second, 77) == JobState.GRADED


def test_a_lease_that_expired_but_was_given_to_nobody_still_counts(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)

    assert grade(store, lease, 500) == JobState.GRADED


def test_a_lease_can_be_used_once(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)
    grade(store, lease, 16)

    with pytest.raises(LeaseLost):
        grade(store, lease, 17, OTHER)


def test_a_renewed_lease_lasts(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)
    store.renew(lease, lease_s=60, now=at(70))

    assert claim(store, 129) is None
    assert claim(store, 130) is not None


def test_a_study_that_kills_its_worker_fails_after_the_last_attempt(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 1, study="1.2")
    for i in range(3):
        assert claimed(store, 20 + i, worker=f"w{i}").job_id == 1
        assert store.free_leases_of(f"w{i}", now=at(20.5 + i)) == 1

    assert claimed(store, 30).job_id == 2, "the study after it is not held up"

    job = summary(store)
    assert (job.state, job.failed_in) == (JobState.FAILED, Step.GRADE)
    assert job.message == "the grading process died 3 times on this study"
    assert kinds(store)[-3:] == ["claimed", "worker-died", "failed"]


def test_a_lease_given_back_does_not_count_as_an_attempt(store: JobStore) -> None:
    receive(store, 1, 0)
    for second in range(15, 25):
        lease = claimed(store, second)
        assert lease.attempt == 1
        store.release(lease, now=at(second))


def test_the_leases_of_one_worker_are_freed_and_no_others(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 0, study="1.2")
    claimed(store, 15, worker="a")
    other = claimed(store, 15, worker="b")

    assert store.free_leases_of("a", now=at(16)) == 1
    assert store.free_leases_of("a", now=at(16)) == 0

    assert claimed(store, 16).job_id == 1
    store.renew(other, lease_s=60, now=at(17))


def test_another_attempt_comes_at_its_time_until_they_are_used_up(store: JobStore) -> None:
    receive(store, 1, 0)
    for attempt, second in ((1, 20), (2, 40)):
        lease = claimed(store, second)
        assert lease.attempt == attempt
        again = store.retry_later(lease, retry_at=at(second + 20), sentence="GPU busy", max_attempts=3, now=at(second))
        assert again == JobState.RECEIVED
        assert summary(store).message == "GPU busy"
        assert claim(store, second + 19) is None
    last = claimed(store, 60)

    assert store.retry_later(last, retry_at=at(99), sentence="GPU busy", max_attempts=3, now=at(61)) == JobState.FAILED
    assert summary(store).message == "given up after 3 attempts: GPU busy"
    assert claim(store, 1000) is None


def test_only_received_jobs_are_claimed(store: JobStore) -> None:
    with pytest.raises(ValueError, match="claim_delivery"):
        store.claim(JobState.GRADED, worker="w", lease_s=1, max_attempts=1)


def test_the_first_result_is_revision_1_with_a_delivery_per_peer(store: JobStore) -> None:
    graded(store, peers=("pacs", PeerSpec("mirror", required=False)))

    detail = store.job("1.1")
    assert detail is not None
    assert (detail.job.state, detail.job.revision, detail.job.attempts) == (JobState.GRADED, 1, 0)
    (result,) = detail.results
    assert (result.result_key, result.chosen_key) == ("aa" * 8, f"chosen-{'aa' * 8}")
    assert (result.first_claimed_at, result.created_at) == (at(15), at(20))
    assert [d.sop_instance_uid for d in detail.documents] == ["8.aa.1", "8.aa.2"]
    assert [(d.peer, d.required, d.state) for d in detail.deliveries] == [
        ("mirror", False, "pending"),
        ("pacs", True, "pending"),
    ]


@pytest.mark.parametrize("peers", [(), (PeerSpec("mirror", required=False),)])
def test_a_job_without_required_peers_is_delivered_at_once(store: JobStore, peers: tuple[PeerSpec, ...]) -> None:
    graded(store, peers=peers)

    assert state(store) == JobState.DELIVERED
    assert kinds(store)[-2:] == ["graded", "delivered"]


def test_the_same_result_after_a_late_instance_sends_nothing_new(store: JobStore) -> None:
    graded(store)
    store.advance_delivery(claimed_delivery(store, 21), now=at(22))
    receive(store, 2, 30)

    assert grade(store, claimed(store, 45), 46) == JobState.DELIVERED

    detail = store.job(1)
    assert detail is not None
    assert (len(detail.results), len(detail.deliveries), detail.job.revision) == (1, 1, 1)
    assert "unchanged" in kinds(store)
    assert claim_delivery(store, 100) is None


def test_the_same_result_goes_on_where_its_delivery_was_interrupted(store: JobStore) -> None:
    graded(store)
    sent = claimed_delivery(store, 21)
    store.record_document(sent, "8.aa.1", status=0, text="", now=at(22))
    receive(store, 2, 23)

    assert grade(store, claimed(store, 40), 41) == JobState.GRADED

    again = claimed_delivery(store, 42)
    assert (again.delivery_id, again.attempt, again.first_started_at) == (sent.delivery_id, 2, at(21))
    assert again.confirmed == {"8.aa.1"}
    assert store.advance_delivery(again, now=at(43)) == JobState.DELIVERED


def test_the_same_result_whose_delivery_had_failed_is_failed_again_not_forgotten(store: JobStore) -> None:
    graded(store)
    store.fail_delivery(claimed_delivery(store, 21), sentence="no such SOP class", now=at(22))
    receive(store, 2, 30)

    assert grade(store, claimed(store, 45), 46) == JobState.FAILED

    assert (summary(store).failed_in, state(store)) == (Step.DELIVER, JobState.FAILED)
    assert store.retry(1, now=at(50)) == JobState.GRADED
    assert claim_delivery(store, 51) is not None


def test_the_same_result_after_a_rejection_is_delivered_after_all(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    store.advance_delivery(claimed_delivery(store, 21), now=at(22))
    receive(store, 2, 30)
    store.reject(claimed(store, 45), reason="no-candidate", sentence="none", now=at(46))
    assert claim_delivery(store, 47, "archive") is None
    receive(store, 3, 50)

    assert grade(store, claimed(store, 65), 66) == JobState.GRADED

    assert claim_delivery(store, 67) is None, "it has everything"
    assert store.advance_delivery(claimed_delivery(store, 67, "archive"), now=at(68)) == JobState.DELIVERED


def test_a_new_result_supersedes_deliveries_that_are_not_done(store: JobStore) -> None:
    graded(store, peers=("pacs", "mirror"))
    store.advance_delivery(claimed_delivery(store, 21, "mirror"), now=at(22))
    receive(store, 2, 30)

    grade(store, claimed(store, 45), 46, OTHER, peers=("pacs", "mirror"))

    detail = store.job(1)
    assert detail is not None
    assert [(d.revision, d.peer, str(d.state)) for d in detail.deliveries] == [
        (1, "mirror", "delivered"),
        (1, "pacs", "cancelled"),
        (2, "mirror", "pending"),
        (2, "pacs", "pending"),
    ]
    assert claimed_delivery(store, 47).result_key == OTHER
    assert claim_delivery(store, 47) is None, "the superseded one is not offered"


def test_predecessors_are_the_results_whose_delivery_had_started(store: JobStore) -> None:
    graded(store)
    assert store.predecessors(1) == ()
    receive(store, 2, 30)
    grade(store, claimed(store, 45), 46, OTHER)
    claimed_delivery(store, 47)
    receive(store, 3, 50)

    (only,) = store.predecessors(1)
    assert (only.revision, only.result_key) == (2, OTHER)
    assert [str(d.kind) for d in only.documents] == ["sc", "sr"]
    latest = store.latest_result(1)
    assert latest is not None
    assert latest == only
    assert claimed(store, 65).revision == 2


def test_a_result_of_before_that_comes_back_is_a_revision_and_confirmed_documents_are_not_sent_again(
    store: JobStore,
) -> None:
    graded(store)
    first = claimed_delivery(store, 21)
    store.record_document(first, "8.aa.1", status=0, text="", now=at(22))
    receive(store, 2, 30)
    grade(store, claimed(store, 45), 46, OTHER)
    receive(store, 3, 50)
    grade(store, claimed(store, 65), 66)

    again = claimed_delivery(store, 67)
    assert (again.revision, again.result_key, again.confirmed) == (3, "aa" * 8, {"8.aa.1"})


def test_a_rejected_study_says_why(store: JobStore) -> None:
    receive(store, 1, 0)
    rejected = decision("2.1", Decision.REJECTED, SeriesReason.NOT_AXIAL)

    store.reject(
        claimed(store, 15), reason="no-candidate", sentence="no axial T2 series", decisions=[rejected], now=at(16)
    )

    detail = store.job(1)
    assert detail is not None
    assert (detail.job.state, detail.job.reason) == (JobState.REJECTED, "no-candidate")
    assert detail.job.message == "no axial T2 series"
    assert detail.series == (rejected,)
    assert claim(store, 1000) is None


def test_decisions_replace_those_of_the_same_series_and_come_in_order(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)
    store.record_decisions(lease, [decision("2.1", number=7), decision("2.2", number=None), decision("2.3", number=3)])
    changed = decision("2.1", Decision.REJECTED, SeriesReason.STIR, number=7)
    store.record_decisions(lease, [changed])

    detail = store.job(1)
    assert detail is not None
    assert [d.series_instance_uid for d in detail.series] == ["2.3", "2.1", "2.2"]
    assert detail.series[1] == changed


def test_instances_of_every_class_are_listed(store: JobStore) -> None:
    receive(store, 2, 0)
    receive(store, 1, 0)
    receive(store, 3, 0, series="2.0", sop_class=CT)

    found = store.instances(1)
    assert [i.path.as_posix() for i in found] == [
        "instances/1.1/2.0/3.3.dcm",
        "instances/1.1/2.1/3.1.dcm",
        "instances/1.1/2.1/3.2.dcm",
    ]
    assert (found[0].sop_class_uid, found[0].size_bytes) == (CT, 1000)


def test_without_a_clock_of_the_caller_the_database_has_one(store: JobStore) -> None:
    receive(store, 1, 0)

    conclude_checks(store)
    lease = store.claim(JobState.RECEIVED, worker="w", lease_s=60, max_attempts=3)

    assert lease is not None
    assert (lease.lease_until - lease.first_claimed_at).total_seconds() == 60
    assert lease.first_claimed_at > at(1000)
    store.advance_graded(lease, result_key="k", chosen_key="c", documents=[], peers=[PeerSpec("pacs")])
    assert store.claim_delivery("pacs", worker="w", lease_s=60, max_attempts=3) is not None
