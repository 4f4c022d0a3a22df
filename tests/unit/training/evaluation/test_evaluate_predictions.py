from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.ops import box_iou
from typer.testing import CliRunner

from tests.unit.training.evaluation.realised import write_paper
from tests.unit.training.evaluation.simulated import write_simulated
from training.cli import app
from training.evaluation import paper_tables, stage_tables
from training.evaluation.cohort import load_cohort
from training.evaluation.predictions import called_grade, read_predictions, write_predictions
from training.evaluation.reading import EvaluationError
from training.evaluation.stages import END_TO_END, ChainScores, beside_transition
from training.evaluation.won2025 import TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6

run = CliRunner()


def call(*arguments: object) -> Any:
    return run.invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("simulated")
    labels, predictions = write_simulated(folder)
    done = call("--labels", labels, "--predictions", predictions, "--out", folder / "out", "--bootstrap", 200)
    assert done.exit_code == 0, done.output
    return labels, predictions, folder / "out"


def test_labels_that_realise_the_paper_give_its_tables(tmp_path: Path) -> None:
    labels, predictions = write_paper(tmp_path)
    cohort = load_cohort(labels, predictions, bootstrap=0)
    made = paper_tables.comparisons(cohort)
    confusions = {(one.part, one.rows, one.columns): one.agreement.confusion for one in made}
    assert confusions == {
        ("region", "A2", "A1"): [list(row) for row in TABLE_2],
        ("region", "A1", "C1"): [list(row) for row in TABLE_5[1]],
        ("region", "A2", "C2"): [list(row) for row in TABLE_5[2]],
        ("grade", "A2", "A1"): [list(row) for row in TABLE_3],
        ("grade", "A1", "C1"): [list(row) for row in TABLE_6[1]],
        ("grade", "A2", "C2"): [list(row) for row in TABLE_6[2]],
    }
    one = paper_tables.table_1(cohort)
    assert [row[1:3] for row in one.rows] == [
        ["11551", "11542 (99.92 %)"],
        ["12442", "12436 (99.95 %)"],
        ["10969", "10965 (99.96 %)"],
    ]
    assert "7693 rootlet, all chains 7282" in one.note
    printed = [tuple(row[2:5]) for row in paper_tables.table_4(made).rows]
    expected = [TABLE_4[part][pair] for part in ("region", "grade") for pair in ("A1-A2", "A1-C1", "A2-C2")]
    assert printed == [("90.0", *expected[0][1:]), *expected[1:]]
    titles = [table.title for table in paper_tables.confusion_tables(made)]
    assert [title.split(".")[0] for title in titles] == [f"Table {mark}" for mark in ("2", "3", "5a", "5b", "6a", "6b")]
    shares = paper_tables.supplements([one for one in made if one.columns == "C1" and one.part == "grade"])[0]
    assert [row[code + 1] for code, row in enumerate(shares.rows)] == ["96.0 %", "76.6 %", "71.2 %", "64.3 %"]


def test_the_document_is_whole(simulated: tuple[Path, Path, Path]) -> None:
    out = simulated[2]
    text = (out / "evaluation.md").read_text(encoding="utf-8")
    for number in range(1, 7):
        assert f"### Table {number}" in text
    for words in ("AP50:95", "away from the transition", "end to end", "C or worse in a study", "ECE", "By vendor"):
        assert words in text
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) == 11
    assert all((out / link).read_bytes().startswith(b"\x89PNG") for link in links)
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 11
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    figures = json.loads((out / "evaluation.json").read_text())
    assert set(figures["chains"]) == {"one", "two"}


def test_the_canal_against_all_readers_together(simulated: tuple[Path, Path, Path]) -> None:
    """Counted again from the files, without the package."""
    labels, predictions, out = simulated
    box = ["x0", "y0", "x1", "y1"]
    drawn = pd.read_csv(labels).groupby("sop_uid")[box].agg(["mean", "count"])
    everywhere = drawn[drawn["x0"]["count"] == 2]
    truth = everywhere.xs("mean", axis=1, level=1)[box].to_numpy()
    found = pd.read_parquet(predictions).query("model == 'one'").set_index("sop_uid")[box].loc[everywhere.index]
    ious = [
        float(box_iou(torch.tensor([a]), torch.tensor([b]))) if b[0] == b[0] else 0.0
        for a, b in zip(truth.tolist(), found.to_numpy().tolist(), strict=True)
    ]
    chain = json.loads((out / "evaluation.json").read_text())["chains"]["one"]
    assert chain["detection_by_all"]["with_canal"] == len(everywhere) > 0
    assert chain["detection_by_all"]["recall50"] == pytest.approx(np.mean(np.array(ious) >= 0.5))
    assert "one, mean box of all readers" in (out / "evaluation.md").read_text(encoding="utf-8")


def test_misses_count_as_errors_end_to_end(simulated: tuple[Path, Path, Path]) -> None:
    """Counted again from the files, without the package."""
    labels, predictions, out = simulated
    truth = pd.read_csv(labels).query("reader == 'anna' and grade.notna()").set_index("sop_uid")
    found = pd.read_parquet(predictions).query("model == 'one'").set_index("sop_uid").loc[truth.index]
    called = found.grade.where(found.x0.notna() & (found.region == "rootlet") & (found.abstained != "1"))
    scored = json.loads((out / "evaluation.json").read_text())["chains"]["one"]["grade"]
    assert scored[END_TO_END]["n"] == len(truth)
    assert scored[END_TO_END]["missed"] == int(called.isna().sum()) > 0
    assert scored[END_TO_END]["values"]["accuracy"] == pytest.approx(float((called == truth.grade).mean()))
    assert scored["on the reader's box"]["values"]["accuracy"] == pytest.approx(
        float((found.true_box_grade == truth.grade).mean())
    )
    low, high = scored[END_TO_END]["bounds"]["accuracy"]
    assert low < scored[END_TO_END]["values"]["accuracy"] < high


def test_study_level_counts_studies(simulated: tuple[Path, Path, Path]) -> None:
    labels, predictions, _ = simulated
    one = ChainScores(load_cohort(labels, [predictions], bootstrap=0), "two").study_level
    assert one.sensitivity.of + one.specificity.of == 24
    low, high = one.sensitivity.bounds
    assert low is not None
    assert high is not None
    assert one.sensitivity.value is not None
    assert low < one.sensitivity.value <= high


def test_the_slices_beside_a_change_are_left_out_in_the_order_of_z() -> None:
    regions = ["rootlet", "cord", "cord", "rootlet", "rootlet"]
    truth = pd.DataFrame({"z_mm": [3.0, 1, 2, 4, 5], "region": regions, "series_uid": "1"})
    assert beside_transition(truth).tolist() == [True, False, True, False, False]
    assert not beside_transition(truth.assign(z_mm=np.nan)).any()


def test_labels_without_a_prediction_and_predictions_without_a_label_are_counted(
    simulated: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Labels of patient 0 and of one slice of patient 1 by one reader are gone, and predictions of patients 2 and 3."""
    table = pd.read_csv(simulated[0], dtype=str, keep_default_na=False)
    gone = (table.study_uid == "1.2.0") | ((table.sop_uid == "1.2.1.1.5") & (table.reader == "anna"))
    table[~gone].to_csv(tmp_path / "labels.csv", index=False)
    found = pd.read_parquet(simulated[1])
    found = found[~found.study_uid.isin(["1.2.2", "1.2.3"]) | ((found.model == "two") & (found.study_uid == "1.2.3"))]
    write_predictions(found, tmp_path / "predictions.parquet")
    done = call(
        "--labels", tmp_path / "labels.csv", "--predictions", tmp_path / "predictions.parquet", "--out", tmp_path,
        "--bootstrap", 0, "--no-pictures",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    tree = json.loads((tmp_path / "evaluation.json").read_text())
    counts = ("slices", "patients", "labelled_without_prediction", "predicted_without_label")
    assert [tree["data"][name] for name in counts] == [22 * 12, 22, 12, 12]
    chains = tree["chains"]
    assert [chains["one"]["coverage"][name] for name in counts] == [21 * 12 - 1, 21, 24, 13]
    assert [chains["two"]["coverage"][name] for name in counts] == [22 * 12 - 1, 22, 12, 13]
    text = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "264 slices of 22 patients have a label and a prediction" in text
    assert "12 labelled slices have no prediction, 12 predicted slices no label" in text
    assert "| one and anna | 251 | 21 | 24 | 13 |" in text


def test_a_model_none_of_whose_slices_has_a_label_is_named(simulated: tuple[Path, Path, Path], tmp_path: Path) -> None:
    found = pd.read_parquet(simulated[1])
    found.loc[found.model == "two", "study_uid"] = "9.9"
    write_predictions(found, tmp_path / "predictions.parquet")
    with pytest.raises(EvaluationError, match="no slice of model 'two' has a label"):
        load_cohort(simulated[0], [tmp_path / "predictions.parquet"], bootstrap=0)


def test_what_becomes_of_slices_that_nobody_can_grade(simulated: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Six slices that anna calls 'other'. One has no box, one is abstained on, one is called cord, three are graded."""
    labels = pd.read_csv(simulated[0])
    slices = labels[(labels.region == "other") & (labels.reader == "anna")].sop_uid
    assert len(slices) == 6
    found = pd.read_parquet(simulated[1]).query("model == 'one'").set_index("sop_uid", drop=False)
    found.loc[slices, ["x0", "y0", "x1", "y1", "region", "grade", "abstained", "box_score"]] = (
        2.0, 2.0, 9.0, 9.0, "rootlet", "A", "0", 0.9,
    )  # fmt: skip
    found.loc[slices.iloc[0], ["x0", "y0", "x1", "y1"]] = np.nan
    found.loc[slices.iloc[1], "abstained"] = "1"
    found.loc[slices.iloc[2], "region"] = "cord"
    found.loc[slices.iloc[3], "grade"] = "D"
    write_predictions(found, tmp_path / "predictions.parquet")
    done = call(
        "--labels", simulated[0], "--predictions", tmp_path / "predictions.parquet", "--out", tmp_path,
        "--bootstrap", 0, "--no-pictures",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    counted = json.loads((tmp_path / "evaluation.json").read_text())["chains"]["one"]["other"]
    assert counted == {"slices": 6, "no_box": 1, "abstained": 1, "no_grade": 1, "graded": 3, "severe": 1}
    assert "| one and anna | 6 | 1 | 1 | 1 | 3 | 1 |" in (tmp_path / "evaluation.md").read_text(encoding="utf-8")


def test_a_chain_is_compared_with_every_reader(simulated: tuple[Path, Path, Path]) -> None:
    """In the figures; the tables of the paper have only the reader it learnt from."""
    out = simulated[2]
    agreement = json.loads((out / "evaluation.json").read_text())["agreement"]
    pairs = [(one["rows"], one["columns"]) for one in agreement if one["part"] == "grade"]
    assert pairs == [("ben", "anna"), ("anna", "one"), ("anna", "two"), ("ben", "one"), ("ben", "two")]
    assert len({one["n"] for one in agreement if one["part"] == "grade"}) == 1
    assert ": ben (rows) and one (columns)" not in (out / "evaluation.md").read_text(encoding="utf-8")


def test_a_field_of_view_of_200_mm_belongs_to_200_mm_and_more(
    simulated: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    table = pd.read_csv(simulated[0])
    table["fov_mm"] = table.fov_mm.replace({150.0: 159.9, 180.0: 160.0, 220.0: 200.0})
    table.to_csv(tmp_path / "labels.csv", index=False)
    cohort = load_cohort(tmp_path / "labels.csv", [simulated[1]], bootstrap=0)
    tables = stage_tables.subgroup_tables(cohort, [ChainScores(cohort, "one")])
    rows = next(one for one in tables if one.title == "By field of view").rows
    assert [row[:2] for row in rows] == [
        [f"one, {name}", "96"] for name in ("0 to 160 mm", "160 to 200 mm", "200 mm and more")
    ]


def test_one_reader_and_no_pictures_is_enough(simulated: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels, predictions, _ = simulated
    alone = tmp_path / "alone.csv"
    table = pd.read_csv(labels, dtype=str, keep_default_na=False)
    table[table.reader == "ben"].to_csv(alone, index=False)
    out = tmp_path / "out"
    done = call("--labels", alone, "--predictions", predictions, "--out", out, "--bootstrap", 50)
    assert done.exit_code == 0, done.output
    text = (out / "evaluation.md").read_text()
    assert "### Table 2" not in text
    assert "### Table 6a" in text
    assert "gallery" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grade": "E"}, "row 3, column grade: 'E' is none of A, B, C, D or empty"),
        ({"x1": 1.0}, "row 3, column x1: '1.0' is not right of x0"),
        ({"x0": None}, "row 3, column x0"),
        ({"p_A": 1.5}, "row 3, column p_A: '1.5' lies outside 0 to 1"),
        ({"p_A": 0.9, "p_B": 0.9, "p_C": 0.0, "p_D": 0.0}, "do not add up to 1"),
        ({"other_boxes": "[[1, 2]]"}, "row 3, column other_boxes"),
        ({"sop_uid": "1.1"}, "the same study_uid, series_uid, sop_uid, frame, model as row 2"),
        ({"model": ""}, "row 3, column model"),
        ({"box_score": "high"}, "row 3, column box_score: 'high' is no number"),
    ],
)
def test_bad_predictions_are_named_by_row_and_column(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    row = {"study_uid": "1", "series_uid": "1", "model": "m", "x0": 2.0, "y0": 2.0, "x1": 5.0, "y1": 5.0}
    row |= {"region": "rootlet", "grade": "A"}
    table = pd.DataFrame([{**row, "sop_uid": "1.1"}, {**row, "sop_uid": "1.2", **change}])
    path = tmp_path / "p.csv"
    write_predictions(table, path)
    with pytest.raises(EvaluationError) as raised:
        read_predictions(path)
    assert words in str(raised.value)


def test_what_the_chain_reports_needs_a_box_rootlet_and_no_abstention() -> None:
    table = pd.DataFrame(
        {
            "x0": [1.0, np.nan, 1.0, 1.0],
            "region": ["rootlet", "rootlet", "cord", "rootlet"],
            "abstained": ["", "", "", "1"],
            "grade": ["C"] * 4,
        }
    )
    assert called_grade(table).tolist() == ["C", "", "", ""]


def test_usage_and_input_errors(simulated: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels, predictions, _ = simulated
    assert call("--out", tmp_path / "o").exit_code == 2
    assert "--labels" in call("--out", tmp_path / "o").output
    done = call("--labels", labels, "--predictions", predictions, "--out", tmp_path / "o", "--reference", "carl")
    assert done.exit_code == 2
    assert "no rows of reader 'carl'; it has anna, ben" in done.output
    twice = call("--labels", labels, *["--predictions", predictions] * 2, "--out", tmp_path / "o")
    assert "is in another file too" in twice.output
    assert not (tmp_path / "o").exists()
    missing = call("--labels", tmp_path / "no.csv", "--predictions", predictions, "--out", tmp_path / "o")
    assert missing.exit_code == 2
    assert "does not exist" in missing.output
