"""Pulling an old study: what is fetched, what changes, and what a half-done pull leaves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stenosis_node.domain import JobState
from stenosis_node.errors import ConfigError
from stenosis_node.query import PeerAway
from stenosis_node.work.pull import Pulled, check_pull, pull_study
from tests.unit.work.archive import Archive, archive
from tests.unit.work.test_complete import Bench


@pytest.fixture
def pacs() -> Iterator[Archive]:
    with archive() as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, pacs: Archive) -> Iterator[Bench]:
    made = Bench(tmp_path, pacs.port, quiet_period_s=300, ceiling_s=3600)
    pacs.holds = made.datasets()
    yield made
    made.store.close()


def pull(bench: Bench) -> Pulled:
    return pull_study(bench.config, bench.spool, bench.store, "pacs", bench.study.uid)


def test_a_pulled_study_appears_as_a_whole_and_waits_for_nothing_but_its_check(bench: Bench, pacs: Archive) -> None:
    assert pull(bench) == Pulled(known=8, wanted=8, came=8)

    assert bench.job.job.quiet_until <= datetime.now(UTC)
    assert {i.sop_instance_uid for i in bench.store.instances(bench.job.job.id)} == bench.study.mr
    assert bench.check() == "pacs knows the same 8 instances"
    assert bench.store.claim(JobState.RECEIVED, worker="w", lease_s=1, max_attempts=1) is not None


def test_the_second_pull_asks_for_nothing_and_changes_nothing(bench: Bench, pacs: Archive) -> None:
    pull(bench)
    before = bench.job

    assert pull(bench) == Pulled(known=8, wanted=0, came=0)
    assert bench.job == before
    assert pacs.gets == 1


def test_a_study_that_is_half_here_gets_the_other_half(bench: Bench, pacs: Archive) -> None:
    bench.receive(bench.datasets()[:3])

    assert pull(bench) == Pulled(known=8, wanted=5, came=5)
    assert len(pacs.given) == 5
    assert bench.job.job.quiet_until > datetime.now(UTC) + timedelta(seconds=200)  # what is being routed has its time


def test_of_a_study_the_peer_does_not_know_nothing_is_made(bench: Bench, pacs: Archive) -> None:
    pacs.holds = []

    assert pull(bench) == Pulled(known=0, wanted=0, came=0)
    assert bench.store.job(bench.study.uid) is None


def test_a_pull_that_breaks_off_keeps_what_came_and_its_check_goes_on(bench: Bench, pacs: Archive) -> None:
    pacs.breaks_after = 3

    with pytest.raises(PeerAway, match="aborted"):
        pull(bench)

    assert bench.job.job.n_instances == 3
    assert bench.job.job.quiet_until > datetime.now(UTC) + timedelta(seconds=200)


def test_images_whose_files_were_deleted_come_back_with_a_new_one(bench: Bench, pacs: Archive) -> None:
    """Only then: what was graded once is not graded again for its own sake."""
    pacs.holds = bench.datasets()[:7]
    pull(bench)
    purge_everything(bench)
    assert bench.store.instances(bench.job.job.id) == ()
    assert pull(bench) == Pulled(known=7, wanted=0, came=0)

    pacs.holds = bench.datasets()

    assert pull(bench) == Pulled(known=8, wanted=8, came=8)
    for one in bench.store.instances(bench.job.job.id):
        assert bench.spool.instance_path(one.path).exists()
    assert bench.job.job.state is JobState.RECEIVED


@pytest.mark.parametrize("query", ["none", "find"])
def test_a_peer_that_gives_nothing_is_a_matter_of_configuration(tmp_path: Path, query: str) -> None:
    bench = Bench(tmp_path, 104, query=query)

    with pytest.raises(ConfigError, match=rf'peers.pacs.query is "{query}": set it to "get"'):
        check_pull("pacs", bench.config)
    bench.store.close()


def purge_everything(bench: Bench) -> None:
    """As the housekeeping does with a study that was rejected long ago."""
    bench.check()
    lease = bench.store.claim(JobState.RECEIVED, worker="w", lease_s=60, max_attempts=3)
    assert lease is not None
    bench.store.reject(lease, reason="no-candidate", sentence="nothing to grade")
    later = datetime.now(UTC) + timedelta(days=400)
    for _ in range(3):
        purge = bench.store.purgeable(now=later, instances_days=7, documents_days=7, keep_ungradable=False)
        bench.spool.delete_instances(purge.instances)
        bench.store.mark_purged(purge, now=later)
