"""Two simulated surgeons: apart as those of the paper (Tables 2 and 3), the same each time, and no drawing needed."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from training.phantom.patient import draw_patient
from training.phantom.readers import READERS, read
from training.phantom.words import SliceContent

TABLE_2: Final = np.array([[7693, 694], [399, 2179]])
"""Rows analyzer 2, columns analyzer 1: rootlet, cord."""
TABLE_3: Final = np.array([[5312, 107, 3, 0], [422, 832, 18, 8], [4, 152, 263, 15], [1, 31, 22, 92]])
"""Rows analyzer 2, columns analyzer 1: A, B, C, D."""
REFUSED: Final = (2207 / 13758, 1316 / 13758)
REFUSED_BY_BOTH: Final = 734 / 13758

Labels = npt.NDArray[np.str_]


@pytest.fixture(scope="module")
def labels() -> tuple[Labels, Labels]:
    """Content, or the grade of rootlet slices, by both readers over one large sample."""
    one, two = READERS
    said: tuple[list[str], list[str]] = ([], [])
    for seed in range(400):
        patient = draw_patient(seed)
        for mine, reader in zip(said, (one, two), strict=True):
            mine += [r.grade.value if r.grade else r.content.value for r in read(patient, reader)]
    return np.array(said[0]), np.array(said[1])


def _graded(labels: Labels) -> npt.NDArray[np.bool_]:
    return np.isin(labels, list("ABCD"))


def test_they_disagree_on_grades_as_table_3_says(labels: tuple[Labels, Labels]) -> None:
    both = _graded(labels[0]) & _graded(labels[1])
    one, two = (part[both] for part in labels)
    made = confusion_matrix(two, one, labels=list("ABCD"), normalize="true")
    wanted = TABLE_3 / TABLE_3.sum(axis=1, keepdims=True)

    assert cohen_kappa_score(one, two) == pytest.approx(0.720, abs=0.03)
    assert np.abs(made[:2] - wanted[:2]).max() < 0.04
    assert np.abs(made[2] - wanted[2]).max() < 0.10
    assert made[3, 3] == pytest.approx(wanted[3, 3], abs=0.12)


def test_grades_are_as_common_as_in_the_paper(labels: tuple[Labels, Labels]) -> None:
    both = _graded(labels[0]) & _graded(labels[1])
    for said, counts in zip(labels, (TABLE_3.sum(axis=0), TABLE_3.sum(axis=1)), strict=True):
        shares = np.array([(said[both] == g).mean() for g in "ABCD"])
        assert np.abs(shares - counts / counts.sum()).max() < 0.03
        assert np.abs(shares - counts / counts.sum())[2:].max() < 0.015


def test_they_disagree_on_the_end_of_the_cord_as_table_2_says(labels: tuple[Labels, Labels]) -> None:
    both = (labels[0] != SliceContent.OTHER) & (labels[1] != SliceContent.OTHER)
    one, two = (part[both] == SliceContent.CORD for part in labels)

    assert cohen_kappa_score(one, two) == pytest.approx(0.733, abs=0.04)
    assert np.abs(confusion_matrix(two, one, normalize="all") - TABLE_2 / TABLE_2.sum()).max() < 0.03


def test_they_refuse_as_many_slices_as_the_surgeons(labels: tuple[Labels, Labels]) -> None:
    other = [part == SliceContent.OTHER for part in labels]

    assert [o.mean() for o in other] == [pytest.approx(share, abs=0.02) for share in REFUSED]
    assert (other[0] & other[1]).mean() == pytest.approx(REFUSED_BY_BOTH, abs=0.02)


def test_a_reading_is_decided_by_patient_and_reader() -> None:
    one, two = READERS
    again = [read(draw_patient(11), reader) for reader in (one, two, one)]

    assert again[0] == again[2]
    assert again[0] != again[1]


def test_a_readers_switch_from_cord_to_rootlet_is_nearly_one_point() -> None:
    """The error belongs to the patient more than to the slice, as with a surgeon who scrolls through a stack."""
    switches = []
    for seed in range(60):
        said = [r.content for r in read(draw_patient(seed), READERS[0]) if r.content is not SliceContent.OTHER]
        switches.append(sum(a is not b for a, b in pairwise(said)))

    assert np.mean(switches) < 1.6
