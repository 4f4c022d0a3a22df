"""What a classifier reaches that sees only the area of the dural sac: were it much, the phantoms would be too easy.

Schizas' grades are morphology; areas overlap (domain notes 1.2). ``python -m training.phantom.area`` prints the figure
on the held-out test patients.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import balanced_accuracy_score

from training.phantom.canvas import contour_area
from training.phantom.patient import draw_patient
from training.phantom.seeds import TEST_SEEDS, TRAINING_SEEDS


def areas_and_grades(seeds: Iterable[int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_]]:
    """Dural areas (mm2) ``[n, 1]`` and true grades ``[n]`` of all rootlet slices of some patients; nothing is drawn."""
    areas: list[float] = []
    grades: list[str] = []
    for seed in seeds:
        patient = draw_patient(seed)
        for truth in patient.truths():
            if truth.grade is not None:
                areas.append(contour_area(patient.canal_at(truth.height_mm).sac))
                grades.append(truth.grade.value)
    return np.array(areas)[:, None], np.array(grades)


def area_accuracy(train: Iterable[int], test: Iterable[int]) -> float:
    """Accuracy on a test set in which every grade counts the same, of boosted trees on the area alone."""
    model = HistGradientBoostingClassifier(class_weight="balanced", max_depth=3, max_iter=60, random_state=0)
    model.fit(*areas_and_grades(train))
    areas, grades = areas_and_grades(test)
    return float(balanced_accuracy_score(grades, model.predict(areas)))


if __name__ == "__main__":
    found = area_accuracy(TRAINING_SEEDS[:600], TEST_SEEDS[:400])
    sys.stdout.write(f"dural area alone: {found:.3f} of a balanced test set\n")
