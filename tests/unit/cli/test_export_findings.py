"""findings: the slices of stored results as a table that the evaluation reads beside a reader's labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stenosis_node.domain import (
    BundleIdentity,
    BundleStatus,
    CanalNotFound,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    ReceivedInstance,
    SeriesFindings,
    SliceRef,
    StudyFindings,
    Unreadable,
)
from stenosis_node.jobs import JobStore, PeerSpec
from stenosis_node.series.patient import PatientKeys
from stenosis_node.spool import Spool
from tests.unit.cli.conftest import MR, NOON, Run, documents, later, study_uid
from tests.unit.completeness import claim_complete
from tests.unit.series.builder import write_series
from training.cli import app as training_app
from training.evaluation.predictions import read_predictions
from training.labels.manifest import from_rows, write_manifest
from training.labels.rows import LabelRow, Region

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"
BOX = PixelBox(10.5, 20, 30, 40)
SCORES = {Grade.A: 0.1, Grade.B: 0.7, Grade.C: 0.15, Grade.D: 0.05}
BUNDLE = BundleIdentity("phantom-1", "1.0.0", BundleStatus.DEMONSTRATION, "d" * 64, "tests")


def ref(number: int, image: int, frame: int | None = None) -> SliceRef:
    return SliceRef(f"{study_uid(number)}.1", MR, f"{study_uid(number)}.1.{image}", frame)


def findings_of(number: int) -> StudyFindings:
    """One slice of every outcome; the third is a frame."""
    slices = (
        CordSlice(ref(number, 1), 0, BOX, 0.9, 0.8),
        GradedSlice(ref(number, 2), 0, BOX, 0.95, 0.7, Grade.B, SCORES),
        GradedSlice(ref(number, 3, 2), 1, BOX, 0.95, 0.7, Grade.A, SCORES),
        NotGradable(ref(number, 4), 1, "low-score", BOX, 0.9, None, None, SCORES),
        CanalNotFound(ref(number, 5), 1, 0.2),
        Unreadable(ref(number, 6), 1, "cut short"),
    )
    return StudyFindings(study_uid(number), (SeriesFindings(f"{study_uid(number)}.1", slices),), BUNDLE, "0.1.0")


@pytest.fixture
def graded(store: JobStore, tmp_path: Path) -> JobStore:
    """Two studies received as real images, graded an hour apart; the findings lie in the spool."""
    spool = Spool(tmp_path / "spool")
    for number in (1, 2):
        image = write_series(tmp_path / f"mr{number}", PatientID=f"P{number}", IssuerOfPatientID="HOSPITAL")[0]
        uid = f"{study_uid(number)}.1.1"
        put = spool.put(study_uid(number), f"{study_uid(number)}.1", uid, [image.read_bytes()])
        received = ReceivedInstance(
            study_instance_uid=study_uid(number), series_instance_uid=f"{study_uid(number)}.1", sop_instance_uid=uid,
            sop_class_uid=MR, transfer_syntax_uid="1.2.840.10008.1.2.1", path=put.path, size_bytes=put.size_bytes,
            sha256=put.sha256, calling_ae_title="MODALITY", received_at=NOON,
        )  # fmt: skip
        store.touch(received, quiet_period_s=3, ceiling_s=600, now=NOON)
        spool.put_findings(f"{number}" * 64, findings_of(number).to_json())
    for number in (1, 2):
        moment = later(3600 * 24 * number)
        lease = claim_complete(store, now=moment)
        assert lease is not None
        assert lease.study_instance_uid == study_uid(number)
        store.advance_graded(
            lease, result_key=f"{number:064x}", chosen_key=f"{number}" * 64, documents=documents(number),
            peers=[PeerSpec("pacs")], now=moment,
        )  # fmt: skip
    return store


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("graded")
def test_every_slice_has_a_row_keyed_like_the_manifest(run: Run, config: Path, tmp_path: Path) -> None:
    done = run("findings", "-c", config, "-o", tmp_path / "findings.csv")
    assert done.code == 0
    assert done.out == f"wrote {tmp_path / 'findings.csv'}: 12 slices of 2 studies\n"
    written = rows(tmp_path / "findings.csv")
    cord, graded, frame, doubtful, lost, unreadable = written[:6]
    assert graded == {
        "study_uid": study_uid(1),
        "series_uid": f"{study_uid(1)}.1",
        "sop_uid": f"{study_uid(1)}.1.2",
        "frame": "",
        "slab": "0",
        "x0": "10.5",
        "y0": "20.0",
        "x1": "30.0",
        "y1": "40.0",
        "box_score": "0.95",
        "region": "rootlet",
        "p_rootlet": "0.7",
        "p_cord": graded["p_cord"],
        "grade": "B",
        "p_A": "0.1",
        "p_B": "0.7",
        "p_C": "0.15",
        "p_D": "0.05",
        "abstained": "0",
        "outcome": "graded",
        "reason": "",
        "model": "phantom-1 1.0.0",
        "bundle_digest": "d" * 64,
        "software_version": "0.1.0",
        "job": "1",
        "revision": "1",
        "date": later(3600 * 24).astimezone().date().isoformat(),
    }
    assert float(graded["p_cord"]) == pytest.approx(0.3)
    assert (cord["region"], cord["grade"], cord["p_A"]) == ("cord", "", "")
    assert float(cord["p_rootlet"]) == pytest.approx(0.2)
    assert frame["frame"] == "2"
    assert (doubtful["grade"], doubtful["p_B"], doubtful["abstained"]) == ("", "0.7", "1")
    assert doubtful["reason"] == "low-score"
    assert (lost["x0"], lost["box_score"], lost["outcome"]) == ("", "", "canal_not_found")
    assert (unreadable["outcome"], unreadable["reason"]) == ("unreadable", "cut short")


def label(number: int, image: int) -> LabelRow:
    """A reader calls everything B."""
    one = ref(number, image, 2 if image == 3 else None)
    return LabelRow(
        study_uid=study_uid(number), series_uid=one.series_instance_uid, sop_uid=one.sop_instance_uid,
        frame=one.frame_number, path="image.dcm", patient_key=f"{number:064x}", region=Region.ROOTLET, grade=Grade.B,
        reader="r1",
    )  # fmt: skip


@pytest.mark.usefixtures("graded")
def test_the_evaluation_reads_them_as_predictions_and_agreement_beside_labels(
    run: Run, config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "findings.csv"
    run("findings", "-c", config, "-o", path)
    predictions = read_predictions(path)
    assert predictions["grade"].tolist() == ["", "B", "A", "", "", ""] * 2
    labels = tmp_path / "reader.parquet"
    write_manifest(from_rows([label(number, image) for number in (1, 2) for image in (2, 3)], "reader"), labels)
    arguments = ["agreement", str(labels), "--a", "grade", "--with", str(path), "--b", "grade", "--json"]
    done = CliRunner().invoke(training_app, [*arguments, "--bootstrap", "0"])
    assert done.exit_code == 0, done.stderr
    agreed: dict[str, Any] = json.loads(done.stdout)
    assert agreed["accuracy"] == 0.5


@pytest.mark.usefixtures("graded")
def test_patient_keys_are_those_of_the_importers_and_ids_are_never_written(
    run: Run, config: Path, tmp_path: Path, graded: JobStore
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n", encoding="utf-8")
    path = tmp_path / "findings.csv"
    spool = Spool(tmp_path / "spool")
    (gone,) = graded.instances(2)
    spool.delete_instances([gone.path])
    done = run("findings", "-c", config, "-o", path, "--secret-file", secret)
    keys = [row["patient_key"] for row in rows(path)]
    assert keys[:6] == [PatientKeys(SECRET.encode()).key("P1", "HOSPITAL")] * 6
    assert keys[6:] == [""] * 6
    assert done.err == "job 2: no image is left that names the patient; patient_key stays empty\n"
    assert "HOSPITAL" not in path.read_text(encoding="utf-8")
    secret.write_text("short", encoding="utf-8")
    assert run("findings", "-c", config, "-o", path, "--secret-file", secret).code == 2


@pytest.mark.usefixtures("graded")
def test_since_and_job_choose(run: Run, config: Path, tmp_path: Path) -> None:
    path = tmp_path / "findings.csv"
    day = later(3600 * 24 * 2).astimezone().date()
    run("findings", "-c", config, "-o", path, "--since", day.isoformat())
    assert {row["study_uid"] for row in rows(path)} == {study_uid(2)}
    run("findings", "-c", config, "-o", path, "--job", "1")
    assert {row["study_uid"] for row in rows(path)} == {study_uid(1)}
    none = run("findings", "-c", config, "-o", tmp_path / "none.csv", "--since", "9999-01-01")
    assert none.code == 3
    assert "no stored findings match" in none.err
    assert not (tmp_path / "none.csv").exists()
    assert run("findings", "-c", config, "-o", path, "--job", "99").code == 3
    assert run("findings", "-c", config, "-o", path, "--since", "yesterday").code == 2


@pytest.mark.usefixtures("graded")
def test_what_cannot_be_exported_is_named(run: Run, config: Path, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.delete_result("1" * 64)
    path = tmp_path / "findings.csv"
    done = run("findings", "-c", config, "-o", path)
    assert done.err == "job 1: left out, its findings were deleted\n"
    assert len(rows(path)) == 6
    assert run("findings", "-c", config, "-o", path, "--json").json == {
        "output": str(path),
        "slices": 6,
        "studies": 1,
        "left_out": [{"job": 1, "why": "its findings were deleted"}],
    }
    before = path.read_bytes()
    folder = run("findings", "-c", config, "-o", tmp_path)
    assert (folder.code, "is a folder; name a file" in folder.err) == (2, True)
    missing = run("findings", "-c", config, "-o", tmp_path / "no" / "f.csv")
    assert (missing.code, "cannot be written" in missing.err) == (1, True)
    assert path.read_bytes() == before
