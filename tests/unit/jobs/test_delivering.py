"""One queue per peer."""

from __future__ import annotations

import pytest

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import JobStore, PeerSpec, Step
from tests.unit.jobs.drive import (
    at,
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

OPTIONAL = PeerSpec("mirror", required=False)


def test_a_delivery_is_marked_as_started_when_it_is_claimed(store: JobStore) -> None:
    job_id = graded(store)
    assert claim_delivery(store, 19) is None

    lease = claimed_delivery(store, 21)

    assert (lease.job_id, lease.study_instance_uid, lease.peer, lease.attempt) == (job_id, "1.1", "pacs", 1)
    assert (lease.result_key, lease.revision, lease.first_started_at) == ("aa" * 8, 1, None)
    assert lease.confirmed == frozenset()
    detail = store.job(job_id)
    assert detail is not None
    assert detail.deliveries[0].started_at == at(21)
    assert claim_delivery(store, 22) is None
    assert claim_delivery(store, 22, "somebody else") is None


def test_a_job_is_delivered_when_every_required_peer_has_everything(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive", OPTIONAL))

    assert store.advance_delivery(claimed_delivery(store, 21, "pacs"), now=at(22)) == JobState.GRADED
    assert store.advance_delivery(claimed_delivery(store, 21, "archive"), now=at(23)) == JobState.DELIVERED
    assert summary(store).state_since == at(23)
    assert store.advance_delivery(claimed_delivery(store, 24, "mirror"), now=at(25)) == JobState.DELIVERED
    assert kinds(store).count("delivered") == 1


def test_a_dead_peer_holds_up_no_other(store: JobStore) -> None:
    for number in range(1, 4):
        graded(store, peers=("dead", "pacs"), number=number, study=f"1.{number}")
    for _ in range(3):
        lease = claimed_delivery(store, 21, "dead")
        later = store.retry_delivery_later(lease, retry_at=at(500), sentence="refused", max_attempts=9, now=at(22))
        assert later == DeliveryState.PENDING
    assert claim_delivery(store, 23, "dead") is None

    for _ in range(3):
        assert store.advance_delivery(claimed_delivery(store, 23, "pacs"), now=at(24)) == JobState.GRADED

    assert claimed_delivery(store, 500, "dead").attempt == 2


def test_a_required_peer_that_failed_fails_the_job_and_the_others_go_on(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))

    store.fail_delivery(claimed_delivery(store, 21, "pacs"), sentence="SOP class refused", now=at(22))

    job = summary(store)
    assert (job.state, job.failed_in) == (JobState.FAILED, Step.DELIVER)
    assert job.message == "delivery to pacs failed: SOP class refused"
    assert store.advance_delivery(claimed_delivery(store, 23, "archive"), now=at(24)) == JobState.FAILED


def test_an_optional_peer_that_failed_does_not_fail_the_job(store: JobStore) -> None:
    graded(store, peers=("pacs", OPTIONAL))

    store.fail_delivery(claimed_delivery(store, 21, "mirror"), sentence="no", now=at(22))
    assert state(store) == JobState.GRADED
    assert store.advance_delivery(claimed_delivery(store, 21, "pacs"), now=at(23)) == JobState.DELIVERED


def test_attempts_that_are_used_up_fail_the_delivery(store: JobStore) -> None:
    graded(store)
    for second in (30, 40):
        lease = claimed_delivery(store, second)
        store.retry_delivery_later(lease, retry_at=at(second + 10), sentence="timeout", max_attempts=3, now=at(second))
    last = claimed_delivery(store, 50)

    failed = store.retry_delivery_later(last, retry_at=at(60), sentence="timeout", max_attempts=3, now=at(50))

    assert (failed, state(store)) == (DeliveryState.FAILED, JobState.FAILED)
    assert summary(store).message == "delivery to pacs failed: given up after 3 attempts: timeout"


def test_a_delivery_that_kills_its_worker_fails(store: JobStore) -> None:
    graded(store)
    for second in (21, 22, 23):
        claimed_delivery(store, second)
        assert store.free_leases_of("sender", now=at(second)) == 1

    assert claim_delivery(store, 24) is None
    assert summary(store).message == "delivery to pacs failed: the delivering process died 3 times on it"


def test_an_expired_delivery_is_given_to_another_and_the_first_is_fenced_out(store: JobStore) -> None:
    graded(store)
    first = claimed_delivery(store, 21)
    store.renew_delivery(first, lease_s=60, now=at(40))
    assert claim_delivery(store, 99) is None

    second = claimed_delivery(store, 100)

    assert (second.attempt, second.first_started_at) == (2, at(21))
    for use in (
        lambda: store.renew_delivery(first, lease_s=60, now=at(101)),
        lambda: store.advance_delivery(first, now=at(101)),
        lambda: store.release_delivery(first, now=at(101)),
    ):
        with pytest.raises(LeaseLost):
            use()
    assert store.advance_delivery(second, now=at(102)) == JobState.DELIVERED


def test_an_answer_that_comes_after_the_lease_is_lost_is_a_fact_all_the_same(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    receive(store, 2, 22)

    with pytest.raises(LeaseLost):
        store.record_document(lease, "8.aa.1", status=0, text="", now=at(23))

    grade(store, claimed(store, 40), 41, "bb" * 8)
    (first, second) = store.recallable(job_id=1)
    assert [row.sop_instance_uid for row in first.documents] == ["8.aa.1"], "or nobody would ever withdraw it"
    assert second.documents == ()


def test_a_delivery_given_back_does_not_count_as_an_attempt(store: JobStore) -> None:
    graded(store)
    for second in range(21, 30):
        lease = claimed_delivery(store, second)
        assert lease.attempt == 1
        store.release_delivery(lease, now=at(second))


@pytest.mark.parametrize(
    ("status", "confirms"),
    [(0x0000, True), (0xB000, True), (0xB007, True), (0xA700, False), (0x0122, False), (0xC000, False), (None, False)],
)
def test_success_and_warnings_confirm_a_document(store: JobStore, status: int | None, confirms: bool) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.record_document(lease, "8.aa.1", status=status, text="said so", now=at(22))
    store.retry_delivery_later(lease, retry_at=at(23), sentence="aborted", max_attempts=9, now=at(22))

    assert claimed_delivery(store, 23).confirmed == ({"8.aa.1"} if confirms else set())
    detail = store.job(1)
    assert detail is not None
    (answer,) = detail.deliveries[0].receipts
    assert (answer.status, answer.text, answer.confirmed, answer.at) == (status, "said so", confirms, at(22))


def test_what_a_peer_confirmed_stays_confirmed(store: JobStore) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    for status in (0xA700, 0x0000, 0xA700):
        store.record_document(lease, "8.aa.1", status=status, text="", now=at(22))

    detail = store.job(1)
    assert detail is not None
    assert [(r.status, r.confirmed) for r in detail.deliveries[0].receipts] == [(0, True)]


def test_what_one_peer_confirmed_says_nothing_about_another(store: JobStore) -> None:
    graded(store, peers=("pacs", "archive"))
    store.record_document(claimed_delivery(store, 21, "pacs"), "8.aa.1", status=0, text="", now=at(22))

    assert claimed_delivery(store, 23, "archive").confirmed == frozenset()


@pytest.mark.parametrize(
    ("status", "stored"),
    [
        (0x0000, True),
        (0x0001, True),
        (0x0107, True),
        (0x0111, True),
        (0x0116, True),
        (0xB007, True),
        (0x0110, False),
        (0xA700, False),
        (0xC001, False),
        (None, False),
    ],
)
def test_the_status_says_whether_the_peer_has_the_document(store: JobStore, status: int | None, stored: bool) -> None:
    graded(store)
    lease = claimed_delivery(store, 21)
    store.record_document(lease, "8.aa.1", status=status, text="", now=at(22))
    store.record_document(lease, "8.aa.2", status=status, text="", confirmed=not stored, now=at(22))
    store.release_delivery(lease, now=at(23))

    assert claimed_delivery(store, 24).confirmed == {"8.aa.1" if stored else "8.aa.2"}, "what the sender says counts"
