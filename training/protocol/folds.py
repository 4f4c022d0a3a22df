"""Which slices train, validate and test in each fold: 7/2/1 of ten parts, stratified by grade.

Slice by slice, as Won et al. 2025 describe it, or with every patient on one side. The parts are drawn once for all
chains, so that what one chain is tested on no chain of the same fold has learnt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from training.labels.rows import SLICE
from training.learning.errors import TrainingError
from training.learning.labels import GRADES, REGIONS, LabelledSlice
from training.learning.sampling import class_of
from training.learning.series import Key
from training.recipes import Stage

FEWEST: Final = 3
"""One part to test, one to validate, one to train."""
_VALIDATION_SHARE: Final = 0.2
_UNLABELLED: Final = "unlabelled"


@dataclass(frozen=True, slots=True)
class Fold:
    """The slices of one fold, as keys; no two sets share one."""

    index: int
    train: frozenset[Key]
    validation: frozenset[Key]
    test: frozenset[Key]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"fold-{self.index}"


def stratum(one: LabelledSlice) -> str:
    """What folds are balanced by: the grade of a rootlet slice, else the region."""
    grade = class_of(one, Stage.GRADE)
    if grade is not None:
        return str(GRADES[grade])
    return _UNLABELLED if one.region is None else str(REGIONS[one.region])


def split(slices: Sequence[LabelledSlice], parts: int, *, by_patient: bool, seed: int) -> list[Fold]:
    """As many folds as parts.

    slices  of all chains together (the consensus of all readers)
    raises  TrainingError when a part would have no patient
    """
    if parts < FEWEST:
        raise TrainingError(f"--folds {parts}: there are at least {FEWEST}, one to test, one to validate, one to train")
    units = {one.group for one in slices} if by_patient else {one.key for one in slices}
    if len(units) < parts:
        kind = "patient" if by_patient else "slice"
        raise TrainingError(
            f"fold {len(units) + 1} of {parts} would have no {kind}: the manifest has {len(units)} "
            f"{kind}{'' if len(units) == 1 else 's'}; give --folds {max(FEWEST, len(units))} or fewer, or label more"
        )
    part_of = _parts(slices, parts, by_patient=by_patient, seed=seed)
    validating = max(1, round(_VALIDATION_SHARE * parts))
    by_part: list[set[Key]] = [set() for _ in range(parts)]
    for one, part in zip(slices, part_of, strict=True):
        by_part[part].add(one.key)
    folds = []
    for index in range(parts):
        turn = [by_part[(index + step) % parts] for step in range(parts)]
        held = frozenset().union(*turn[1 : 1 + validating])
        folds.append(Fold(index, frozenset().union(*turn[1 + validating :]), held, frozenset(turn[0])))
    for fold in folds:
        _never_shared(fold, slices if by_patient else ())
    return folds


def need_classes(folds: Sequence[Fold], slices: Sequence[LabelledSlice], chain: str, transfer_level: str = "") -> None:
    """Raises TrainingError naming every fold and class of a chain that would have nothing to learn or to validate.

    slices          of the chain
    transfer_level  the level grading learns alone; empty: every level
    """
    faults = []
    for fold in folds:
        for part, keys in (("training", fold.train), ("validation", fold.validation)):
            seen: Counter[str] = Counter()
            for one in slices:
                if one.key in keys and one.box is not None:
                    name = stratum(one)
                    if name in GRADES and transfer_level and one.level != transfer_level:
                        continue
                    seen[name] += 1
                    seen["box"] += 1
            if not seen["box"]:
                faults.append(f"fold {fold.index}: the {part} part has no labelled slice with a box")
                continue
            missing = [str(name) for name in (*GRADES, REGIONS[1]) if not seen[str(name)]]
            if missing:
                faults.append(f"fold {fold.index}: the {part} part has no slice labelled {', '.join(missing)}")
    if faults:
        where = f" at {transfer_level}" if transfer_level else ""
        raise TrainingError(
            f"chain {chain}{where} cannot be trained on these folds; label more, use fewer folds (--folds), or another "
            "--seed:\n" + "\n".join(faults)
        )


def as_table(folds: Sequence[Fold], slices: Sequence[LabelledSlice]) -> pd.DataFrame:
    """One row per slice: its key, patient group, stratum, and the fold that tests it."""
    tested = {key: fold.index for fold in folds for key in fold.test}
    rows = [(*one.key, one.group, stratum(one), tested[one.key]) for one in slices if one.key in tested]
    return pd.DataFrame(rows, columns=[*SLICE, "split_group", "stratum", "test_fold"])


def _parts(slices: Sequence[LabelledSlice], parts: int, *, by_patient: bool, seed: int) -> list[int]:
    strata = np.array([stratum(one) for one in slices])
    common = Counter(strata.tolist()).most_common()
    # a class with fewer slices than parts cannot be spread over all of them: it goes with the most common one
    spread = {name: name if count >= parts else common[0][0] for name, count in common}
    strata = np.array([spread[name] for name in strata])
    made = [0] * len(slices)
    if by_patient:
        groups = np.array([one.group for one in slices])
        order = StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(strata, strata, groups)
    else:
        order = StratifiedKFold(parts, shuffle=True, random_state=seed).split(strata, strata)
    for part, (_, chosen) in enumerate(order):
        for index in chosen:
            made[int(index)] = part
    return made


def _never_shared(fold: Fold, grouped: Sequence[LabelledSlice]) -> None:
    """Stop rather than train on what is tested. ``grouped``: slices whose patients must not be shared either."""
    sides: Mapping[str, frozenset[Key]] = {"training": fold.train, "validation": fold.validation, "test": fold.test}
    seen: dict[object, str] = {}
    groups = {one.key: one.group for one in grouped}
    for side, keys in sides.items():
        if not keys:
            raise TrainingError(f"fold {fold.index}: the {side} part has no patient; use fewer folds (--folds)")
        for key in keys:
            for name in (key, groups.get(key)):
                if name is not None and seen.setdefault(name, side) != side:
                    raise TrainingError(f"fold {fold.index}: {name} would be on the {seen[name]} and the {side} side")
