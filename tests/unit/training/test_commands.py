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


def test_other_chains_are_no_readers(tmp_path: Path, manifest: Manifest) -> None:
    """An evaluation of two models: agreement of the other one is none between readers, and none with a reader."""
    mine = chain_name(manifest)
    path = _evaluation(tmp_path, mine)
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["data"]["readers"].append("ben@clinic")
    tree["agreement"] += [
        {"part": "grade", "rows": "anna", "columns": "two", "n": 10, "kappa_quadratic": 0.1},
        {"part": "grade", "rows": "two", "columns": mine, "n": 10, "kappa_quadratic": 0.1},
        {"part": "grade", "rows": "ben@clinic", "columns": mine, "n": 10, "kappa_quadratic": 0.5},
        {"part": "grade", "rows": "ben@clinic", "columns": "anna", "n": 10, "kappa_quadratic": None},
    ]
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert set(figures_of(path, manifest)["readers among themselves"]) == {"anna and truth", "ben@clinic and anna"}
    agreement = reader_agreement(path, manifest, "readers")
    assert agreement is not None
    assert (agreement["number"], agreement["value"]) == (2, 0.6)


def test_figures_say_what_was_left_out_and_what_nobody_can_grade(tmp_path: Path, manifest: Manifest) -> None:
    mine = chain_name(manifest)
    path = _evaluation(tmp_path, mine)
    assert "slices the reader calls other" not in figures_of(path, manifest)  # an evaluation of an older version
    tree = json.loads(path.read_text(encoding="utf-8"))
    counts = {"slices": 7, "patients": 2, "labelled_without_prediction": 3, "predicted_without_label": 1}
    other = {"slices": 5, "no_box": 1, "abstained": 2, "no_grade": 1, "graded": 1, "severe": 0}
    tree["chains"][mine] |= {"coverage": counts, "other": other}
    tree["chains"][mine]["detection"] |= {"boxes": 20, "own_boxes": 9, "own_without_canal": 0.5}
    path.write_text(json.dumps(tree), encoding="utf-8")
    figures = figures_of(path, manifest)
    assert {name: figures["data"][name] for name in counts} == counts
    assert figures["data"]["readers"] == ["anna", "truth"]
    assert figures["canal"]["own_without_canal"] == 0.5
    assert figures["slices the reader calls other"] == other
    card = model_card(manifest.model_copy(update={"metrics": {"held_out": figures}}))
    assert "labelled without prediction 3, predicted without label 1" in card
    assert "| slices the reader calls other | slices 5, no box 1, abstained 2, no grade 1, graded 1, severe 0 |" in card


def test_what_is_no_evaluation_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "evaluation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match="run stenosis-train evaluate again"):
        figures_of(tmp_path, manifest)
    with pytest.raises(TrainingError, match="cannot be read"):
        figures_of(tmp_path / "nowhere", manifest)


def test_a_card_without_figures_says_so(manifest: Manifest) -> None:
    assert "Nothing: this bundle was never evaluated." in model_card(manifest)
