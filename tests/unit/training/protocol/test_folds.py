from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.training.protocol.conftest import MakeSlice
from training.learning.errors import TrainingError
from training.learning.labels import LabelledSlice
from training.protocol.folds import as_table, need_classes, split, stratum

STRATA = ("A", "A", "B", "C", "D", "cord")


def patients(make_slice: MakeSlice, count: int) -> list[LabelledSlice]:
    return [
        make_slice(10 * patient + number, f"patient-{patient}", name)
        for patient in range(count)
        for number, name in enumerate(STRATA)
    ]


@pytest.mark.parametrize("by_patient", [True, False])
def test_ten_folds_are_seven_two_one(make_slice: MakeSlice, by_patient: bool) -> None:
    slices = patients(make_slice, 40)
    folds = split(slices, 10, by_patient=by_patient, seed=1)

    assert len(folds) == 10
    tested = Counter(key for fold in folds for key in fold.test)
    assert tested == Counter(one.key for one in slices)  # each slice once
    for fold in folds:
        sizes = [len(part) / len(slices) for part in (fold.train, fold.validation, fold.test)]
        assert sizes == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
        assert not fold.train & fold.test
        assert not fold.train & fold.validation
        assert not fold.validation & fold.test


def test_a_patient_stays_on_one_side(make_slice: MakeSlice) -> None:
    slices = patients(make_slice, 23)
    for fold in split(slices, 10, by_patient=True, seed=3):
        sides = [{one.group for one in slices if one.key in part} for part in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, sides)) == len(set().union(*sides))


def test_slices_of_a_patient_are_on_many_sides_when_split_as_the_paper_does(make_slice: MakeSlice) -> None:
    slices = patients(make_slice, 23)
    fold = split(slices, 10, by_patient=False, seed=3)[0]
    trained = {one.group for one in slices if one.key in fold.train}
    assert any(one.group in trained for one in slices if one.key in fold.test)


def test_every_part_has_every_grade(make_slice: MakeSlice) -> None:
    slices = patients(make_slice, 30)
    for by_patient in (True, False):
        for fold in split(slices, 10, by_patient=by_patient, seed=0):
            assert {stratum(one) for one in slices if one.key in fold.test} == set(STRATA)


def test_the_same_seed_gives_the_same_folds(make_slice: MakeSlice) -> None:
    slices = patients(make_slice, 20)
    assert split(slices, 5, by_patient=True, seed=4) == split(slices, 5, by_patient=True, seed=4)
    assert split(slices, 5, by_patient=True, seed=4) != split(slices, 5, by_patient=True, seed=5)


def test_a_fold_without_a_patient_is_refused(make_slice: MakeSlice) -> None:
    with pytest.raises(TrainingError, match="fold 5 of 10 would have no patient: the manifest has 4 patients"):
        split(patients(make_slice, 4), 10, by_patient=True, seed=0)


def test_too_few_folds_are_refused(make_slice: MakeSlice) -> None:
    with pytest.raises(TrainingError, match="at least 3"):
        split(patients(make_slice, 4), 2, by_patient=True, seed=0)


def test_a_class_absent_from_a_fold_is_refused_by_name(make_slice: MakeSlice) -> None:
    slices = [one for one in patients(make_slice, 12) if stratum(one) != "D" or one.group == "patient-0"]
    folds = split(slices, 3, by_patient=True, seed=0)
    with pytest.raises(TrainingError, match=r"(?s)chain anna .*fold \d: the training part has no slice labelled D"):
        need_classes(folds, slices, "anna")


def test_a_level_without_a_class_is_refused(make_slice: MakeSlice) -> None:
    slices = patients(make_slice, 12)
    folds = split(slices, 3, by_patient=True, seed=0)
    need_classes(folds, slices, "anna", "L4")
    with pytest.raises(TrainingError, match="at L5 cannot be trained"):
        need_classes(folds, slices, "anna", "L5")


def test_the_table_of_folds_names_who_tests_what(make_slice: MakeSlice) -> None:
    slices = patients(make_slice, 6)
    table = as_table(split(slices, 3, by_patient=True, seed=0), slices)
    assert len(table) == len(slices)
    assert table.groupby("split_group")["test_fold"].nunique().max() == 1
