"""Slices: decided by their seed, truthful about the sac, and with the looks that Schizas' grades are made of."""

from __future__ import annotations

import numpy as np
import pytest

from stenosis_node.domain import Grade
from training.phantom.anatomy import Canal, plan_canal, sample_build
from training.phantom.canvas import Pose, contour_area, ellipse
from training.phantom.draw import Maps, Streams, draw_slice, paint_maps, sac_box
from training.phantom.tissue import Tissues, sample_tissues
from training.phantom.words import OtherReason, SliceContent, SliceKind, Subgrade

SPACING_MM = 0.5


def paint(seed: int, grade: Grade, subgrade: Subgrade | None = None) -> tuple[Maps, Canal, Tissues]:
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
        grade=grade,
        subgrade=subgrade,
    )
    maps = paint_maps(
        streams, shape=(220, 220), spacing_mm=SPACING_MM, pose=Pose(), build=build, canal=canal, tissues=tissues
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
        inside = np.concatenate([m.water[m.sac > 0.9] for m, *_ in (paint(s, grade) for s in range(8))])
        share[grade] = float((inside > 0.75).mean())

    assert share[Grade.A] > 0.55
    assert share[Grade.A] - share[Grade.B] > 0.05
    assert share[Grade.B] > share[Grade.C]
    assert share[Grade.C] == pytest.approx(0, abs=0.01)
    assert share[Grade.D] == pytest.approx(0, abs=0.01)


def test_roots_are_still_told_apart_in_b_and_no_longer_in_c() -> None:
    spread = {}
    for grade in (Grade.B, Grade.C):
        spread[grade] = np.median([m.water[m.sac > 0.9].std() for m, *_ in (paint(s, grade) for s in range(8))])

    assert spread[Grade.B] > 2 * spread[Grade.C]


def test_only_d_has_no_fat_behind_the_sac() -> None:
    behind = {grade: [_fat_behind_sac(*paint(seed, grade)) for seed in range(10)] for grade in Grade}

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


def test_roots_lie_at_the_back_in_a1_and_all_over_in_a3() -> None:
    lowness = {}
    for subgrade in (Subgrade.A1, Subgrade.A3):
        shares = []
        for seed in range(8):
            maps, *_ = paint(seed, Grade.A, subgrade)
            box = sac_box(maps.sac)
            front = np.zeros_like(maps.sac, bool)
            front[: int(box.center[1])] = True
            dark = (maps.water < 0.7) & (maps.sac > 0.9)
            shares.append((dark & front).sum() / max(1, dark.sum()))
        lowness[subgrade] = np.mean(shares)

    assert 2 * lowness[Subgrade.A1] < lowness[Subgrade.A3]


def test_area_alone_does_not_tell_the_grade() -> None:
    """The phantoms would be too easy: Schizas' grades are morphology, not area."""
    rng = np.random.default_rng(11)
    n = 400
    build = [sample_build(rng) for _ in range(n)]
    levels = rng.choice(["L2", "L3", "L4", "L5"], n)
    areas = {
        grade: np.log([
            contour_area(
                plan_canal(
                    rng, build=b, level=str(level), kind=SliceKind.DISC, content=SliceContent.ROOTLET, grade=grade,
                    subgrade=None,
                ).sac
            )
            for b, level in zip(build, levels, strict=True)
        ])
        for grade in Grade
    }  # fmt: skip
    train = {g: (a[: n // 2].mean(), a[: n // 2].std()) for g, a in areas.items()}
    right = []
    for grade, values in areas.items():
        scores = np.stack([-(((values[n // 2 :] - m) / s) ** 2) / 2 - np.log(s) for m, s in train.values()])
        right.append((scores.argmax(axis=0) == list(Grade).index(grade)).mean())

    assert 0.35 < np.mean(right) < 0.60


def test_a_contour_table_knows_its_area() -> None:
    assert contour_area(ellipse(9.0, 6.0)) == pytest.approx(np.pi * 54, rel=2e-3)
