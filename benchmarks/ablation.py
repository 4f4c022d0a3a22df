"""What each part of the default recipe buys.

    python -m benchmarks.ablation --data SET/manifest.csv --out FOLDER [--write PAGE]

Every variant differs from the base in one part. Networks are narrow, epochs few, patches lie on the readers' boxes:
the figures compare parts, they are not those of a bundle. Three seeds each draw folds, weights and augmentation anew;
differences to the base are of the same slices, with 95 % intervals of resampled patients, all seeds together. Parts
that need no training of their own (mirror image, switch, temperature, operating point, abstention) use the base's
scores. Scores are
kept below FOLDER: a run that was stopped goes on. Chains learn the two readers of the phantoms, the truth judges.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from stenosis_node.grading.switch import call_rootlets
from training.calibration.abstention import choose_thresholds
from training.calibration.borders import fit_borders
from training.calibration.decision import FLOORS
from training.calibration.operating import choose_operating_point
from training.calibration.temperature import at_temperature, fit_temperature
from training.evaluation.calibration import calibrate
from training.evaluation.matrices import SEVERE, count_by_cluster
from training.evaluation.predictions import P_GRADE, P_REGION
from training.evaluation.resampling import Resamples, percentile_interval
from training.evaluation.scoring import stacked_scores, with_bounds
from training.evaluation.stages import Proportion
from training.evaluation.vocabulary import GRADES, REGIONS
from training.labels.manifest import read_manifest
from training.learning.fit import Machine, fit, load_best
from training.learning.items import Draw, Items
from training.learning.labels import CONSENSUS, TRUTH, LabelledSlice, labelled, readers_of
from training.learning.networks import collate
from training.learning.sampling import class_of, usable
from training.learning.store import SliceStore, open_store
from training.protocol.folds import split
from training.protocol.runs import digest_of
from training.recipes import RECIPES, Recipe, Stage, changed

SEEDS: Final = (0, 1, 2)
PARTS: Final = 5
BASE: Final = "base"
MIRRORED: Final = "mirrored_"
"""Before the names of scores that are the mean of a slice and its mirror image."""
_SMALL: Final = {
    "classify.blocks": "16,32,48,64,64",
    "classify.epochs": "4",
    "classify.slices_per_epoch": "800",
    "classify.validation_slices": "400",
    "grade.blocks": "16,32,48,64,64",
    "grade.epochs": "8",
    "grade.slices_per_epoch": "800",
    "grade.validation_slices": "400",
}
MIRRORED_SAYS: Final = "averaged with the mirror image"
RESAMPLES: Final = 1000

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Variant:
    """A part switched off or otherwise."""

    name: str
    stage: Stage
    says: str
    values: Mapping[str, str]


VARIANTS: Final = (
    Variant(BASE, Stage.GRADE, "base: ordinal loss, neighbours, root balance, averaged weights, grouped folds", {}),
    Variant("cross-entropy", Stage.GRADE, "cross-entropy instead of the ordinal loss", {"grade.loss": "cross-entropy"}),
    Variant("soft", Stage.GRADE, "soft labels: the shares of the readers", {"grade.soft_labels": "true"}),
    Variant("last", Stage.GRADE, "weights as they are, not their running average", {"grade.averaging": "0"}),
    Variant("balanced", Stage.GRADE, "classes fully balanced", {"grade.balance": "balanced"}),
    Variant("alone", Stage.GRADE, "no neighbouring slices", {"grade.context_slices": "0"}),
    Variant("undersample", Stage.GRADE, "undersampling, as the paper proposes", {"grade.balance": "undersample"}),
    Variant("unbalanced", Stage.GRADE, "no balance of classes", {"grade.balance": "none"}),
    Variant("leaking", Stage.GRADE, "folds by slice: patients leak into the test", {"group_by_patient": "false"}),
    Variant(BASE, Stage.CLASSIFY, "base: soft labels, neighbours, grouped folds", {}),
    Variant("hard", Stage.CLASSIFY, "hard labels instead of soft ones", {"classify.soft_labels": "false"}),
    Variant("alone", Stage.CLASSIFY, "no neighbouring slices", {"classify.context_slices": "0"}),
    Variant("leaking", Stage.CLASSIFY, "folds by slice", {"group_by_patient": "false"}),
)


def main() -> None:
    """Entry point."""
    arguments = _arguments()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    rows = read_manifest(arguments.data)
    store = open_store(rows, arguments.data, arguments.out / "cache", workers=arguments.workers)
    taught = labelled(rows, store, CONSENSUS)
    heights = {_name(key): z for key, z in zip(_keys(rows), rows["z_mm"], strict=True)}
    truth = {one.key: one for one in labelled(rows, store, TRUTH if TRUTH in set(rows["reader"]) else CONSENSUS)}
    machine = Machine(workers=arguments.workers)
    work = _Work(store, taught, truth, heights, _grades(rows, store), arguments.out, machine, arguments.share)
    text = _page(work, arguments)
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")


def _grades(rows: pd.DataFrame, store: SliceStore) -> dict[str, dict[str, int]]:
    return {
        reader: {
            _name(one.key): grade
            for one in labelled(rows, store, reader)
            if (grade := class_of(one, Stage.GRADE)) is not None
        }
        for reader in readers_of(rows)
    }


@dataclass(frozen=True)
class _Work:
    store: SliceStore
    taught: list[LabelledSlice]
    truth: Mapping[Any, LabelledSlice]
    heights: Mapping[str, float]
    readers: Mapping[str, Mapping[str, int]]
    """Each reader's grades by slice."""
    out: Path
    machine: Machine
    share: float
    """Of the slices of an epoch; below 1 to try the script itself."""

    def scores(self, variant: Variant, part: str = "test") -> pd.DataFrame:
        """Of all seeds: one row per slice of a part (``test`` or ``validation``) with truth and probabilities."""
        return pd.concat([self._of_seed(variant, seed, part) for seed in SEEDS], ignore_index=True)

    def _of_seed(self, variant: Variant, seed: int, part: str) -> pd.DataFrame:
        folder = self.out / f"{variant.stage}-{variant.name}-{seed}"
        path = folder / f"{part}.parquet"
        if not path.exists():
            begun = time.monotonic()
            self._train(variant, seed, folder)
            print(f"{folder.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        return pd.read_parquet(path)

    def _train(self, variant: Variant, seed: int, folder: Path) -> None:
        recipe = self._recipe(variant)
        part = recipe.stage(variant.stage)
        fold = split(self.taught, PARTS, by_patient=recipe.group_by_patient, seed=seed)[0]
        sides = {
            name: [one for one in self.taught if one.key in keys]
            for name, keys in (("train", fold.train), ("validation", fold.validation), ("test", fold.test))
        }
        fitted = fit(
            part, self.store, sides["train"], sides["validation"], folder / "fit", seed=seed, machine=self.machine
        )
        network = load_best(part, fitted.best)
        for name in ("validation", "test"):
            table = self._look(network, recipe, variant.stage, sides[name])
            table["seed"] = seed
            table.to_parquet(folder / f"{name}.parquet", index=False)

    def _recipe(self, variant: Variant) -> Recipe:
        recipe = changed(RECIPES["default"], {**_SMALL, **variant.values})
        if self.share == 1:
            return recipe
        part = recipe.stage(variant.stage)
        few = max(part.batch_size, round(self.share * (part.slices_per_epoch or 1)))
        parts: dict[str, Any] = {variant.stage.value: replace(part, epochs=1, slices_per_epoch=few)}
        return replace(recipe, **parts)

    def _look(self, network: torch.nn.Module, recipe: Recipe, stage: Stage, of: list[LabelledSlice]) -> pd.DataFrame:
        """Scores of the slices that the truth gives a label."""
        shown = [one for one in usable(of, stage) if one.key in self.truth]
        shown = [one for one in shown if class_of(self.truth[one.key], stage) is not None]
        items = Items(self.store, recipe.stage(stage), [Draw(one, None) for one in shown])
        rows: list[list[float]] = []
        with torch.inference_mode():
            for patches, _ in DataLoader(items, batch_size=64, collate_fn=collate):
                alone, other = network(patches).double(), network(patches.flip(-1)).double()
                rows += torch.cat((alone.softmax(1), ((alone + other) / 2).softmax(1)), 1).tolist()
        names = list(P_GRADE if stage is Stage.GRADE else P_REGION)
        table = pd.DataFrame(rows, columns=[*names, *(MIRRORED + name for name in names)])
        table["slice"] = [_name(one.key) for one in shown]
        table["study"] = [one.key[0] for one in shown]
        table["patient"] = [one.patient for one in shown]
        table["truth"] = [class_of(self.truth[one.key], stage) for one in shown]
        table["taught"] = [class_of(one, stage) for one in shown]
        table["z_mm"] = [self.heights[_name(one.key)] for one in shown]
        return table


def _page(work: _Work, arguments: argparse.Namespace) -> str:
    grade = {one.name: work.scores(one) for one in VARIANTS if one.stage is Stage.GRADE}
    classify = {one.name: work.scores(one) for one in VARIANTS if one.stage is Stage.CLASSIFY}
    base = next(one for one in VARIANTS if one.stage is Stage.GRADE)
    held = work.scores(base, "validation")
    held = held.assign(truth=held["taught"])  # what a bundle is fitted on is not the truth of phantoms
    patients = grade[BASE]["patient"].nunique()
    switched = _switched(classify[BASE])
    lines = [
        "# Ablation: what each part of the default recipe buys",
        "",
        f"Measured by `benchmarks/ablation.py` on {len({one.patient for one in work.taught})} phantom patients "
        f"(labels {digest_of(arguments.data)[:12]}), {len(SEEDS)} seeds, each with one test fold of {PARTS}; "
        f"{patients} patients were tested. Narrow networks, few epochs, patches on the readers' boxes: differences "
        "count, not heights. "
        "Brackets: 95 %, patients resampled, all seeds together. A difference whose interval holds 0 is none that this "
        "set shows.",
        "",
        "## Grades",
        "",
        *_table(
            Stage.GRADE,
            {**grade, "mirrored": _mirrored(grade[BASE]), "offsets": _moved(grade[BASE], held)},
            {"quadratic kappa": "kappa_quadratic", "macro-F1": "macro_f1", "two or more off": "two_off"},
            {"mirrored": MIRRORED_SAYS, "offsets": "an offset for each grade where patients apart gain by it"},
        ),
        "",
        "The line of folds by slice is tested on other slices than the base: its difference is what leaking feigns.",
        "",
        "## Rootlet or cord",
        "",
        *_table(
            Stage.CLASSIFY,
            {**classify, "switch": switched, "mirrored": _mirrored(classify[BASE])},
            {"accuracy": "accuracy"},
            {
                "switch": "one switch from cord to rootlets along the stack",
                "mirrored": "averaged with the mirror image",
            },
        ),
        "",
        "## Borders of one reader",
        "",
        "What `stenosis-train calibrate` does for a site: offsets fitted to one reader's labels of the validation "
        "patients where those gain by it, compared with the same reader's labels of the test patients.",
        "",
        *_borders(work, held, grade[BASE]),
        "",
        "## What needs no training",
        "",
        *_untrained(held, grade[BASE]),
    ]
    return "\n".join(lines) + "\n"


def _table(
    stage: Stage, tables: Mapping[str, pd.DataFrame], scores: Mapping[str, str], more: Mapping[str, str] | None = None
) -> list[str]:
    """One line per variant; every difference is to the base, on the same resamples of patients."""
    says = {one.name: one.says for one in VARIANTS if one.stage is stage} | dict(more or {})
    labels = GRADES if stage is Stage.GRADE else REGIONS
    patients = sorted({patient for table in tables.values() for patient in table["patient"]})
    resamples = Resamples.draw(len(patients), RESAMPLES, 0)
    made = {name: _scored(table, labels, patients, resamples) for name, table in tables.items()}
    lines = [
        "| | " + " | ".join(f"{title} | difference" for title in scores) + " |",
        "|---|" + "---:|" * 2 * len(scores),
    ]
    for name, (point, drawn) in made.items():
        cells = [says[name]]
        for score in scores.values():
            cells.append(with_bounds(float(point[score][0]), percentile_interval(drawn[score])))
            first, others = made[BASE]
            low, high = percentile_interval(drawn[score] - others[score])
            apart = float(point[score][0] - first[score][0])
            cells.append("" if name == BASE else f"{apart:+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _scored(
    table: pd.DataFrame, labels: Sequence[str], patients: Sequence[str], resamples: Resamples
) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
    """Scores of the table itself ``[1]``, and of its resamples."""
    number = {patient: index for index, patient in enumerate(patients)}
    codes = np.array([number[patient] for patient in table["patient"]])
    cells = count_by_cluster(table["truth"].to_numpy(), _called(table), len(labels) + 1, codes, len(patients))
    return stacked_scores(cells.sum(axis=0)[None], labels), stacked_scores(resamples.sums(cells), labels)


def _called(table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    names = P_GRADE if P_GRADE[0] in table else P_REGION
    return np.asarray(table[list(names)].to_numpy().argmax(1))


def _switched(table: pd.DataFrame) -> pd.DataFrame:
    made = table.copy()
    for _, rows in made.groupby(["seed", "study"]):
        called = call_rootlets(rows["z_mm"].tolist(), rows["p_rootlet"].tolist())
        made.loc[rows.index, "p_rootlet"] = np.array(called, dtype=float)
    made["p_cord"] = 1 - made["p_rootlet"]
    return made


def _mirrored(table: pd.DataFrame) -> pd.DataFrame:
    """The same slices by the scores averaged with those of the mirror image."""
    names = [name for name in (*P_GRADE, *P_REGION) if MIRRORED + name in table]
    return table.assign(**{name: table[MIRRORED + name] for name in names})


def _moved(table: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """The same slices with the offsets that the validation slices of their seed ask for."""
    made = table.copy()
    for seed, rows in made.groupby("seed"):
        mine = held[held["seed"] == seed]
        fitted = fit_borders(
            mine[list(P_GRADE)].to_numpy(), np.eye(len(GRADES))[mine["truth"]], mine["patient"].to_numpy(dtype=object)
        )
        scores = rows[list(P_GRADE)].to_numpy()
        made.loc[rows.index, list(P_GRADE)] = at_temperature(scores, fitted.temperature, fitted.offsets)
    return made


def _borders(work: _Work, held: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    lines = ["| reader | quadratic kappa | with offsets | macro-F1 | with offsets |", "|---|---:|---:|---:|---:|"]
    for reader, says in work.readers.items():
        mine, theirs = (
            table.assign(truth=table["slice"].map(says)).dropna(subset=["truth"]).astype({"truth": int})
            for table in (held, test)
        )
        patients = sorted(set(theirs["patient"]))
        resamples = Resamples.draw(len(patients), RESAMPLES, 0)
        both = [_scored(table, GRADES, patients, resamples) for table in (theirs, _moved(theirs, mine))]
        cells = [
            with_bounds(float(point[score][0]), percentile_interval(drawn[score]))
            for score in ("kappa_quadratic", "macro_f1")
            for point, drawn in both
        ]
        lines.append(f"| {reader} | {' | '.join(cells)} |")
    return lines


def _untrained(held: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    """Fitted on the validation slices by what fits the bundle, shown on the test slices."""
    scores, truth = test[list(P_GRADE)].to_numpy(), test["truth"].to_numpy()
    warmth = fit_temperature(held[list(P_GRADE)].to_numpy(), np.eye(len(GRADES))[held["truth"]])
    lines = ["| part | without | with it |", "|---|---:|---:|"]
    before, after = (calibrate(truth, one) for one in (scores, at_temperature(scores, warmth)))
    if before is not None and after is not None:
        lines.append(f"| temperature {warmth:.2f}: calibration error | {before.ece:.3f} | {after.ece:.3f} |")
    choice = choose_operating_point(*_by_study(held))
    positive, highest = _by_study(test)
    for name, called in (
        ("likeliest grade", _any_severe(test)),
        ("operating point", None if choice.threshold is None else highest >= choice.threshold),
    ):
        if called is not None:
            hits, rejections = (positive & called).sum(), (~positive & ~called).sum()
            sensitivity = Proportion(int(hits), int(positive.sum()))
            specificity = Proportion(int(rejections), int((~positive).sum()))
            cells = (
                with_bounds(one.value, one.bounds) if one.value is not None else "-"
                for one in (sensitivity, specificity)
            )
            lines.append(f"| C or worse by study, {name}: sensitivity, specificity | {' | '.join(cells)} |")
    sure = {"grade_score": held[list(P_GRADE)].max(axis=1).to_numpy()}
    kinds = np.array(GRADES, dtype=object)[held["truth"]]
    nobody = np.zeros(len(held), dtype=bool)
    cut = choose_thresholds(sure, _called(held) == held["truth"].to_numpy(), nobody, FLOORS, kinds)
    kept = scores.max(axis=1) >= cut.thresholds["grade_score"]
    right = _called(test) == truth
    lines.append(
        f"| abstention below {cut.thresholds['grade_score']:.3f}, {kept.mean():.1%} kept: share right "
        f"| {right.mean():.3f} | {right[kept].mean():.3f} |"
    )
    return [*lines, "", f"Operating point: {choice.sentence}."]


def _by_study(table: pd.DataFrame) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], Numbers]:
    """By study and seed: whether any slice is C or worse, and the highest P(C) + P(D)."""
    severe = table[list(P_GRADE[SEVERE:])].sum(axis=1)
    whole = pd.DataFrame({"study": table["study"], "seed": table["seed"], "is": table["truth"] >= SEVERE, "p": severe})
    studies = whole.groupby(["seed", "study"]).agg({"is": "any", "p": "max"})
    return studies["is"].to_numpy(dtype=bool), studies["p"].to_numpy(dtype=float)


def _any_severe(table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    whole = pd.DataFrame({"study": table["study"], "seed": table["seed"], "called": _called(table) >= SEVERE})
    return np.asarray(whole.groupby(["seed", "study"])["called"].any(), dtype=bool)


def _keys(rows: pd.DataFrame) -> list[tuple[str, str, str, int]]:
    frames = rows["frame"].fillna(0).astype(int)
    return list(zip(rows["study_uid"], rows["series_uid"], rows["sop_uid"], frames, strict=True))


def _name(key: tuple[str, str, str, int]) -> str:
    return " ".join(map(str, key))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="label manifest of phantoms")
    parser.add_argument("--out", type=Path, required=True, help="folder of the scores; goes on where it stopped")
    parser.add_argument("--write", type=Path, help="page to write")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the training, to try the script")
    return parser.parse_args()


if __name__ == "__main__":
    main()
