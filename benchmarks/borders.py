"""What moved borders between the grades are worth to one reader, by how many patients they are fitted on.

Half of the patients are kept apart. Of the other half some are drawn, several times, what ``stenosis-train calibrate``
fits is fitted on them, and the calls of the patients apart are compared with the reader's grades: scores with moved
borders minus scores without, as mean of the draws.

    stenosis-train calibrate --bundle BUNDLE --data MANIFEST --predictions scores.parquet --out NEW --version 0
    python -m benchmarks.borders --data MANIFEST --predictions scores.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.metrics import cohen_kappa_score, f1_score

from training.calibration.borders import fit_borders
from training.calibration.temperature import at_temperature
from training.calibration.truth import truth_of
from training.evaluation.predictions import P_GRADE, read_predictions
from training.labels.manifest import read_manifest
from training.learning.labels import readers_of

DRAWS: Final = 8
SIZES: Final = (10, 20, 30, 60, 120)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.borders", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="label manifest")
    parser.add_argument("--predictions", type=Path, required=True, help="scores that calibrate has kept")
    options = parser.parse_args()
    rows, predictions = read_manifest(options.data), read_predictions(options.predictions)
    print("| reader | patients | moved | quadratic kappa | macro-F1 | accuracy |\n|---|---:|---:|---:|---:|---:|")
    for reader in readers_of(rows):
        truth = truth_of(predictions, rows, reader)
        scores = predictions[list(P_GRADE)].to_numpy(dtype=float)
        known = ~np.isnan(scores[:, 0]) & ~np.isnan(truth.grades[:, 0])
        for line in _of_reader(scores[known], truth.grades[known], truth.patients[known]):
            print(f"| {reader} {line}", flush=True)


def _of_reader(scores: Any, targets: Any, patients: Any) -> Any:
    rng, everybody = np.random.default_rng(0), np.unique(patients)
    half = len(everybody) // 2
    for size in [*(one for one in SIZES if one < half), half]:
        drawn = [_draw(scores, targets, patients, rng.permutation(everybody), size, half) for _ in range(DRAWS)]
        moved, kappa, f1, accuracy = np.mean(drawn, axis=0)
        yield f"| {size} | {moved:.2f} | {kappa:+.4f} | {f1:+.4f} | {accuracy:+.4f} |"


def _draw(scores: Any, targets: Any, patients: Any, order: Any, size: int, half: int) -> list[float]:
    mine, apart = np.isin(patients, order[:size]), np.isin(patients, order[half:])
    borders = fit_borders(scores[mine], targets[mine], patients[mine])
    grades = targets[apart].argmax(axis=1)
    without, moved = (
        (
            cohen_kappa_score(grades, called, weights="quadratic"),
            f1_score(grades, called, average="macro"),
            np.mean(grades == called),
        )
        for called in (
            scores[apart].argmax(axis=1),
            at_temperature(scores[apart], borders.temperature, borders.offsets).argmax(axis=1),
        )
    )
    return [any(borders.offsets), *(np.array(moved) - np.array(without))]


if __name__ == "__main__":
    main()
