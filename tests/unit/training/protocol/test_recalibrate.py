"""A bundle gets the borders of other readers: the real networks of the demo, and their scores as they were kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stenosis_node.grading.bundle import read_bundle, write_bundle
from stenosis_node.grading.manifest import Calibration, DecisionRules
from stenosis_node.grading.manifest import read_manifest as read_bundle_manifest
from training.calibration.temperature import at_temperature
from training.calibration.truth import truth_of
from training.cli import app
from training.evaluation.predictions import P_GRADE, read_predictions, write_predictions
from training.export import write_untrained_bundle
from training.labels.manifest import read_manifest
from training.measured import chain_name
from training.protocol import recalibrate as module

run = CliRunner()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_untrained_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def scores(few_phantoms: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all slices, as the networks give them."""
    folder = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEWEST_GRADED", 10)
        done = calibrate(bundle, few_phantoms, folder / "bundle", folder / "scores.parquet")
    assert done == (0, done[1]), done
    return folder / "scores.parquet"


def calibrate(bundle: Path, data: Path, out: Path, scores: Path, *more: str) -> tuple[int, str]:
    arguments = ["--bundle", bundle, "--data", data, "--out", out, "--version", "2", "--predictions", scores, *more]
    done = run.invoke(app, ["calibrate", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture
def few_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_GRADED", 10)
    monkeypatch.setattr("training.calibration.temperature.FEWEST", 2)


@pytest.mark.usefixtures("few_suffice")
def test_the_networks_stay_and_the_borders_move(few_phantoms: Path, bundle: Path, scores: Path, tmp_path: Path) -> None:
    table = read_predictions(scores)
    said = np.nan_to_num(truth_of(table, read_manifest(few_phantoms)).grades, nan=0.25)
    table[list(P_GRADE)] = at_temperature(0.6 * said + 0.1, 1.0, (0.0, 2.5, 0.0, 0.0))
    leaning = tmp_path / "leaning.parquet"
    write_predictions(table, leaning)

    code, text = calibrate(bundle, few_phantoms, tmp_path / "new", leaning)
    assert code == 0, text
    before, after = (read_bundle_manifest(folder) for folder in (bundle, tmp_path / "new"))
    fitted = after.calibration
    assert fitted.grade_offsets[1] < 0
    leant = table[list(P_GRADE)].to_numpy()
    called = at_temperature(leant, fitted.grade_temperature, fitted.grade_offsets)
    right = [(one.argmax(1) == said.argmax(1))[said.max(1) > 0.5].mean() for one in (leant, called)]
    assert right[1] > right[0]
    assert after.version == "2"
    assert after.digest() in text
    assert after.digest() != before.digest()
    assert {name: one for name, one in after.files.items() if name.endswith(".safetensors")} == {
        name: one for name, one in before.files.items() if name.endswith(".safetensors")
    }
    assert "calls fitted anew on 3 patients, 18 slices" in after.training_data.description
    assert "offsets of A to D" in (tmp_path / "new" / "MODEL_CARD.md").read_text()

    code, text = calibrate(bundle, few_phantoms, tmp_path / "plain", leaning, "--no-offsets")
    assert code == 0, text
    assert not any(read_bundle_manifest(tmp_path / "plain").calibration.grade_offsets)


@pytest.mark.usefixtures("few_suffice")
def test_what_is_not_asked_for_stays(few_phantoms: Path, bundle: Path, scores: Path, tmp_path: Path) -> None:
    manifest, networks = read_bundle(bundle)
    rules = DecisionRules(monotone_switch=True, contradiction=0.8, severe_threshold=0.2)
    shifted = Calibration(grade_temperature=1.3, grade_offsets=(0.0, 1.0, 1.0, 1.0))
    ruled = manifest.model_copy(update={"decision": rules, "calibration": shifted})
    write_bundle(tmp_path / "ruled", networks, ruled, card="")
    table = read_predictions(scores).assign(model=chain_name(read_bundle_manifest(tmp_path / "ruled")))
    write_predictions(table, tmp_path / "scores.parquet")

    code, text = calibrate(tmp_path / "ruled", few_phantoms, tmp_path / "new", tmp_path / "scores.parquet")
    assert code == 1
    assert "calls C or D from a score of 0.2" in text
    code, text = calibrate(
        tmp_path / "ruled", few_phantoms, tmp_path / "new", tmp_path / "scores.parquet", "--no-operating-point",
        "--no-offsets",
    )  # fmt: skip
    assert code == 0, text
    new = read_bundle_manifest(tmp_path / "new")
    assert new.decision == DecisionRules(monotone_switch=True, contradiction=0.8)
    assert new.calibration.grade_offsets == shifted.grade_offsets
    assert new.calibration.grade_temperature == shifted.grade_temperature
    assert new.calibration.classify_temperature != 1.0


@pytest.mark.usefixtures("few_suffice")
def test_kept_scores_are_taken_and_those_of_others_refused(
    few_phantoms: Path, bundle: Path, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "predict_undecided", None)  # not asked again
    assert calibrate(bundle, few_phantoms, tmp_path / "new", scores)[0] == 0
    table = read_predictions(scores)
    for made in (table.assign(model="another@0"), table.iloc[1:]):
        write_predictions(made, tmp_path / "other.parquet")
        code, text = calibrate(bundle, few_phantoms, tmp_path / "other", tmp_path / "other.parquet")
        assert code == 1
        assert "is of another bundle or of other slices" in text
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_fitted_is_refused_before_anything_is_written(
    few_phantoms: Path, bundle: Path, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = calibrate(bundle, few_phantoms, tmp_path / "new", scores)
    assert code == 1
    assert "has 12 graded slices of these readers; 100 are needed" in " ".join(text.split())
    code, text = calibrate(bundle, few_phantoms, tmp_path / "new", scores, "--readers", "anna")
    assert code == 1
    assert "has no labels of anna; its readers are reader-1, reader-2" in " ".join(text.split())
    code, text = calibrate(bundle, few_phantoms, bundle, scores)
    assert code == 1
    assert "is the bundle itself" in text
    monkeypatch.setattr(module, "FEWEST_GRADED", 10)
    code, text = calibrate(bundle, few_phantoms, tmp_path / "new", scores, "--operating-point")
    assert code == 1
    assert "no operating point: " in text
    assert not (tmp_path / "new").exists()
