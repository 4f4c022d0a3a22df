"""The short form of the crash and fault suite, for every run of the tests; ``make soak`` is the long one."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from stenosis_node.failpoint import POINTS
from tests.soak import parts, power_cut, scenes
from tests.soak.__main__ import Part, Variant, run, started
from tests.soak.invariant import Bytes
from tests.soak.sender import SLICES
from tests.soak.trace import TracedNode

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def test_the_long_form_goes_through_every_point_but_those_that_cannot_be_reached() -> None:
    scenes_ = (*scenes.FIRST, *scenes.SCENES, *scenes.LAST)
    hit = {*chain(*parts.FLOW), *chain(*(scene.points for scene in scenes_))}

    assert hit | scenes.NOT_HIT.keys() == POINTS
    assert not hit & scenes.NOT_HIT.keys()


def test_processes_killed_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    """On the stock path of reception; the crash tests of tests/acceptance are on the fast one."""
    kills = started(lambda a_round: parts.kill_at_random(a_round, 4, longest_s=2.0))
    part = Part("kills", Variant("sqlite", fast_path=False), kills)
    row = run(part, Bytes(), folder=tmp_path / "kills", seed=1)

    assert row.verdict.violations == []
    assert row.kills == 4
    assert row.verdict.acknowledged > 0


def test_nothing_is_answered_or_sent_before_it_would_survive_a_power_cut(tmp_path: Path) -> None:
    part = Part("power cut", Variant("sqlite", fast_path=True), started(power_cut.order_of_calls), TracedNode)
    row = run(part, Bytes(), folder=tmp_path / "power", seed=1)

    assert row.verdict.violations == []
    assert row.verdict.acknowledged == SLICES
