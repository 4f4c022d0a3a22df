from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stenosis_node.grading.manifest import TrainingData
from tests.unit.training.protocol.conftest import MakeSlice
from training.calibration.decision import Decision, apply_decision
from training.export import draft
from training.learning.errors import TrainingError
from training.learning.labels import TRUTH, LabelledSlice
from training.protocol.decisions import decide, needs_validation, read_decision
from training.recipes import RECIPES

DEFAULT = replace(RECIPES["default"], operating_point=False, abstain=False)
ROWS = ("study_uid", "series_uid", "sop_uid", "frame", "z_mm", "reader", "region", "grade")


def scored(taught: list[LabelledSlice], **columns: Any) -> pd.DataFrame:
    """Predictions of slices on top of each other, from head to foot."""
    keys = pd.DataFrame([one.key for one in taught], columns=["study_uid", "series_uid", "sop_uid", "frame"])
    made = keys.assign(frame="", x0=1.0, box_score=0.9, region="rootlet", grade="A", p_A=0.7, p_B=0.1, p_C=0.1, p_D=0.1)
    made = made.assign(**{"p_rootlet": 0.9} | columns)
    return made.assign(p_cord=1 - made["p_rootlet"])


def rows(taught: list[LabelledSlice], grades: list[str], reader: str = "anna") -> pd.DataFrame:
    return pd.DataFrame(
        [
            (*one.key, -4.0 * place, reader, "rootlet", grade)
            for place, (one, grade) in enumerate(zip(taught, grades, strict=True))
        ],
        columns=list(ROWS),
    ).assign(patient_key=[one.patient for one in taught], split_group=[one.group for one in taught])


def test_a_slice_that_contradicts_the_switch_is_not_reported(make_slice: MakeSlice) -> None:
    taught = [make_slice(number, "p", "A") for number in range(6)]
    table = scored(taught, p_rootlet=[0.02, 0.02, 0.95, 0.02, 0.9, 0.95])
    made = apply_decision(table, Decision(monotone_switch=True), rows(taught, ["A"] * 6))
    assert list(made["region"]) == ["cord"] * 4 + ["rootlet"] * 2
    assert list(made["abstained"]) == ["0", "0", "1", "0", "0", "0"]


def test_the_operating_point_calls_c_or_worse(make_slice: MakeSlice) -> None:
    taught = [make_slice(number, "p", "A") for number in range(2)]
    table = scored(taught, p_A=[0.5, 0.8], p_B=[0.1, 0.1], p_C=[0.3, 0.05], p_D=[0.1, 0.05])
    made = apply_decision(table, Decision(severe_threshold=0.3), rows(taught, ["A", "A"]))
    assert list(made["grade"]) == ["C", "A"]


def test_the_readers_of_the_chain_decide_not_the_truth_of_a_phantom(make_slice: MakeSlice) -> None:
    taught = [make_slice(number, "p", "A") for number in range(40)]
    sure = scored(taught, p_A=0.97, p_B=0.01, p_C=0.01, p_D=0.01)
    labels = pd.concat([rows(taught, ["A", "B"] * 20), rows(taught, ["A"] * 40, TRUTH)], ignore_index=True)
    decision = decide(DEFAULT, sure, labels, ("anna",))
    assert decision.grade_temperature > 2  # right half of the time, by the reader
    calmer = apply_decision(sure, decision, labels)
    assert 0.25 < calmer["p_A"].iloc[0] < 0.9
    assert np.allclose(calmer[["p_A", "p_B", "p_C", "p_D"]].sum(axis=1), 1)


@pytest.mark.parametrize("name", ["won2025", "won2025-transfer"])
def test_the_recipes_of_the_paper_change_no_score(name: str, make_slice: MakeSlice) -> None:
    taught = [make_slice(number, "p", "A") for number in range(4)]
    table, labels = scored(taught), rows(taught, ["A"] * 4)
    recipe = RECIPES[name]
    assert not needs_validation(recipe)
    made = apply_decision(table, decide(recipe, None, labels, ("anna",)), labels)
    pd.testing.assert_frame_equal(made[table.columns], table)


def test_a_bundle_applies_what_was_decided() -> None:
    decision = Decision(
        classify_temperature=1.5,
        grade_temperature=2.0,
        monotone_switch=True,
        severe_threshold=0.2,
        box_score=0.7,
        content_score=0.6,
        grade_score=0.4,
    )
    manifest = decision.onto(draft("x", "1", TrainingData(id="none", description="none", slices=0), {}))
    assert Decision.of_manifest(manifest) == decision


def test_a_broken_decision_is_named(tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_text("[1")
    with pytest.raises(TrainingError, match=r"decision\.json cannot be read; remove it"):
        read_decision(tmp_path / "decision.json")
