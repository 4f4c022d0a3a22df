"""What a chain says of labelled slices, by the very stages the node uses: on its own box, and on the reader's.

Series are read whole, so that a slice has its neighbours. Nothing is thresholded here but the box the chain goes on
with; calibration, the switch and abstention follow in ``training.calibration.decision``. The detector's further boxes
are written beside it, however low their score: average precision is of all of them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd

from stenosis_node.domain import AxialSeries, BundleStatus, PixelBox
from stenosis_node.grading.bundle import Networks, read_bundle
from stenosis_node.grading.manifest import Calibration, DecisionRules, Manifest, TrainingData
from stenosis_node.grading.preprocess import (
    Patch,
    UprightSlice,
    has_contrast,
    make_context_patch,
    make_upright,
)
from stenosis_node.grading.stages import Located, Stages
from training.calibration.decision import FLOORS
from training.evaluation.predictions import BOX, COLUMNS, TRUE_BOX
from training.learning.fit import load_best
from training.learning.networks import stages_of
from training.learning.series import Key, key_of, read_stack
from training.measured import chain_name
from training.recipes import Recipe, Stage

log = logging.getLogger("stenosis_train")

PROGRESS_S: Final = 10.0
_BATCH: Final = 16
_MOST_BOXES: Final = 100
"""Of a slice, as COCO's average precision counts them. The node's detector keeps one."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Three networks with a name."""

    name: str
    """``model`` of the predictions."""
    reader: str
    """Whose labels it learnt; empty for several."""
    networks: Networks
    manifest: Manifest

    @classmethod
    def of_bundle(cls, folder: Path) -> Chain:
        """A bundle as a chain. Raises BundleError."""
        manifest, networks = read_bundle(folder)
        return cls(chain_name(manifest), "", networks, manifest)

    def undecided(self) -> Chain:
        """The same networks with nothing applied to their scores: what a decision is then applied to."""
        box_score = min(self.manifest.thresholds.box_score, FLOORS["box_score"])
        plain = {
            "calibration": Calibration(),
            "decision": DecisionRules(),
            "thresholds": self.manifest.thresholds.model_copy(update={"box_score": box_score}),
        }
        return replace(self, manifest=self.manifest.model_copy(update=plain))

    @classmethod
    def of_checkpoints(cls, name: str, reader: str, recipe: Recipe, best: Mapping[Stage, Path]) -> Chain:
        """Finished stages as a chain. Raises TrainingError."""
        networks = {stage: load_best(recipe.stage(stage), best[stage]) for stage in Stage}
        return cls(
            name,
            reader,
            Networks(**cast(Any, {stage.value: network for stage, network in networks.items()})),
            description_of(name, recipe),
        )


def description_of(name: str, recipe: Recipe) -> Manifest:
    """A recipe's networks as a bundle describes them, without weights yet."""
    parts = stages_of(recipe)
    return Manifest(
        name=name,
        version="0",
        status=BundleStatus.DEMONSTRATION,
        intended_use="Held-out slices of a training run.",
        license="Apache-2.0",
        training_data=TrainingData(id=recipe.name, description="a training run", slices=0),
        files={part.file: "0" * 64 for part in parts.values()},
        **parts,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """The slices to predict."""

    rows: pd.DataFrame
    """Of the label manifest: all of their series, so that each has its neighbours."""
    path: Path
    """Of the label manifest."""
    keys: Collection[Key]
    boxes: Mapping[Key, PixelBox]
    """The reader's, in the stored image, where there are any."""


def predict(chain: Chain, wanted: Wanted, *, fold: str = "", device: str = "auto") -> pd.DataFrame:
    """One row per wanted slice, as ``training.evaluation.predictions`` describes it.

    raises  LabelError for images that are missing or cannot be decoded
    """
    stages = Stages(chain.networks, chain.manifest, device=device, boxes_per_slice=_MOST_BOXES)
    rows: list[dict[str, Any]] = []
    who = " ".join(filter(None, (chain.name, fold)))
    said = time.monotonic()
    for series in _series_of(wanted):
        for row in _predict_series(series, stages, chain.manifest, wanted):
            rows.append({**row, "model": chain.name, "reader": chain.reader, "fold": fold})
        if time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            log.info("%s: predicted %d of %d slices", who, len(rows), len(wanted.keys))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _series_of(wanted: Wanted) -> Iterator[AxialSeries]:
    touched = {(key[0], key[1]) for key in wanted.keys}
    for (study, series), rows in wanted.rows.groupby(["study_uid", "series_uid"], sort=False):
        if (study, series) in touched:
            yield read_stack(str(study), str(series), rows, wanted.path)


@dataclass(slots=True)
class _Slice:
    row: dict[str, Any]
    image: UprightSlice
    around: Sequence[UprightSlice | None]
    own: Patch | None = None
    true: Patch | None = None


def _predict_series(
    series: AxialSeries, stages: Stages, manifest: Manifest, wanted: Wanted
) -> Iterator[dict[str, Any]]:
    images = [None if one.pixels is None else make_upright(one.pixels, one.plane) for one in series.slices]
    slices = []
    for index, piece in enumerate(series.slices):
        key, image = key_of(series.study_instance_uid, piece), images[index]
        if key not in wanted.keys or image is None:
            continue
        around = [
            images[other] if 0 <= other < len(images) and series.slices[other].slab == piece.slab else None
            for other in (index - 1, index, index + 1)
        ]
        study, series_uid, sop, frame = key
        row = {
            "study_uid": study,
            "series_uid": series_uid,
            "sop_uid": sop,
            "frame": str(frame) if frame else "",
            "row_spacing_mm": piece.plane.row_spacing_mm,
            "column_spacing_mm": piece.plane.column_spacing_mm,
        }
        one = _Slice(row, image, around)
        box = wanted.boxes.get(key)
        if box is not None:
            one.true = make_context_patch(around, _center(image, box), manifest.patch_input)
        slices.append(one)
    for start in range(0, len(slices), _BATCH):
        chunk = slices[start : start + _BATCH]
        _run(chunk, stages, manifest)
        yield from (one.row for one in chunk)


def _run(chunk: Sequence[_Slice], stages: Stages, manifest: Manifest) -> None:
    visible = [one for one in chunk if has_contrast(one.image)]
    located = stages.locate_all([one.image for one in visible])
    for one, found in zip(visible, located, strict=True):
        best = found[0] if found else None
        if best is None or best.score < manifest.thresholds.box_score:
            _note_boxes(one, found)
            continue
        _note_boxes(one, found[1:])
        box = one.image.to_stored(best.box)
        one.row |= dict(zip(BOX, (box.x0, box.y0, box.x1, box.y1), strict=True))
        one.row["box_score"] = best.score
        one.own = make_context_patch(one.around, best.box.center, manifest.patch_input)
    for prefix, patched in (
        ("", [(one, one.own) for one in chunk if one.own is not None]),
        (TRUE_BOX, [(one, one.true) for one in chunk if one.true is not None]),
    ):
        patches = [patch for _, patch in patched]
        contents, grades = stages.content_scores(patches), stages.grade_scores(patches)
        for (one, _), content, grade in zip(patched, contents, grades, strict=True):
            one.row[f"{prefix}region"] = str(max(content, key=content.__getitem__))
            one.row[f"{prefix}grade"] = str(max(grade, key=grade.__getitem__))
            one.row |= {f"{prefix}p_{name}": score for name, score in (*content.items(), *grade.items())}


def _note_boxes(one: _Slice, further: Sequence[Located | None]) -> None:
    """``other_boxes`` of the row: in the stored image, to a hundredth of a pixel."""
    boxes = []
    for found in filter(None, further):
        box = one.image.to_stored(found.box)
        boxes.append([*(round(side, 2) for side in (box.x0, box.y0, box.x1, box.y1)), round(found.score, 6)])
    if boxes:
        one.row["other_boxes"] = json.dumps(boxes)


def _center(image: UprightSlice, box: PixelBox) -> tuple[float, float]:
    """Of a box of the stored image, in the upright one."""
    turn = image.orientation
    rows, columns = image.shape
    x, y = box.center
    if turn.transpose:
        x, y = y, x
    return (columns - x if turn.flip_columns else x), (rows - y if turn.flip_rows else y)
