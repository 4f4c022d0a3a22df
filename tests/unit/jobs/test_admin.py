"""The list, the story of a job, retry, cancel, hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost, PermanentError
from stenosis_node.jobs import JobStore, PeerSpec, Step
from tests.unit.jobs.drive import (
    at,
    claim,
    claim_delivery,
    claimed,
    claimed_delivery,
    grade,
    graded,
    kinds,
    receive,
    state,
    summary,
)


def test_jobs_are_listed_newest_first_with_filters(store: JobStore) -> None:
    for number in range(1, 6):
        receive(store, number, number, study=f"1.{number}")
    store.cancel(2, now=at(50))
    store.cancel(4, now=at(50))

    assert [j.id for j in store.list_jobs()] == [5, 4, 3, 2, 1]
    assert [j.id for j in store.list_jobs(limit=2)] == [5, 4]
    assert [j.id for j in store.list_jobs(states=[JobState.CANCELLED])] == [4, 2]
    assert [j.id for j in store.list_jobs(states=[])] == []
    assert [j.id for j in store.list_jobs(study="1.3")] == [3]
    assert store.counts() == dict.fromkeys(JobState, 0) | {JobState.RECEIVED: 3, JobState.CANCELLED: 2}


def test_a_job_is_found_by_number_and_by_study(store: JobStore) -> None:
    receive(store, 1, 0, study="1.2.840.7")

    by_uid = store.job("1.2.840.7")
    assert by_uid is not None
    assert by_uid == store.job(1) == store.job("1")
    assert store.job(2) is None
    assert store.job("9" * 30) is None
    assert store.job("1.2.840") is None


def _failed_in_grading(store: JobStore) -> None:
    receive(store, 1, 0)
    store.fail(claimed(store, 15), sentence="broken", now=at(16))


def _failed_in_delivery(store: JobStore) -> None:
    graded(store)
    store.fail_delivery(claimed_delivery(store, 21), sentence="refused", now=at(22))


def _cancelled_before_grading(store: JobStore) -> None:
    receive(store, 1, 0)
    store.cancel(1, now=at(5))


def _cancelled_before_delivery(store: JobStore) -> None:
    graded(store)
    store.cancel(1, now=at(22))


def _rejected(store: JobStore) -> None:
    receive(store, 1, 0)
    store.reject(claimed(store, 15), reason="no-candidate", sentence="none", now=at(16))


def _waits_for_another_attempt(store: JobStore) -> None:
    receive(store, 1, 0)
    store.retry_later(claimed(store, 15), retry_at=at(9000), sentence="later", max_attempts=3, now=at(16))


def _delivery_waits_for_another_attempt(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.retry_delivery_later(lease, retry_at=at(9000), sentence="later", max_attempts=3, now=at(22))


@pytest.mark.parametrize(
    ("stop", "again"),
    [
        (_failed_in_grading, JobState.RECEIVED),
        (_cancelled_before_grading, JobState.RECEIVED),
        (_rejected, JobState.RECEIVED),
        (_waits_for_another_attempt, JobState.RECEIVED),
        (_failed_in_delivery, JobState.GRADED),
        (_cancelled_before_delivery, JobState.GRADED),
        (_delivery_waits_for_another_attempt, JobState.GRADED),
    ],
)
def test_retry_goes_back_to_the_last_durable_fact(
    store: JobStore, stop: Callable[[JobStore], None], again: JobState
) -> None:
    stop(store)
    before = summary(store)

    assert store.retry(1, now=at(100)) == again

    job = summary(store)
    assert (job.state, job.attempts, job.retry_at, job.message, job.failed_in) == (again, 0, None, None, None)
    assert kinds(store)[-1] == "retried"
    if again == JobState.RECEIVED:
        lease = claimed(store, 101)
        assert (lease.attempt, lease.first_claimed_at) == (1, before.first_claimed_at or at(101))
    else:
        assert claim(store, 101) is None, "a complete result is never graded again"
        assert claimed_delivery(store, 101).attempt == 1


def test_retry_never_sends_confirmed_documents_again(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    store.advance_delivery(claimed_delivery(store, 21, "archive"), now=at(21))
    lease = claimed_delivery(store, 21)
    store.record_document(lease, "8.aa.1", status=0, text="", now=at(22))
    store.fail_delivery(lease, sentence="refused", now=at(22))

    store.retry(1, now=at(30))

    assert claim_delivery(store, 31, "archive") is None
    again = claimed_delivery(store, 31)
    assert again.confirmed == {"8.aa.1"}
    assert store.advance_delivery(again, now=at(32)) == JobState.DELIVERED


def test_retry_of_a_delivered_job_tries_its_optional_peers_again(store: JobStore) -> None:
    graded(store, peers=("pacs", PeerSpec("mirror", required=False)))
    store.advance_delivery(claimed_delivery(store, 21), now=at(21))
    store.fail_delivery(claimed_delivery(store, 21, "mirror"), sentence="refused", now=at(22))

    assert store.retry(1, now=at(30)) == JobState.DELIVERED
    assert claim_delivery(store, 31, "mirror") is not None


def _being_graded(store: JobStore) -> None:
    receive(store, 1, 0)
    claimed(store, 15)


def _delivered(store: JobStore) -> None:
    graded(store)
    store.advance_delivery(claimed_delivery(store, 21), now=at(22))


@pytest.mark.parametrize(
    ("situation", "sentence"),
    [
        (lambda store: None, "there is no job 1"),
        (lambda store: receive(store, 1, 0), "waits for its turn"),
        (_being_graded, "being worked on by grader"),
        (graded, "no delivery waits"),
        (_delivered, "is delivered and no delivery waits"),
    ],
)
def test_retry_says_when_there_is_nothing_to_retry(
    store: JobStore, situation: Callable[[JobStore], object], sentence: str
) -> None:
    situation(store)
    before = store.job(1)

    with pytest.raises(PermanentError, match=sentence):
        store.retry(1, now=at(30))

    assert store.job(1) == before


def test_cancel_takes_the_job_from_the_grader(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)

    store.cancel(1, now=at(16))

    assert (state(store), summary(store).failed_in) == (JobState.CANCELLED, Step.GRADE)
    with pytest.raises(LeaseLost):
        grade(store, lease, 17)
    assert claim(store, 1000) is None


def test_cancel_takes_the_delivery_from_the_sender(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    lease = claimed_delivery(store, 21)

    store.cancel(1, now=at(22))

    with pytest.raises(LeaseLost):
        store.advance_delivery(lease, now=at(23))
    assert claim_delivery(store, 1000) is None
    assert claim_delivery(store, 1000, "archive") is None


def test_a_failed_job_that_is_cancelled_remembers_where_it_stopped(store: JobStore) -> None:
    _failed_in_delivery(store)
    store.cancel(1, now=at(30))
    assert store.retry(1, now=at(31)) == JobState.GRADED


@pytest.mark.parametrize("situation", [_delivered, _rejected, _cancelled_before_grading, lambda store: None])
def test_cancel_says_when_the_job_is_over(store: JobStore, situation: Callable[[JobStore], object]) -> None:
    situation(store)
    before = store.job(1)

    with pytest.raises(PermanentError, match=r"nothing to cancel|there is no job 1"):
        store.cancel(1, now=at(30))

    assert store.job(1) == before


def test_a_held_job_is_given_to_nobody(store: JobStore) -> None:
    receive(store, 1, 0)
    store.hold(1, sentence="waits for the rest of the study", now=at(1))
    assert claim(store, 1000) is None
    store.unhold(1, sentence="complete", now=at(2))
    lease = claimed(store, 15)
    grade(store, lease, 16)
    store.hold(1, sentence="waits", now=at(17))
    assert claim_delivery(store, 1000) is None
    assert kinds(store) == ["opened", "held", "unheld", "claimed", "graded", "held"]


def test_a_delivery_state_is_shown_with_what_the_peer_said(store: JobStore) -> None:
    _failed_in_delivery(store)

    detail = store.job(1)
    assert detail is not None
    (delivery,) = detail.deliveries
    assert (delivery.state, delivery.message, delivery.attempts) == (DeliveryState.FAILED, "refused", 1)
    assert kinds(store)[-2:] == ["delivery-failed", "failed"]
