from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest

from stenosis_node.grading.manifest import Thresholds
from stenosis_node.grading.preprocess import make_upright
from stenosis_node.grading.stages import Stages
from training.calibration.decision import Decision, apply_decision
from training.evaluation.cohort import load_cohort
from training.evaluation.predictions import BOX, parse_boxes, read_predictions, write_predictions
from training.evaluation.stages import ChainScores
from training.export import write_untrained_bundle
from training.labels.manifest import read_manifest
from training.learning.labels import slice_key
from training.learning.series import read_stack
from training.protocol.predict import Chain, Wanted, predict


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Random weights, so that a slice has many boxes."""
    folder = tmp_path_factory.mktemp("bundle")
    write_untrained_bundle(folder, seed=2)
    return Chain.of_bundle(folder)


def with_threshold(chain: Chain, box_score: float) -> Chain:
    return replace(chain, manifest=chain.manifest.model_copy(update={"thresholds": Thresholds(box_score=box_score)}))


@pytest.fixture(scope="module")
def wanted(few_phantoms: Path) -> Wanted:
    """The slices of one patient."""
    rows = read_manifest(few_phantoms)
    rows = rows[(rows["reader"] == "reader-1") & (rows["study_uid"] == "2.25.1")]
    return Wanted(rows, few_phantoms, {slice_key(row) for row in rows.itertuples()}, {})


@pytest.fixture(scope="module")
def predicted(chain: Chain, wanted: Wanted) -> pd.DataFrame:
    return predict(with_threshold(chain, 0.0), wanted, device="cpu")


def test_the_further_boxes_of_the_detector_are_written(predicted: pd.DataFrame) -> None:
    assert predicted["x0"].notna().all()
    for own, text in zip(predicted["box_score"], predicted["other_boxes"], strict=True):
        scores = parse_boxes(text, "other_boxes")[:, 4]
        assert len(scores) > 1
        assert (np.diff(scores) <= 0).all()
        assert scores.max() <= own + 1e-6


def test_the_chain_goes_on_with_the_box_of_the_node(chain: Chain, wanted: Wanted, predicted: pd.DataFrame) -> None:
    series = read_stack("2.25.1", "2.25.1.1", wanted.rows, wanted.path)
    images = [make_upright(one.pixels, one.plane) for one in series.slices if one.pixels is not None]
    alone = Stages(chain.networks, chain.manifest, device="cpu").locate(images)
    every = Stages(chain.networks, chain.manifest, device="cpu", boxes_per_slice=100)
    assert max(map(len, every.locate_all(images))) > 1
    assert every.locate(images) == alone
    stored = [(image.to_stored(one.box), one.score) for image, one in zip(images, alone, strict=True) if one]
    expected = [[box.x0, box.y0, box.x1, box.y1, score] for box, score in stored]
    assert predicted[[*BOX, "box_score"]].to_numpy(dtype=float).tolist() == expected


def test_a_box_under_the_threshold_is_no_box_of_the_chain_but_counts_for_average_precision(
    chain: Chain, wanted: Wanted, predicted: pd.DataFrame
) -> None:
    high = predict(with_threshold(chain, 1.0), wanted, device="cpu")
    assert high[[*BOX, "box_score", "region", "grade"]].isna().all(axis=None)
    for (_, low), text in zip(predicted.iterrows(), high["other_boxes"], strict=True):
        best, *further = parse_boxes(text, "other_boxes").tolist()
        assert best == pytest.approx([float(low[name]) for name in (*BOX, "box_score")], abs=0.006)
        assert further == parse_boxes(cast(str, low["other_boxes"]), "other_boxes").tolist()


def test_average_precision_is_of_all_boxes_and_abstention_of_the_own_one(
    wanted: Wanted, predicted: pd.DataFrame, tmp_path: Path
) -> None:
    """The detector's second box is put on the canal, its first beside it."""
    truth = wanted.rows.set_index("sop_uid").loc[predicted["sop_uid"], list(BOX)].to_numpy(dtype=float)
    arranged = predicted.assign(**dict(zip(BOX, (truth + 60).T, strict=True)))
    boxes = [parse_boxes(text, "other_boxes").tolist() for text in arranged["other_boxes"]]
    arranged["other_boxes"] = [
        str([[*canal, second[4]], *further]) for canal, (second, *further) in zip(truth.tolist(), boxes, strict=True)
    ]
    decision = Decision(box_score=float(arranged["box_score"].median()), content_score=0.5)
    decided = apply_decision(arranged, decision, wanted.rows)
    alone = apply_decision(arranged.drop(columns="other_boxes"), decision, wanted.rows)
    pd.testing.assert_frame_equal(decided.drop(columns="other_boxes"), alone)
    assert set(decided["abstained"]) == {"0", "1"}

    write_predictions(decided, tmp_path / "all.parquet")
    assert list(read_predictions(tmp_path / "all.parquet")["other_boxes"]) == list(arranged["other_boxes"])
    write_predictions(decided.assign(other_boxes=""), tmp_path / "own.parquet")
    every, own = (
        ChainScores(load_cohort(wanted.path, [tmp_path / name], bootstrap=0), str(predicted["model"].iloc[0])).detection
        for name in ("all.parquet", "own.parquet")
    )
    assert own.ap50 == own.recall50 == every.recall50 == 0
    assert every.ap50 is not None
    assert every.ap50 > 0.1
    assert every.boxes > every.own_boxes == own.boxes == own.own_boxes == len(predicted)
