"""``explain``: for a folder, and for a job of a real queue and spool."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pydicom import dcmread

from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import Study
from tests.unit.cli.conftest import Run
from tests.unit.completeness import conclude_checks
from tests.unit.series.builder import stack, write_series
from tests.unit.work.conftest import Bench, bench

__all__ = ["bench"]

VETO = '[[series.rules]]\naction = "veto"\nseries_description = "_TRA"\nwhy = "Not asked for."\n'


@pytest.fixture
def settings(bench: Bench, tmp_path: Path) -> Path:
    """The configuration of the bench as a file."""
    path = tmp_path / "bench.toml"
    path.write_text(f'spool = "{bench.config.spool}"\n[grading]\nbundle = "bundle"\n')
    return path


def grade(bench: Bench) -> None:
    conclude_checks(bench.store)
    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="w").step(threading.Event())


def test_a_folder_needs_no_configuration(run: Run, tmp_path: Path) -> None:
    places = stack(9)
    del places[4]
    write_series(tmp_path / "dicom", "first", places, SeriesDescription="first", SeriesNumber=6)
    write_series(
        tmp_path / "dicom", "second", places, SeriesDescription="second", SeriesNumber=7, AcquisitionTime="102200"
    )
    (tmp_path / "dicom" / "notes.txt").write_text("not DICOM")
    done = run("explain", tmp_path / "dicom")
    assert done.code == 0
    assert "2 series (1 graded, 1 rejected), as decided now" in done.out
    assert done.out.index("Series 7 'second', 8 instances") < done.out.index("Series 6 'first', 8 instances")
    assert "rejected, rule repeat-of-better-series" in done.out
    for key, text in {
        "better series": "series 7 'second'",
        "better because": "that one was acquired 7 min later",
        "repeats left out": "series 6 'first'",
        "position gaps": "images 4 and 5 lie 8.8 mm apart instead of 4.4 mm",
        "TE": "100 ms",
    }.items():
        assert any(line.split(key)[-1].strip().startswith(text) for line in done.out.splitlines() if key in line), key
    assert "notes.txt: is not DICOM" in done.err
    assert "the rules of a site are not applied" in done.err
    assert "SECRET" not in done.out


def test_a_folder_under_the_rules_of_the_configuration(run: Run, tmp_path: Path, settings: Path) -> None:
    write_series(tmp_path / "dicom")
    settings.write_text(settings.read_text() + VETO)
    done = run("explain", tmp_path / "dicom", "-c", settings, "--json")
    (study,) = done.json["studies"]
    assert study["decided"] == "now"
    assert study["series"][0]["decision"] == "rejected"
    assert study["series"][0]["values"]["site rule"] == "site rule 1 (series description matches '_TRA')"


@pytest.mark.parametrize(("name", "code"), [("nothing-there", 3), ("41", 3), ("empty", 1), ("text", 1)])
def test_what_does_not_exist(run: Run, settings: Path, tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    done = run("explain", name, "-c", settings)
    assert done.code == code
    assert len(done.err.splitlines()) == (2 if name == "text" else 1)


def test_a_job_before_and_after_grading(run: Run, settings: Path, bench: Bench, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    study.sagittal(4)
    bench.receive(*study.files)
    assert "(1 graded, 1 locator), as decided now" in run("explain", study.uid, "-c", settings).out
    grade(bench)
    done = run("explain", "1", "-c", settings)
    assert "(1 graded, 1 locator), as decided when it was graded" in done.out


def test_new_rules_are_tried_before_they_count(run: Run, settings: Path, bench: Bench, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    bench.receive(*study.files)
    grade(bench)
    settings.write_text(
        settings.read_text() + VETO.replace("series_description", "calling_ae_title").replace("_TRA", "^test")
    )
    assert "Changed" not in run("explain", study.uid, "-c", settings).out
    done = run("explain", study.uid, "--again", "-c", settings)
    assert "rejected, rule site-rule" in done.out
    assert "Changed: Series 3 't2_tse_tra' was graded, rule axial-t2-lumbar, when the study was graded." in done.out
    answer = run("explain", study.uid, "--again", "-c", settings, "--json").json["studies"][0]
    assert answer["changed"] == [study_series(study)]


def test_series_whose_files_are_deleted_keep_their_decision(
    run: Run, settings: Path, bench: Bench, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    study.series(5, "t1_tse_tra", 4, orientation=[1, 0, 0, 0, 1, 0], te=10, tr=500)
    bench.receive(*study.files)
    grade(bench)
    purge = bench.store.purgeable(instances_days=7, documents_days=7, keep_ungradable=False)
    assert bench.spool.delete_instances(purge.instances) == 4
    bench.store.mark_purged(purge)
    done = run("explain", study.uid, "--again", "-c", settings)
    assert "2 series (1 graded, 1 rejected), as decided now" in done.out
    assert "rejected, rule t1-weighted" in done.out
    assert "Changed" not in done.out


def study_series(study: Study) -> str:
    return str(dcmread(study.files[0]).SeriesInstanceUID)
