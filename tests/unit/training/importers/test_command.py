"""stenosis-train import from the command line: files, summary, exit codes."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.unit.training.importers.conftest import SECRET
from training.cli import app
from training.importers import intake as intake_module
from training.importers.intake import Intake
from training.labels.images import check_images
from training.labels.manifest import read_manifest

Write = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "site.secret"
    path.write_text(SECRET, encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path, study: list[Path]) -> Path:
    """Three slices that fit, one image that is gone."""
    path = tmp_path / "labels.csv"
    lines = ["path,region,grade", *(f"dicom/{image.name},rootlet,{g}" for image, g in zip(study, "ABC", strict=False))]
    path.write_text("\n".join([*lines, "dicom/gone.dcm,cord,"]) + "\n", encoding="utf-8")
    return path


def test_an_import_writes_manifest_summary_and_what_was_left_out(tmp_path: Path, table: Path, secret: Path) -> None:
    output = tmp_path / "made.parquet"
    done = run("csv", table, "-o", output, "--secret-file", secret, "--reader", "r1")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3 rows, 1 patients, 1 studies; 0 with a box",
        "region: rootlet 3",
        "grade_set: A 1, B 1, C 1",
        "box_source: none 3",
        "reader: r1 3",
        "left out, the image does not exist: 1 (labels.csv, row 5: dicom/gone.dcm)",
        f"wrote {output}; all that was left out is listed in {tmp_path / 'made.left-out.csv'}",
    ]
    frame = read_manifest(output)
    assert frame["path"].str.startswith("dicom/").all()
    check_images(frame, output)
    with (tmp_path / "made.left-out.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["what", "why"],
            ["labels.csv, row 5: dicom/gone.dcm", "the image does not exist"],
        ]
    written = output.read_bytes() + (tmp_path / "made.left-out.csv").read_bytes()
    assert b"SECRET" not in written
    assert SECRET.encode() not in written


def test_a_second_reader_is_merged_from_another_folder(tmp_path: Path, table: Path, secret: Path) -> None:
    first, both = tmp_path / "one.csv", tmp_path / "merged" / "both.csv"
    run("csv", table, "-o", first, "--secret-file", secret, "--reader", "r1")
    done = run("csv", table, "-o", both, "--secret-file", secret, "--reader", "r2", "--merge", first)
    assert done.exit_code == 0, done.stderr
    frame = read_manifest(both)
    assert frame["reader"].value_counts().to_dict() == {"r1": 3, "r2": 3}
    check_images(frame, both)
    other = tmp_path / "other.secret"
    other.write_text(SECRET[::-1], encoding="utf-8")
    clash = run("csv", table, "-o", both, "--secret-file", other, "--reader", "r3", "--merge", first)
    assert clash.exit_code == 1
    assert "import both with the same secret" in clash.stderr
    assert read_manifest(both)["reader"].nunique() == 2


def test_nothing_imported_is_a_failure_and_writes_nothing(tmp_path: Path, secret: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,region\ngone.dcm,cord\n", encoding="utf-8")
    output = tmp_path / "made.csv"
    done = run("csv", table, "-o", output, "--secret-file", secret, "--reader", "r1")
    assert done.exit_code == 1
    assert "left out, the image does not exist: 1" in done.stdout
    assert f"nothing was imported from {table}: {output} was not written" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--date", "31.1.26"], 2, "is no date; write it as 2026-01-31"),
        (["--mapping", "none.toml"], 2, "the mapping none.toml cannot be read"),
        (["--merge", "none.csv"], 2, "none.csv does not exist"),
        (["--output", "made.xlsx"], 2, "a manifest is a .csv or a .parquet file"),
        ([], 1, "the labels do not say who made them; name the reader with --reader"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, table: Path, secret: Path, options: list[str], code: int, message: str
) -> None:
    done = run("csv", table, "-o", tmp_path / "made.csv", "--secret-file", secret, *options)
    assert done.exit_code == code
    assert message in done.stderr
    assert not (tmp_path / "made.csv").exists()


def test_without_a_secret_there_are_no_keys(tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STENOSIS_PATIENT_SECRET", raising=False)
    done = run("csv", table, "-o", tmp_path / "made.csv", "--reader", "r1")
    assert done.exit_code == 2
    assert "no secret for patient keys: give --secret-file or set STENOSIS_PATIENT_SECRET" in done.stderr
    monkeypatch.setenv("STENOSIS_PATIENT_SECRET", SECRET)
    assert run("csv", table, "-o", tmp_path / "made.csv", "--reader", "r1").exit_code == 0
    assert run("csv", tmp_path / "none.csv", "-o", tmp_path / "made.csv", "--reader", "r1").exit_code == 1


def test_long_imports_show_how_far_they_are(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(intake_module, "PROGRESS_S", 0.0)
    with caplog.at_level(logging.INFO):
        assert list(intake.steps([5, 6, 7], "reading")) == [5, 6, 7]
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [f"reading: {i} of 3" for i in (1, 2, 3)]
