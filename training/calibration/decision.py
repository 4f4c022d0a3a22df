"""All that is fitted on a validation fold, in the order the node applies it; and its use on other predictions.

Temperatures first, then the switch, then abstention, then the operating point on the slices that are still graded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from stenosis_node.domain import Grade
from stenosis_node.grading.manifest import Calibration, DecisionRules, Manifest
from stenosis_node.grading.pipeline import call_grade
from stenosis_node.grading.switch import call_rootlets
from training.calibration.abstention import choose_thresholds
from training.calibration.borders import fit_borders
from training.calibration.operating import choose_operating_point
from training.calibration.temperature import at_temperature, fit_temperature
from training.calibration.truth import Flags, Floats, Truth, truth_of
from training.evaluation.matrices import SEVERE
from training.evaluation.predictions import P_GRADE, P_REGION, TRUE_BOX, called_grade
from training.evaluation.vocabulary import GRADES, REGIONS

log = logging.getLogger("stenosis_train")

FLOORS: Final = {"box_score": 0.5, "content_score": 0.5, "grade_score": 0.25}
"""Thresholds are not chosen below these: the detector's own, and chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a recipe wants fitted."""

    temperature: bool = False
    offsets: bool = False
    """With the temperature of the grades, an offset for each where that helps patients apart."""
    monotone_switch: bool = False
    operating_point: bool = False
    abstain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How scores become calls. As a bundle's manifest has it, but with what was measured when it was fitted."""

    classify_temperature: float = 1.0
    grade_temperature: float = 1.0
    grade_offsets: tuple[float, float, float, float] = Calibration().grade_offsets
    monotone_switch: bool = False
    contradiction: float = DecisionRules().contradiction
    severe_threshold: float | None = None
    box_score: float | None = None
    """None: nothing was chosen, and nobody abstains on it here; a bundle keeps its default."""
    content_score: float | None = None
    grade_score: float | None = None
    fitted: Mapping[str, Any] = field(default_factory=dict)
    """Figures on the validation slices, where they were chosen: never for a model card."""

    def as_plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(replace(self, fitted=dict(self.fitted)))

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Decision:
        """Inverse of :meth:`as_plain`; keys of others are left out."""
        known = {item.name for item in fields(cls)}
        given = {name: value for name, value in plain.items() if name in known}
        if "grade_offsets" in given:  # JSON knows no tuples
            given["grade_offsets"] = tuple(given["grade_offsets"])
        return cls(**given)

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Decision:
        """What a bundle applies."""
        return cls(
            **manifest.calibration.model_dump(),
            **manifest.decision.model_dump(),
            **{name: getattr(manifest.thresholds, name) for name in FLOORS},
        )

    def onto(self, manifest: Manifest) -> Manifest:
        """The manifest with these values."""
        chosen = {name: value for name in FLOORS if (value := getattr(self, name)) is not None}
        return manifest.model_copy(
            update={
                "calibration": Calibration(
                    classify_temperature=self.classify_temperature,
                    grade_temperature=self.grade_temperature,
                    grade_offsets=self.grade_offsets,
                ),
                "decision": self._rules(),
                "thresholds": manifest.thresholds.model_copy(update=chosen),
            }
        )

    def call(self, scores: Floats) -> str:
        """The grade of four scores."""
        return str(call_grade(dict(zip(Grade, scores.tolist(), strict=True)), self._rules()))

    def _rules(self) -> DecisionRules:
        return DecisionRules(
            monotone_switch=self.monotone_switch,
            contradiction=self.contradiction,
            severe_threshold=self.severe_threshold,
        )


def fit_decision(
    validation: pd.DataFrame,
    labels: pd.DataFrame,
    asked: Asked,
    *,
    reader: str = "",
    before: Decision = Decision(),
) -> Decision:
    """Fit what is asked for, on top of a decision that is there.

    validation  predictions of one chain with no decision applied (``training.evaluation.predictions``)
    labels      rows of the label manifest
    reader      whose labels count; empty: all together
    before      what stays where nothing is asked for
    """
    truth = truth_of(validation, labels, reader)
    decision = replace(before, monotone_switch=asked.monotone_switch, fitted={})
    if asked.temperature:
        decision = replace(decision, classify_temperature=fit_temperature(*_known(validation, P_REGION, truth.regions)))
        if not any(before.grade_offsets):  # else they were fitted together
            decision = replace(decision, grade_temperature=fit_temperature(*_known(validation, P_GRADE, truth.grades)))
    if asked.offsets:
        scores, targets = _known(validation, P_GRADE, truth.grades)
        borders = fit_borders(scores, targets, truth.patients[_has_both(validation, P_GRADE, truth.grades)])
        a, b, c, d = borders.offsets
        log.info("%s", borders.sentence())
        decision = replace(
            decision,
            grade_temperature=borders.temperature,
            grade_offsets=(a, b, c, d),
            fitted={"borders": borders.as_plain()},
        )
    if asked.abstain:
        decision = replace(decision, box_score=None, content_score=None, grade_score=None)
        decision = _abstaining(decision, validation, labels, truth)
    if asked.operating_point:
        decision = _screening(decision, validation, labels, truth)
    return decision


def apply_decision(predictions: pd.DataFrame, decision: Decision, labels: pd.DataFrame) -> pd.DataFrame:
    """Predictions of one chain as the node reports them: scores at temperature, regions, grades, ``abstained``.

    labels  rows of the label manifest: their z_mm orders the slices of a series for the switch; without it a slice
            keeps its own call. (The node takes the height of the canal itself.)
    """
    made = predictions.copy()
    heights = truth_of(made, labels).heights_mm
    for prefix in ("", TRUE_BOX):
        if f"{prefix}{P_REGION[0]}" not in made:
            continue
        regions = _scaled(made, prefix, P_REGION, decision.classify_temperature)
        grades = _scaled(made, prefix, P_GRADE, decision.grade_temperature, decision.grade_offsets)
        scored = ~np.isnan(regions[:, 0])
        called = _called_regions(made, regions, heights, scored, switch=decision.monotone_switch)
        made[f"{prefix}region"] = np.where(scored, called, made[f"{prefix}region"])
        graded = ~np.isnan(grades[:, 0])
        made.loc[graded, f"{prefix}grade"] = [decision.call(row) for row in grades[graded]]
        if not prefix:
            doubtful = _doubtful(made, regions, grades, called, decision)
            before = made["abstained"].eq("1") if "abstained" in made else False
            made["abstained"] = np.where(doubtful | before, "1", "0")
    return made


def _doubtful(table: pd.DataFrame, regions: Floats, grades: Floats, called: Any, decision: Decision) -> Flags:
    """The slices with a box that the node would not grade."""
    own = np.where(called == REGIONS[0], regions[:, 0], regions[:, 1])
    alone = own < (decision.content_score or 0.0)
    low = own <= 1 - decision.contradiction if decision.monotone_switch else alone
    unsure = (called == REGIONS[0]) & (grades.max(axis=1) < (decision.grade_score or 0.0))
    unsure |= table["box_score"].to_numpy(dtype=float) < (decision.box_score or 0.0)
    return np.asarray((low | unsure) & table["x0"].notna().to_numpy())


def _called_regions(table: pd.DataFrame, regions: Floats, heights: Floats, scored: Flags, *, switch: bool) -> Any:
    called = np.where(regions[:, 0] >= regions[:, 1], *REGIONS).astype(object)
    if switch:
        placed = pd.Series(scored & ~np.isnan(heights), index=table.index)
        at = pd.Series(np.arange(len(table)), index=table.index)
        for _, rows in at[placed].groupby([table["study_uid"][placed], table["series_uid"][placed]]):
            below = call_rootlets(heights[rows].tolist(), regions[rows, 0].tolist())
            called[rows] = [REGIONS[0] if rootlet else REGIONS[1] for rootlet in below]
    return called


def _scaled(
    table: pd.DataFrame, prefix: str, columns: tuple[str, ...], temperature: float, offsets: Sequence[float] = (0.0,)
) -> Floats:
    """Scores as calibrated, written back."""
    names = [prefix + column for column in columns]
    scores: Floats = table[names].to_numpy(dtype=float, copy=True)
    known = ~np.isnan(scores[:, 0])
    if temperature != 1.0 or any(offsets):
        scores[known] = at_temperature(scores[known], temperature, offsets)
        table[names] = scores
    return scores


def _known(table: pd.DataFrame, columns: tuple[str, ...], targets: Floats) -> tuple[Floats, Floats]:
    """Scores and labels of the slices that have both."""
    known = _has_both(table, columns, targets)
    return table.loc[known, list(columns)].to_numpy(dtype=float), targets[known]


def _has_both(table: pd.DataFrame, columns: tuple[str, ...], targets: Floats) -> Flags:
    return np.asarray(~np.isnan(table[columns[0]].to_numpy(dtype=float)) & ~np.isnan(targets[:, 0]))


def _abstaining(decision: Decision, validation: pd.DataFrame, labels: pd.DataFrame, truth: Truth) -> Decision:
    called = apply_decision(validation, decision, labels)
    labelled = (truth.region != "") & called["x0"].notna().to_numpy() & (called["abstained"] != "1").to_numpy()
    part, region, grade = called[labelled], truth.region[labelled], truth.grade[labelled]
    rootlet = (part["region"] == REGIONS[0]).to_numpy()
    right = (part["region"].to_numpy() == region) & (~rootlet | (part["grade"].to_numpy() == grade))
    scores = {
        "box_score": part["box_score"].to_numpy(dtype=float),
        "content_score": part[list(P_REGION)].max(axis=1).to_numpy(dtype=float),
        "grade_score": part[list(P_GRADE)].max(axis=1).where(rootlet).to_numpy(dtype=float),
    }
    if decision.monotone_switch:  # the neighbours settle what a slice alone leaves open
        del scores["content_score"]
    chosen = choose_thresholds(scores, np.asarray(right), region == "other", FLOORS, region + grade)
    thresholds: dict[str, Any] = dict(chosen.thresholds)
    return replace(decision, **thresholds, fitted={**decision.fitted, "abstention": chosen.as_plain()})


def _screening(decision: Decision, validation: pd.DataFrame, labels: pd.DataFrame, truth: Truth) -> Decision:
    called = apply_decision(validation, decision, labels)
    severe = called[list(P_GRADE[SEVERE:])].sum(axis=1).where(called_grade(called).isin(GRADES), 0.0)
    positive = pd.Series(np.isin(truth.grade, GRADES[SEVERE:]), index=called.index)
    judged = pd.Series(truth.grade != "", index=called.index)
    studies = called["study_uid"]
    known = judged.groupby(studies).any()
    truths = positive.groupby(studies).any()[known].to_numpy(dtype=bool)
    highest = severe.groupby(studies).max()[known].to_numpy(dtype=float)
    choice = choose_operating_point(truths, highest)
    return replace(
        decision,
        severe_threshold=choice.threshold,
        fitted={**decision.fitted, "operating_point": choice.as_plain()},
    )
