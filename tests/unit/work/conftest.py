"""A node without processes: real spool, real database, real studies on disk; only the networks are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread

from stenosis_node.config import Config, load
from stenosis_node.domain import (
    AxialSeries,
    BundleIdentity,
    BundleStatus,
    CanalNotFound,
    Grade,
    GradedSlice,
    PixelBox,
    ReceivedInstance,
    SeriesFindings,
    SliceFinding,
    Unreadable,
)
from stenosis_node.jobs import JobDetail, JobStore, Touch
from stenosis_node.spool import Spool
from stenosis_node.wire.part10 import file_meta
from tests.unit.completeness import conclude_checks

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"


class FakePipeline:
    """Finds a canal of grade B in the middle of every slice it can read, or none at all."""

    identity = BundleIdentity("fake", "1", BundleStatus.DEMONSTRATION, "ab" * 32, "Made up for tests.")

    def __init__(self) -> None:
        self.calls = 0
        self.blind = False
        self.before: Callable[[], None] = lambda: None
        """Called in the middle of the work."""

    def grade(self, series: AxialSeries, *, progress: Callable[[int, int], None] | None = None) -> SeriesFindings:
        self.calls += 1
        self.before()
        findings: list[SliceFinding] = []
        for one in series.slices:
            if progress is not None:
                progress(len(findings), len(series.slices))
            if one.pixels is None:
                findings.append(Unreadable(one.ref, one.slab, one.unreadable or ""))
            elif self.blind:
                findings.append(CanalNotFound(one.ref, one.slab, None))
            else:
                scores = {Grade.A: 0.1, Grade.B: 0.7, Grade.C: 0.1, Grade.D: 0.1}
                box = PixelBox(54.0, 66.0, 74.0, 86.0)
                findings.append(GradedSlice(one.ref, one.slab, box, 0.9, 0.95, Grade.B, scores))
        return SeriesFindings(series.series_instance_uid, tuple(findings))


class Bench:
    """The parts, and a short way to receive files."""

    def __init__(self, folder: Path) -> None:
        self.config: Config = load(
            None,
            overrides={
                "spool": str(folder / "spool"),
                "grading": {"bundle": str(folder / "bundle")},
                "jobs": {"retry_base_s": 1000, "max_attempts": 2},
            },
        )
        self.spool = Spool(self.config.spool)
        self.store = JobStore(self.config.database_url)
        self.store.migrate()
        self.pipeline = FakePipeline()

    def receive(self, *paths: Path) -> Touch:
        """As reception does, without a quiet period; the study is complete afterwards."""
        for path in paths:
            ds = dcmread(path, stop_before_pixels=True)
            put = self.spool.put(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, [path.read_bytes()])
            received = ReceivedInstance(
                study_instance_uid=ds.StudyInstanceUID,
                series_instance_uid=ds.SeriesInstanceUID,
                sop_instance_uid=ds.SOPInstanceUID,
                sop_class_uid=ds.SOPClassUID,
                transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
                path=put.path,
                size_bytes=put.size_bytes,
                sha256=put.sha256,
                calling_ae_title="TEST",
                received_at=datetime.now(UTC),
            )
            touch = self.store.touch(received, quiet_period_s=0, ceiling_s=60)
        conclude_checks(self.store)
        return touch

    def job(self, study_uid: str) -> JobDetail:
        job = self.store.job(study_uid)
        assert job is not None
        return job


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(spool=tmp_path / "spool", grading={"bundle": tmp_path / "bundle"})


@pytest.fixture
def spool(config: Config) -> Spool:
    return Spool(config.spool)


@pytest.fixture
def store(config: Config, spool: Spool) -> Iterator[JobStore]:
    store = JobStore(config.database_url)
    store.migrate()
    yield store
    store.close()


def put(spool: Spool, uid: str, sop_class: str = MR) -> ReceivedInstance:
    """A file as reception leaves it before its row is written."""
    meta = file_meta(sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
    kept = spool.put("1.2.3", "1.2.3.4", uid, [meta, b"\x08\x00\x05\x00CS\x00\x00"])
    return ReceivedInstance(
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.4",
        sop_instance_uid=uid,
        sop_class_uid=sop_class,
        transfer_syntax_uid=EXPLICIT,
        path=kept.path,
        size_bytes=kept.size_bytes,
        sha256=kept.sha256,
        calling_ae_title="MR1",
        received_at=datetime.now(UTC),
    )
