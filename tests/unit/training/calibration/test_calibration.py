"""Fits on simulated predictions whose right answer is known."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pandas as pd
import pytest

from stenosis_node.grading.manifest import DecisionRules, TrainingData
from training.calibration.abstention import GIVEN_UP, choose_thresholds
from training.calibration.borders import fit_borders
from training.calibration.decision import Asked, Decision, apply_decision, fit_decision
from training.calibration.operating import LARGEST, choose_operating_point
from training.calibration.temperature import FEWEST, STEP, at_temperature, fit_offsets, fit_temperature
from training.calibration.truth import truth_of
from training.evaluation.predictions import P_GRADE, P_REGION, called_grade
from training.evaluation.stages import Proportion
from training.evaluation.vocabulary import GRADES, REGIONS
from training.export import draft


def _shares(rng: np.random.Generator, classes: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are right as often as they say, and the labels."""
    logits = rng.normal(0, 1.5, (n, classes))
    scores = at_temperature(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0)
    labels = np.array([rng.choice(classes, p=row) for row in scores])
    return scores, np.eye(classes)[labels]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("overconfidence", [0.6, 1.0, 2.5])
def test_the_temperature_undoes_overconfidence(classes: int, overconfidence: float) -> None:
    scores, targets = _shares(np.random.default_rng(5), classes)
    sharpened = at_temperature(scores, 1 / overconfidence)
    assert fit_temperature(sharpened, targets) == pytest.approx(overconfidence, rel=0.08)


def test_a_temperature_changes_no_order_and_few_slices_fit_none() -> None:
    scores, targets = _shares(np.random.default_rng(6), 4)
    assert (at_temperature(scores, 3.0).argmax(1) == scores.argmax(1)).all()
    assert at_temperature(scores, 3.0).sum(1) == pytest.approx(1)
    assert fit_temperature(scores[:5], targets[:5]) == 1.0
    sure = np.tile([0.0, 0.0, 1.0, 0.0], (50, 1))
    assert np.isfinite(fit_temperature(sure, np.tile([0.0, 0.0, 0.0, 1.0], (50, 1))))


def test_offsets_undo_what_a_network_leans_to() -> None:
    scores, targets = _shares(np.random.default_rng(9), 4, n=20_000)
    leaning = at_temperature(at_temperature(scores, 1.0, (0.0, 0.8, -0.4, 0.3)), 1 / 1.5)
    temperature, offsets = fit_offsets(leaning, targets)
    assert temperature == pytest.approx(1.5, rel=0.05)
    np.testing.assert_allclose(offsets, (0.0, -0.8, 0.4, -0.3), atol=0.08)
    np.testing.assert_allclose(at_temperature(leaning, temperature, offsets), scores, atol=0.03)


def test_a_class_that_hardly_anybody_gave_moves_along_with_its_neighbour() -> None:
    scores, targets = _shares(np.random.default_rng(10), 4, n=4_000)
    leaning = at_temperature(scores, 1.0, (0.0, 1.5, 1.5, 1.5))
    rare = targets[:, 3] == 1
    kept = ~rare | (np.cumsum(rare) <= 2)
    _, offsets = fit_offsets(leaning[kept], targets[kept])
    assert offsets[:3] == pytest.approx((0.0, -1.5, -1.5), abs=0.2)
    assert offsets[3] < -1.5  # and on, as it is so rare; 0 would make every C a D
    assert fit_offsets(scores[:5], targets[:5]) == (1.0, (0.0,) * 4)


def test_few_slices_hardly_move_a_border() -> None:
    scores, targets = _shares(np.random.default_rng(11), 4, n=FEWEST)
    _, offsets = fit_offsets(at_temperature(scores, 1.0, (0.0, 0.0, 0.0, 2.0)), targets)
    assert np.abs(np.diff(offsets)).max() < 2 * STEP


def test_borders_move_only_where_patients_apart_gain_by_it() -> None:
    """A sharp network gains by them; a dull one would hardly call a rare grade any more."""
    rng = np.random.default_rng(12)
    truth = rng.choice(4, 600, p=(0.7, 0.2, 0.07, 0.03))
    patients = np.repeat(np.arange(60), 10).astype(object)
    shares = np.eye(4)[truth]
    for spread, lean, gains in ((0.5, 1.5, True), (1.5, 0.0, False)):
        distances = (np.arange(4) - truth[:, None] + rng.normal(0, spread, (600, 1))) ** 2
        scores = np.exp(-distances / (2 * spread**2))
        leaning = at_temperature(scores / scores.sum(axis=1, keepdims=True), 1.0, (0.0, lean, 0.0, 0.0))
        borders = fit_borders(leaning, shares, patients)
        assert any(borders.offsets) == gains, borders.sentence()
        assert (cast(float, borders.kappa_with) > cast(float, borders.kappa_without)) == gains
        assert ("are moved" in borders.sentence()) == gains
    assert not any(fit_borders(leaning, shares, np.full(600, "one", dtype=object)).offsets)


def test_a_decision_moves_the_borders_of_the_grades(validation: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    labels, predictions = validation
    leaning = predictions.copy()
    leaning[list(P_GRADE)] = at_temperature(predictions[list(P_GRADE)].to_numpy(), 1.0, (0.0, 1.5, 0.0, 0.0))
    truth = truth_of(leaning, labels).grade
    plain, moved = (
        fit_decision(leaning, labels, Asked(temperature=True, offsets=offsets)) for offsets in (False, True)
    )
    assert plain.grade_offsets == (0.0,) * 4
    assert moved.grade_offsets[1] < -0.5
    right = [(apply_decision(leaning, one, labels)["grade"] == truth)[truth != ""].mean() for one in (plain, moved)]
    assert right[1] > right[0] + 0.01
    assert Decision.of_plain(json.loads(json.dumps(moved.as_plain()))) == moved
    manifest = moved.onto(draft("x", "1", TrainingData(id="none", description="simulated", slices=0), {}))
    assert Decision.of_manifest(manifest).grade_offsets == moved.grade_offsets


def test_the_operating_point_reaches_its_bound_with_the_best_specificity() -> None:
    rng = np.random.default_rng(7)
    positive = np.arange(600) < 250
    highest = np.where(positive, rng.beta(4, 3, 600), rng.beta(1, 8, 600))
    choice = choose_operating_point(positive, highest)
    assert choice.threshold is not None
    assert choice.sensitivity.bounds[0] >= 0.95
    assert choice.sensitivity.hits == int((highest[positive] >= choice.threshold).sum())
    assert choice.specificity == Proportion(int((highest[~positive] < choice.threshold).sum()), 350)
    above = float(np.sort(highest[positive & (highest >= choice.threshold)])[0]) + 1e-6
    fewer = Proportion(int((highest[positive] >= above).sum()), 250)
    assert fewer.bounds[0] < 0.95  # the next higher threshold misses the bound


def test_it_never_calls_less_than_the_likeliest_grade() -> None:
    positive = np.arange(300) < 150
    choice = choose_operating_point(positive, np.where(positive, 0.98, 0.02))
    assert choice.threshold == LARGEST
    assert choice.specificity.value == 1.0


def test_it_says_when_the_studies_cannot_show_it() -> None:
    positive = np.arange(200) < 60
    few = choose_operating_point(positive, np.where(positive, 0.9, 0.1))
    assert few.threshold is None
    assert "60 validation studies have grade C or D, 72 are needed" in few.sentence
    missed = choose_operating_point(np.arange(200) < 100, np.where(np.arange(200) < 80, 0.9, 0.0))
    assert missed.threshold is None
    assert "no graded slice" in missed.sentence
    none = choose_operating_point(np.zeros(10, dtype=bool), np.full(10, 0.1))
    assert (none.threshold, none.sensitivity.value) == (None, None)


def test_thresholds_turn_wrong_calls_away_and_keep_the_right_ones() -> None:
    rng = np.random.default_rng(8)
    right = np.arange(2000) < 1800
    other = np.arange(2000) >= 1950
    scores = {
        "box_score": np.where(other, rng.uniform(0.5, 0.8, 2000), rng.uniform(0.7, 1.0, 2000)),
        "grade_score": np.where(right, rng.uniform(0.5, 1, 2000), rng.uniform(0.3, 0.7, 2000)),
    }
    scores["grade_score"][:300] = np.nan
    chosen = choose_thresholds(scores, right, other, {"box_score": 0.5, "grade_score": 0.25})
    kept = (scores["box_score"] >= chosen.thresholds["box_score"]) & ~(
        scores["grade_score"] < chosen.thresholds["grade_score"]
    )
    assert (~kept & right).sum() <= GIVEN_UP * right.sum()
    assert chosen.thresholds["box_score"] > 0.68
    assert chosen.thresholds["grade_score"] > 0.45
    assert chosen.coverage == pytest.approx(kept.mean())
    assert chosen.risk == pytest.approx((kept & ~right).sum() / kept.sum())
    assert chosen.risk < chosen.risk_before == pytest.approx(0.1)
    assert chosen.other_kept == pytest.approx(kept[other].mean())


def test_thresholds_that_help_nobody_are_not_raised() -> None:
    scores = {"box_score": np.linspace(0.5, 1, 500)}
    chosen = choose_thresholds(scores, np.ones(500, dtype=bool), np.zeros(500, dtype=bool), {"box_score": 0.5})
    assert chosen.thresholds == {"box_score": 0.5}
    assert (chosen.coverage, chosen.risk, chosen.other_kept) == (1.0, 0.0, None)


def test_no_kind_pays_for_the_others() -> None:
    """Of 1,000 right calls 15 are of a rare kind with low scores: all of them could go for the price of 2 %."""
    kinds = np.array(["A"] * 985 + ["D"] * 15 + ["A"] * 100, dtype=object)
    right = np.arange(1100) < 1000
    scores = {"grade_score": np.where(kinds == "D", 0.5, np.where(right, 0.9, 0.6))}
    nobody = np.zeros(1100, dtype=bool)
    blind = choose_thresholds(scores, right, nobody, {"grade_score": 0.25})
    assert blind.thresholds["grade_score"] > 0.25
    assert choose_thresholds(scores, right, nobody, {"grade_score": 0.25}, kinds).thresholds["grade_score"] <= 0.5


PER_STUDY = 12
APART, SPREAD = 1.7, 0.35
"""Of what the networks see: cord and rootlets lie so far from nothing, with noise 1; grades have this noise."""
SHARPNESS = 6.0
"""Of their scores; right would be 2 * APART for the region and 1 / (2 * SPREAD**2) for the grade."""


def _study(rng: np.random.Generator, study: int) -> tuple[list[dict[str, object]], ...]:
    """Labels of two readers and predictions of one chain; cord above slice 3, one slice a surgeon would not read."""
    labels, predictions = [], []
    severe = study % 2 == 0
    for place in range(PER_STUDY):
        keys = {"study_uid": f"1.{study}", "series_uid": f"1.{study}.1", "sop_uid": f"1.{study}.1.{place}"}
        cord, other = place < 3, place == 11
        worst = severe and place == 7
        grade = 2 + int(rng.random() < 0.4) if worst else int(rng.random() < 0.3)
        region = "other" if other else "cord" if cord else "rootlet"
        for reader in ("anna", "ben"):
            labels.append(
                {
                    **keys,
                    "patient_key": f"patient of {keys['study_uid']}",
                    "split_group": "",
                    "frame": pd.NA,
                    "reader": reader,
                    "region": region,
                    "grade": GRADES[grade] if region == "rootlet" else "",
                    "z_mm": -4.0 * place,
                }
            )
        p_cord = 1 / (1 + np.exp(-SHARPNESS * rng.normal(APART if cord else -APART, 1.0)))
        distance = (np.arange(4) - grade + rng.normal(0, SPREAD)) ** 2
        scores = np.exp(-SHARPNESS * distance)
        scores /= scores.sum()
        predictions.append(
            {
                **keys,
                "frame": "",
                "model": "m",
                "x0": 10.0, "y0": 10.0, "x1": 30.0, "y1": 25.0,
                "box_score": rng.uniform(0.5, 0.8) if other else rng.uniform(0.85, 1.0),
                "region": "cord" if p_cord > 0.5 else "rootlet",
                "p_rootlet": 1 - p_cord, "p_cord": p_cord,
                "grade": GRADES[int(scores.argmax())],
                **dict(zip(P_GRADE, scores, strict=True)),
            }
        )  # fmt: skip
    return labels, predictions


def _simulated(seed: int, studies: int = 600) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    parts = [_study(rng, study) for study in range(studies)]
    labels, predictions = (pd.DataFrame([row for part in parts for row in part[side]]) for side in (0, 1))
    return labels.sample(frac=1, random_state=1), predictions


EVERYTHING = Asked(temperature=True, monotone_switch=True, operating_point=True, abstain=True)


@pytest.fixture(scope="module")
def validation() -> tuple[pd.DataFrame, pd.DataFrame]:
    return _simulated(1)


@pytest.fixture(scope="module")
def fitted(validation: tuple[pd.DataFrame, pd.DataFrame]) -> Decision:
    labels, predictions = validation
    return fit_decision(predictions, labels, EVERYTHING)


def test_nothing_asked_nothing_changed(validation: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    labels, predictions = validation
    decision = fit_decision(predictions, labels, Asked())
    assert decision == Decision()
    same = apply_decision(predictions, decision, labels)
    assert (same["abstained"] == "0").all()
    pd.testing.assert_frame_equal(same[predictions.columns.tolist()], predictions)


def test_a_decision_holds_on_studies_it_was_not_fitted_on(fitted: Decision) -> None:
    assert fitted.classify_temperature == pytest.approx(SHARPNESS / (2 * APART), rel=0.1)
    assert fitted.grade_temperature == pytest.approx(SHARPNESS * 2 * SPREAD**2, rel=0.1)
    assert fitted.severe_threshold is not None
    labels, predictions = _simulated(2)
    truth = truth_of(predictions, labels)
    made = apply_decision(predictions, fitted, labels)
    clear = truth.region != "other"
    assert (
        np.mean(made["region"][clear] == truth.region[clear])
        > 0.97
        > np.mean(predictions["region"][clear] == truth.region[clear])
    )
    assert (made["abstained"][~clear] == "1").mean() > 0.9
    assert (made["abstained"][clear] == "1").mean() < 0.06
    severe = called_grade(made).isin(["C", "D"]).groupby(made["study_uid"]).any()
    positive = pd.Series(np.isin(truth.grade, ["C", "D"])).groupby(made["study_uid"].to_numpy()).any()
    assert severe[positive].mean() > 0.93
    specificity = fitted.fitted["operating_point"]["specificity"]
    assert severe[~positive].mean() == pytest.approx(1 - specificity, abs=0.1)


def test_scores_stay_the_networks_own_at_their_temperature(
    fitted: Decision, validation: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    labels, predictions = validation
    made = apply_decision(predictions, fitted, labels)
    np.testing.assert_allclose(
        made[list(P_REGION)], at_temperature(predictions[list(P_REGION)].to_numpy(), fitted.classify_temperature)
    )
    for _, rows in made.groupby("series_uid"):
        calls = list(rows["region"] == REGIONS[0])  # rows run from head to foot
        assert calls == sorted(calls)


def test_a_decision_is_stored_and_goes_into_a_manifest(fitted: Decision) -> None:
    assert Decision.of_plain({**fitted.as_plain(), "unknown": 1}) == fitted
    manifest = fitted.onto(draft("x", "1", TrainingData(id="none", description="simulated", slices=0), {}))
    assert manifest.decision == DecisionRules(monotone_switch=True, severe_threshold=fitted.severe_threshold)
    assert manifest.calibration.grade_temperature == fitted.grade_temperature
    assert manifest.thresholds.box_score == fitted.box_score
    assert manifest.thresholds.content_score == 0.6  # not chosen: the switch settles it


def test_one_reader_or_all(validation: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    labels, predictions = validation
    changed = labels.copy()
    changed.loc[(changed["reader"] == "ben") & (changed["grade"] == "B"), "grade"] = "C"
    changed.loc[(changed["reader"] == "ben") & (changed["region"] == "rootlet"), "region"] = "cord"
    anna, ben = truth_of(predictions, changed, "anna"), truth_of(predictions, changed, "ben")
    both = truth_of(predictions, changed)
    assert "C" not in set(ben.grade)
    assert set(ben.region) == {"cord", "other"}
    assert "B" in set(anna.grade)
    np.testing.assert_allclose(both.regions[anna.region == "rootlet"], 0.5)
    divided = anna.grade == "B"
    np.testing.assert_allclose(both.grades[divided], np.tile([0, 0.5, 0.5, 0], (divided.sum(), 1)))
