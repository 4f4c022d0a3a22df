"""What a job says while it is found out whether its study is complete."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stenosis_node.cli.job_text import activity, job_sections
from tests.unit.work.test_complete import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, 104)
    made.receive(made.datasets()[:2])
    yield made
    made.store.close()


def test_each_step_of_the_check_has_its_words(bench: Bench) -> None:
    assert activity(bench.job.job) == "waits to be checked for completeness"

    lease = bench.store.claim_check(worker="w", lease_s=60)
    assert lease is not None
    assert activity(bench.job.job) == "is being compared with its source"

    again = datetime.now(UTC) + timedelta(seconds=30)
    bench.store.postpone_check(lease, retry_at=again, sentence="fetched 1 of 2 missing instances", fetched=True)
    assert activity(bench.job.job).startswith("fetched 1 of 2 missing instances; compared again at ")


def test_a_complete_study_says_why(bench: Bench) -> None:
    lease = bench.store.claim_check(worker="w", lease_s=60)
    assert lease is not None
    bench.store.conclude_check(lease, because="pacs knows the same 2 instances")

    assert activity(bench.job.job) == "waits for the grading process"
    assert "Complete because pacs knows the same 2 instances" in list(job_sections(bench.job, {}))
