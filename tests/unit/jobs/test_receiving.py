"""What received instances do to jobs."""

from __future__ import annotations

import pytest

from stenosis_node.domain import JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import JobStore
from tests.unit.jobs.drive import (
    CEILING,
    CT,
    ENHANCED_MR,
    QUIET,
    at,
    claim,
    claim_delivery,
    claimed,
    claimed_delivery,
    document,
    grade,
    graded,
    instance,
    kinds,
    receive,
    state,
    summary,
)


def test_the_first_mr_instance_opens_the_job_of_its_study(store: JobStore) -> None:
    first = receive(store, 1, 0)
    second = receive(store, 2, 1)
    other = receive(store, 3, 1, study="1.2", sop_class=ENHANCED_MR)

    assert first.new_instance
    assert not first.reopened
    assert second.job_id == first.job_id
    assert other.job_id not in (None, first.job_id)
    assert store.counts()[JobState.RECEIVED] == 2
    assert summary(store, first.job_id).n_instances == 2
    assert kinds(store, first.job_id) == ["opened"]


def test_each_new_instance_postpones_the_end_of_the_quiet_period(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 6)

    assert claim(store, 6 + QUIET - 0.001) is None
    assert claim(store, 6 + QUIET) is not None


def test_a_study_that_never_falls_quiet_is_graded_at_the_ceiling(store: JobStore) -> None:
    for second in range(0, CEILING + 5, 5):
        receive(store, second, second)

    assert summary(store).quiet_until == at(CEILING)
    assert claim(store, CEILING - 1) is None
    assert claim(store, CEILING) is not None


def test_an_exact_resend_changes_nothing(store: JobStore) -> None:
    receive(store, 1, 0)
    before = store.job(1)

    again = receive(store, 1, 9)

    assert (again.new_instance, again.reopened, again.job_id) == (False, False, 1)
    assert store.job(1) == before


@pytest.mark.parametrize("step", ["grading", "delivering", "delivered"])
def test_an_exact_resend_disturbs_nobody_at_work(store: JobStore, step: str) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)
    if step == "grading":
        receive(store, 1, 16)
        grade(store, lease, 20)
    else:
        grade(store, lease, 20)
        delivery = claimed_delivery(store, 21)
        if step == "delivering":
            receive(store, 1, 22)
        store.advance_delivery(delivery, now=at(23))
        if step == "delivered":
            receive(store, 1, 24)
        assert state(store) == JobState.DELIVERED


def test_a_late_instance_takes_the_job_from_the_grader(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 15)

    late = receive(store, 2, 16)

    assert late.reopened
    with pytest.raises(LeaseLost):
        grade(store, lease, 17)
    with pytest.raises(LeaseLost):
        store.renew(lease, lease_s=60, now=at(17))
    assert claim(store, 16 + QUIET - 1) is None
    again = claimed(store, 16 + QUIET)
    assert again.attempt == 1
    assert again.first_claimed_at == at(16 + QUIET)
    assert kinds(store) == ["opened", "claimed", "reopened", "claimed"]


def test_a_late_instance_gets_a_quiet_period_and_a_ceiling_of_its_own(store: JobStore) -> None:
    graded(store)

    receive(store, 2, 5000)

    assert summary(store).quiet_until == at(5000 + QUIET)
    for second in range(5000, 5200, 5):
        receive(store, second, second)
    assert summary(store).quiet_until == at(5000 + CEILING)


def test_a_late_instance_takes_the_delivery_from_the_sender(store: JobStore) -> None:
    graded(store)
    delivery = claimed_delivery(store, 21)
    store.record_document(delivery, "8.aa.1", status=0, text="", now=at(22))

    receive(store, 2, 23)

    assert state(store) == JobState.RECEIVED
    for use in (
        lambda: store.record_document(delivery, "8.aa.2", status=0, text="", now=at(24)),
        lambda: store.advance_delivery(delivery, now=at(24)),
        lambda: store.renew_delivery(delivery, lease_s=60, now=at(24)),
        lambda: store.fail_delivery(delivery, sentence="no", now=at(24)),
        lambda: store.retry_delivery_later(delivery, retry_at=at(30), sentence="no", max_attempts=3, now=at(24)),
    ):
        with pytest.raises(LeaseLost):
            use()
    assert claim_delivery(store, 1000) is None, "nothing of the older result leaves while the study is open"


@pytest.mark.parametrize("end", ["delivered", "rejected", "failed", "cancelled"])
def test_a_late_instance_opens_a_closed_job_again(store: JobStore, end: str) -> None:
    receive(store, 1, 0)
    match end:
        case "delivered":
            grade(store, claimed(store, 15), 16, peers=())
        case "rejected":
            store.reject(claimed(store, 15), reason="no-candidate", sentence="nothing axial", now=at(16))
        case "failed":
            store.fail(claimed(store, 15), sentence="broken", now=at(16))
        case _:
            store.cancel(1, now=at(16))
    assert state(store) == end

    assert receive(store, 2, 20).reopened

    job = summary(store)
    assert (job.state, job.attempts, job.message, job.reason, job.failed_in) == (JobState.RECEIVED, 0, None, None, None)
    assert claimed(store, 30).attempt == 1


def test_the_rest_of_a_study_does_not_undo_its_cancelling(store: JobStore) -> None:
    receive(store, 1, 0)
    store.cancel(1, now=at(5))

    for number, second in ((2, 6), (3, 15), (4, 24)):
        touch = receive(store, number, second)
        assert (touch.new_instance, touch.reopened) == (True, False)

    assert state(store) == JobState.CANCELLED
    assert summary(store).n_instances == 4
    assert kinds(store) == ["opened", "cancelled"]
    assert receive(store, 5, 24 + QUIET).reopened, "the quiet period is over"


def test_a_job_that_is_retried_while_it_is_received_waits_for_the_rest(store: JobStore) -> None:
    receive(store, 1, 0)
    store.cancel(1, now=at(5))
    receive(store, 2, 9)

    store.retry(1, now=at(9))

    assert claim(store, 9 + QUIET - 1) is None
    assert len(store.instances(claimed(store, 9 + QUIET).job_id)) == 2


def test_what_comes_to_a_cancelled_delivery_is_graded_when_it_is_retried(store: JobStore) -> None:
    """An association that goes on beyond the ceiling."""
    for number, second in enumerate(range(0, CEILING + 1, QUIET - 1)):
        receive(store, number, second)
    grade(store, claimed(store, CEILING), CEILING + 1)
    store.cancel(1, now=at(CEILING + 1))
    assert not receive(store, 99, CEILING + 2).reopened

    assert store.retry(1, now=at(CEILING + 3)) == JobState.RECEIVED
    assert claimed(store, CEILING + 20).first_claimed_at == at(CEILING + 20)


def test_other_classes_are_counted_but_neither_open_nor_postpone_nor_reopen(store: JobStore) -> None:
    assert receive(store, "ct", 0, study="1.9", sop_class=CT).job_id is None
    assert store.list_jobs() == ()

    receive(store, 1, 0)
    counted = receive(store, 2, 5, sop_class=CT)
    assert (counted.job_id, counted.new_instance, counted.reopened) == (1, True, False)
    lease = claimed(store, QUIET)
    receive(store, 3, QUIET, sop_class=CT)
    grade(store, lease, 12)
    receive(store, 4, 13, sop_class=CT)

    assert state(store) == JobState.GRADED
    assert summary(store).n_instances == 4


def test_instances_that_came_before_the_first_mr_instance_are_adopted(store: JobStore) -> None:
    receive(store, 1, 0, sop_class=CT)
    receive(store, 2, 0, sop_class=CT, study="1.2")
    job_id = receive(store, 3, 1).job_id

    assert job_id is not None
    assert [i.sop_instance_uid for i in store.instances(job_id)] == ["3.1", "3.3"]
    assert summary(store, job_id).n_instances == 2


def test_the_same_uid_with_other_bytes_is_shown_on_the_job_once(store: JobStore) -> None:
    receive(store, 1, 0)
    for second in (1, 2):
        touch = receive(store, 1, second, conflict=True)
        assert not touch.new_instance

    detail = store.job(1)
    assert detail is not None
    assert detail.conflicts == 2
    assert kinds(store) == ["opened", "conflict"]
    assert detail.job.quiet_until == at(QUIET)


def test_other_bytes_than_a_file_without_a_row_has_are_shown_too(store: JobStore) -> None:
    """A reception that was refused, or died before its row, left its file."""
    receive(store, 1, 0)
    assert receive(store, 2, 1, conflict=True).new_instance
    detail = store.job(1)
    assert detail is not None
    assert detail.conflicts == 1
    assert kinds(store) == ["opened", "conflict"]


def test_a_group_is_written_down_in_one_transaction_and_in_order(store: JobStore) -> None:
    receive(store, 1, 0)
    group = [
        instance(2),
        instance(5, study="1.2"),
        instance(1),
        instance(3),
        instance(3),
        instance(9, study="1.3", sop_class=CT),
    ]

    touches = store.touch_many([(i, False) for i in group], quiet_period_s=QUIET, ceiling_s=CEILING, now=at(1))

    assert [t.new_instance for t in touches] == [True, True, False, True, False, True]
    assert [t.job_id for t in touches] == [1, touches[1].job_id, 1, 1, 1, None]
    assert summary(store, 1).n_instances == 3


def test_a_group_that_fails_leaves_nothing(store: JobStore) -> None:
    naive = instance(2)
    object.__setattr__(naive, "received_at", at(0).replace(tzinfo=None))

    with pytest.raises(Exception, match="naive"):
        store.touch_many([(instance(1), False), (naive, False)], quiet_period_s=1, ceiling_s=1, now=at(0))

    assert store.list_jobs() == ()


def test_an_open_association_keeps_its_studies_open_up_to_the_ceiling(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 0, study="1.2")

    store.postpone_open(["1.1", "1.7"], until=at(50), now=at(46))
    assert (summary(store, 1).quiet_until, summary(store, 2).quiet_until) == (at(50), at(QUIET))
    store.postpone_open(["1.1"], until=at(30), now=at(26))
    assert summary(store, 1).quiet_until == at(50)
    store.postpone_open(["1.1"], until=at(CEILING + 50), now=at(CEILING))
    assert summary(store, 1).quiet_until == at(CEILING)


def test_our_own_documents_are_recognised(store: JobStore) -> None:
    assert not store.is_own_document("8.aa.1")
    graded(store)
    assert store.is_own_document(document("8.aa.1").sop_instance_uid)
    assert not store.is_own_document("3.1")
