"""What is deleted, when, and what a late instance can still rely on."""

from __future__ import annotations

import dataclasses

import pytest

from stenosis_node.domain import Decision, JobState, SeriesReason
from stenosis_node.errors import PermanentError
from stenosis_node.jobs import BeingDeleted, JobStore, Purge
from tests.unit.jobs.drive import (
    CEILING,
    CT,
    QUIET,
    at,
    claimed,
    claimed_delivery,
    decision,
    grade,
    graded,
    instance,
    kinds,
    receive,
    state,
    summary,
)

HOUR = 3600
DAY = 24 * HOUR


def purgeable(store: JobStore, second: float, *, keep: bool = True) -> Purge:
    return store.purgeable(instances_days=7, documents_days=90, keep_ungradable=keep, now=at(second))


def paths(purge: Purge) -> list[str]:
    return [path.name for path in purge.instances]


def delivered(store: JobStore) -> None:
    graded(store)
    store.advance_delivery(claimed_delivery(store, 21), now=at(22))


def test_instances_of_a_finished_study_go_after_their_days(store: JobStore) -> None:
    delivered(store)
    assert not purgeable(store, 22 + 7 * DAY - 1)

    purge = purgeable(store, 22 + 7 * DAY)

    assert paths(purge) == ["3.1.dcm"]
    assert purgeable(store, 23 + 7 * DAY) == purge, "what a crash left is returned again"
    store.mark_purged(purge, now=at(24 + 7 * DAY))
    assert not purgeable(store, 25 + 7 * DAY)
    assert store.instances(1) == ()
    assert summary(store).n_instances == 1


def test_documents_go_later(store: JobStore) -> None:
    delivered(store)
    store.mark_purged(purgeable(store, 50 * DAY))
    purge = purgeable(store, 22 + 90 * DAY)

    assert (purge.instances, purge.result_keys, purge.chosen_keys) == ((), ("aa" * 8,), (f"chosen-{'aa' * 8}",))
    store.mark_purged(purge, now=at(91 * DAY))
    assert not purgeable(store, 92 * DAY)
    assert store.is_own_document("8.aa.1"), "documents are recognised for ever"


@pytest.mark.parametrize("end", ["failed", "received", "graded"])
def test_nothing_of_an_unfinished_study_goes(store: JobStore, end: str) -> None:
    if end == "graded":
        graded(store)
    else:
        receive(store, 1, 0)
    if end == "failed":
        store.fail(claimed(store, 15), sentence="broken", now=at(16))

    assert state(store) == end
    assert not purgeable(store, 1000 * DAY, keep=False)


def test_bytes_that_can_never_be_graded_go_when_the_study_closes(store: JobStore) -> None:
    receive(store, 1, 0, series="2.1")
    receive(store, 2, 0, series="2.2")
    receive(store, 3, 0, series="2.3")
    receive(store, 4, 0, series="2.4", sop_class=CT)
    lease = claimed(store, 15)
    store.record_decisions(
        lease,
        [
            decision("2.1"),
            decision("2.2", Decision.REJECTED, SeriesReason.LOCALIZER),
            decision("2.3", Decision.REJECTED, SeriesReason.TOO_FEW_SLICES),
        ],
    )
    assert not purgeable(store, 16, keep=False)
    grade(store, lease, 17)
    assert not purgeable(store, 18, keep=False), "not closed before it is delivered"
    store.advance_delivery(claimed_delivery(store, 19), now=at(20))
    assert not purgeable(store, 21, keep=True)

    purge = purgeable(store, 21, keep=False)

    assert paths(purge) == ["3.2.dcm", "3.4.dcm"]
    store.mark_purged(purge, now=at(22))
    assert not purgeable(store, 23, keep=False)
    assert [i.sop_instance_uid for i in store.instances(1)] == ["3.1", "3.3"]


def test_a_late_instance_reopens_a_study_whose_ungradable_bytes_are_gone(store: JobStore) -> None:
    receive(store, 1, 0, series="2.1")
    receive(store, 2, 0, series="2.2")
    lease = claimed(store, 15)
    store.record_decisions(lease, [decision("2.1"), decision("2.2", Decision.REJECTED, SeriesReason.LOCALIZER)])
    grade(store, lease, 17, peers=())
    store.mark_purged(purgeable(store, 18, keep=False), now=at(18))

    assert receive(store, 3, 20, series="2.1").reopened
    again = claimed(store, 40)
    store.record_decisions(again, [decision("2.1")])
    detail = store.job(1)
    assert detail is not None
    assert [d.series_instance_uid for d in detail.series] == ["2.1", "2.2"], "what was said of the deleted one stays"


def test_a_resent_instance_that_can_never_be_graded_is_deleted_again(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 0, sop_class=CT)
    grade(store, claimed(store, 15), 16, peers=())
    store.mark_purged(purgeable(store, 18, keep=False), now=at(18))

    assert not receive(store, 2, 20, sop_class=CT).new_instance

    assert paths(purgeable(store, 21, keep=False)) == ["3.2.dcm"]


def test_instances_of_a_study_without_mr_go_after_an_hour(store: JobStore) -> None:
    receive(store, 1, 0, sop_class=CT)
    assert not purgeable(store, 3599, keep=False)
    assert not purgeable(store, 3600, keep=True)

    purge = purgeable(store, 3600, keep=False)

    assert paths(purge) == ["3.1.dcm"]
    store.mark_purged(purge, now=at(3601))
    store.mark_purged(purge, now=at(3602))
    assert (store.status().discarded, store.status().discarded_bytes) == (1, 1000), "all that is left of it"
    assert receive(store, 1, 3700, sop_class=CT).new_instance, "its row is gone too"
    store.mark_purged(purgeable(store, 8000, keep=False), now=at(8001))
    assert (store.status().discarded, store.status().instances) == (2, 0)


def test_a_late_instance_of_a_deleted_study_waits_until_the_whole_study_is_sent_again(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 0)
    grade(store, claimed(store, 15), 16, peers=())
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))

    assert not receive(store, 3, 9 * DAY).reopened
    assert state(store) == JobState.DELIVERED
    assert kinds(store)[-1] == "after-purge"
    receive(store, 1, 9 * DAY + 1)
    assert state(store) == JobState.DELIVERED
    receive(store, 2, 9 * DAY + 2)

    assert state(store) == JobState.RECEIVED
    assert len(store.instances(1)) == 3
    assert summary(store).n_instances == 3
    assert claimed(store, 9 * DAY + 20).first_claimed_at == at(9 * DAY + 20)


def test_the_whole_of_a_deleted_study_sent_again_changes_nothing(store: JobStore) -> None:
    delivered(store)
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))

    receive(store, 1, 9 * DAY)

    assert state(store) == JobState.DELIVERED
    assert not purgeable(store, 9 * DAY + HOUR - 1), "there is time to retry"
    assert paths(purgeable(store, 9 * DAY + HOUR)) == ["3.1.dcm"], "and goes again"


def test_a_study_whose_files_are_gone_cannot_be_graded_again(store: JobStore) -> None:
    receive(store, 1, 0)
    store.cancel(1, now=at(5))
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))

    with pytest.raises(PermanentError, match="send the whole study again"):
        store.retry(1, now=at(9 * DAY))
    receive(store, 1, 9 * DAY)
    assert store.retry(1, now=at(9 * DAY + 60)) == JobState.RECEIVED
    assert not purgeable(store, 1000 * DAY, keep=False), "nothing of an unfinished study goes"
    claimed(store, 1000 * DAY)


def test_many_instances_are_marked_in_portions(store: JobStore) -> None:
    many = [(instance(number), False) for number in range(1201)]
    store.touch_many(many, quiet_period_s=QUIET, ceiling_s=CEILING, now=at(0))
    grade(store, claimed(store, 15), 16, peers=())

    purge = purgeable(store, 8 * DAY)
    assert len(purge.instances) == 1201
    store.mark_purged(purge, now=at(8 * DAY))
    assert not purgeable(store, 8 * DAY)


def two_series(store: JobStore) -> None:
    """2.1 was graded, 2.2 rejected for good, and a CT image came with them."""
    receive(store, 1, 0)
    receive(store, 2, 0, series="2.2")
    receive(store, 3, 0, sop_class=CT)
    lease = claimed(store, 15)
    store.record_decisions(lease, [decision("2.1"), decision("2.2", Decision.REJECTED, SeriesReason.LOCALIZER)])
    grade(store, lease, 16, peers=())


def test_a_study_sent_again_needs_nothing_that_can_never_be_graded(store: JobStore) -> None:
    two_series(store)
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))

    receive(store, 2, 9 * DAY, series="2.2")
    receive(store, 3, 9 * DAY, sop_class=CT)
    assert not purgeable(store, 9 * DAY + 5, keep=False), "nothing goes while the study comes again"
    assert not receive(store, 4, 9 * DAY + 10).reopened
    receive(store, 1, 9 * DAY + 10)

    assert state(store) == JobState.RECEIVED
    assert [i.sop_instance_uid for i in store.instances(1)] == ["3.1", "3.3", "3.4", "3.2"]


def test_a_study_starts_again_without_what_can_never_be_graded(store: JobStore) -> None:
    two_series(store)
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))

    receive(store, 4, 9 * DAY)
    receive(store, 1, 9 * DAY)

    assert state(store) == JobState.RECEIVED


def test_retry_needs_nothing_that_can_never_be_graded(store: JobStore) -> None:
    two_series(store)
    store.mark_purged(purgeable(store, 20, keep=False), now=at(20))
    assert receive(store, 4, 30).reopened
    store.fail(claimed(store, 50), sentence="disk full", now=at(51))

    assert store.retry(1, now=at(60)) == JobState.RECEIVED


def test_retry_of_a_study_of_which_nothing_is_left_is_refused(store: JobStore) -> None:
    receive(store, 1, 0)
    rejected = decision("2.1", Decision.REJECTED, SeriesReason.LOCALIZER)
    store.reject(claimed(store, 15), reason="no-candidate", sentence="none", decisions=[rejected], now=at(16))
    store.mark_purged(purgeable(store, 20, keep=False), now=at(20))

    with pytest.raises(PermanentError, match="send the whole study again"):
        store.retry(1, now=at(60))


def test_a_part_of_a_deleted_study_that_comes_again_goes_again(store: JobStore) -> None:
    receive(store, 1, 0)
    receive(store, 2, 0)
    grade(store, claimed(store, 15), 16, peers=())
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))
    receive(store, 1, 9 * DAY)
    assert not purgeable(store, 9 * DAY + HOUR - 1)

    purge = purgeable(store, 9 * DAY + HOUR)

    assert paths(purge) == ["3.1.dcm"]
    assert kinds(store)[-1] == "purged"
    store.mark_purged(purge, now=at(9 * DAY + HOUR))
    assert not purgeable(store, 10 * DAY)
    assert kinds(store).count("purged") == 2


def test_a_burst_after_the_deletion_is_told_once_and_kept_as_long_as_any(store: JobStore) -> None:
    delivered(store)
    store.mark_purged(purgeable(store, 8 * DAY), now=at(8 * DAY))

    late = [dataclasses.replace(instance(number), received_at=at(9 * DAY)) for number in range(2, 22)]
    for number, one in enumerate(late):
        store.touch(one, quiet_period_s=QUIET, ceiling_s=CEILING, now=at(9 * DAY + number))

    assert kinds(store).count("after-purge") == 1
    assert not purgeable(store, 16 * DAY - 1, keep=False)
    assert len(purgeable(store, 16 * DAY, keep=False).instances) == 20
    receive(store, 30, 20 * DAY)
    assert kinds(store).count("after-purge") == 2


# --------------------------------------------------------------------------- what comes while it is being deleted


@pytest.mark.parametrize("conflict", [False, True])
def test_an_instance_that_is_being_deleted_is_not_acknowledged(store: JobStore, conflict: bool) -> None:
    delivered(store)
    purge = purgeable(store, 8 * DAY)

    with pytest.raises(BeingDeleted, match="send it again"):
        receive(store, 1, 8 * DAY, conflict=conflict)
    assert purgeable(store, 8 * DAY) == purge

    store.mark_purged(purge, now=at(8 * DAY))
    receive(store, 1, 8 * DAY + 1, conflict=conflict)
    assert len(store.instances(1)) == 1


def test_an_instance_without_a_study_that_is_being_deleted_is_neither_acknowledged_nor_adopted(store: JobStore) -> None:
    receive(store, 1, 0, sop_class=CT)
    purge = purgeable(store, 3600, keep=False)

    with pytest.raises(BeingDeleted):
        receive(store, 1, 3600, sop_class=CT)
    receive(store, 2, 3600)
    store.mark_purged(purge, now=at(3601))

    assert [i.sop_instance_uid for i in store.instances(1)] == ["3.2"]
    assert summary(store).n_instances == 1
    assert receive(store, 1, 3602, sop_class=CT).new_instance


def test_a_result_whose_documents_are_being_deleted_is_not_made_the_latest_again(store: JobStore) -> None:
    delivered(store)
    store.mark_purged(purgeable(store, 50 * DAY), now=at(50 * DAY))
    purge = purgeable(store, 100 * DAY)
    assert purge.result_keys == ("aa" * 8,)
    receive(store, 1, 100 * DAY)
    assert receive(store, 2, 100 * DAY).reopened
    lease = claimed(store, 100 * DAY + 20)

    with pytest.raises(BeingDeleted, match="made again"):
        grade(store, lease, 100 * DAY + 21)

    store.mark_purged(purge, now=at(100 * DAY + 22))
    with pytest.raises(BeingDeleted, match="made again"):
        grade(store, lease, 100 * DAY + 23)  # what this attempt wrote may have been deleted with them
    store.retry_later(lease, retry_at=at(100 * DAY + 24), sentence="again", max_attempts=3, now=at(100 * DAY + 24))
    grade(store, claimed(store, 100 * DAY + 25), 100 * DAY + 26)
    assert "unchanged" in kinds(store)
    assert purgeable(store, 191 * DAY).result_keys == ("aa" * 8,), "what was made again goes again"
