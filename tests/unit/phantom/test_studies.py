"""Studies on disk: valid DICOM, complete truth, the decoys, the verb and its refusals."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from stenosis_node.domain import Decision
from stenosis_node.series import choose, find_files, scan
from tests.conftest import require_tool
from training.cli import app
from training.labels.manifest import read_manifest
from training.phantom.labelling import TRUTH, label_rows
from training.phantom.look import Vendor
from training.phantom.patient import Wishes, draw_patient
from training.phantom.readers import READERS
from training.phantom.study import Compression, instance_numbers, write_study

WISHES = Wishes(
    severity={"L3-4": 0.1}, matrix=96, clean=True, slabs=True, slab_discs=("L3-4", "T12-L1"), slices_per_slab=2
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    return folder, write_study(draw_patient(8, 1, wishes=WISHES), folder, compression=Compression.JPEG_LS)


def test_every_file_is_valid_dicom(study: tuple[Path, dict[str, Any]]) -> None:
    dciodvfy = require_tool("dciodvfy", "dicom3tools")
    for folder in sorted(p for p in study[0].iterdir() if p.is_dir()):
        path = sorted(folder.glob("*.dcm"))[-1]
        done = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == [], path.name


def test_the_truth_names_every_axial_t2_slice(study: tuple[Path, dict[str, Any]]) -> None:
    folder, truth = study
    slices = truth["axial_t2"]["slices"]
    for s in slices:
        ds = dcmread(folder / s["path"])
        assert ds.SOPInstanceUID == s["sop_instance_uid"]
        assert ds.SeriesInstanceUID == truth["axial_t2"]["series_instance_uid"]
        assert ds.StudyInstanceUID == truth["study_instance_uid"]
        x0, y0, x1, y1 = s["box"]
        assert 0 <= x0 < x1 <= ds.Columns
        assert 0 <= y0 < y1 <= ds.Rows
    assert len(slices) == len(list((folder / slices[0]["path"]).parent.iterdir()))
    rows = list(label_rows(truth, "patient"))
    for reader in (TRUTH, *(r.name for r in READERS)):
        mine = [r for r in rows if r.reader == reader]
        assert [r.sop_uid for r in mine] == [s["sop_instance_uid"] for s in slices]
    assert all((folder.parent / "x" / r.path).name.endswith(".dcm") and r.path.startswith("patient/") for r in rows)


@pytest.mark.parametrize(
    ("vendor", "manufacturer", "sequence_name"),
    [(Vendor.SIEMENS, "SIEMENS", "*tse2d1_15"), (Vendor.GE, "GE MEDICAL SYSTEMS", None),
     (Vendor.PHILIPS, "Philips Medical Systems", None)],
)  # fmt: skip
def test_each_vendor_has_headers_that_the_node_grades(
    vendor: Vendor, manufacturer: str, sequence_name: str | None, tmp_path: Path
) -> None:
    dciodvfy = require_tool("dciodvfy", "dicom3tools")
    wishes = Wishes(matrix=128, slabs=True, slab_discs=("L3-4", "L4-5"), slices_per_slab=4, vendor=vendor)
    truth = write_study(draw_patient(9, 2, wishes=wishes), tmp_path)
    axial = tmp_path / truth["axial_t2"]["slices"][0]["path"]
    ds = dcmread(axial)

    assert (ds.Manufacturer, ds.get("SequenceName")) == (manufacturer, sequence_name)
    assert not any(element.tag.is_private for element in ds)
    assert len(list(tmp_path.iterdir())) == 4
    for folder in tmp_path.iterdir():
        done = subprocess.run([dciodvfy, str(next(folder.iterdir()))], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == [], folder.name
    decisions = {d.series_instance_uid: d for d in choose(scan(find_files(tmp_path)).series)}
    assert decisions[truth["axial_t2"]["series_instance_uid"]].decision is Decision.GRADED
    for decoy in truth["decoys"]:
        decision = decisions[decoy["series_instance_uid"]]
        assert decision.decision is not Decision.GRADED
        assert decision.reason == decoy["reason"]


def test_decoys_share_the_frame_of_reference(study: tuple[Path, dict[str, Any]]) -> None:
    folder, truth = study
    series = {p.name: dcmread(next(p.glob("*.dcm"))) for p in folder.iterdir() if p.is_dir()}

    assert sorted(series) == ["01-localizer", "02-t2_tse_sag", "03-t2_tse_tra", "04-t1_tse_tra"]
    assert len({ds.FrameOfReferenceUID for ds in series.values()}) == 1
    assert len({ds.SeriesInstanceUID for ds in series.values()}) == 4
    assert {d["reason"] for d in truth["decoys"]} == {"localizer", "sagittal-locator", "t1-weighted"}
    assert float(series["04-t1_tse_tra"].EchoTime) < 30 < float(series["03-t2_tse_tra"].EchoTime)
    assert [abs(float(v)) for v in series["02-t2_tse_sag"].ImageOrientationPatient] == [0, 1, 0, 0, 0, 1]


def test_t1_has_dark_csf_where_t2_has_bright(study: tuple[Path, dict[str, Any]]) -> None:
    folder, truth = study
    truth_slice = next(s for s in truth["axial_t2"]["slices"] if s["grade"] == "A")
    x0, y0, x1, y1 = (int(v) for v in truth_slice["box"])
    t2 = dcmread(folder / truth_slice["path"])
    t1 = dcmread(folder / truth_slice["path"].replace("03-t2", "04-t1"))

    assert t1.ImagePositionPatient == t2.ImagePositionPatient
    relative = [float(ds.pixel_array[y0:y1, x0:x1].mean() / np.percentile(ds.pixel_array, 95)) for ds in (t1, t2)]
    assert relative[0] < 0.6 * relative[1]


def test_the_patient_has_a_korean_name(study: tuple[Path, dict[str, Any]]) -> None:
    path = study[0] / study[1]["axial_t2"]["slices"][0]["path"]
    name = dcmread(path).PatientName

    assert name.ideographic
    assert all("\uac00" <= c <= "\ud7a3" for c in str(name.phonetic).replace("^", ""))
    assert b"\x1b$)C" in path.read_bytes()


@pytest.mark.parametrize("compression", list(Compression))
def test_compression_keeps_the_pixels(compression: Compression, tmp_path: Path) -> None:
    patient = draw_patient(
        8, 1, wishes=Wishes(matrix=64, clean=True, slabs=True, slab_discs=("L3-4",), slices_per_slab=1)
    )
    truth = write_study(patient, tmp_path, compression=compression)
    stored = dcmread(tmp_path / truth["axial_t2"]["slices"][0]["path"]).pixel_array

    assert np.array_equal(stored, patient.axial_slice(0).image.pixels)


def test_instance_numbers_are_not_reading_order() -> None:
    assert instance_numbers([0, 0, 1, 1, 1]) == [4, 5, 1, 2, 3]


def test_the_verb_writes_studies_and_a_manifest(tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = CliRunner().invoke(app, ["phantom", "--out", str(out), "--seed", "12", "--first", "21"])

    assert result.exit_code == 0, result.output
    truth = json.loads((out / "patient-00021" / "truth.json").read_text())
    rows = read_manifest(out / "manifest.csv")
    assert set(rows["sop_uid"]) == {s["sop_instance_uid"] for s in truth["axial_t2"]["slices"]}
    assert len(rows) == 3 * len(truth["axial_t2"]["slices"])
    assert all((out / path).is_file() for path in rows["path"])
    assert set(rows["patient_key"]) == {"phantom-2-12-21"}
    refused = rows[(rows["reader"] != TRUTH) & (rows["region"] == "other")]
    assert refused["x0"].isna().all()


def test_a_study_is_the_same_to_the_byte_each_time(tmp_path: Path) -> None:
    small = Wishes(matrix=64, slabs=True, slab_discs=("L4-5",), slices_per_slab=2)
    first, second = (write_study(draw_patient(3, 0, wishes=small), tmp_path / name) for name in ("a", "b"))

    assert first == second
    assert [p.read_bytes() for p in sorted((tmp_path / "a").rglob("*.dcm"))] == [
        p.read_bytes() for p in sorted((tmp_path / "b").rglob("*.dcm"))
    ]


def test_the_verb_touches_no_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(app, ["phantom", "--out", str(tmp_path)])

    assert result.exit_code == 1
    assert "not empty" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_verb_says_when_the_disk_is_too_small(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["phantom", "--out", str(tmp_path / "set"), "--patients", "900000000"])

    assert result.exit_code == 1
    assert "GB free" in result.output


def test_the_verb_wants_exactly_one_target(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["phantom"]).exit_code == 2
    both = ["phantom", "--out", str(tmp_path / "a"), "--sample", str(tmp_path / "b")]
    assert CliRunner().invoke(app, both).exit_code == 2


def test_a_write_that_fails_leaves_no_half_study(tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = [sys.executable, "-c", "from training.cli import main; main()", "phantom", "--out", str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )

    assert done.returncode == 1
    assert "cannot write the phantoms" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []
