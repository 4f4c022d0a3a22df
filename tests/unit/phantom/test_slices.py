"""Slices: decided by their seed, truthful about the sac, and with the looks that Schizas' grades are made of."""

from __future__ import annotations

import numpy as np
import pytest

from stenosis_node.domain import Grade
from training.phantom.anatomy import Canal, plan_canal, sample_build
from training.phantom.area import area_accuracy
from training.phantom.canvas import Pose, contour_area, ellipse
from training.phantom.draw import Maps, Streams, draw_slice, paint_maps, sac_box
from training.phantom.seeds import TEST_SEEDS, TRAINING_SEEDS
from training.phantom.tissue import Tissues, sample_tissues
from training.phantom.words import Lookalike, OtherReason, RootPattern, SliceContent, SliceKind, Subgrade

SPACING_MM = 0.5


MIDDLE = {Grade.A: 0.05, Grade.B: 0.33, Grade.C: 0.6, Grade.D: 0.92}
"""Severity of a slice that shows its grade clearly."""


def paint(seed: int, severity: float, pattern: RootPattern = RootPattern.DORSAL) -> tuple[Maps, Canal, Tissues]:
    """Tissue maps of a disc-level L4 slice, 110 mm wide, before the scanner."""
    rng = np.random.default_rng(seed)
    build, tissues = sample_build(rng), sample_tissues(rng)
    streams = Streams.of(rng)
    canal = plan_canal(
        streams.canal,
        build=build,
        level="L4",
        kind=SliceKind.DISC,
        content=SliceContent.ROOTLET,
        severity=severity,
        pattern=pattern,
    )
    maps = paint_maps(
        streams, shape=(220, 220), spacing_mm=SPACING_MM, pose=Pose(), build=build, canals=(canal,), tissues=tissues
    )
    return maps, canal, tissues


def test_a_slice_is_decided_by_its_seed() -> None:
    one, same, other = (draw_slice(np.random.default_rng(s), matrix=128) for s in (3, 3, 4))

    assert np.array_equal(one.pixels, same.pixels)
    assert (one.box, one.grade, one.level) == (same.box, same.grade, same.level)
    assert not np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("seed", range(12))
def test_the_box_bounds_the_sac(seed: int) -> None:
    drawn = draw_slice(np.random.default_rng(seed), content="rootlet", matrix=(144, 160))
    assert drawn.sac is not None
    assert drawn.box is not None
    rows, columns = np.nonzero(drawn.sac)

    assert drawn.pixels.shape == (144, 160)
    assert (drawn.box.x0, drawn.box.y0) == (columns.min(), rows.min())
    assert (drawn.box.x1, drawn.box.y1) == (columns.max() + 1, rows.max() + 1)
    assert drawn.pixels.max() <= 4095
    assert drawn.sac_area_mm2 is not None
    assert 10 < drawn.sac_area_mm2 < 330


@pytest.mark.parametrize("kind", ["caudal", "soft-tissue", "sagittal", "noise"])
def test_a_slice_without_a_canal_has_no_box(kind: str) -> None:
    drawn = draw_slice(np.random.default_rng(0), kind=kind, matrix=128)

    assert (drawn.box, drawn.sac, drawn.grade) == (None, None, None)
    assert drawn.content is SliceContent.OTHER
    assert drawn.pixels.std() > 0


@pytest.mark.parametrize("reason", list(OtherReason))
def test_an_ungradable_slice_has_a_box_and_no_grade(reason: OtherReason) -> None:
    drawn = draw_slice(np.random.default_rng(1), reason=reason, matrix=128)

    assert drawn.box is not None
    assert (drawn.content, drawn.grade, drawn.reason) == (SliceContent.OTHER, None, reason)


@pytest.mark.parametrize(
    "wish",
    [{"grade": "B", "content": "cord"}, {"grade": "B", "kind": "noise"}, {"content": "cord", "reason": "screws"}],
)
def test_contradictory_wishes_are_refused(wish: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="does not go with"):
        draw_slice(np.random.default_rng(0), matrix=64, **wish)  # type: ignore[arg-type]


def test_csf_gives_way_to_roots_from_a_to_d() -> None:
    share = {}
    for grade in Grade:
        inside = np.concatenate([m.water[m.sac > 0.9] for m, *_ in (paint(s, MIDDLE[grade]) for s in range(8))])
        share[grade] = float((inside > 0.75).mean())

    assert share[Grade.A] > 0.55
    assert share[Grade.A] - share[Grade.B] > 0.05
    assert share[Grade.B] > share[Grade.C]
    assert share[Grade.C] == pytest.approx(0, abs=0.03)
    assert share[Grade.D] == pytest.approx(0, abs=0.01)


def test_roots_are_still_told_apart_in_b_and_no_longer_in_c() -> None:
    spread = {}
    for grade in (Grade.B, Grade.C):
        spread[grade] = np.median([m.water[m.sac > 0.9].std() for m, *_ in (paint(s, MIDDLE[grade]) for s in range(8))])

    assert spread[Grade.B] > 1.8 * spread[Grade.C]


def test_only_d_has_no_fat_behind_the_sac() -> None:
    behind = {grade: [_fat_behind_sac(*paint(seed, MIDDLE[grade])) for seed in range(10)] for grade in Grade}

    assert max(behind[Grade.D]) < 0.3
    for grade in (Grade.A, Grade.B, Grade.C):
        assert min(behind[grade]) > 0.45, grade


def _fat_behind_sac(maps: Maps, canal: Canal, tissues: Tissues) -> float:
    """Brightest fat, relative to fat, within 3 mm behind the dorsal end of the sac."""
    box = sac_box(maps.sac)
    column = maps.sac[:, int(box.x0) : int(box.x1)].sum(axis=0)
    middle = int(box.x0) + int(np.average(np.arange(column.size), weights=column))
    bottom = int(np.flatnonzero(maps.sac[:, middle] > 0.5)[-1])
    return float(maps.fat[bottom + 1 : bottom + 7, middle - 1 : middle + 2].mean(axis=1).max()) / tissues.fat


def test_roots_lie_at_the_back_in_a1_and_higher_in_a3() -> None:
    lowness = {}
    for severity in (0.03, 0.22):
        shares = []
        for seed in range(8):
            maps, *_ = paint(seed, severity)
            box = sac_box(maps.sac)
            front = np.zeros_like(maps.sac, bool)
            front[: int(box.center[1])] = True
            dark = (maps.water < 0.7) & (maps.sac > 0.9)
            shares.append((dark & front).sum() / max(1, dark.sum()))
        lowness[severity] = np.mean(shares)

    assert 2 * lowness[0.03] < lowness[0.22]


def test_grades_are_a_continuum() -> None:
    """The same slice a little worse looks almost the same, at the borders of grades too."""

    def sac_mean(severity: float) -> float:
        return float(np.mean([m.water[m.sac > 0.9].mean() for m, *_ in (paint(s, severity) for s in range(6))]))

    steps = np.array([sac_mean(s) for s in np.arange(0.02, 1.0, 0.07)])

    assert np.all(np.diff(steps) < 0.04)
    assert np.abs(np.diff(steps)).max() < 0.28 * (steps[0] - steps[-1])


def test_lipomatosis_squeezes_a_sac_that_still_holds_csf() -> None:
    rng_state = 5
    healthy, squeezed = (
        plan_canal(
            np.random.default_rng(rng_state), build=sample_build(np.random.default_rng(1)), level="L4",
            kind=SliceKind.DISC, content=SliceContent.ROOTLET, severity=0.1, lookalike=lookalike,
        )
        for lookalike in (None, Lookalike.LIPOMATOSIS)
    )  # fmt: skip

    assert contour_area(squeezed.sac) < 0.7 * contour_area(healthy.sac)
    assert squeezed.posterior_fat_mm > healthy.posterior_fat_mm


@pytest.mark.parametrize(("severity", "grade"), [(0.1, "A"), (0.3, "B"), (0.6, "C"), (0.8, "D")])
def test_severity_decides_the_grade(severity: float, grade: str) -> None:
    drawn = draw_slice(np.random.default_rng(0), severity=severity, matrix=64)

    assert drawn.grade == grade
    assert drawn.severity == severity


@pytest.mark.parametrize("subgrade", list(Subgrade))
def test_a_wanted_subgrade_is_drawn(subgrade: Subgrade) -> None:
    drawn = [draw_slice(np.random.default_rng(s), subgrade=subgrade, matrix=64) for s in range(4)]

    assert [(d.grade, d.subgrade) for d in drawn] == [(Grade.A, subgrade)] * 4


def test_a_classifier_of_dural_areas_stays_under_60_percent() -> None:
    """On patients held out, every grade counting the same."""
    assert 0.35 < area_accuracy(TRAINING_SEEDS[:120], TEST_SEEDS[:120]) < 0.60


def test_a_contour_table_knows_its_area() -> None:
    assert contour_area(ellipse(9.0, 6.0)) == pytest.approx(np.pi * 54, rel=2e-3)
