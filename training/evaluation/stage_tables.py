"""The scores of chains as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from training.evaluation.agreement import known
from training.evaluation.cohort import Cohort
from training.evaluation.document import Table
from training.evaluation.matrices import SEVERE, agreement_scores, count_pairs
from training.evaluation.printing import number
from training.evaluation.scoring import with_bounds
from training.evaluation.stages import END_TO_END, ChainScores
from training.evaluation.vocabulary import GRADES, REGIONS, UNLABELLED, code_labels

_FOV_EDGES: Final = (0, 160, 200, float("inf"))
_FOV_NAMES: Final = ("0 to 160 mm", "160 to 200 mm", "200 mm and more")
"""A name's upper end belongs to the next group."""
_FEWEST: Final = 10
"""Slices below which a subgroup is not scored."""


def coverage_table(cohort: Cohort, chains: Sequence[ChainScores]) -> Table:
    """Slices with a label and a prediction, and those that lack one of them."""
    named = [(f"{one.chain} and {one.reader}", one.coverage) for one in chains]
    named.append(("any chain and any reader", cohort.coverage()))
    return Table(
        title="Slices with a label and a prediction",
        header=("", "slices", "patients", "labelled, not predicted", "predicted, not labelled"),
        rows=[
            [
                name,
                str(found.slices),
                str(found.patients),
                str(found.labelled_without_prediction),
                str(found.predicted_without_label),
            ]
            for name, found in named
        ],
        note="The figures of a chain are of the slices that its reader labelled and it predicted; the others count "
        "neither as right nor as missed.",
    )


def detection_table(chains: Sequence[ChainScores]) -> Table:
    """Detector of every chain."""
    rows = []
    named = [(one.chain, one.detection) for one in chains]
    named += [(f"{one.chain}, mean box of all readers", one.detection_by_all) for one in chains if one.detection_by_all]
    for name, found in named:
        rows.append(
            [
                name,
                str(found.with_canal),
                *(number(value) for value in (found.ap50, found.ap50_95, found.recall50, found.recall75)),
                number(found.centre_mm_median, 2),
                number(found.centre_mm_p95, 2),
                f"{found.boxes} ({found.own_boxes})",
                number(found.false_per_slice),
                f"{number(found.false_without_canal)} ({found.without_canal})",
                number(found.own_without_canal),
            ]
        )
    return Table(
        title="Canal",
        header=(
            "", "slices with a canal", "AP50", "AP50:95", "recall IoU .5", "recall IoU .75", "centre error mm, median",
            "95th percentile", "boxes (own)", "false boxes a slice", "on 'other' slices (n)",
            "own box on 'other' slices",
        ),
        rows=rows,
        note="AP by COCO's 101-point rule. AP and false boxes are of all boxes in the predictions: the box the chain "
        "goes on with (own), and the detector's further ones however low their score. Where no more boxes are there "
        "than own ones, both are of the own box alone. Recall and centre error are always of the own box.",
    )  # fmt: skip


def region_table(chains: Sequence[ChainScores]) -> Table:
    """Rootlet or cord."""
    names = ("accuracy", "macro_f1", "recall rootlet", "recall cord", "ppv rootlet", "ppv cord", "kappa", "mcc")
    return Table(
        title="Rootlet or cord",
        header=("", "slices", "missed", "accuracy", "macro-F1", *names[2:6], "kappa", "MCC"),
        rows=[
            [f"{one.chain}, {name}", str(found.n), str(found.missed), *(found.text(score) for score in names)]
            for one in chains
            for name, found in one.regions.items()
        ],
        note="A slice without a box counts as an error. Away from the transition: without the slices on both sides "
        "of each change of the reader's label. Kappa, PPV and MCC are of slices with an answer.",
    )


def grade_table(chains: Sequence[ChainScores]) -> Table:
    """Grades by condition."""
    names = ("accuracy", "macro_f1", "kappa", "kappa_linear", "kappa_quadratic", "mcc", "mae", "two_off")
    return Table(
        title="Grades",
        header=(
            "", "slices", "missed", "accuracy", "macro-F1", "kappa", "linear kappa", "quadratic kappa", "MCC",
            "mean error, grades", "two grades off or more",
        ),
        rows=[
            [f"{one.chain}, {name}", str(found.n), str(found.missed), *(found.text(score) for score in names)]
            for one in chains
            for name, found in one.grades.items()
        ],
        note="Of slices the reader graded. End to end: box, rootlet or cord and grade are the chain's; no box, cord "
        "and abstention count as errors in accuracy and macro-F1. The other scores are of slices with an answer.",
    )  # fmt: skip


def other_table(chains: Sequence[ChainScores]) -> Table:
    """What chains make of slices that nobody can grade."""
    return Table(
        title="Slices the reader calls 'other'",
        header=("", "slices", "no box", "abstained", "cord or no grade", "graded", "graded C or D"),
        rows=[
            [
                f"{one.chain} and {one.reader}",
                *(
                    str(count)
                    for count in (
                        one.other.slices,
                        one.other.no_box,
                        one.other.abstained,
                        one.other.no_grade,
                        one.other.graded,
                        one.other.severe,
                    )
                ),
            ]
            for one in chains
        ],
        note="Nobody can grade these: each grade is one too many. They are in no other table of grades.",
    )


def class_table(chains: Sequence[ChainScores]) -> Table:
    """Recall and PPV of each grade, end to end, and of C or worse."""
    rows = []
    for one in chains:
        if (found := one.grades.get(END_TO_END)) is None:
            continue
        for code, label in enumerate(GRADES):
            scores = (found.text(f"{kind} {label}") for kind in ("recall", "ppv", "f1"))
            rows.append([f"{one.chain}, {label}", str(sum(found.confusion[code])), *scores, ""])
        severe = str(sum(map(sum, found.confusion[SEVERE:])))
        scores = (found.text(f"severe_{name}") for name in ("sensitivity", "ppv"))
        rows.append([f"{one.chain}, C or worse", severe, *scores, "", found.text("severe_specificity")])
    return Table(title="Each grade, end to end", header=("", "slices", "recall", "PPV", "F1", "specificity"), rows=rows)


def study_table(chains: Sequence[ChainScores]) -> Table:
    """C or worse somewhere in the study."""
    rows = []
    for one in chains:
        found = one.study_level
        low = found.sensitivity.bounds[0]
        rows.append(
            [
                one.chain,
                f"{found.sensitivity.of} of {found.sensitivity.of + found.specificity.of}",
                with_bounds(found.sensitivity.value, found.sensitivity.bounds),
                number(low),
                "-" if low is None else "yes" if low >= 0.95 else "no",
                with_bounds(found.specificity.value, found.specificity.bounds),
            ]
        )
    return Table(
        title="C or worse in a study",
        header=("", "studies with C or D", "sensitivity", "lower 95 % bound", "at least 0.95", "specificity"),
        rows=rows,
        note="Exact (Clopper-Pearson) bounds; a study is called when one slice is.",
    )


def calibration_table(chains: Sequence[ChainScores]) -> Table:
    """ECE and Brier score."""
    return Table(
        title="Calibration",
        header=("", "slices", "ECE", "Brier score"),
        rows=[
            [f"{one.chain}, {name}", str(found.n), number(found.ece), number(found.brier)]
            for one in chains
            for name, found in one.calibration.items()
        ],
        note="ECE of the highest score over 15 bins of equal mass; multi-class Brier score from 0 to 2.",
    )


def subgroup_tables(cohort: Cohort, chains: Sequence[ChainScores]) -> list[Table]:
    """End-to-end grading and recall of the canal by level, vendor and field of view."""
    fov = pd.cut(cohort.slices.fov_mm.astype(float), _FOV_EDGES, labels=_FOV_NAMES, right=False).astype(object)
    groups = {"level": cohort.slices.level, "vendor": cohort.slices.vendor, "field of view": fov}
    tables = []
    for name, given in groups.items():
        column = given.where(given.notna() & (given != ""), "not known")
        rows = [row for one in chains for row in _subgroup_rows(one, column)]
        if rows and set(column) != {"not known"}:
            tables.append(
                Table(
                    title=f"By {name}",
                    header=("", "slices", "canal recall IoU .5", "graded", "accuracy", "macro-F1", "quadratic kappa"),
                    rows=rows,
                    note=f"End to end. Groups of fewer than {_FEWEST} graded slices are not scored.",
                )
            )
    return tables


def cross_tables(cohort: Cohort) -> list[Table]:
    """Agreement of every rater with every other."""
    raters = {**cohort.readers, **cohort.chains}
    tables = []
    for part, labels, kappa, title in (
        ("region", REGIONS, "kappa", "Rootlet or cord: kappa (slices)"),
        ("grade", GRADES, "kappa_quadratic", "Grades: quadratic kappa (slices)"),
    ):
        rows = [
            [first, *(_pair(raters[first], raters[second], part, labels, kappa) for second in raters)]
            for first in raters
        ]
        tables.append(Table(title=title, header=("", *raters), rows=rows))
    return tables


def _subgroup_rows(one: ChainScores, column: pd.Series) -> Iterator[list[str]]:
    here = column.loc[one.truth.index]
    for group in sorted(here.unique()):
        index = here.index[(here == group).to_numpy()]
        graded = one.graded.intersection(index, sort=False)
        scores = one.score_grades(graded) if len(graded) >= _FEWEST else None
        texts = [scores.text(name) if scores else "-" for name in ("accuracy", "macro_f1", "kappa_quadratic")]
        yield [f"{one.chain}, {group}", str(len(index)), number(one.canal_recall(index)), str(len(graded)), *texts]


def _pair(a: pd.DataFrame, b: pd.DataFrame, part: str, labels: Sequence[str], kappa: str) -> str:
    if a is b:
        return ""
    index = a.index.intersection(b.index, sort=False)
    left, right = (code_labels(_labels(rater, part).loc[index], labels) for rater in (a, b))
    both = (left != UNLABELLED) & (right != UNLABELLED)
    if not both.any():
        return "-"
    value = float(agreement_scores(count_pairs(left[both], right[both], len(labels)))[kappa])
    return f"{number(known(value))} ({int(both.sum())})"


def _labels(rater: pd.DataFrame, part: str) -> pd.Series:
    """What a rater reports in the end; of a chain not every slice that stage 3 graded."""
    return rater["called"] if part == "grade" and "called" in rater.columns else rater[part]
