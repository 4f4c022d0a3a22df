from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stenosis_node.errors import BundleError
from stenosis_node.grading.manifest import Manifest, read_manifest
from training.cli import app
from training.export import figures_for, write_untrained_bundle
from training.learning.errors import TrainingError
from training.measured import chain_name, figures_of, reader_agreement, study_level, weights_mark
from training.model_card import model_card

run = CliRunner()


def test_export_says_what_it_needs(tmp_path: Path) -> None:
    done = run.invoke(app, ["export", "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 2
    assert "--untrained" in done.output
    with pytest.raises(BundleError):
        read_manifest(tmp_path / "bundle")


def test_export_of_what_is_no_run_says_so(tmp_path: Path) -> None:
    done = run.invoke(app, ["export", "--run", str(tmp_path), "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 1
    assert "is no run: it has no run.json" in done.output


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_untrained_bundle(tmp_path_factory.mktemp("bundle"))


def _evaluation(folder: Path, chain: str) -> Path:
    """As ``stenosis-train evaluate`` writes it, of made-up figures."""
    score = {"n": 10, "missed": 1, "values": {"accuracy": 0.9, "macro_f1": 0.8}, "bounds": {"macro_f1": [0.7, 0.85]}}
    share = {"value": 0.9, "bounds": [0.7, 0.98], "studies": 20}
    detection = dict.fromkeys(
        ("with_canal", "ap50", "ap50_95", "recall50", "recall75", "centre_mm_median", "centre_mm_p95"), 0.9
    )
    tree: dict[str, Any] = {
        "data": {"labels_sha256": "0" * 64, "slices": 10, "patients": 3, "readers": ["anna", "truth"]},
        "chains": {
            chain: {
                "reader": "truth",
                "detection": detection | {"false_without_canal": 0.0},
                "detection_by_all": detection | {"recall50": 0.99},
                "region": {"all slices": score, "away from the transition": score},
                "grade": {"end to end": score, "on the reader's box": score},
                "study": {"sensitivity": share, "specificity": share},
                "calibration": {"grade": {"ece": 0.05}},
            }
        },
        "agreement": [
            {"part": "grade", "rows": "anna", "columns": chain, "n": 10, "kappa_quadratic": 0.7},
            {"part": "grade", "rows": chain, "columns": "truth", "n": 10, "kappa_quadratic": 0.8},
            {"part": "grade", "rows": "anna", "columns": "truth", "n": 10, "kappa_quadratic": 0.9},
        ],
    }
    path = folder / "evaluation.json"
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def test_figures_are_taken_from_an_evaluation_of_these_weights_alone(tmp_path: Path, manifest: Manifest) -> None:
    path = _evaluation(tmp_path, chain_name(manifest))
    figures = figures_of(path, manifest)
    assert figures["grade, end to end"]["macro_f1"] == {"value": 0.8, "from": 0.7, "to": 0.85}
    assert figures["canal"]["recall50"] == 0.9
    assert figures["canal, mean box where every reader drew one"]["recall50"] == 0.99
    assert figures_of(tmp_path, manifest) == figures
    level = study_level(figures, "simulated studies")
    assert level is not None
    assert (level["sensitivity"], level["studies"]) == (0.9, 40)
    agreement = reader_agreement(path, manifest, "simulated readers")
    assert agreement == {"kind": "simulated readers", "number": 1, "measure": "mean quadratic kappa", "value": 0.7}

    card = model_card(manifest.model_copy(update={"metrics": {"held_out": figures, "readers": agreement}}))
    assert "Grades of real slices: **not measured**" in card
    assert "| grade, end to end: macro f1 | 0.8 (0.7 to 0.85) |" in card

    other = manifest.model_copy(update={"thresholds": manifest.thresholds.model_copy(update={"box_score": 0.4})})
    assert weights_mark(other) != weights_mark(manifest)
    with pytest.raises(TrainingError, match="was not measured on these weights and rules"):
        figures_of(path, other)


def test_labels_a_bundle_was_made_from_are_no_test(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    bare = write_untrained_bundle(folder)
    evaluation = _evaluation(tmp_path / "evaluation", chain_name(bare))
    done = run.invoke(
        app, ["export", "--bundle", str(folder), "--evaluation", str(evaluation), "--out", str(tmp_path / "apart")]
    )
    assert done.exit_code == 0, done.output
    apart = read_manifest(tmp_path / "apart")
    assert apart.metrics["held_out"]
    assert apart.metrics["study_level"]["source"] == "simulated studies"  # type: ignore[index,call-overload]

    data = bare.training_data.model_copy(update={"id": f"labels-{'0' * 12}"})
    learnt = bare.model_copy(update={"training_data": data})
    metrics = figures_for(learnt, _evaluation(tmp_path / "again", chain_name(learnt)), None)
    assert set(metrics) == {"learnt_from"}
    assert "no test" in model_card(learnt.model_copy(update={"metrics": metrics}))


def test_what_is_no_evaluation_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "evaluation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match="run stenosis-train evaluate again"):
        figures_of(tmp_path, manifest)
    with pytest.raises(TrainingError, match="cannot be read"):
        figures_of(tmp_path / "nowhere", manifest)


def test_a_card_without_figures_says_so(manifest: Manifest) -> None:
    assert "Nothing: this bundle was never evaluated." in model_card(manifest)
