"""A small simulated study: 24 patients, two readers, two chains, pictures, every kind of trouble."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from training.evaluation.predictions import write_predictions
from training.evaluation.vocabulary import GRADES

LEVELS = ("T12/L1", "L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1")
PER_PATIENT = 12


def write_simulated(folder: Path, patients: int = 24) -> tuple[Path, Path]:
    """Label manifest (readers ``anna``, ``ben``) and predictions (models ``one``, ``two``)."""
    generator = np.random.default_rng(11)
    labels, predictions = [], []
    (folder / "images").mkdir()
    for patient in range(patients):
        severity = generator.uniform(0, 3.2)
        for place in range(PER_PATIENT):
            cord, other = place < 3, place == 11 and patient % 4 == 0
            depth = severity * np.exp(-(((place - 8) / 2.0) ** 2)) + generator.normal(0, 0.3)
            truth = int(np.clip(round(depth), 0, 3))
            box = np.array([20.0, 22, 42, 40]) + np.tile(generator.normal(0, 2, 2), 2)
            keys = {
                "study_uid": f"1.2.{patient}",
                "series_uid": f"1.2.{patient}.1",
                "sop_uid": f"1.2.{patient}.1.{place}",
                "frame": "",
            }
            path = f"images/{patient}-{place}.png"
            _picture(folder / path, box, truth, generator)
            for reader, noise in (("anna", 0.0), ("ben", 0.45)):
                grade = int(np.clip(round(truth + generator.normal(0, noise)), 0, 3))
                region = "other" if other else "cord" if cord != (reader == "ben" and place == 3) else "rootlet"
                labels.append(
                    {
                        **keys,
                        "path": path,
                        "patient_key": f"{patient:064x}",
                        "z_mm": -4.4 * place,
                        "level": LEVELS[place // 2],
                        **dict(zip(("x0", "y0", "x1", "y1"), box if not other else [np.nan] * 4, strict=True)),
                        "box_source": "" if other else "expert",
                        "region": region,
                        "grade": GRADES[grade] if region == "rootlet" else "",
                        "reader": reader,
                        "vendor": ("SIEMENS", "GE", "Philips")[patient % 3],
                        "fov_mm": (150.0, 180.0, 220.0)[patient % 3],
                    }
                )
            for model, noise in (("one", 0.35), ("two", 0.6)):
                predictions.append({**keys, "model": model, **_prediction(box, cord, truth, noise, generator)})
    pd.DataFrame(labels).to_csv(folder / "labels.csv", index=False)
    write_predictions(pd.DataFrame(predictions), folder / "predictions.parquet")
    return folder / "labels.csv", folder / "predictions.parquet"


def _prediction(box: np.ndarray, cord: bool, truth: int, noise: float, generator: np.random.Generator) -> dict:  # type: ignore[type-arg]
    row: dict = {"row_spacing_mm": 0.7, "column_spacing_mm": 0.7}  # type: ignore[type-arg]
    p_cord = float(np.clip((0.93 if cord else 0.07) + generator.normal(0, noise / 2), 0.01, 0.99))
    distance = (np.arange(4) - truth + generator.normal(0, noise)) ** 2
    scores = np.exp(-distance / 0.5)
    scores /= scores.sum()
    answers = {
        "region": "cord" if p_cord > 0.5 else "rootlet",
        "p_rootlet": 1 - p_cord,
        "p_cord": p_cord,
        "grade": GRADES[int(scores.argmax())],
        **{f"p_{grade}": score for grade, score in zip(GRADES, scores, strict=True)},
    }
    row |= {f"true_box_{name}": value for name, value in answers.items()}
    if generator.random() < 0.03:
        return row
    shifted = box + np.tile(generator.normal(0, 1.2, 2), 2)
    row |= {
        **answers,
        **dict(zip(("x0", "y0", "x1", "y1"), shifted, strict=True)),
        "box_score": generator.uniform(0.6, 1),
    }
    if generator.random() < 0.1:
        row["other_boxes"] = json.dumps([[2.0, 2.0, 12.0, 12.0, 0.3]])
    if generator.random() < 0.02:
        row["abstained"] = "1"
    return row


def _picture(path: Path, box: np.ndarray, truth: int, generator: np.random.Generator) -> None:
    y, x = np.mgrid[:64, :64] + 0.5
    x0, y0, x1, y1 = box
    inside = ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 < 0.25
    pixels = np.where(inside, 220 - 45 * truth, 60) + generator.normal(0, 8, x.shape)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
