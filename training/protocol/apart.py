"""Predictions of patients that no fold held: what a final chain or a bundle says of a labelled set."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stenosis_node.domain import PixelBox
from training.calibration.decision import Decision, apply_decision
from training.labels.manifest import check_suffix, has_box, read_manifest
from training.labels.rows import BOX
from training.learning.checkpoints import BEST_NAME
from training.learning.errors import TrainingError
from training.learning.labels import CONSENSUS, readers_of
from training.learning.series import Key, slice_key
from training.protocol.decisions import DECISION_NAME, read_decision
from training.protocol.predict import Chain, Wanted, predict
from training.protocol.runs import ALL_NAME, read_run, recipe_of, store_predictions
from training.recipes import Stage


def predict_apart(data: Path, out: Path, *, run: Path | None, bundle: Path | None, device: str) -> Path:
    """Write predictions of every slice of a manifest. Raises LabelError, TrainingError, BundleError."""
    check_suffix(out)
    rows = read_manifest(data)
    if bundle is not None:
        tables = [_of_bundle(bundle, rows, data, device)]
    elif run is not None:
        tables = [_of_run(run, folder, rows, data, device) for folder in _final_chains(run)]
    else:
        raise ValueError("a run or a bundle")
    out.parent.mkdir(parents=True, exist_ok=True)
    store_predictions(pd.concat(tables, ignore_index=True), out)
    return out


def _final_chains(run: Path) -> list[Path]:
    read_run(run)
    found = sorted(path.parent for path in run.glob(f"*/{ALL_NAME}") if (path / DECISION_NAME).exists())
    if not found:
        raise TrainingError(f"{run} has no finished chain that was trained on everybody; run it with --final")
    return found


def _of_run(run: Path, folder: Path, rows: pd.DataFrame, data: Path, device: str) -> pd.DataFrame:
    recipe = recipe_of(read_run(run))
    reader = "" if folder.name == CONSENSUS else folder.name
    place = folder / ALL_NAME
    best = {stage: place / stage.value / BEST_NAME for stage in Stage}
    chain = Chain.of_checkpoints(f"chain-{folder.name}", reader, recipe, best)
    table = predict(chain, _wanted(rows, data, reader), device=device)
    return apply_decision(table, read_decision(place / DECISION_NAME), rows)


def predict_undecided(chain: Chain, rows: pd.DataFrame, data: Path, device: str) -> pd.DataFrame:
    """What the networks of a chain say of every slice of a manifest, no rule applied. Raises LabelError."""
    return predict(chain.undecided(), _wanted(rows, data, ""), device=device)


def _of_bundle(bundle: Path, rows: pd.DataFrame, data: Path, device: str) -> pd.DataFrame:
    chain = Chain.of_bundle(bundle)
    table = predict_undecided(chain, rows, data, device)
    return apply_decision(table, Decision.of_manifest(chain.manifest), rows)


def _wanted(rows: pd.DataFrame, data: Path, reader: str) -> Wanted:
    readers = (reader,) if reader in set(rows["reader"]) else readers_of(rows)
    boxed = rows[has_box(rows) & rows["reader"].isin(readers)]
    boxes: dict[Key, list[PixelBox]] = {}
    for row in boxed.itertuples():
        boxes.setdefault(slice_key(row), []).append(PixelBox(*(float(getattr(row, name)) for name in BOX)))
    keys = {slice_key(row) for row in rows.itertuples()}
    return Wanted(rows, data, keys, {key: _mean(given) for key, given in boxes.items()})


def _mean(boxes: list[PixelBox]) -> PixelBox:
    n = len(boxes)
    return PixelBox(
        sum(box.x0 for box in boxes) / n,
        sum(box.y0 for box in boxes) / n,
        sum(box.x1 for box in boxes) / n,
        sum(box.y1 for box in boxes) / n,
    )
