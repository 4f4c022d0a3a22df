"""The second question of Won et al. 2025: does grading learnt on one level hold on the others, and on the cord?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from training.evaluation.cohort import Cohort, load_cohort
from training.evaluation.document import Section, Table, markdown
from training.evaluation.paper_tables import agree_on
from training.evaluation.predictions import TRUE_BOX
from training.evaluation.scoring import NO_BOUNDS, with_bounds
from training.evaluation.vocabulary import GRADES
from training.protocol.runs import store_text

JSON_NAME: Final = "transfer.json"
TEXT_NAME: Final = "transfer.md"
_SCORES: Final = ("accuracy", "macro_f1", "kappa_quadratic")
_OTHERS: Final = "other levels"


def write_transfer(labels: Path, predictions: Path, level: str, out: Path, *, bootstrap: int = 1000) -> None:
    """Agreement of every chain with its reader on slices it did not learn, by level, and its grades of cord slices.

    Grades are those on the reader's box, so that finding the canal does not enter. Raises EvaluationError.
    """
    cohort = load_cohort(labels, [predictions], bootstrap=bootstrap)
    by_level, on_cord = _by_level(cohort, level), _on_cord(cohort)
    plain = {"train_level": level, "agreement": by_level, "cord": on_cord}
    store_text(out / JSON_NAME, json.dumps(plain, indent=1) + "\n")
    store_text(out / TEXT_NAME, _as_markdown(level, by_level, on_cord))


def _by_level(cohort: Cohort, trained: str) -> list[dict[str, Any]]:
    made = []
    for chain, found in cohort.chains.items():
        truth = cohort.readers[cohort.teachers[chain]].grade
        given = found[f"{TRUE_BOX}grade"]
        both = truth.index[truth.isin(GRADES)].intersection(given.index[given.isin(GRADES)], sort=False)
        levels = cohort.slices.level.loc[both]
        groups = [(name, both[(levels == name).to_numpy()]) for name in sorted(set(levels) - {""})]
        groups.append((_OTHERS, both[(levels != trained).to_numpy()]))
        for name, index in groups:
            if index.empty:
                continue
            found_here = agree_on(truth.loc[index], given.loc[index], GRADES, cohort, cohort.resamples)
            made.append(
                {
                    "chain": chain,
                    "level": name,
                    "trained": name == trained,
                    "slices": found_here.n,
                    **{score: getattr(found_here, score) for score in _SCORES},
                    "intervals": {score: found_here.intervals.get(score, NO_BOUNDS) for score in _SCORES},
                }
            )
    return made


def _on_cord(cohort: Cohort) -> list[dict[str, Any]]:
    made = []
    for chain, found in cohort.chains.items():
        truth = cohort.readers[cohort.teachers[chain]].region
        cord = truth.index[truth == "cord"].intersection(found.index, sort=False)
        given = found[f"{TRUE_BOX}grade"].loc[cord]
        counts = {grade: int((given == grade).sum()) for grade in GRADES}
        made.append({"chain": chain, "slices": sum(counts.values()), **counts})
    return made


def _as_markdown(level: str, by_level: list[dict[str, Any]], on_cord: list[dict[str, Any]]) -> str:
    agreement = Table(
        title=f"Grades learnt at {level}: agreement with the reader",
        header=("chain", "level", "slices", "accuracy", "macro-F1", "quadratic kappa"),
        rows=[
            [
                row["chain"],
                row["level"] + (" (learnt)" if row["trained"] else ""),
                str(row["slices"]),
                *(with_bounds(row[score], row["intervals"][score]) for score in _SCORES),
            ]
            for row in by_level
        ],
        note="On the reader's box; brackets: 95 %, patients resampled.",
    )
    cord = Table(
        title="Grades given to slices the reader calls cord",
        header=("chain", "slices", *GRADES),
        rows=[[row["chain"], str(row["slices"]), *(str(row[grade]) for grade in GRADES)] for row in on_cord],
        note="There is nothing to grade on them: B, C and D are false alarms of a chain without stage 2.",
    )
    section = Section(title="Agreement and false alarms", tables=(agreement, cord))
    return markdown("Grading learnt on one level", "Won 2025, second question.", [section])
