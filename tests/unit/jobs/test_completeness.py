"""A study is graded once somebody found it complete."""

from __future__ import annotations

import dataclasses

import pytest

from stenosis_node.domain import JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import CheckLease, JobStore
from tests.unit.jobs.drive import (
    CEILING,
    CT,
    QUIET,
    at,
    claimed,
    detail,
    grade,
    graded,
    instance,
    kinds,
    receive,
    state,
    summary,
)


def claim_check(store: JobStore, second: float) -> CheckLease | None:
    return store.claim_check(worker="checker", lease_s=60, now=at(second))


def checking(store: JobStore, second: float) -> CheckLease:
    lease = claim_check(store, second)
    assert lease is not None
    return lease


def claim_only(store: JobStore, second: float) -> object:
    """Without concluding any check."""
    return store.claim(JobState.RECEIVED, worker="grader", lease_s=60, max_attempts=3, now=at(second))


def test_a_study_is_graded_only_once_it_is_complete(store: JobStore) -> None:
    receive(store, 1, 0)
    assert claim_check(store, QUIET - 1) is None, "it is not quiet"
    assert claim_only(store, 1000) is None, "nobody has said that it is complete"
    lease = checking(store, QUIET)
    assert (lease.study_instance_uid, lease.fetch_rounds, lease.past_ceiling) == ("1.1", 0, False)
    assert claim_check(store, QUIET) is None, "one asks at a time"

    assert store.conclude_check(lease, because="the PACS has the same 1 instance", now=at(11))

    assert summary(store).complete_because == "the PACS has the same 1 instance"
    assert detail(store).events[-1].sentence == "because the PACS has the same 1 instance"
    assert claim_only(store, 11) is not None
    assert claim_check(store, 1000) is None


def test_who_sent_most_comes_first(store: JobStore) -> None:
    for number, sender in enumerate(("B", "A", "MR1", "MR1", "MR1", "A")):
        one = dataclasses.replace(instance(number), calling_ae_title=sender)
        store.touch(one, quiet_period_s=QUIET, ceiling_s=CEILING, now=at(0))

    assert checking(store, 20).calling_ae_titles == ("MR1", "A", "B")


def test_the_study_that_has_waited_longest_is_checked_first_and_one_that_waits_holds_up_no_other(
    store: JobStore,
) -> None:
    receive(store, 1, 2)
    receive(store, 2, 1, study="1.2")
    first = checking(store, 20)
    assert first.study_instance_uid == "1.2"
    store.postpone_check(first, retry_at=at(50), sentence="the PACS does not answer", fetched=False, now=at(21))

    assert checking(store, 21).study_instance_uid == "1.1"
    assert claim_check(store, 49) is None
    assert summary(store, 2).message == "the PACS does not answer"
    again = checking(store, 50)
    assert (again.study_instance_uid, again.fetch_rounds) == ("1.2", 0)
    store.conclude_check(again, because="nobody could be asked", now=at(51))
    assert summary(store, 2).message is None


def test_what_is_fetched_during_a_check_does_not_revoke_it_and_counts_a_round(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = checking(store, QUIET)
    for number in (2, 3):
        receive(store, number, QUIET + 1)

    store.renew_check(lease, lease_s=60, now=at(12))
    store.postpone_check(lease, retry_at=at(12), sentence="fetched 2 of 2", fetched=True, now=at(12))

    assert claim_check(store, 2 * QUIET) is None, "quiet again first"
    again = checking(store, 2 * QUIET + 1)
    assert again.fetch_rounds == 1
    assert store.conclude_check(again, because="fetched 2 of 2", now=at(22))
    assert summary(store).fetch_rounds == 1


def test_a_check_says_nothing_about_an_instance_that_came_since(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = checking(store, QUIET)
    receive(store, 2, QUIET + 1)

    assert not store.conclude_check(lease, because="nothing is missing", now=at(QUIET + 2))

    assert summary(store).complete_because is None
    assert claim_only(store, 1000) is None
    assert store.conclude_check(checking(store, 2 * QUIET + 1), because="nothing is missing", now=at(22))


def test_an_instance_that_does_not_count_leaves_the_check_alone(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = checking(store, QUIET)
    receive(store, 2, QUIET + 1, sop_class=CT)
    receive(store, 1, QUIET + 1)

    assert store.conclude_check(lease, because="nothing is missing", now=at(QUIET + 2))


def test_after_the_ceiling_a_check_concludes_whatever_comes(store: JobStore) -> None:
    for second in range(0, CEILING, QUIET - 1):
        receive(store, second, second)
    lease = checking(store, CEILING)
    assert lease.past_ceiling
    receive(store, 999, CEILING + 1)

    assert store.conclude_check(lease, because="it has come for an hour", now=at(CEILING + 2))
    assert claim_only(store, CEILING + 2) is not None


def test_a_check_is_never_put_off_beyond_the_ceiling(store: JobStore) -> None:
    receive(store, 1, 0)
    lease = checking(store, QUIET)
    store.postpone_check(lease, retry_at=at(5000), sentence="no answer", fetched=False, now=at(QUIET))

    assert claim_check(store, CEILING - 1) is None
    late = checking(store, CEILING)
    assert late.past_ceiling
    store.postpone_check(late, retry_at=at(5000), sentence="no answer", fetched=False, now=at(CEILING + 1))
    assert claim_check(store, CEILING + 1) is not None


@pytest.mark.parametrize("claimed_before", [False, True])
def test_a_new_instance_makes_the_study_incomplete(store: JobStore, claimed_before: bool) -> None:
    receive(store, 1, 0)
    first = checking(store, QUIET)
    store.postpone_check(first, retry_at=at(QUIET), sentence="fetched", fetched=True, now=at(QUIET))
    store.conclude_check(checking(store, QUIET), because="quiet", now=at(QUIET))
    if claimed_before:
        assert claim_only(store, QUIET) is not None

    receive(store, 2, QUIET + 1)

    assert (summary(store).complete_because, summary(store).fetch_rounds) == (None, 1)
    assert claim_only(store, 1000) is None
    assert claim_check(store, 1000) is not None


def test_a_study_that_opens_again_after_its_result_may_be_fetched_again(store: JobStore) -> None:
    receive(store, 1, 0)
    store.postpone_check(checking(store, 10), retry_at=at(10), sentence="fetched", fetched=True, now=at(10))
    grade(store, claimed(store, 15), 16)

    receive(store, 2, 20)

    assert (summary(store).complete_because, summary(store).fetch_rounds) == (None, 0)


def test_a_retried_job_is_not_checked_again_but_a_cancelled_one_that_never_was_is(store: JobStore) -> None:
    receive(store, 1, 0)
    store.fail(claimed(store, 15), sentence="broken", now=at(16))
    store.retry(1, now=at(20))
    assert claim_only(store, 21) is not None

    receive(store, 2, 0, study="1.2")
    lease = checking(store, 15)
    store.cancel(2, now=at(16))
    with pytest.raises(LeaseLost):
        store.conclude_check(lease, because="quiet", now=at(17))
    store.retry(2, now=at(20))
    assert claim_only(store, 21) is None
    assert claim_check(store, 21) is not None


def test_a_check_whose_lease_ended_is_fenced_out(store: JobStore) -> None:
    receive(store, 1, 0)
    first = checking(store, 20)
    assert claim_check(store, 79) is None
    checking(store, 80)

    for use in (
        lambda: store.renew_check(first, lease_s=60, now=at(81)),
        lambda: store.conclude_check(first, because="quiet", now=at(81)),
        lambda: store.postpone_check(first, retry_at=at(90), sentence="later", fetched=True, now=at(81)),
        lambda: store.release_check(first),
    ):
        with pytest.raises(LeaseLost, match="being checked"):
            use()


def test_a_check_comes_back_at_once_when_its_worker_dies_or_stops(store: JobStore) -> None:
    receive(store, 1, 0)
    checking(store, 20)
    assert store.free_leases_of("checker", now=at(21)) == 1
    store.release_check(checking(store, 21))

    store.conclude_check(checking(store, 21), because="quiet", now=at(22))
    assert kinds(store) == ["opened", "worker-died"]
    assert claimed(store, 23).attempt == 1, "a check is no attempt to grade"


def test_a_held_study_is_not_checked(store: JobStore) -> None:
    receive(store, 1, 0)
    store.hold(1, sentence="wait", now=at(1))
    assert claim_check(store, 1000) is None


def test_what_came_is_known_after_its_file_is_deleted(store: JobStore) -> None:
    graded(store, peers=())
    receive(store, 2, 21, sop_class=CT)
    assert state(store) == JobState.DELIVERED
    store.mark_purged(store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=at(30)))

    assert store.received_uids(1) == {"3.1", "3.2"}
    assert [i.sop_instance_uid for i in store.instances(1)] == ["3.1"]
    assert store.received_uids(2) == frozenset()
