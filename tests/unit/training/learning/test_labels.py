from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from stenosis_node.domain import Grade
from tests.unit.training.learning.conftest import Phantoms
from training.labels.errors import LabelError
from training.learning.labels import CONSENSUS, LabelledSlice, labelled, readers_of
from training.learning.sampling import usable
from training.recipes import Stage


def _taught(phantoms: Phantoms, said: Mapping[str, Mapping[str, object]], chain: str = CONSENSUS) -> LabelledSlice:
    """The first slice that has a box, with what each reader says replaced."""
    boxed = phantoms.manifest[phantoms.manifest["x0"].notna()]
    sop = boxed["sop_uid"].iloc[0]
    base = boxed[boxed["sop_uid"] == sop].iloc[0]
    rows = pd.DataFrame([{**base, "reader": name, "grade_set": "", **values} for name, values in said.items()])
    (one,) = labelled(rows, phantoms.store, chain)
    return one


def test_two_readers_share_the_vote(phantoms: Phantoms) -> None:
    one = _taught(phantoms, {"anna": {"region": "rootlet", "grade": "B"}, "bea": {"region": "rootlet", "grade": "C"}})
    assert one.grades is not None
    assert one.grades.tolist() == [0, 0.5, 0.5, 0]
    assert one.grade == list(Grade).index(Grade.C), "of equals the more severe"
    one = _taught(phantoms, {"anna": {"region": "rootlet", "grade": "A"}, "bea": {"region": "cord", "grade": ""}})
    assert (one.region, one.grade) == (0, 0)
    assert one.regions is not None
    assert one.regions.tolist() == [0.5, 0.5]


def test_a_set_of_possible_grades_shares_one_vote(phantoms: Phantoms) -> None:
    one = _taught(phantoms, {"anna": {"region": "rootlet", "grade": "", "grade_set": "C|D"}}, "anna")
    assert one.grades is not None
    assert one.grades.tolist() == [0, 0, 0.5, 0.5]


def test_a_slice_that_most_refuse_teaches_no_region(phantoms: Phantoms) -> None:
    other = {"region": "other", "grade": ""}
    assert _taught(phantoms, {"anna": other, "bea": other}).regions is None
    assert _taught(phantoms, {"anna": other, "bea": {"region": "cord", "grade": ""}}).region == 1
    two = _taught(phantoms, {"anna": other, "bea": other, "cleo": {"region": "cord", "grade": ""}})
    assert two.regions is None


def test_a_slice_that_most_refuse_teaches_no_grade(phantoms: Phantoms) -> None:
    other = {"region": "other", "grade": ""}
    for graded in ({"region": "rootlet", "grade": "B"}, {"region": "", "grade": "B"}):
        one = _taught(phantoms, {"anna": other, "bea": other, "cleo": graded})
        assert one.refused
        assert usable([one], Stage.GRADE) == usable([one], Stage.CLASSIFY) == []
        assert usable([one], Stage.LOCATE) == [one]
        even = _taught(phantoms, {"anna": other, "cleo": graded})
        assert not even.refused
        assert usable([even], Stage.GRADE) == [even]


def test_a_grade_without_a_region_is_learnt(phantoms: Phantoms) -> None:
    one = _taught(phantoms, {"anna": {"region": "", "grade": "B"}})
    assert (one.refused, one.regions) == (False, None)
    assert usable([one], Stage.GRADE) == [one]
    assert usable([one], Stage.CLASSIFY) == []


def test_the_box_is_the_mean_of_the_readers_who_drew_one(phantoms: Phantoms) -> None:
    nothing = dict.fromkeys(("x0", "y0", "x1", "y1"), np.nan)
    drawn = {"x0": 10.0, "y0": 20.0, "x1": 30.0, "y1": 40.0}
    wider = {"x0": 12.0, "y0": 20.0, "x1": 34.0, "y1": 40.0}
    one = _taught(phantoms, {"anna": drawn, "bea": wider, "cleo": nothing})
    assert one.box is not None
    assert (one.box.x0, one.box.x1) == (11.0, 32.0)
    assert _taught(phantoms, {"anna": nothing}).box is None


def test_the_truth_of_phantoms_is_no_reader(phantoms: Phantoms) -> None:
    assert readers_of(phantoms.manifest) == ("reader-1", "reader-2")
    assert readers_of(phantoms.manifest[phantoms.manifest["reader"] == "truth"]) == ("truth",)


def test_a_reader_nobody_knows_is_named(phantoms: Phantoms) -> None:
    with pytest.raises(LabelError, match=r"no labels of dora; its readers are reader-1, reader-2, truth"):
        labelled(phantoms.manifest, phantoms.store, "dora")
