"""Tables 1 to 6 of Won 2025 and their supplements, from any readers and chains.

The paper's cohorts: rootlet or cord is compared on slices that every reader labelled so and every chain boxed; grades
on those that all call rootlet. Tables 2 and 3 have the later reader in rows and the earlier in columns, Tables 5 and 6
the reader in rows and the chain in columns, as printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from training.evaluation.agreement import Agreement, agree
from training.evaluation.cohort import Cohort
from training.evaluation.document import Table
from training.evaluation.printing import p_value
from training.evaluation.resampling import Resamples
from training.evaluation.scoring import NO_BOUNDS, with_bounds
from training.evaluation.vocabulary import GRADES, REGIONS, code_labels
from training.evaluation.won2025 import cut, p_as_printed

_Pair = tuple[str, pd.DataFrame, str, pd.DataFrame]
"""Name and labels of the rater in rows, then of the one in columns."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two raters on the slices of a cohort; rows of the confusion matrix are ``rows``."""

    part: str
    """``region`` or ``grade``."""
    rows: str
    columns: str
    between_readers: bool
    agreement: Agreement


def comparisons(cohort: Cohort) -> list[Comparison]:
    """Every pair of readers, then every chain with the reader it learnt from; regions, then grades."""
    return _compare(cohort, list(_pairs(cohort)))


def further_comparisons(cohort: Cohort) -> list[Comparison]:
    """Every chain with the readers that :func:`comparisons` leaves out, on the same slices. No table has them."""
    pairs = [
        (name, rows, chain, found)
        for chain, found in cohort.chains.items()
        for name, rows in cohort.readers.items()
        if name != cohort.teachers[chain]
    ]
    return _compare(cohort, pairs)


def _compare(cohort: Cohort, pairs: Sequence[_Pair]) -> list[Comparison]:
    made = []
    for part, labels, index in (
        ("region", REGIONS, cohort.common()),
        ("grade", GRADES, cohort.graded_by_all()),
    ):
        if index.empty:
            continue
        for name_rows, rows, name_columns, columns in pairs:
            agreement = agree_on(rows[part].loc[index], columns[part].loc[index], labels, cohort, cohort.resamples)
            made.append(
                Comparison(
                    part=part,
                    rows=name_rows,
                    columns=name_columns,
                    between_readers=name_columns in cohort.readers,
                    agreement=agreement,
                )
            )
    return made


def agree_on(
    a: pd.Series, b: pd.Series, labels: Sequence[str], cohort: Cohort, resamples: Resamples | None
) -> Agreement:
    """Agreement of two aligned columns of labels, with intervals of resampled patients."""
    patients = cohort.patient_codes(a.index)
    return agree(code_labels(a, labels), code_labels(b, labels), labels, cluster=patients, resamples=resamples)


def table_1(cohort: Cohort) -> Table:
    """Slices by reader and chain, and what is common to all."""
    rows = []
    for chain, found in cohort.chains.items():
        reader = cohort.teachers[chain]
        labelled = cohort.rootlet_or_cord(reader).intersection(found.index, sort=False)
        truth, here = cohort.readers[reader].region.loc[labelled], found.loc[labelled]
        boxed = int(here.x0.notna().sum())
        rows.append(
            [
                f"{reader} and {chain}",
                str(len(labelled)),
                f"{boxed} ({_percent(boxed, len(labelled), 2)})",
                *(str(int((truth == region).sum())) for region in REGIONS),
                *(str(int((here.region == region).sum())) for region in REGIONS),
            ]
        )
    labelled, common = cohort.labelled_by_all(), cohort.common()
    by_readers, by_all = (len(cohort.rootlet_by_all(chains=chains)) for chains in (False, True))
    rows.append(
        ["all", str(len(labelled)), f"{len(common)} ({_percent(len(common), len(labelled), 2)})", "", "", "", ""]
    )
    return Table(
        title="Table 1. Slices",
        header=("", "labelled", "canal found", "rootlet (reader)", "cord (reader)", "rootlet (chain)", "cord (chain)"),
        rows=rows,
        note=f"Of {len(common)} slices in common all readers call {by_readers} rootlet, all chains {by_all} of these.",
    )


def confusion_tables(made: Sequence[Comparison]) -> list[Table]:
    """Tables 2, 3, 5 and 6, one for each pair."""
    tables = []
    for number, part, between in ((2, "region", True), (3, "grade", True), (5, "region", False), (6, "grade", False)):
        chosen = [one for one in made if one.part == part and one.between_readers is between]
        for place, one in enumerate(chosen):
            mark = f"{number}{chr(ord('a') + place)}" if len(chosen) > 1 else str(number)
            tables.append(_counts(mark, one))
    return tables


def table_4(made: Sequence[Comparison]) -> Table:
    """Agreement as the paper prints it, with the tests and scores it leaves out beside."""
    return Table(
        title="Table 4. Agreement",
        header=(
            "", "slices", "accuracy %", "F-score %", "P as printed", "P paired t", "P Stuart-Maxwell",
            "macro-F1", "kappa", "linear kappa", "quadratic kappa",
        ),
        rows=[
            [
                f"{'rootlet, cord' if one.part == 'region' else 'grade'}: {one.rows}, {one.columns}",
                str(one.agreement.n),
                cut(100 * one.agreement.accuracy, 1),
                cut(100 * one.agreement.macro_f1, 1),
                p_as_printed(one.agreement.p_unpaired),
                p_value(one.agreement.p_paired),
                p_value(one.agreement.p_stuart_maxwell),
                *(
                    with_bounds(getattr(one.agreement, name), one.agreement.intervals.get(name, NO_BOUNDS))
                    for name in ("macro_f1", "kappa", "kappa_linear", "kappa_quadratic")
                ),
            ]
            for one in made
        ],
        note="Accuracy, F-score (macro-F1) and P with the last digit cut off as in the paper. P as printed: unpaired "
        "t-test on the codes; the paired test and Stuart-Maxwell (two classes: McNemar) suit the design but take "
        "neighbouring slices as independent. A large P is no evidence of agreement. Brackets: 95 %.",
    )  # fmt: skip


def supplements(made: Sequence[Comparison]) -> list[Table]:
    """Rows and columns of every confusion matrix in percent."""
    return [table for one in made for table in (_shares(one, 1), _shares(one, 0))]


def _pairs(cohort: Cohort) -> Iterator[_Pair]:
    for first, second in combinations(cohort.readers, 2):
        yield second, cohort.readers[second], first, cohort.readers[first]
    for chain, found in cohort.chains.items():
        reader = cohort.teachers[chain]
        yield reader, cohort.readers[reader], chain, found


def _counts(mark: str, one: Comparison) -> Table:
    matrix = np.array(one.agreement.confusion)
    labels = one.agreement.labels
    rows = [[label, *map(str, row), str(row.sum())] for label, row in zip(labels, matrix, strict=True)]
    rows.append(["total", *map(str, matrix.sum(0)), str(matrix.sum())])
    what = "Rootlet and cord" if one.part == "region" else "Grades"
    return Table(
        title=f"Table {mark}. {what}: {one.rows} (rows) and {one.columns} (columns)",
        header=("", *labels, "total"),
        rows=rows,
    )


def _shares(one: Comparison, axis: int) -> Table:
    matrix = np.array(one.agreement.confusion, dtype=float)
    total = matrix.sum(axis=axis, keepdims=True)
    cell: Callable[[float, float], str] = lambda n, of: _percent(n, of, 1)  # noqa: E731
    rows = [
        [label, *(cell(n, of) for n, of in zip(row, np.broadcast_to(total, matrix.shape)[place], strict=True))]
        for place, (label, row) in enumerate(zip(one.agreement.labels, matrix, strict=True))
    ]
    part = "rootlet, cord" if one.part == "region" else "grades"
    return Table(
        title=f"{one.rows} (rows) and {one.columns} (columns), {part}: % of {'rows' if axis else 'columns'}",
        header=("", *one.agreement.labels),
        rows=rows,
    )


def _percent(count: float, of: float, digits: int) -> str:
    return "-" if of == 0 else f"{100 * count / of:.{digits}f} %"
