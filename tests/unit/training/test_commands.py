from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stenosis_node.errors import BundleError
from stenosis_node.grading.manifest import read_manifest
from stenosis_node.grading.pipeline import Pipeline
from training.cli import app

run = CliRunner()


@pytest.mark.slow
def test_three_runs_become_a_bundle_with_the_figures_measured_on_them(tmp_path: Path) -> None:
    runs = {stage: tmp_path / stage for stage in ("locate", "classify", "grade")}
    for stage, folder in runs.items():
        done = run.invoke(
            app, ["train", stage, "--out", str(folder), "--steps", "1", "--batch-size", "2", "--workers", "0"]
        )
        assert done.exit_code == 0, done.output
    figures = tmp_path / "metrics.json"
    measured = run.invoke(app, ["evaluate", *map(str, runs.values()), "--out", str(figures), "--slices", "6"])
    assert measured.exit_code == 0, measured.output

    options = [item for stage, folder in runs.items() for item in (f"--{stage}", str(folder))]
    bundle = tmp_path / "bundle"
    exported = run.invoke(app, ["export", *options, "--metrics", str(figures), "--out", str(bundle)])
    assert exported.exit_code == 0, exported.output
    manifest = read_manifest(bundle)
    assert manifest.metrics["held_out"]["slices"] == 6  # type: ignore[index,call-overload]
    assert set(manifest.metrics["int8_storage"]["end_to_end macro_f1"]) == {"int8", "fp32"}  # type: ignore[index,call-overload,arg-type]
    assert manifest.training_data.slices == 3 * 2
    assert "not measured" in (bundle / "MODEL_CARD.md").read_text()
    assert Pipeline.load(bundle, device="cpu").identity.name == "phantom-1"

    tree = json.loads(figures.read_text())
    tree["checkpoints"]["grade"] = "0" * 64
    figures.write_text(json.dumps(tree))
    refused = run.invoke(app, ["export", *options, "--metrics", str(figures), "--out", str(tmp_path / "other")])
    assert refused.exit_code == 1
    assert "measured on other checkpoints" in refused.output


def test_export_says_what_it_needs(tmp_path: Path) -> None:
    done = run.invoke(app, ["export", "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 2
    assert "--untrained" in done.output
    with pytest.raises(BundleError):
        read_manifest(tmp_path / "bundle")


def test_evaluate_names_a_run_that_is_not_there(tmp_path: Path) -> None:
    done = run.invoke(app, ["evaluate", *["nowhere"] * 3, "--out", str(tmp_path / "m.json"), "--slices", "1"])
    assert done.exit_code == 1
    assert "train this stage first" in done.output
