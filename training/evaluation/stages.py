"""Each stage of a chain against its reader, alone and end to end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from training.evaluation.calibration import Calibration, calibrate
from training.evaluation.cohort import Cohort
from training.evaluation.detection import Detection, detect, match
from training.evaluation.matrices import SEVERE, Floats
from training.evaluation.predictions import BOX, P_GRADE, P_REGION
from training.evaluation.scoring import Bounds, Scoring, score
from training.evaluation.vocabulary import GRADES, REGIONS, code_labels
from training.labels.rows import TRUTH

END_TO_END: Final = "end to end"


@dataclass(frozen=True)
class Proportion:
    """A share of studies with its exact (Clopper-Pearson) 95 % bounds."""

    hits: int
    of: int

    @property
    def value(self) -> float | None:
        """None without studies."""
        return self.hits / self.of if self.of else None

    @property
    def bounds(self) -> Bounds:
        """Lower and upper."""
        if not self.of:
            return None, None
        limits = stats.binomtest(self.hits, self.of).proportion_ci(0.95)
        return float(limits.low), float(limits.high)


@dataclass(frozen=True)
class StudyLevel:
    """ "C or worse somewhere in the study": what screening asks."""

    sensitivity: Proportion
    specificity: Proportion
    truth: pd.Series
    """By study."""
    score: pd.Series
    """Highest P(C or D) of a slice the chain called rootlet, 0 without one."""


@dataclass(frozen=True, kw_only=True)
class OnOther:
    """What a chain makes of the slices that its reader calls 'other': nobody can grade them."""

    slices: int
    no_box: int
    abstained: int
    """With a box."""
    no_grade: int
    """With a box and no abstention, and yet not called rootlet or not graded."""
    graded: int
    severe: int
    """Graded C or D."""


class ChainScores:
    """Everything measured of one chain; slices that its reader did not label are left out."""

    def __init__(self, cohort: Cohort, chain: str) -> None:
        self.chain = chain
        self.reader = cohort.teachers[chain]
        rows = cohort.readers[self.reader]
        index = rows.index.intersection(cohort.chains[chain].index, sort=False)
        self.truth = rows.loc[index]
        self.found = cohort.chains[chain].loc[index]
        self.coverage = cohort.coverage_of(chain)
        self._cohort = cohort

    @cached_property
    def detection(self) -> Detection:
        """Of the canal."""
        return detect(self.truth, self.found)

    @cached_property
    def detection_by_all(self) -> Detection | None:
        """Of the canal, against the mean box of the readers on slices where all of them drew one; None with one reader.

        The truth of phantoms is no reader: it is narrower than the boxes that a chain learns from.
        """
        readers = [rows for name, rows in self._cohort.readers.items() if name != TRUTH]
        if len(readers) < 2:
            return None
        found = self._cohort.chains[self.chain]
        drawn = [rows.reindex(found.index)[list(BOX)].astype(float) for rows in readers]
        mean = (sum(drawn[1:], start=drawn[0]) / len(drawn)).dropna()
        return detect(mean.assign(region=""), found.loc[mean.index])

    @cached_property
    def regions(self) -> dict[str, Scoring]:
        """Rootlet or cord, by condition; a slice without a box is a miss."""
        index = self.truth.index[self.truth.region.isin(REGIONS)]
        own = self.found.region.where(self.found.x0.notna(), "")
        beside = beside_transition(self.truth.loc[index]).to_numpy()
        far = index[~beside] if beside.any() else index[:0]
        return self._present(
            {
                "all slices": (index, own),
                "away from the transition": (far, own),
                "on the reader's box": (index, self.found.true_box_region),
            },
            "region",
            REGIONS,
        )

    @cached_property
    def other(self) -> OnOther:
        """On the slices that the reader calls 'other'."""
        found = self.found[self.truth.region.eq("other").to_numpy()]
        boxed = found[found.x0.notna()]
        abstained, graded = int(boxed.abstained.eq("1").sum()), int(boxed.called.isin(GRADES).sum())
        return OnOther(
            slices=len(found),
            no_box=len(found) - len(boxed),
            abstained=abstained,
            no_grade=len(boxed) - abstained - graded,
            graded=graded,
            severe=int(boxed.called.isin(GRADES[SEVERE:]).sum()),
        )

    @cached_property
    def graded(self) -> pd.Index:
        """Slices the reader graded."""
        return self.truth.index[((self.truth.region == "rootlet") & self.truth.grade.isin(GRADES)).to_numpy()]

    @cached_property
    def grades(self) -> dict[str, Scoring]:
        """Grading with earlier stages taken as right, and end to end; misses are errors."""
        return self._present(
            {
                "on the reader's box": (self.graded, self.found.true_box_grade),
                "own box, known to be rootlet": (self.graded, self.found.grade.where(self.found.x0.notna(), "")),
                END_TO_END: (self.graded, self.found.called),
            },
            "grade",
            GRADES,
        )

    @cached_property
    def calibration(self) -> dict[str, Calibration]:
        """Of regions and grades, on slices with scores."""
        made = {}
        for name, index, columns, labels in (
            ("rootlet or cord", self.truth.index[self.truth.region.isin(REGIONS)], P_REGION, REGIONS),
            ("grade", self.graded, P_GRADE, GRADES),
        ):
            scores, truth = self._scored(index, columns, "region" if labels is REGIONS else "grade", labels)
            if (found := calibrate(truth, scores)) is not None:
                made[name] = found
        return made

    @cached_property
    def study_level(self) -> StudyLevel:
        """Of the studies with a grade of the reader."""
        studies = self.truth.study_uid
        truth = (self.truth.grade.loc[self.graded].isin(GRADES[SEVERE:])).groupby(studies.loc[self.graded]).any()
        called = self.found.called.isin(GRADES[SEVERE:]).groupby(studies).any().reindex(truth.index)
        severe = self.found[list(P_GRADE[SEVERE:])].sum(axis=1).where(self.found.called != "", 0.0)
        highest = severe.groupby(studies).max().reindex(truth.index)
        return StudyLevel(
            Proportion(int((truth & called).sum()), int(truth.sum())),
            Proportion(int((~truth & ~called).sum()), int((~truth).sum())),
            truth,
            highest,
        )

    def severe_scores(self) -> tuple[np.ndarray, Floats]:
        """Truth and P(C or D) of the slices with grade scores, for the ROC curve."""
        scores, truth = self._scored(self.graded, P_GRADE, "grade", GRADES)
        return truth >= SEVERE, scores[:, SEVERE:].sum(1)

    def canal_recall(self, index: pd.Index) -> float | None:
        """Share of some slices' canals that the chain's own box fits at IoU 0.5."""
        truth = self.truth.loc[index]
        truth = truth[truth[list(BOX)].notna().all(axis=1)]
        return None if truth.empty else float((match(truth, self.found.loc[truth.index]) >= 0.5).mean())

    def score_grades(self, index: pd.Index) -> Scoring:
        """End to end on some of the graded slices."""
        return self._score(index, self.found.called, "grade", GRADES)

    def _present(
        self, conditions: dict[str, tuple[pd.Index, pd.Series]], part: str, labels: tuple[str, ...]
    ) -> dict[str, Scoring]:
        return {
            name: self._score(index, called, part, labels)
            for name, (index, called) in conditions.items()
            if len(index) and called.loc[index].isin(labels).any()
        }

    def _score(self, index: pd.Index, called: pd.Series, part: str, labels: tuple[str, ...]) -> Scoring:
        return score(
            code_labels(self.truth[part].loc[index], labels),
            code_labels(called.loc[index], labels),
            labels,
            self._cohort.patient_codes(index),
            self._cohort.resamples,
        )

    def _scored(
        self, index: pd.Index, columns: tuple[str, ...], part: str, labels: tuple[str, ...]
    ) -> tuple[Floats, np.ndarray]:
        scores = self.found.loc[index, list(columns)].dropna()
        return scores.to_numpy(dtype=float), code_labels(self.truth[part].loc[scores.index], labels)


def beside_transition(truth: pd.DataFrame) -> pd.Series:
    """True for the slices on both sides of a change between cord and rootlet, in the order of z within a series.

    Series whose z is not known count as away from it.
    """
    beside = pd.Series(False, index=truth.index)
    for _, rows in truth[truth.z_mm.notna()].sort_values("z_mm").groupby("series_uid"):
        changes = (rows.region != rows.region.shift()).to_numpy(copy=True)
        changes[0] = False
        beside.loc[rows.index] = changes | np.append(changes[1:], False)
    return beside
