"""The check before grading: when a study counts as complete, and what it says."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from stenosis_node.config import Config, load
from stenosis_node.domain import ReceivedInstance
from stenosis_node.jobs import JobDetail, JobStore
from stenosis_node.spool import Spool
from stenosis_node.work.complete import CompletenessChecker
from tests.conftest import free_port
from tests.unit.query.conftest import MOVE, SR, Study
from tests.unit.work.archive import Archive, archive


class Bench:
    """Store, spool and a checker whose only peer is the archive ``pacs``."""

    def __init__(self, folder: Path, port: int, *, quiet_period_s: float = 0, ceiling_s: float = 60, **peer: Any):
        settings = {
            "ae_title": "PACS", "host": "127.0.0.1", "port": port, "query": "get",
            "timeout_s": 5.0, "retry_base_s": 0.05, "retry_cap_s": 0.1,
        }  # fmt: skip
        self.config: Config = load(
            None,
            overrides={
                "spool": str(folder / "spool"),
                "grading": {"bundle": str(folder)},
                "jobs": {"quiet_period_s": quiet_period_s, "ceiling_s": ceiling_s},
                "receive": {"min_free_mb": 1},
                "peers": {"pacs": settings | peer},
            },
        )
        self.spool = Spool(self.config.spool)
        self.store = JobStore(self.config.database_url)
        self.store.migrate()
        self.checker = CompletenessChecker(self.config, self.spool, self.store, worker="test")
        self.stop = threading.Event()
        self.study = Study(folder / "study")
        series = generate_uid()
        for number in range(1, 9):
            self.study.add(series, number)

    def datasets(self) -> list[Dataset]:
        return list(self.study.datasets.values())

    def receive(self, datasets: list[Dataset], *, calling: str = "PACS", **when: Any) -> None:
        for ds in datasets:
            buffer = BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            names = ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
            put = self.spool.put(*names, [buffer.getvalue()])
            received = ReceivedInstance(
                study_instance_uid=names[0],
                series_instance_uid=names[1],
                sop_instance_uid=names[2],
                sop_class_uid=ds.SOPClassUID,
                transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
                path=put.path,
                size_bytes=put.size_bytes,
                sha256=put.sha256,
                calling_ae_title=calling,
                received_at=datetime.now(UTC),
            )
            jobs = self.config.jobs
            self.store.touch(received, quiet_period_s=jobs.quiet_period_s, ceiling_s=jobs.ceiling_s, **when)

    @property
    def job(self) -> JobDetail:
        found = self.store.job(self.study.uid)
        assert found is not None
        return found

    def check(self, *, until: Callable[[], object] | None = None, limit_s: float = 20) -> str:
        """Let the checker work until the study is complete, or something else is true; why, without for how long."""
        reached = until or (lambda: self.job.job.complete_because)
        deadline = time.monotonic() + limit_s
        while not reached():
            assert time.monotonic() < deadline, [e.sentence for e in self.job.events]
            if not self.checker.step(self.stop):
                time.sleep(0.02)
        return re.sub(r"^quiet for \d+ s; ", "", self.job.job.complete_because or "")

    def said(self, kind: str) -> list[str]:
        return [e.sentence for e in self.job.events if e.kind == kind]


Start = Callable[..., Bench]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    benches: list[Bench] = []

    def make(port: int, **options: Any) -> Bench:
        benches.append(Bench(tmp_path, port, **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.stop.set()
        deadline = time.monotonic() + 10
        while any(t.name.startswith("check ") for t in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.02)
        bench.store.close()


@pytest.fixture
def pacs() -> Iterator[Archive]:
    with archive() as running:
        yield running


def test_a_study_of_nobody_who_can_be_asked_is_complete_at_once(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    bench.receive(bench.datasets()[:2], calling="SCANNER", now=datetime.now(UTC) - timedelta(seconds=30))

    assert bench.checker.step(bench.stop)
    assert re.fullmatch(r"quiet for 3\d s; no queried peer sends this study", bench.job.job.complete_because or "")
    assert pacs.finds == 0
    assert bench.said("complete") == [f"because {bench.job.job.complete_because}"]
    assert not bench.checker.step(bench.stop)


def test_a_source_that_knows_the_same_instances(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()
    bench.receive(bench.datasets())

    assert bench.check() == "pacs knows the same 8 instances"
    assert pacs.gets == 0


def test_a_gap_is_fetched_and_the_study_compared_once_more(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()
    bench.receive(bench.datasets()[:5])

    assert bench.check() == "fetched 3 of 3 missing instances from pacs, which knows 8"
    assert bench.said("check-postponed") == ["fetched 3 of 3 missing instances from pacs"]
    assert sorted(pacs.given) == sorted(ds.SOPInstanceUID for ds in bench.datasets()[5:])
    stored = bench.store.instances(bench.job.job.id)
    assert {i.sop_instance_uid for i in stored} == bench.study.mr
    for one in stored:
        assert bench.spool.instance_path(one.path).stat().st_size == one.size_bytes
    assert bench.job.job.fetch_rounds == 1


def test_what_is_fetched_starts_another_quiet_period(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port, quiet_period_s=300, ceiling_s=3600)
    pacs.holds = bench.datasets()
    bench.receive(bench.datasets()[:5], now=datetime.now(UTC) - timedelta(seconds=301))

    bench.check(until=lambda: bench.job.job.fetch_rounds)

    assert bench.job.job.quiet_until > datetime.now(UTC) + timedelta(seconds=20)
    assert bench.job.job.complete_because is None
    assert not bench.checker.step(bench.stop)


def test_reports_and_captures_at_the_source_are_no_gap(start: Start, pacs: Archive) -> None:
    """Ours or a radiologist's: neither is fetched."""
    bench = start(pacs.port)
    mr = bench.datasets()
    bench.study.add(generate_uid(), 1, sop_class=SR, modality="SR")
    bench.study.add(generate_uid(), 1, sop_class="1.2.840.10008.5.1.4.1.1.7", modality="OT")
    bench.study.add(mr[0].SeriesInstanceUID, 99, sop_class="1.2.840.10008.5.1.4.1.1.11.1")  # a PR that calls itself MR
    pacs.holds = bench.datasets()
    bench.receive(mr)

    assert bench.check() == "pacs knows the same 8 instances"


def test_a_file_that_was_tidied_away_is_no_gap(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()
    bench.receive(bench.datasets())
    ids = bench.store.received_uids(bench.job.job.id)
    bench.spool.delete_instances([i.path for i in bench.store.instances(bench.job.job.id)])

    assert len(ids) == 8
    assert bench.check() == "pacs knows the same 8 instances"
    assert pacs.gets == 0


def test_what_the_source_cannot_give_holds_the_study_up_for_three_rounds(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()
    pacs.withheld = {bench.datasets()[7].SOPInstanceUID}
    bench.receive(bench.datasets()[:6])

    assert bench.check() == "still missing 1 of the 8 instances pacs knows"
    assert bench.said("check-postponed") == [
        "fetched 1 of 2 missing instances from pacs",
        "fetched 0 of 1 missing instances from pacs",
        "fetched 0 of 1 missing instances from pacs",
    ]


def test_a_source_that_is_only_asked_is_waited_for(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port, query="find")
    pacs.holds = bench.datasets()
    bench.receive(bench.datasets()[:6])
    bench.check(until=lambda: bench.job.job.fetch_rounds)
    assert bench.said("check-postponed")[-1] == "waiting for 2 of the 8 instances pacs knows"

    bench.receive(bench.datasets()[6:])

    assert bench.check() == "pacs knows the same 8 instances"
    assert pacs.gets == 0


def test_a_source_that_does_not_know_the_study(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    bench.receive(bench.datasets()[:1])

    assert bench.check() == "pacs does not know this study"


def test_a_source_that_is_away_is_asked_three_times_and_then_done_without(start: Start) -> None:
    bench = start(free_port())
    bench.receive(bench.datasets())

    because = bench.check()

    assert because.startswith("pacs could not be asked 3 times: PACS at 127.0.0.1 port ")
    assert because.endswith("refused the connection: nothing listens there; is it up?")
    assert len(bench.said("check-postponed")) == 2


def test_a_source_without_c_find_is_not_asked_again(start: Start) -> None:
    with archive(MOVE) as running:
        bench = start(running.port)
        bench.receive(bench.datasets())

        assert "pacs could not be asked: PACS at 127.0.0.1" in bench.check()
        assert bench.said("check-postponed") == []


def test_the_ceiling_ends_the_wait_for_a_study_that_never_falls_quiet(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port, quiet_period_s=30, ceiling_s=60)
    pacs.holds = bench.datasets()
    now = datetime.now(UTC)
    bench.receive(bench.datasets()[:1], now=now - timedelta(seconds=61))
    bench.receive(bench.datasets()[1:3], now=now - timedelta(seconds=5))

    assert bench.check() == "the ceiling of 60 s passed while instances still arrived"
    assert pacs.finds == 0


def test_beyond_the_ceiling_the_source_is_asked_once(start: Start, pacs: Archive) -> None:
    """The node was down for a long time."""
    bench = start(pacs.port, ceiling_s=60)
    pacs.holds = bench.datasets()
    pacs.withheld = {bench.datasets()[7].SOPInstanceUID}
    bench.receive(bench.datasets()[:6], now=datetime.now(UTC) - timedelta(seconds=1000))

    assert bench.check().startswith("fetched 1 of 2 missing instances from pacs")
    assert pacs.gets == 1


def test_a_source_that_is_away_does_not_hold_a_study_beyond_its_ceiling(start: Start) -> None:
    bench = start(free_port(), ceiling_s=60)
    bench.receive(bench.datasets(), now=datetime.now(UTC) - timedelta(seconds=100))

    assert "pacs could not be asked: " in bench.check()


def test_an_instance_that_comes_during_the_check_makes_it_void(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()[:6]
    pacs.delay_s = 0.4
    bench.receive(bench.datasets()[:6])
    bench.checker.step(bench.stop)
    while not pacs.finds:
        time.sleep(0.01)

    bench.receive(bench.datasets()[6:7])
    pacs.holds = bench.datasets()

    assert bench.check() == "fetched 1 of 1 missing instances from pacs, which knows 8"


def test_a_study_is_not_held_up_by_the_source_of_another(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.delay_s = 2.5
    bench.receive(bench.datasets())
    other = Study(Path())
    bench.receive([other.add(generate_uid(), 1)], calling="SCANNER")

    while (job := bench.store.job(other.uid)) is None or job.job.complete_because is None:
        bench.checker.step(bench.stop)

    assert bench.job.job.complete_because is None


def test_a_source_that_hangs_with_many_studies_holds_up_only_these_and_only_up_to_their_ceiling(
    start: Start, pacs: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stenosis_node.work.complete.MAX_CHECKS", 2)
    bench = start(pacs.port)
    pacs.delay_s = 2.5
    studies = [Study(Path()) for _ in range(4)]
    for study in studies:
        bench.receive([study.add(generate_uid(), 1)])
    old, other = Study(Path()), Study(Path())
    long_ago = datetime.now(UTC) - timedelta(seconds=1000)
    bench.receive([other.add(generate_uid(), 1)], calling="SCANNER")

    def because(study: Study) -> str | None:
        job = bench.store.job(study.uid)
        return None if job is None else job.job.complete_because

    began = time.monotonic()
    while because(other) is None:
        bench.checker.step(bench.stop)
    bench.receive([old.add(generate_uid(), 1)], now=long_ago)
    while because(old) is None:
        bench.checker.step(bench.stop)
    assert time.monotonic() - began < 2.5
    assert (because(old) or "").endswith("the ceiling passed while pacs was asked for other studies")
    assert [because(study) for study in studies] == [None] * 4

    pacs.delay_s = 0
    while any(because(study) is None for study in studies):
        assert bench.checker.step(bench.stop) or not time.sleep(0.02)


def test_a_check_under_way_is_given_back_when_the_node_stops(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()
    pacs.delay_s = 0.2
    bench.receive(bench.datasets())
    bench.checker.step(bench.stop)
    bench.stop.set()

    deadline = time.monotonic() + 10
    while bench.job.job.worker is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert bench.job.job.complete_because is None
    assert bench.job.job.fetch_rounds == 0


def test_a_study_cancelled_during_its_check_stays_cancelled(start: Start, pacs: Archive) -> None:
    bench = start(pacs.port)
    pacs.holds = bench.datasets()
    pacs.delay_s = 0.3
    bench.receive(bench.datasets())
    bench.checker.step(bench.stop)

    bench.store.cancel(bench.job.job.id)
    time.sleep(1.0)

    assert bench.job.job.state == "cancelled"
    assert bench.job.job.complete_because is None
