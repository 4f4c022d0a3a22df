"""The rule of the examination on whole phantom studies, through a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stenosis_node.domain import Grade
from stenosis_node.grading.manifest import read_manifest
from training.cli import app
from training.evaluation.stages import Proportion
from training.evaluation.studies import StudyFigures, true_worst, write_into_bundle
from training.export import write_untrained_bundle
from training.phantom.patient import draw_patient
from training.phantom.seeds import TEST_SEEDS


def test_the_truth_of_a_study_is_its_most_severe_rootlet_slice() -> None:
    patient = draw_patient(TEST_SEEDS[0])
    graded = [truth.grade for truth in patient.truths() if truth.content == "rootlet" and truth.grade]
    assert true_worst(patient) == max(graded, key="ABCD".index)


def test_figures_need_studies_of_both_kinds() -> None:
    figures = StudyFigures(Proportion(9, 10), Proportion(30, 40)).as_metrics()["study_level"]
    assert (figures["sensitivity"], figures["specificity"], figures["studies"]) == (0.9, 0.75, 50)
    with pytest.raises(ValueError, match="measure more patients"):
        StudyFigures(Proportion(0, 0), Proportion(3, 4)).as_metrics()


def test_figures_in_a_bundle_are_what_reports_print(tmp_path: Path) -> None:
    write_untrained_bundle(tmp_path)
    before = read_manifest(tmp_path)
    figures = StudyFigures(Proportion(9, 10), Proportion(30, 40)).as_metrics()

    after = write_into_bundle(tmp_path, figures, version="0.1")

    point = after.identity().operating_point
    assert point is not None
    assert (point.sensitivity, point.specificity, point.studies) == (0.9, 0.75, 50)
    assert after.digest() != before.digest()
    assert "study level" in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert {name: after.files[name] for name in after.files if name.endswith("safetensors")} == {
        name: before.files[name] for name in before.files if name.endswith("safetensors")
    }


def test_the_command_measures_through_the_pipeline_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_untrained_bundle(tmp_path / "bundle")
    worst = {0: Grade.D, 1: Grade.A}
    monkeypatch.setattr("training.evaluation.studies.true_worst", lambda patient: worst[patient.seed - TEST_SEEDS[0]])
    out = tmp_path / "study.json"

    done = CliRunner().invoke(app, ["studies", str(tmp_path / "bundle"), "--patients", "2", "--out", str(out)])

    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text(encoding="utf-8"))["study_level"]
    assert figures["studies"] == 2
    assert {figures["sensitivity"], figures["specificity"]} <= {0.0, 1.0}
    shutil.rmtree(tmp_path / "bundle")
    assert CliRunner().invoke(app, ["studies", str(tmp_path / "bundle"), "--patients", "2"]).exit_code == 2
