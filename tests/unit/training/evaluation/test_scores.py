from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, matthews_corrcoef, precision_recall_fscore_support, recall_score
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision.ops import box_iou

from training.evaluation.calibration import calibrate
from training.evaluation.detection import average_precision, detect, overlap
from training.evaluation.matrices import count_pairs, mcc_of
from training.evaluation.resampling import Resamples
from training.evaluation.scoring import score, stacked_scores
from training.evaluation.vocabulary import GRADES


def test_overlaps_are_those_of_torchvision() -> None:
    corner = np.random.default_rng(0).uniform(0, 10, (40, 2))
    a, b = (np.hstack([corner + shift, corner + shift + 5]) for shift in (0.0, np.linspace(0, 6, 40)[:, None]))
    assert overlap(a, b) == pytest.approx(np.diag(box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()))
    assert overlap(a[:1], np.full((1, 4), np.nan)) == [0.0]


def boxes(*rows: tuple[int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["slice", "score", "iou"])


def test_average_precision_by_hand() -> None:
    perfect = boxes((0, 0.9, 1.0), (1, 0.8, 1.0))
    assert average_precision(perfect, 2, 0.5) == pytest.approx(1)
    assert average_precision(perfect, 4, 0.5) == pytest.approx(51 / 101)  # recall stops at one half
    wrong_first = boxes((0, 0.9, 0.1), (1, 0.8, 0.9))
    assert average_precision(wrong_first, 1, 0.5) == pytest.approx(0.5)
    assert average_precision(boxes((0, 0.9, 0.9), (0, 0.8, 0.9), (1, 0.7, 0.9)), 2, 0.5) == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )  # a second box on the same canal is false
    assert average_precision(boxes((0, 0.9, 0.2)), 1, 0.5) == 0
    assert average_precision(perfect, 0, 0.5) is None


def test_average_precision_is_close_to_that_of_scikit_learn_when_every_canal_has_a_box() -> None:
    generator = np.random.default_rng(2)
    table = boxes(*((k, generator.random(), generator.random()) for k in range(3000)))
    found = average_precision(table, int((table.iou >= 0.5).sum()), 0.5)
    assert found == pytest.approx(average_precision_score(table.iou >= 0.5, table.score), abs=0.02)


def test_a_detector_on_four_slices() -> None:
    box = [10.0, 10, 20, 20]
    truth = pd.DataFrame([box, box, [np.nan] * 4, box], columns=["x0", "y0", "x1", "y1"])
    truth["region"] = ["rootlet", "cord", "other", "rootlet"]
    found = pd.DataFrame([box, [14.0, 10, 24, 20], box, [np.nan] * 4], columns=["x0", "y0", "x1", "y1"])
    found["box_score"] = [0.9, 0.8, 0.7, np.nan]
    found["other_boxes"] = ["[[40, 40, 50, 50, 0.2]]", "", "", ""]
    found["row_spacing_mm"], found["column_spacing_mm"] = 0.5, 0.6
    result = detect(truth, found)
    assert (result.slices, result.with_canal, result.without_canal) == (4, 3, 1)
    assert result.recall50 == pytest.approx(1 / 3)  # IoU of the shifted box is 6 / 14
    assert result.centre_mm_p95 == pytest.approx(0.95 * 4 * 0.6)
    assert result.false_per_slice == pytest.approx(3 / 4)
    assert result.false_without_canal == result.own_without_canal == 1
    assert (result.boxes, result.own_boxes) == (4, 3)
    assert result.ap50 == pytest.approx(34 / 101)


def test_scores_with_misses_are_those_of_scikit_learn(random_codes) -> None:  # type: ignore[no-untyped-def]
    truth, called, patients = random_codes
    called = np.where(np.arange(len(truth)) % 9 == 0, -1, called)
    found = score(truth, called, GRADES, patients, Resamples.draw(20, 300, seed=0))
    assert found.missed == int((called == -1).sum())
    assert found.values["accuracy"] == pytest.approx(float((truth == called).mean()))
    recall = recall_score(truth, called, labels=range(4), average=None)
    assert [found.values[f"recall {grade}"] for grade in GRADES] == pytest.approx(list(recall))
    severe = recall_score(truth >= 2, called >= 2)
    assert found.values["severe_sensitivity"] == pytest.approx(severe)
    filled = np.where(called == -1, 4, called)
    stacked = stacked_scores(count_pairs(truth, filled, 5), GRADES)
    for name, value in stacked.items():
        assert float(value) == pytest.approx(found.values[name]), name
        low, high = found.bounds[name]
        assert low is not None
        assert high is not None
        assert low <= float(value) <= high, name
    ppv, _, f1, _ = precision_recall_fscore_support(truth, filled, labels=range(4))
    assert [float(stacked[f"ppv {grade}"]) for grade in GRADES] == pytest.approx(list(ppv))
    assert float(stacked["macro_f1"]) == pytest.approx(f1.mean())


def test_mcc_is_that_of_scikit_learn(random_codes) -> None:  # type: ignore[no-untyped-def]
    a, b, _ = random_codes
    assert float(mcc_of(count_pairs(a, b, 4))) == pytest.approx(matthews_corrcoef(a, b))


def test_a_subgroup_of_one_class_is_scored_without_a_warning() -> None:
    same, patients = np.zeros(12, dtype=int), np.repeat(np.arange(4), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(same, same, GRADES, patients, Resamples.draw(4, 20, 0))
    assert (found.values["accuracy"], found.values["mcc"]) == (1.0, 0.0)


def test_calibration_of_honest_and_of_boastful_scores() -> None:
    generator = np.random.default_rng(4)
    scores = generator.dirichlet(np.ones(4), 6000)
    truth = (scores.cumsum(1) < generator.random((6000, 1))).sum(1)
    honest = calibrate(truth, scores)
    assert honest is not None
    assert honest.ece < 0.025
    assert len(honest.accuracy) == 15
    sharp = scores**3 / (scores**3).sum(1, keepdims=True)
    boastful = calibrate(truth, sharp)
    assert boastful is not None
    theirs = multiclass_calibration_error(torch.from_numpy(sharp), torch.from_numpy(truth), 4, n_bins=15)
    assert boastful.ece == pytest.approx(float(theirs), abs=0.01)  # theirs has bins of equal width
    assert boastful.brier == pytest.approx(float(((sharp - np.eye(4)[truth]) ** 2).sum(1).mean()))
    assert calibrate(np.array([], dtype=np.int64), np.empty((0, 4))) is None


@pytest.mark.parametrize(("seed", "slices"), [(108, 16), (1, 103)])
def test_the_bins_of_few_slices_are_cut_at_one_set_of_edges(seed: int, slices: int) -> None:
    """Edges are scores here, and two ways to compute them differ in the last bit."""
    generator = np.random.default_rng(seed)
    assert int(generator.integers(16, 200)) == slices
    scores, truth = generator.dirichlet(np.ones(4), slices), generator.integers(0, 4, slices)
    top, right = scores.max(1), scores.argmax(1) == truth
    edges = np.percentile(top, np.linspace(0, 1, 16) * 100)[1:-1]
    held = [here for place in range(15) if (here := [sum(edges < one) == place for one in top]) and any(here)]
    found = calibrate(truth, scores)
    assert found is not None
    assert found.confidence == pytest.approx([top[here].mean() for here in held])
    assert found.accuracy == pytest.approx([right[here].mean() for here in held])
    assert found.ece == pytest.approx(sum(abs((top - right)[here].sum()) for here in held) / slices)


def test_the_bins_are_those_of_scikit_learn_on_many_slices() -> None:
    generator = np.random.default_rng(7)
    scores, truth = generator.dirichlet(np.ones(4), 20000), generator.integers(0, 4, 20000)
    found = calibrate(truth, scores)
    assert found is not None
    right = (scores.argmax(1) == truth).astype(int)
    accuracy, confidence = calibration_curve(right, scores.max(1), n_bins=15, strategy="quantile")
    assert found.accuracy == pytest.approx(accuracy)
    assert found.confidence == pytest.approx(confidence)
