"""Documents that the gate does not pass never get as far as a delivery, and the job says why."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from stenosis_node.config import Peer
from stenosis_node.domain import AxialSeries, GradedSlice, JobState, PixelBox, SeriesFindings
from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import Study
from tests.unit.completeness import conclude_checks
from tests.unit.work.conftest import Bench, FakePipeline


class Astray(FakePipeline):
    """Puts the box of one slice half outside its image."""

    def grade(self, series: AxialSeries, *, progress: object = None) -> SeriesFindings:
        found = super().grade(series, progress=progress)  # type: ignore[arg-type]
        first, *rest = found.slices
        assert isinstance(first, GradedSlice)
        return replace(found, slices=(replace(first, box=PixelBox(100, 100, 140, 140)), *rest))


def test_a_document_that_fails_is_not_sent_and_the_job_says_why(bench: Bench, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    bench.config = bench.config.model_copy(update={"peers": {"p": Peer(ae_title="P", host="127.0.0.1", port=1)}})
    bench.receive(*study.files)
    conclude_checks(bench.store)

    GradeWorker(bench.config, bench.spool, bench.store, Astray(), worker="w").step(threading.Event())

    job = bench.job(study.uid)
    assert job.job.state is JobState.FAILED
    assert "our own documents broke" in (job.job.message or "")
    assert "box-inside: a box reaches outside its image" in (job.job.message or "")
    assert (job.results, job.deliveries) == ((), ())
    assert not [path for path in bench.spool.root.rglob("*.dcm") if "instances" not in path.parts]
    assert bench.store.claim_delivery("p", worker="d", lease_s=60, max_attempts=9) is None
