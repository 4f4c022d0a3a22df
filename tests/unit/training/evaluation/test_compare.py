from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from tests.unit.training.evaluation.simulated import write_simulated
from training.cli import app
from training.evaluation.sources import Source

run = CliRunner()


def call(*arguments: object) -> Any:
    return run.invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_simulated(tmp_path_factory.mktemp("compared"))


def test_two_models_on_the_same_resamples(files: tuple[Path, Path]) -> None:
    labels, predictions = files
    where = (f"{predictions}@one", f"{predictions}@two", "--truth", f"{labels}:grade@anna", "--bootstrap", 400)
    done = call(*where, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    truth = pd.read_csv(labels).query("reader == 'anna' and grade.notna()").set_index("sop_uid").grade
    table = pd.read_parquet(predictions).set_index("sop_uid")
    right, graded = {}, {}
    for model, rows in table.groupby("model"):
        called = rows.grade.where(rows.x0.notna() & (rows.region == "rootlet") & (rows.abstained != "1")).loc[
            truth.index
        ]
        right[model], graded[model] = float((called == truth).mean()), called
    assert found["n"] == len(truth)
    assert found["missed"] == [int(graded["one"].isna().sum()), int(graded["two"].isna().sum())]
    accuracy = found["scores"]["accuracy"]
    assert (accuracy["a"], accuracy["b"]) == pytest.approx((right["one"], right["two"]))
    assert accuracy["difference"] == pytest.approx(right["two"] - right["one"])
    both = graded["one"].notna() & graded["two"].notna()
    assert found["scores"]["kappa_quadratic"]["a"] == pytest.approx(
        cohen_kappa_score(truth[both], graded["one"][both], weights="quadratic")
    )
    low, high = accuracy["difference_bounds"]
    assert low < accuracy["difference"] < high < 0  # the noisier model is worse
    widths = [high - low for low, high in (accuracy["a_bounds"], accuracy["b_bounds"])]
    assert high - low < sum(widths)  # paired
    text = call(*where).stdout
    assert "sensitivity, C or worse" in text
    assert "B - A" in text


def test_a_rater_compared_with_itself_differs_by_nothing(files: tuple[Path, Path]) -> None:
    labels, predictions = files
    done = call(f"{predictions}@one", f"{predictions}@one", "--truth", f"{labels}@ben", "--bootstrap", 50, "--json")
    scores = json.loads(done.stdout)["scores"]
    assert all(one["difference"] == 0 and one["difference_bounds"] == [0, 0] for one in scores.values())


def test_columns_of_one_file(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("study_uid,sop_uid,r1,r2,ref\n1,1,A,A,A\n1,2,B,,B\n2,3,C,C,D\n2,4,D,D,\n")
    done = call(f"{file}:r1", f"{file}:r2", "--truth", f"{file}:ref", "--json")
    found = json.loads(done.stdout)
    assert found["n"] == 3
    assert found["missed"] == [0, 1]
    assert found["scores"]["accuracy"]["a"] == pytest.approx(2 / 3)
    assert found["scores"]["accuracy"]["b"] == pytest.approx(1 / 3)


def test_errors_say_what_to_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    labels, predictions = files
    several = call(predictions, f"{predictions}@two", "--truth", f"{labels}@anna")
    assert several.exit_code == 2
    assert "holds several raters (one, two); name one" in several.output
    nobody = call(f"{predictions}@three", f"{predictions}@two", "--truth", f"{labels}@anna")
    assert "no row of 'three'; it has one, two" in nobody.output
    column = call(f"{predictions}:score@one", f"{predictions}@two", "--truth", f"{labels}@anna")
    assert "no column 'score'" in column.output
    foreign = tmp_path / "f.csv"
    foreign.write_text("study_uid,sop_uid,grade\n7,7.7,A\n")
    assert "no slice is in all of" in call(foreign, foreign, "--truth", f"{labels}@anna").output


def test_names_of_sources(tmp_path: Path) -> None:
    odd = tmp_path / "a:b@c.csv"
    odd.touch()
    assert Source.parse(str(odd)) == Source(odd)
    assert Source.parse(f"{odd}:g@r") == Source(odd, "g", "r")
    assert Source.parse("x.csv:g") == Source(Path("x.csv"), "g")
    assert Source.parse("x.csv@r") == Source(Path("x.csv"), "grade", "r")
    assert Source.parse("x.csv:g").name == "x:g"
