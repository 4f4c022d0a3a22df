"""A bundle whose calls are fitted anew on labelled slices: its networks stay, the borders move.

For a site whose images or readers differ from those a bundle learnt from, and that has labels of some patients but not
enough to train. Figures of the old rules do not follow: the new bundle has none until it is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pandas as pd

from stenosis_node.grading.bundle import write_bundle
from stenosis_node.grading.manifest import Manifest, TrainingData
from stenosis_node.grading.manifest import read_manifest as read_bundle_manifest
from training.calibration.decision import Asked, Decision, fit_decision
from training.calibration.truth import slice_names, truth_of
from training.evaluation.predictions import read_predictions
from training.labels.errors import LabelError
from training.labels.manifest import read_manifest
from training.labels.rows import SLICE
from training.learning.errors import TrainingError
from training.learning.labels import readers_of
from training.measured import weights_mark
from training.model_card import model_card
from training.protocol.apart import predict_undecided
from training.protocol.predict import Chain
from training.protocol.runner import need_free_seeds
from training.protocol.runs import digest_of, store_predictions

FEWEST_GRADED: Final = 100
"""Slices with a grade; borders drawn by fewer would be drawn by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """What is to be made of which bundle, and from whose labels."""

    bundle: Path
    data: Path
    out: Path
    version: str
    readers: tuple[str, ...] = ()
    """Empty: all of the label manifest (the truth of phantoms only where nobody else labelled)."""
    offsets: bool = True
    operating_point: bool | None = None
    """Whether the threshold of C or D is chosen anew, or left out; it must be said of a bundle that has one."""
    predictions: Path | None = None
    """Where the networks' scores are kept: with them the command need not look at the images again."""


def recalibrate(asked: Recalibration, *, device: str = "auto") -> Manifest:
    """Write the new bundle.

    raises  LabelError, TrainingError, BundleError
    """
    if asked.out.resolve() == asked.bundle.resolve():
        raise TrainingError(f"{asked.out} is the bundle itself; give another --out, so that the first is not lost")
    rules = read_bundle_manifest(asked.bundle).decision
    threshold = rules.severe_threshold
    if threshold is not None and asked.operating_point is None:
        raise TrainingError(
            f"{asked.bundle} calls C or D from a score of {threshold:g}, which was chosen on scores as they were; give "
            "--operating-point to choose it anew, or --no-operating-point to go by the likeliest grade"
        )
    rows = read_manifest(asked.data)
    need_free_seeds(rows, asked.data)
    readers = asked.readers or readers_of(rows)
    absent = sorted(set(readers) - set(rows["reader"]))
    if absent:
        there = ", ".join(sorted(set(rows["reader"])))
        raise LabelError(f"{asked.data} has no labels of {', '.join(absent)}; its readers are {there}")
    mine = rows[rows["reader"].isin(readers)]
    _need_grades(mine, asked.data)
    chain = Chain.of_bundle(asked.bundle)
    scores = _scores(asked, chain, rows, device)
    decision = fit_decision(
        scores,
        mine,
        Asked(
            temperature=True,
            offsets=asked.offsets,
            monotone_switch=rules.monotone_switch,
            operating_point=bool(asked.operating_point),
            abstain=True,
        ),
        before=replace(Decision.of_manifest(chain.manifest), severe_threshold=None),
    )
    if asked.operating_point and decision.severe_threshold is None:
        raise TrainingError(f"no operating point: {decision.fitted['operating_point']['sentence']}")
    return _written(asked, chain, decision, mine, len(readers))


def _need_grades(mine: pd.DataFrame, data: Path) -> None:
    graded = int((truth_of(mine.drop_duplicates(list(SLICE)), mine).grade != "").sum())
    if graded < FEWEST_GRADED:
        raise TrainingError(
            f"{data} has {graded} graded slices of these readers; {FEWEST_GRADED} are needed to draw "
            "borders by: label more patients"
        )


def _scores(asked: Recalibration, chain: Chain, rows: pd.DataFrame, device: str) -> pd.DataFrame:
    """Of the networks alone, kept where asked for."""
    path = asked.predictions
    if path is not None and path.exists():
        table = read_predictions(path)
        if set(table["model"]) != {chain.name} or set(slice_names(table)) != set(slice_names(rows)):
            raise TrainingError(f"{path} is of another bundle or of other slices; remove it, or name another file")
        return table
    table = predict_undecided(chain, rows, asked.data, device)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        store_predictions(table, path)
    return table


def _written(asked: Recalibration, chain: Chain, decision: Decision, mine: pd.DataFrame, readers: int) -> Manifest:
    before = chain.manifest
    slices = len(mine.drop_duplicates(list(SLICE)))
    said = (
        f"{before.training_data.description}; calls fitted anew on {mine['patient_key'].nunique()} patients, {slices} "
        f"slices (labels-{digest_of(asked.data)[:12]}), labels of {readers} readers; networks of {before.version}, "
        f"mark {weights_mark(before)}"
    )
    manifest = decision.onto(before).model_copy(
        update={
            "version": asked.version,
            "metrics": {},
            "training_data": TrainingData(
                id=before.training_data.id, description=said, slices=before.training_data.slices
            ),
        }
    )
    manifest = Manifest.model_validate(manifest.model_dump())
    return write_bundle(asked.out, chain.networks, manifest, card=model_card(manifest))
