"""The whole evaluation of saved predictions: ``stenosis-train evaluate --predictions .. --labels ..``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.evaluation import paper_tables, stage_tables
from training.evaluation.cohort import Cohort, load_cohort
from training.evaluation.document import Section, write_document
from training.evaluation.stages import ChainScores

_TITLE = "Evaluation"


def evaluate_predictions(
    labels: Path,
    predictions: Sequence[Path],
    out: Path,
    *,
    reference: str | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
    pictures: bool = True,
) -> dict[str, Any]:
    """Write evaluation.md, evaluation.html, evaluation.json and figures/ into ``out``; return the figures.

    Raises EvaluationError.
    """
    cohort = load_cohort(labels, predictions, reference=reference, bootstrap=bootstrap, seed=seed)
    compared = paper_tables.comparisons(cohort)
    chains = [ChainScores(cohort, chain) for chain in cohort.chains]
    sections = [*_paper(cohort, compared), *_beyond(cohort, chains, pictures)]
    out.mkdir(parents=True, exist_ok=True)
    write_document(out, _TITLE, _intro(cohort, bootstrap, seed), sections)
    compared += paper_tables.further_comparisons(cohort)
    figures = {"data": _data(cohort, labels), **as_json(compared, chains)}
    (out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def as_json(compared: Sequence[paper_tables.Comparison], chains: Sequence[ChainScores]) -> dict[str, Any]:
    """Every figure of the document for scripts.

    ``agreement`` has every pair of readers and every chain with every reader, on the slices that all raters answered.
    """
    return {
        "agreement": [
            {"part": one.part, "rows": one.rows, "columns": one.columns, **asdict(one.agreement)} for one in compared
        ],
        "chains": {
            one.chain: {
                "reader": one.reader,
                "coverage": asdict(one.coverage),
                "detection": asdict(one.detection),
                "detection_by_all": None if one.detection_by_all is None else asdict(one.detection_by_all),
                "region": {name: asdict(found) for name, found in one.regions.items()},
                "grade": {name: asdict(found) for name, found in one.grades.items()},
                "other": asdict(one.other),
                "calibration": {
                    name: {"n": found.n, "ece": found.ece, "brier": found.brier}
                    for name, found in one.calibration.items()
                },
                "study": {
                    name: {"value": share.value, "bounds": share.bounds, "studies": share.of}
                    for name, share in (
                        ("sensitivity", one.study_level.sensitivity),
                        ("specificity", one.study_level.specificity),
                    )
                },
            }
            for one in chains
        },
    }


def _data(cohort: Cohort, labels: Path) -> dict[str, Any]:
    """What the figures were measured on."""
    with labels.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "labels_sha256": digest,
        **asdict(cohort.coverage()),
        "readers": sorted(cohort.readers),
    }


def _paper(cohort: Cohort, compared: Sequence[paper_tables.Comparison]) -> list[Section]:
    from training.evaluation.figures import confusion_figures

    missing = "" if compared else "There is no slice that all readers label and all chains answer: no table to compute."
    return [
        Section(
            title="Tables 1 to 6",
            text=missing or "On the slices in common, as in Won 2025 (Global Spine J 15:2309-17).",
            tables=(
                paper_tables.table_1(cohort),
                *paper_tables.confusion_tables([one for one in compared if one.between_readers]),
                *((paper_tables.table_4(compared),) if compared else ()),
                *paper_tables.confusion_tables([one for one in compared if not one.between_readers]),
            ),
            figures=confusion_figures(compared),
        ),
        Section(title="Supplement: shares of rows and columns", tables=paper_tables.supplements(compared)),
    ]


def _beyond(cohort: Cohort, chains: Sequence[ChainScores], pictures: bool) -> list[Section]:
    from training.evaluation import figures
    from training.evaluation.galleries import cases_section

    return [
        Section(title="Labels and predictions", tables=(stage_tables.coverage_table(cohort, chains),)),
        Section(title="Finding the canal", tables=(stage_tables.detection_table(chains),)),
        Section(title="Rootlet or cord", tables=(stage_tables.region_table(chains),)),
        Section(
            title="Grades, stage by stage and end to end",
            tables=(
                stage_tables.grade_table(chains),
                stage_tables.class_table(chains),
                stage_tables.other_table(chains),
            ),
            figures=figures.end_to_end_figures(chains),
        ),
        Section(
            title="C or worse",
            tables=(stage_tables.study_table(chains),),
            figures=figures.roc_figure(chains),
        ),
        Section(
            title="Calibration",
            tables=(stage_tables.calibration_table(chains),),
            figures=figures.reliability_figure(chains),
        ),
        Section(title="Subgroups", tables=stage_tables.subgroup_tables(cohort, chains)),
        Section(
            title="Every rater with every other",
            tables=stage_tables.cross_tables(cohort),
            text="Pairwise, on the slices both answered; chains as they report in the end.",
        ),
        *(cases_section(one, cohort.slices.path) for one in (chains if pictures else ())),
    ]


def _intro(cohort: Cohort, bootstrap: int, seed: int) -> str:
    pairs = ", ".join(f"{chain} (compared with {reader})" for chain, reader in cohort.teachers.items())
    met = cohort.coverage()
    return (
        f"{met.slices} slices of {met.patients} patients have a label and a prediction; "
        f"{met.labelled_without_prediction} labelled slices have no prediction, "
        f"{met.predicted_without_label} predicted slices no label. Readers: {', '.join(cohort.readers)}. "
        f"Chains: {pairs}. Brackets hold 95 % intervals of {bootstrap} resamples of whole patients (seed {seed}).\n\n"
        "Not for clinical use. Figures hold for the images they were measured on."
    )
