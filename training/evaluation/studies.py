"""How the rule that makes the grade of an examination does on whole studies: held-out phantom patients, a bundle as the
node runs it.

A study is positive when any of its slices that show rootlets is C or D; it is called positive when the pipeline grades
any of its slices, whatever that shows, C or D. So a cord slice that gets a grade counts against the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stenosis_node.domain import Grade, GradedSlice, worst
from stenosis_node.grading.bundle import CARD_NAME
from stenosis_node.grading.manifest import MANIFEST_NAME, Manifest, read_manifest, sha256_of
from stenosis_node.grading.pipeline import Pipeline
from training.evaluation.stages import Proportion
from training.model_card import model_card
from training.phantom import GENERATOR_VERSION
from training.phantom.patient import Patient, draw_patient
from training.phantom.seeds import TEST_SEEDS
from training.phantom.stack import as_series
from training.phantom.words import SliceContent

POSITIVE: Final = frozenset({Grade.C, Grade.D})


@dataclass(frozen=True, slots=True)
class StudyFigures:
    """Studies counted by truth and call."""

    sensitivity: Proportion
    specificity: Proportion

    @property
    def studies(self) -> int:
        """How many there were."""
        return self.sensitivity.of + self.specificity.of

    def as_metrics(self) -> dict[str, Any]:
        """Entries of ``metrics`` in a manifest: ``study_level``, which reports print, and its 95 % bounds.

        raises  ValueError when there was no positive, or no negative, study
        """
        if self.sensitivity.value is None or self.specificity.value is None:
            raise ValueError("no study with, or none without, a slice of grade C or D: measure more patients")
        point = {
            "rule": "worst-image",
            "positive": "grade C or D",
            "sensitivity": self.sensitivity.value,
            "specificity": self.specificity.value,
            "studies": self.studies,
            "source": "simulated studies",
        }
        bounds = {
            "sensitivity": list(self.sensitivity.bounds),
            "specificity": list(self.specificity.bounds),
            "studies with grade C or D": self.sensitivity.of,
            "phantom generator": GENERATOR_VERSION,
        }
        return {"study_level": point, "study_level_95": bounds}


def measure_studies(bundle: Path, patients: int, *, progress: Callable[[int, int], None] | None = None) -> StudyFigures:
    """Grade the first ``patients`` of the held-out set.

    progress  gets (patients done, patients in all)
    raises    BundleError
    """
    pipeline = Pipeline.load(bundle)
    hits = {True: 0, False: 0}
    of = {True: 0, False: 0}
    for number in range(patients):
        patient = draw_patient(TEST_SEEDS[number])
        positive = true_worst(patient) in POSITIVE
        findings = pipeline.grade(as_series([drawn.image for drawn in patient.axial_slices()])).slices
        called = worst([one.grade for one in findings if isinstance(one, GradedSlice)]) in POSITIVE
        of[positive] += 1
        hits[positive] += called == positive
        if progress is not None:
            progress(number + 1, patients)
    return StudyFigures(Proportion(hits[True], of[True]), Proportion(hits[False], of[False]))


def true_worst(patient: Patient) -> Grade | None:
    """The most severe true grade of a slice that shows rootlets; None without one."""
    rootlets = (truth for truth in patient.truths() if truth.content is SliceContent.ROOTLET)
    return worst([truth.grade for truth in rootlets if truth.grade is not None])


def write_into_bundle(bundle: Path, figures: Mapping[str, Any], *, version: str) -> Manifest:
    """Put the figures into manifest and model card of a bundle; its weights stay, its digest changes."""
    manifest = read_manifest(bundle)
    changed = manifest.model_copy(update={"version": version, "metrics": {**manifest.metrics, **figures}})
    (bundle / CARD_NAME).write_text(model_card(changed), encoding="utf-8")
    files = {**changed.files, CARD_NAME: sha256_of(bundle / CARD_NAME)}
    stored = changed.model_copy(update={"files": files})
    (bundle / MANIFEST_NAME).write_bytes(stored.to_bytes())
    return read_manifest(bundle)
