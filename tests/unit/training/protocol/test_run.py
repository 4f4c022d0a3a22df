"""The whole command on three phantom patients, at a scale where nothing is learnt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from stenosis_node.grading.manifest import read_manifest as read_bundle_manifest
from training.cli import app
from training.export import write_untrained_bundle
from training.labels.manifest import read_manifest, write_manifest
from training.learning.errors import TrainingError
from training.learning.fit import HISTORY_NAME
from training.protocol import runs
from training.protocol.runs import sole_runner, store_predictions

SMALL = (
    "locate.batch_size=2", "locate.slices_per_epoch=2", "locate.validation_slices=1", "classify.batch_size=4",
    "classify.epochs=2", "classify.slices_per_epoch=8", "classify.blocks=4,4,4,4,4", "grade.batch_size=4",
    "grade.slices_per_epoch=8", "grade.blocks=4,4,4,4,4", "grade_on=labelled", "group_by_patient=true", "folds=3",
)  # fmt: skip

WIDE = "blocks=32,64,128,192,256"


def command(data: Path, out: Path, *more: str) -> list[str]:
    values = [part for assignment in SMALL for part in ("--set", assignment)]
    return [
        "run", "--data", str(data), "--out", str(out), "--recipe", "won2025", "--readers", "reader-1", "--scale",
        "0.01", "--workers", "0", *values, *more,
    ]  # fmt: skip


def outcome(arguments: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def whole(few_phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, text = outcome(command(few_phantoms, out))
    assert code == 0, text
    return out


def test_a_run_predicts_what_its_fold_held_out(few_phantoms: Path, whole: Path) -> None:
    predictions = pd.read_parquet(whole / "predictions.parquet")
    folds = pd.read_csv(whole / "folds.csv", dtype=str)
    assert set(predictions["sop_uid"]) == set(folds.loc[folds["test_fold"] == "0", "sop_uid"])
    assert set(predictions["reader"]) == {"reader-1"}
    assert predictions["true_box_grade"].isin(list("ABCD")).all()
    stored = json.loads((whole / "run.json").read_text())
    assert stored["recipe"]["scale"] == 0.01
    assert stored["finished"]["units"] == 1


def test_a_finished_run_is_not_done_again(few_phantoms: Path, whole: Path) -> None:
    written = (whole / "reader-1" / "fold-0" / "grade" / "best.pt").stat().st_mtime_ns
    code, text = outcome(command(few_phantoms, whole))
    assert code == 0, text
    assert (whole / "reader-1" / "fold-0" / "grade" / "best.pt").stat().st_mtime_ns == written


def test_a_killed_run_ends_with_the_predictions_of_one_that_was_not(
    few_phantoms: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = command(few_phantoms, out)
    process = subprocess.Popen(
        [sys.executable, "-m", "training.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        waited = time.monotonic() + 240
        while not (out / "reader-1" / "fold-0" / "classify" / "last.pt").exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < waited
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "predictions.parquet").exists()

    code, text = outcome(arguments)
    assert code == 0, text
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "predictions.parquet"), pd.read_parquet(whole / "predictions.parquet")
    )


def test_two_processes_under_torchrun_train_one_chain(few_phantoms: Path, whole: Path, tmp_path: Path) -> None:
    """The command of the tutorial for more GPUs, on two processors."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "training.cli", *command(few_phantoms, out, "--devices", "2")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    alone, together = (pd.read_parquet(folder / "predictions.parquet") for folder in (whole, out))
    pd.testing.assert_frame_equal(alone[["sop_uid", "reader", "fold"]], together[["sop_uid", "reader", "fold"]])
    history = (out / "reader-1" / "fold-0" / "classify" / HISTORY_NAME).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1, 2]
    said = done.stdout + done.stderr
    assert said.count("classify epoch 1/2: loss") == 1


def test_a_run_that_starts_from_a_bundle_says_so(few_phantoms: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "untrained"
    write_untrained_bundle(bundle)
    changed = [part for name in ("classify", "grade") for part in ("--set", f"{name}.{WIDE}")]
    out = tmp_path / "run"
    code, text = outcome(command(few_phantoms, out, "--start-from", str(bundle), "--final", *changed))
    assert code == 0, text
    digest = read_bundle_manifest(bundle).digest()
    assert json.loads((out / "run.json").read_text())["start_from"]["digest"] == digest
    code, text = outcome(
        ["export", "--run", str(out), "--out", str(tmp_path / "made"), "--name", "made", "--version", "1"]
    )
    assert code == 0, text
    made = read_bundle_manifest(tmp_path / "made")
    assert f"(digest {digest[:12]}), which had learnt from" in made.training_data.description

    code, text = outcome(command(few_phantoms, tmp_path / "folds", "--start-from", str(tmp_path / "made"), *changed))
    assert code == 1
    assert "has learnt from these very labels" in " ".join(text.split())
    code, text = outcome(command(few_phantoms, tmp_path / "narrow", "--start-from", str(bundle)))
    assert code == 1
    assert "the classify network of" in text
    assert not (tmp_path / "narrow").exists()


def test_phantoms_of_the_test_seeds_are_not_trained_on(few_phantoms: Path, tmp_path: Path) -> None:
    rows = read_manifest(few_phantoms)
    keys = rows["patient_key"].replace({"phantom-1": "phantom-2-900000-17"})
    paths = [str(few_phantoms.parent / path) for path in rows["path"]]
    write_manifest(rows.assign(patient_key=keys, split_group=keys, path=paths), tmp_path / "labels.csv")
    code, text = outcome(command(tmp_path / "labels.csv", tmp_path / "run"))
    assert code == 1
    assert "has 1 phantom patients of seeds that are kept for tests (phantom-2-900000-17" in " ".join(text.split())


def test_two_runners_do_not_share_a_folder(few_phantoms: Path, whole: Path) -> None:
    with sole_runner(whole):
        code, text = outcome(command(few_phantoms, whole))
    assert code == 1
    assert "another runner" in text


def test_a_manifest_that_was_changed_under_a_run_is_refused(few_phantoms: Path, whole: Path) -> None:
    other = few_phantoms.with_name("other.csv")
    rows = read_manifest(few_phantoms)
    rows.loc[rows.index[0], "flags"] = "changed"
    write_manifest(rows, other)
    code, text = outcome(command(other, whole))
    assert code == 1
    assert "is not the manifest" in text


def test_other_settings_are_refused_by_name(few_phantoms: Path, whole: Path) -> None:
    code, text = outcome(command(few_phantoms, whole, "--set", "grade.learning_rate=0.5", "--seed", "3"))
    assert code == 1
    assert "recipe.grade.learning_rate was 0.0001, is 0.5" in text
    assert "seed was 0, is 3" in text


def test_missing_and_unreadable_images_are_all_named(few_phantoms: Path, tmp_path: Path) -> None:
    rows = read_manifest(few_phantoms)
    studies = list(dict.fromkeys(rows["study_uid"]))
    broken = few_phantoms.with_name("broken.dcm")
    broken.write_bytes(b"no image")
    rows.loc[(rows["study_uid"] == studies[0]), "path"] = "gone.dcm"
    rows.loc[(rows["study_uid"] == studies[1]), "path"] = broken.name
    data = few_phantoms.with_name("missing.csv")
    write_manifest(rows, data)
    code, text = outcome(command(data, tmp_path / "run"))
    assert code == 1
    assert "gone.dcm does not exist" in text
    assert "broken.dcm" in text


def test_a_full_disk_leaves_the_predictions_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.parquet"
    path.write_text("before")

    def full(table: pd.DataFrame, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "write_predictions", full)
    with pytest.raises(TrainingError, match="free space and repeat the command"):
        store_predictions(pd.DataFrame(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]
    assert path.read_text() == "before"


def test_a_value_the_recipe_does_not_have_is_a_usage_error(few_phantoms: Path, tmp_path: Path) -> None:
    code, text = outcome(command(few_phantoms, tmp_path / "run", "--set", "grade.lss=ordinal"))
    assert code == 2
    assert "grade.lss" in text


def test_a_plan_says_hours_and_disk_and_trains_nothing(few_phantoms: Path, tmp_path: Path) -> None:
    code, text = outcome(command(few_phantoms, tmp_path / "run", "--plan"))
    assert code == 0, text
    assert "| all |" in text
    assert not (tmp_path / "run").exists()
